"""Learned states in an Optuna artifact store: a folder, S3 or Google Cloud Storage."""

from __future__ import annotations

import io
import json
import logging
import urllib.parse
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import optuna
from optuna.artifacts import (
    ArtifactMeta,
    Backoff,
    Boto3ArtifactStore,
    FileSystemArtifactStore,
    GCSArtifactStore,
)
from optuna.artifacts.exceptions import ArtifactNotFound

from conversion import write_file
from search._errors import StudyError, TrialTimeoutError

_LOG = logging.getLogger("spikefront")
_T = TypeVar("_T")

ARTIFACTS_NAME = "artifacts"


class ArtifactStates:
    """The states of a study by name, each a safetensors file with its own hash.

    An unreachable store costs time but never a trial: states that cannot be read are learned again,
    those that cannot be written are lost. A warning is logged once.

    Args:
        store: One of Optuna's artifact stores.
        where: Its location, for messages.
    """

    def __init__(self, store: Any, where: str) -> None:
        self._store, self._where = store, where
        self._told = False

    def get(self, key: str) -> bytes | None:
        """The state of that name, or None."""

        def read() -> bytes:
            with self._store.open_reader(_file(key)) as file:
                data: bytes = file.read()
            return data

        return self._try(read, "read: what it holds is learned again")

    def put(self, key: str, data: bytes) -> None:
        """Store a state."""

        def write() -> None:
            self._store.write(_file(key), io.BytesIO(data))

        self._try(write, "written: learned states are not kept")

    def remove(self, key: str) -> None:
        """Remove a state."""
        self._try(lambda: self._store.remove(_file(key)), "tidied up: old states stay")

    def _try(self, do: Callable[[], _T], consequence: str) -> _T | None:
        try:
            return do()
        except ArtifactNotFound:
            return None
        except TrialTimeoutError:
            raise
        except Exception as error:  # clients of buckets raise errors of their own
            if not self._told:
                reason = " ".join(str(error).split())[:200]
                place = self._where
                _LOG.warning("the artifacts in %s cannot be %s (%s)", place, consequence, reason)
            self._told = True
            return None


def note_artifact(study: optuna.Study, trial: optuna.Trial, key: str) -> None:
    """List a state among the artifacts of a trial, like ``optuna.artifacts.upload_artifact``.

    That function picks a random name; a state needs one that other processes can derive.
    """
    meta = ArtifactMeta(_file(key), _file(key), "application/octet-stream", None)
    name = f"artifacts:{_file(key)}"
    study._storage.set_trial_system_attr(trial._trial_id, name, json.dumps(asdict(meta)))


def _file(key: str) -> str:
    return f"{key}.safetensors"


def open_states(place: str | Path) -> ArtifactStates:
    """Open the states in a folder, in ``s3://bucket/prefix`` or in ``gs://bucket/prefix``.

    Raises:
        StudyError: The location is of another kind, or its client is not installed.
    """
    text = str(place)
    scheme, _, rest = text.partition("://")
    if "://" not in text or scheme == "file":
        return ArtifactStates(_Folder(Path(rest or text)), text)
    makers: dict[str, Callable[[str], Any]] = {"s3": Boto3ArtifactStore, "gs": GCSArtifactStore}
    if scheme not in makers:
        raise StudyError(f"artifacts must be in a folder, s3:// or gs://, got {text!r}")
    bucket, prefix = urllib.parse.urlsplit(text).netloc, urllib.parse.urlsplit(text).path
    try:
        store = makers[scheme](bucket)
    except ImportError as error:
        package = {"s3": "boto3", "gs": "google-cloud-storage"}[scheme]
        raise StudyError(f"artifacts in {text} need: pip install {package}") from error
    except Exception as error:
        raise StudyError(f"cannot open the artifacts in {text}: {error}") from error
    return ArtifactStates(_Prefixed(store, prefix.strip("/")), text)


class _Folder(FileSystemArtifactStore):
    """A folder that never contains partial files, even if a process is killed."""

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        write_file(self._get_filepath(artifact_id), content_body.read())


class _Prefixed:
    """A bucket with a prefix for its artifacts; failed reads and writes are retried."""

    def __init__(self, store: Any, prefix: str) -> None:
        self._bucket, self._prefix = store, f"{prefix}/" if prefix else ""
        self._store = Backoff(store, max_retries=3)

    def open_reader(self, artifact_id: str) -> BinaryIO:
        found: BinaryIO = self._store.open_reader(self._prefix + artifact_id)
        return found

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        self._store.write(self._prefix + artifact_id, content_body)

    def remove(self, artifact_id: str) -> None:
        self._bucket.remove(self._prefix + artifact_id)  # Backoff would retry the removal

"""Where studies live: a journal file by default, any Optuna storage by URL."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

from filelock import FileLock, Timeout
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

from conversion import FileError, SpikefrontError

_LOG = logging.getLogger("spikefront")

JOURNAL_NAME = "study.journal"


class StudyError(SpikefrontError, RuntimeError):
    """A study cannot be opened, is held by another process, or does not fit."""


class _JournalLock(JournalFileOpenLock):
    """Lock of a journal file that the system frees when its holder dies, and that mends the tail.

    Optuna's own lock file outlives a killed process and then blocks every writer for 30 s; a
    writer killed in the middle of a line makes the journal unreadable once another line follows.
    """

    def __init__(self, journal: Path) -> None:
        super().__init__(str(journal), grace_period=None)
        self._journal = journal
        self._lock = FileLock(f"{journal}.lock")

    def acquire(self) -> bool:
        self._lock.acquire()
        cut_torn_line(self._journal)
        return True

    def release(self) -> None:
        self._lock.release()


def cut_torn_line(journal: Path) -> None:
    """Cut off a last line without its line end: the write that a killed process left behind."""
    with journal.open("r+b") as file:
        size = position = file.seek(0, os.SEEK_END)
        while position > 0:
            start = max(0, position - 65536)
            file.seek(start)
            found = file.read(position - start).rfind(b"\n")
            if found >= 0:
                position = start + found + 1
                break
            position = start
        if position < size:
            _LOG.warning("%s: cut %d bytes of an unfinished line", journal, size - position)
            file.truncate(position)


def open_storage(storage: str | Path) -> BaseStorage:
    """Open a storage.

    Args:
        storage: A path, or a URL ``journal:///path``, for a journal file; any other URL is one of
            Optuna's (``sqlite:///``, ``postgresql://``, ``mysql://``).

    Raises:
        StudyError: It cannot be opened.
    """
    text = str(storage)
    if "://" in text and not text.startswith("journal://"):
        return _open_database(text)
    path = Path(text.removeprefix("journal://"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.open("ab").close()
        with FileLock(f"{path}.lock"):
            cut_torn_line(path)
        return JournalStorage(JournalFileBackend(str(path), lock_obj=_JournalLock(path)))
    except OSError as error:
        raise FileError(f"cannot write the study's journal {path}: {error.strerror}") from error
    except (ValueError, KeyError) as error:
        line = _damaged_line(path)
        where = f"line {line} of {path} is damaged" if line else f"{path} is not an Optuna journal"
        raise StudyError(f"{where}: {error}") from error


def _damaged_line(journal: Path) -> int | None:
    for number, line in enumerate(journal.read_bytes().splitlines(), 1):
        try:
            json.loads(line)
        except ValueError:
            return number
    return None


def check_writable(folder: Path) -> None:
    """Raise :class:`FileError` if a folder that need not exist yet could not be written."""
    existing = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise FileError(f"cannot write in {existing}")


def _open_database(url: str) -> BaseStorage:
    try:
        return RDBStorage(url)
    except Exception as error:
        reason = str(error).split("\n")[0]
        raise StudyError(f"cannot open the storage {_without_password(url)}: {reason}") from error


def _without_password(url: str) -> str:
    scheme, _, rest = url.partition("://")
    credentials, at, place = rest.rpartition("@")
    user = credentials.split(":")[0]
    return f"{scheme}://{user}:***{at}{place}" if ":" in credentials else url


def hold(folder: Path) -> FileLock:
    """Hold an output folder for one searching process; freed when the process ends, however.

    Raises:
        StudyError: Another process holds it.
        FileError: The folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".search.lock", timeout=0)
        lock.acquire()
    except Timeout as error:
        raise StudyError(
            f"{folder} is held by another search; wait for it, stop it, or choose another --out"
        ) from error
    except OSError as error:
        raise FileError(f"cannot write in {folder}: {error.strerror}") from error
    return lock

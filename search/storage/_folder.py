"""The folder of a search: held by one process at a time."""

from __future__ import annotations

import os
from pathlib import Path

from filelock import FileLock, Timeout

from conversion import FileError
from search._errors import StudyError


def check_writable(folder: Path) -> None:
    """Raise :class:`FileError` if a folder that need not exist yet could not be written."""
    existing = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not existing.is_dir():
        raise FileError(f"{existing} is not a folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise FileError(f"cannot write in {existing}")


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

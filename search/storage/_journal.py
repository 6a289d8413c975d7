"""Studies in a journal file that survives killed processes, or in a journal in Redis."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

from filelock import FileLock
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock, JournalRedisBackend

from conversion import FileError
from search._errors import StudyError

_LOG = logging.getLogger("spikefront")

JOURNAL_NAME = "study.journal"


def open_journal(path: Path) -> BaseStorage:
    try:
        lock = _NoLock(path) if _is_read_only(path) else _JournalLock(path)
        if isinstance(lock, _JournalLock):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.open("ab").close()
        with path.open("rb") as file:
            if file.read(1) not in (b"", b"{"):
                raise StudyError(f"{path} is not an Optuna journal")
        if isinstance(lock, _JournalLock):
            with journal_lock(path):
                cut_torn_line(path)
        return JournalStorage(JournalFileBackend(str(path), lock_obj=lock))
    except OSError as error:
        raise FileError(f"cannot write the study's journal {path}: {error.strerror}") from error
    except (ValueError, KeyError) as error:
        line = _damaged_line(path)
        raise StudyError(_not_readable(path, line, error)) from error


def _not_readable(path: Path, line: int | None, error: Exception) -> str:
    if line is None:
        return f"{path} is not an Optuna journal: {error}"
    lines = len(path.read_bytes().splitlines())
    return (
        f"line {line} of {lines} of {path} is damaged: {error}. Restore the file from a backup."
        f" Without one, `head -n {line - 1} {path} > mended.journal` keeps what was written before"
        f" that line and loses the {lines - line} lines after it; open it with --storage"
        " mended.journal and keep the original"
    )


def _is_read_only(path: Path) -> bool:
    """Whether a journal can be read but not written, as someone else's study."""
    can_lock = os.access(path.absolute().parent, os.W_OK | os.X_OK) or os.access(
        f"{path}.flock", os.W_OK
    )
    return path.exists() and not (os.access(path, os.W_OK) and can_lock)


class _NoLock(JournalFileOpenLock):
    """In place of the lock that every write takes, where nothing can be written."""

    def __init__(self, journal: Path) -> None:
        super().__init__(str(journal))
        self._journal = journal

    def acquire(self) -> bool:
        raise FileError(f"cannot write the study's journal {self._journal}: it is read-only here")

    def release(self) -> None:
        """Do nothing: it is never acquired."""


class _JournalLock(JournalFileOpenLock):
    """Lock of a journal file that the system frees when its holder dies, and that mends the tail.

    Optuna's own lock file outlives a killed process and then blocks every writer for 30 s; a
    writer killed in the middle of a line makes the journal unreadable once another line follows.
    """

    def __init__(self, journal: Path) -> None:
        super().__init__(str(journal), grace_period=None)
        self._journal = journal
        self._lock = journal_lock(journal)
        self._told = False

    def acquire(self) -> bool:
        self._lock.acquire()
        try:
            # On a full disk every attempt to write leaves such a line: once is enough to say so.
            self._told |= cut_torn_line(self._journal, quiet=self._told)
        except OSError:
            self._lock.release()
            raise
        return True

    def release(self) -> None:
        self._lock.release()


def journal_lock(journal: Path) -> FileLock:
    """Of another name than Optuna's own, which optuna-dashboard would break after 30 s."""
    return FileLock(f"{journal}.flock")


def cut_torn_line(journal: Path, *, quiet: bool = False) -> bool:
    """Cut off a last line without its line end: the write that a killed process left behind.

    Returns:
        Whether there was one.
    """
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
            level = logging.DEBUG if quiet else logging.WARNING
            _LOG.log(level, "%s: cut %d bytes of an unfinished line", journal, size - position)
            file.truncate(position)
        return position < size


def _damaged_line(journal: Path) -> int | None:
    for number, line in enumerate(journal.read_bytes().splitlines(), 1):
        try:
            json.loads(line)
        except ValueError:
            return number
    return None


def open_redis(url: str) -> BaseStorage:
    waits = "socket_connect_timeout=10&socket_timeout=60"
    return JournalStorage(_RedisBackend(f"{url}{'&' if '?' in url else '?'}{waits}"))


class _RedisBackend(JournalRedisBackend):
    """Without snapshots: they are pickles, which anyone who reaches the server could write."""

    def save_snapshot(self, snapshot: bytes) -> None:
        pass

    def load_snapshot(self) -> bytes | None:
        return None

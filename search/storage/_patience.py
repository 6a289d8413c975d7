"""A storage that waits: a database restarts, a network is lost, a disk is full."""

from __future__ import annotations

import abc
import errno
import logging
import random
import time
from collections.abc import Callable
from typing import Any, TypeVar

import optuna
import sqlalchemy
from optuna.storages import BaseStorage

_LOG = logging.getLogger("spikefront")
_T = TypeVar("_T")

PATIENCE = 600.0
_FIRST_PAUSE, _LONGEST_PAUSE, _QUIET = 0.1, 10.0, 2.0

_PASSING_ERRNOS = {
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ESTALE, errno.ETIMEDOUT,
    errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EAGAIN,
}  # fmt: skip
_PASSING_SQLITE = ("locked", "full", "disk I/O", "unable to open")


def is_away(error: BaseException | None) -> bool:
    """Whether an error means that a storage is temporarily unreachable or not writable."""
    if isinstance(error, optuna.exceptions.StorageInternalError):
        return is_away(error.__cause__)
    if isinstance(error, sqlalchemy.exc.DBAPIError):
        return _is_away_database(error)
    # Optuna tries a query that failed again, in another form; a lost connection does not allow it.
    if isinstance(error, sqlalchemy.exc.PendingRollbackError):
        return is_away(error.__context__)
    if isinstance(error, sqlalchemy.exc.TimeoutError):  # no connection of the pool came free
        return True
    if isinstance(error, OSError):
        passing = isinstance(error, ConnectionError | TimeoutError)
        return passing or error.errno in _PASSING_ERRNOS
    # Of packages that need not be installed:
    if type(error).__module__ == "redis.exceptions":
        return type(error).__name__ in ("ConnectionError", "TimeoutError", "BusyLoadingError")
    code = getattr(error, "code", None)
    return callable(code) and getattr(code(), "name", "") == "UNAVAILABLE"  # grpc.RpcError


def _is_away_database(error: sqlalchemy.exc.DBAPIError) -> bool:
    if type(error.orig).__module__ == "sqlite3":
        return any(words in str(error.orig) for words in _PASSING_SQLITE)
    kinds = (sqlalchemy.exc.OperationalError, sqlalchemy.exc.InterfaceError)
    return error.connection_invalidated or isinstance(error, kinds)


_CROWDED = (
    "too many clients", "Too many connections", "starting up", "shutting down", "recovery mode",
    "already exists", "UNIQUE constraint", "duplicate key", "Duplicate entry", "Deadlock",
)  # fmt: skip


def is_crowded(error: BaseException) -> bool:
    """Whether opening a database failed because others are opening it or making its tables."""
    return any(words in str(error) for words in _CROWDED)


def waiting(
    call: Callable[[], _T],
    passing: Callable[[BaseException], bool] = is_away,
    on_trouble: Callable[[], None] = lambda: None,
) -> _T:
    """Retry a call with growing pauses, for up to :data:`PATIENCE` seconds."""
    start, pause, told = time.monotonic(), _FIRST_PAUSE, False
    while True:
        try:
            found = call()
        except Exception as error:
            on_trouble()
            away = time.monotonic() - start
            if not passing(error) or away > PATIENCE:
                raise
            if away > _QUIET and not told:
                told = True
                _LOG.warning("waiting for the storage: %s", reason_of(error))
            time.sleep(pause * random.uniform(0.5, 1))
            pause = min(2 * pause, _LONGEST_PAUSE)
        else:
            if told:
                _LOG.warning("the storage answers again, after %.0f s", time.monotonic() - start)
            return found


def reason_of(error: BaseException) -> str:
    """A storage's error in one line; Optuna's own errors say less than their cause."""
    if isinstance(error, optuna.exceptions.StorageInternalError) and error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split("\n")[0].split())[:300]


def _delegated(name: str) -> Callable[..., Any]:
    def method(self: _PatientStorage, *arguments: Any, **options: Any) -> Any:
        method = getattr(self.impatient, name)
        return waiting(lambda: method(*arguments, **options), on_trouble=self.note_trouble)

    return method


def _delegating(storage: type) -> type:
    for name, value in vars(BaseStorage).items():
        if callable(value) and not name.startswith("_"):
            setattr(storage, name, _delegated(name))
    return abc.update_abstractmethods(storage)


@_delegating
class _PatientStorage(BaseStorage):
    """A storage whose methods are retried while the underlying one is unreachable.

    If a change was made but its answer was lost, it is made twice. For the changes of a search this
    is harmless: a started trial that runs nowhere is brought back like any that lost its worker, a
    setting queued twice runs once, and an additional exit may be listed twice.

    Attributes:
        impatient: The underlying storage, for calls that need no retry.
        last_trouble: When it last failed to answer, by :func:`time.monotonic`.
    """

    def __init__(self, storage: BaseStorage) -> None:
        self.impatient = storage
        self.last_trouble = float("-inf")

    def note_trouble(self) -> None:
        self.last_trouble = time.monotonic()


def patient(storage: BaseStorage) -> BaseStorage:
    """Wrap a storage so that its calls are retried."""
    return _PatientStorage(storage)  # type: ignore[abstract]  # the decorator made the methods


def last_trouble(storage: BaseStorage) -> float:
    """When a storage last failed to answer this process, by :func:`time.monotonic`."""
    return storage.last_trouble if isinstance(storage, _PatientStorage) else float("-inf")


def note_trouble(storage: BaseStorage) -> None:
    """Record that it does not answer."""
    if isinstance(storage, _PatientStorage):
        storage.note_trouble()


def impatient(storage: BaseStorage) -> BaseStorage:
    """The underlying storage, whose methods raise at once."""
    return storage.impatient if isinstance(storage, _PatientStorage) else storage

"""Where studies live: a journal file by default, any Optuna storage by URL."""

from __future__ import annotations

import functools
import json
import logging
import os
import re
import socket
import urllib.parse
import warnings
from collections.abc import Callable, Container, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import optuna
import sqlalchemy
from filelock import FileLock, Timeout
from optuna.storages import (
    BaseStorage,
    GrpcStorageProxy,
    JournalStorage,
    RDBStorage,
    _CachedStorage,
)
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock, JournalRedisBackend
from optuna.trial import FrozenTrial, TrialState

from conversion import FileError, SpikefrontError
from search._interrupts import Interrupts
from search._patience import is_crowded, patient, reason_of, waiting

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
        self._lock = journal_lock(journal)

    def acquire(self) -> bool:
        self._lock.acquire()
        try:
            cut_torn_line(self._journal)
        except OSError:
            self._lock.release()
            raise
        return True

    def release(self) -> None:
        self._lock.release()


def journal_lock(journal: Path) -> FileLock:
    """Of another name than Optuna's own, which optuna-dashboard would break after 30 s."""
    return FileLock(f"{journal}.flock")


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


def open_storage(storage: str | Path, *, create: bool = True, connections: int = 1) -> BaseStorage:
    """Open a storage, which from then on is waited for when it goes away.

    Args:
        storage: A path, or a URL ``journal:///path``, for a journal file; ``redis://host:port`` for
            a journal in Redis; ``grpc://host:port`` for the server that ``spikefront storage
            serve`` runs; any other URL is one of Optuna's (``sqlite:///``, ``postgresql://``,
            ``mysql+pymysql://``).
        create: Whether to make the file of a journal or of SQLite if there is none.
        connections: To a database server, kept open.

    Raises:
        StudyError: It cannot be opened.
        FileError: A journal cannot be written.
    """
    text = str(storage)
    scheme = text.partition("://")[0] if "://" in text else "journal"
    if not create and scheme in ("journal", "sqlite"):
        path = Path(_sqlite_file(text) if scheme == "sqlite" else text.removeprefix("journal://"))
        if not path.exists():
            raise StudyError(f"there is no storage {path}; `spikefront search` makes one")
    if scheme == "journal":
        return patient(_open_journal(Path(text.removeprefix("journal://"))))
    openers: dict[str, Callable[[str], BaseStorage]] = {
        "grpc": _open_proxy,
        "redis": _open_redis,
        "rediss": _open_redis,
    }
    open_database = functools.partial(_open_database, connections=connections)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return patient(openers.get(scheme, open_database)(text))
    except sqlalchemy.exc.NoSuchModuleError as error:
        raise StudyError(
            f"cannot open the storage {without_password(text)}: {scheme!r} is no kind that is"
            " known; use a path, sqlite:///study.db, postgresql+psycopg://, mysql+pymysql://,"
            " redis:// or grpc://"
        ) from error
    except Exception as error:
        missing = isinstance(error, ImportError)
        hint = '; pip install "spikefront[cluster]" brings the drivers' if missing else ""
        place = without_password(text)
        raise StudyError(f"cannot open the storage {place}: {reason_of(error)}{hint}") from error


def _open_journal(path: Path) -> BaseStorage:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.open("ab").close()
        with path.open("rb") as file:
            if file.read(1) not in (b"", b"{"):
                raise StudyError(f"{path} is not an Optuna journal")
        with journal_lock(path):
            cut_torn_line(path)
        return JournalStorage(JournalFileBackend(str(path), lock_obj=_JournalLock(path)))
    except OSError as error:
        raise FileError(f"cannot write the study's journal {path}: {error.strerror}") from error
    except (ValueError, KeyError) as error:
        line = _damaged_line(path)
        where = f"line {line} of {path} is damaged" if line else f"{path} is not an Optuna journal"
        raise StudyError(f"{where}: {error}") from error


def _open_redis(url: str) -> BaseStorage:
    waits = "socket_connect_timeout=10&socket_timeout=60"
    return JournalStorage(_RedisBackend(f"{url}{'&' if '?' in url else '?'}{waits}"))


class _RedisBackend(JournalRedisBackend):
    """Without snapshots: they are pickles, which whoever reaches the server could write."""

    def save_snapshot(self, snapshot: bytes) -> None:
        pass

    def load_snapshot(self) -> bytes | None:
        return None


def _open_proxy(url: str) -> BaseStorage:
    place = urllib.parse.urlsplit(url)
    proxy = _Proxy(host=place.hostname or "localhost", port=place.port or 13000)
    try:
        proxy.wait_server_ready(timeout=10)
    except ConnectionError as error:
        raise StudyError(
            "nobody answers there; `spikefront storage serve` starts a server, at port 13000 if"
            " none is named"
        ) from error
    return proxy


class _Proxy(GrpcStorageProxy):
    """Connects again soon: by gRPC's own habit, after up to two minutes."""

    def _setup(self) -> None:
        import grpc

        super()._setup()
        self._channel.close()
        options = [("grpc.max_receive_message_length", -1), ("grpc.max_reconnect_backoff_ms", 3000)]
        self._channel = grpc.insecure_channel(f"{self._host}:{self._port}", options=options)
        self._stub = type(self._stub)(self._channel)
        self._cache = type(self._cache)(self._stub)


def _open_database(url: str, connections: int) -> BaseStorage:
    def make() -> RDBStorage:
        if sqlalchemy.make_url(url).get_backend_name() == "sqlite":
            return _SqliteStorage(url)
        return _ServerStorage(url, connections)

    return _Cached(waiting(make, is_crowded))


class _Cached(_CachedStorage):
    """Optuna's cache, but asked for what waits it does not read all that runs as well.

    That is asked once a trial, and what runs grows with the number of workers.
    """

    def get_all_trials(
        self,
        study_id: int,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
    ) -> list[FrozenTrial]:
        if states != (TrialState.WAITING,) or study_id not in self._studies:
            return super().get_all_trials(study_id, deepcopy, states)
        found: list[FrozenTrial] = self._backend.get_all_trials(study_id, deepcopy, states)
        with self._lock:
            self._add_trials_to_cache(study_id, found)
            self._studies[study_id].unfinished_trial_ids.update(t._trial_id for t in found)
        return found


class _ServerStorage(RDBStorage):
    """A database server with many clients: each keeps one connection, not one for each thread.

    A connection whose packets get lost is given up after half a minute or so.
    """

    _WAITS: ClassVar = {
        "psycopg": {"connect_timeout": 10, "tcp_user_timeout": 30_000},
        "psycopg2": {"connect_timeout": 10, "tcp_user_timeout": 30_000},
        "pymysql": {"connect_timeout": 10, "read_timeout": 60, "write_timeout": 60},
    }

    def __init__(self, url: str, connections: int) -> None:
        waits = self._WAITS.get(sqlalchemy.make_url(url).get_driver_name(), {})
        pool = {"pool_size": connections, "max_overflow": 1, "connect_args": waits}
        super().__init__(url, engine_kwargs=pool)


class _SqliteStorage(RDBStorage):
    """SQLite for several processes.

    It knows no ``SELECT … FOR UPDATE``: two processes could both take the trial that waits, or both
    fail the one that is lost. A lock file beside it, freed when its holder dies, lets one of them
    only. With a write-ahead log a trial takes less than half the time.
    """

    def __init__(self, url: str) -> None:
        super().__init__(url, engine_kwargs={"connect_args": {"timeout": 60}})
        path = self.engine.url.database
        self._state_lock = FileLock(f"{path}.lock") if path and path != ":memory:" else None
        sqlalchemy.event.listen(self.engine, "connect", self._log_ahead)
        self.engine.dispose()  # the connection that made the tables knows nothing of it

    @staticmethod
    def _log_ahead(connection: Any, record: Any) -> None:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        if self._state_lock is None:
            return super().set_trial_state_values(trial_id, state, values)
        with self._state_lock:
            return super().set_trial_state_values(trial_id, state, values)


def _damaged_line(journal: Path) -> int | None:
    for number, line in enumerate(journal.read_bytes().splitlines(), 1):
        try:
            json.loads(line)
        except ValueError:
            return number
    return None


def serve_storage(
    storage: str, host: str, port: int, threads: int, on_start: Callable[[], None] = lambda: None
) -> None:
    """Serve a database to workers that name ``grpc://host:port``, until it is interrupted.

    Raises:
        StudyError: It is no database, cannot be opened, or the port is taken.
        KeyboardInterrupt: Ctrl-C or SIGTERM.
    """
    if "://" not in storage or storage.startswith(("journal:", "redis", "grpc:")):
        raise StudyError(
            "a journal cannot be served; give a database, like sqlite:///study.db or postgresql://…"
        )
    opened = open_storage(storage, connections=threads)
    _check_free(host, port)
    on_start()
    interrupts = Interrupts()
    with interrupts.caught(), ThreadPoolExecutor(threads) as pool, warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        try:
            optuna.storages.run_grpc_proxy_server(opened, host=host, port=port, thread_pool=pool)
        except ImportError as error:
            raise StudyError(
                'the storage server needs: pip install "spikefront[cluster]"'
            ) from error


def _check_free(host: str, port: int) -> None:
    # gRPC shares a port with whoever listens already, and requests would go to either.
    try:
        socket.create_server((host, port)).close()
    except OSError as error:
        raise StudyError(f"cannot listen on {host}:{port}: {error.strerror}") from error


def check_writable(folder: Path) -> None:
    """Raise :class:`FileError` if a folder that need not exist yet could not be written."""
    existing = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise FileError(f"cannot write in {existing}")


def _sqlite_file(url: str) -> str:
    return sqlalchemy.make_url(url).database or ""


def without_password(url: str) -> str:
    """A URL that may be shown."""
    scheme, _, rest = re.sub(r"(passw\w*=)[^&]*", r"\1***", url).partition("://")
    credentials, at, place = rest.rpartition("@")
    user = credentials.split(":")[0]
    shown = f"{user}:***" if ":" in credentials else credentials
    return f"{scheme}://{shown}{at}{place}" if rest else scheme


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

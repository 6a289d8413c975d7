"""Studies in a database, by SQLAlchemy, or behind Optuna's gRPC proxy."""

from __future__ import annotations

import urllib.parse
from collections.abc import Container, Sequence
from typing import Any, ClassVar

import sqlalchemy
from filelock import FileLock
from optuna.storages import BaseStorage, GrpcStorageProxy, RDBStorage, _CachedStorage
from optuna.trial import FrozenTrial, TrialState

from search._errors import StudyError
from search.storage._patience import is_crowded, waiting


def open_database(url: str, connections: int) -> BaseStorage:
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


def sqlite_file(url: str) -> str:
    return sqlalchemy.make_url(url).database or ""


def open_proxy(url: str) -> BaseStorage:
    place = urllib.parse.urlsplit(url)
    proxy = _Proxy(host=place.hostname or "localhost", port=place.port or 13000)
    try:
        proxy.wait_server_ready(timeout=10)
    except ConnectionError as error:
        raise StudyError(
            "no server answers there; `spikefront storage serve` starts one, at port 13000 unless"
            " another is named"
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

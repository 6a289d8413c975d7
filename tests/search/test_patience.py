from __future__ import annotations

import errno
import time
from typing import Any

import optuna
import pytest
import sqlalchemy
from optuna.storages import BaseStorage, InMemoryStorage

from search.storage import _patience
from search.storage._patience import impatient, is_away, patient


class Away(InMemoryStorage):
    """Raises for a while."""

    def __init__(self, error: Exception, times: int) -> None:
        super().__init__()
        self.error, self.times = error, times

    def create_new_trial(self, *arguments: Any, **options: Any) -> int:
        if self.times > 0:
            self.times -= 1
            raise self.error
        return super().create_new_trial(*arguments, **options)


def database_error(kind: type[sqlalchemy.exc.DBAPIError]) -> Exception:
    outer = optuna.exceptions.StorageInternalError("An exception is raised during the commit.")
    outer.__cause__ = kind("SELECT 1", None, Exception("server closed the connection"))
    return outer


def tried_again_on_a_lost_connection() -> Exception:
    """As Optuna's query of trials leaves it, whose second form meets an invalid transaction."""
    outer = database_error(sqlalchemy.exc.OperationalError)
    again = sqlalchemy.exc.PendingRollbackError("Can't reconnect until it is rolled back.")
    again.__context__, outer.__cause__ = outer.__cause__, again
    return outer


class StatusError(Exception):
    """As grpc.RpcError tells its status."""

    def __init__(self, name: str) -> None:
        self.name = name

    def code(self) -> StatusError:
        return self


PASSING = [
    database_error(sqlalchemy.exc.OperationalError),
    database_error(sqlalchemy.exc.InterfaceError),
    tried_again_on_a_lost_connection(),
    OSError(errno.ENOSPC, "No space left on device"),
    ConnectionResetError("reset by peer"),
    StatusError("UNAVAILABLE"),
]
LASTING = [
    database_error(sqlalchemy.exc.IntegrityError),
    sqlalchemy.exc.PendingRollbackError("An error of ours before it."),
    OSError(errno.ENOENT, "No such file"),
    KeyError("no such trial"),
    StatusError("UNKNOWN"),
]


@pytest.mark.parametrize("error", PASSING, ids=repr)
def test_what_passes_is_waited_for(error: Exception) -> None:
    study = optuna.create_study(storage=patient(Away(error, times=3)))
    assert study.ask().number == 0
    assert [t.number for t in study.trials] == [0]


@pytest.mark.parametrize("error", LASTING, ids=repr)
def test_what_does_not_pass_is_raised_at_once(error: Exception) -> None:
    storage = Away(error, times=1)
    study = optuna.create_study(storage=patient(storage))
    with pytest.raises(type(error)):
        study.ask()
    assert storage.times == 0


def test_patience_ends(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(_patience, "PATIENCE", 0.5)
    monkeypatch.setattr(_patience, "_QUIET", 0.1)
    study = optuna.create_study(storage=patient(Away(ConnectionError("gone"), times=10**6)))
    start = time.monotonic()
    with pytest.raises(ConnectionError, match="gone"):
        study.ask()
    assert time.monotonic() - start > 0.5
    said = [r.message for r in caplog.records if r.name == "spikefront"]
    assert said == ["waiting for the storage: gone"]


def test_sqlite_that_is_locked_passes_and_a_missing_table_does_not() -> None:
    engine = sqlalchemy.create_engine("sqlite://")
    with engine.connect() as connection, pytest.raises(sqlalchemy.exc.OperationalError) as caught:
        connection.execute(sqlalchemy.text("SELECT * FROM nothing"))
    assert not is_away(caught.value)
    locked = caught.value
    locked.orig.args = ("database is locked",)  # type: ignore[union-attr]
    assert is_away(locked)


def test_it_is_every_method_of_a_storage() -> None:
    storage = InMemoryStorage()
    assert impatient(patient(storage)) is storage
    assert impatient(storage) is storage
    public = {n for n, v in vars(BaseStorage).items() if callable(v) and not n.startswith("_")}
    assert public <= set(vars(type(patient(storage))))
    study = optuna.create_study(storage=patient(storage), directions=["maximize", "minimize"])
    study.optimize(lambda t: (t.suggest_float("x", 0, 1), 1.0), n_trials=4)
    assert len(optuna.load_study(study_name=study.study_name, storage=storage).trials) == 4

"""Where studies live: a journal file by default, any Optuna storage by URL."""

from __future__ import annotations

import functools
import re
import warnings
from collections.abc import Callable
from pathlib import Path

import optuna
import sqlalchemy
from optuna.storages import BaseStorage

from search._errors import StudyError
from search.storage._database import open_database, open_proxy, sqlite_file
from search.storage._journal import open_journal, open_redis
from search.storage._patience import patient, reason_of


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
        path = Path(sqlite_file(text) if scheme == "sqlite" else text.removeprefix("journal://"))
        if not path.exists():
            raise StudyError(f"there is no storage {path}; `spikefront search` makes one")
    if scheme == "journal":
        return patient(open_journal(Path(text.removeprefix("journal://"))))
    openers: dict[str, Callable[[str], BaseStorage]] = {
        "grpc": open_proxy,
        "redis": open_redis,
        "rediss": open_redis,
    }
    database = functools.partial(open_database, connections=connections)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return patient(openers.get(scheme, database)(text))
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


def without_password(url: str) -> str:
    """A URL that may be shown."""
    scheme, _, rest = re.sub(r"(passw\w*=)[^&]*", r"\1***", url).partition("://")
    credentials, at, place = rest.rpartition("@")
    user = credentials.split(":")[0]
    shown = f"{user}:***" if ":" in credentials else credentials
    return f"{scheme}://{shown}{at}{place}" if rest else scheme

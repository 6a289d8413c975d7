"""A server that stands between many workers and a database."""

from __future__ import annotations

import socket
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import optuna

from search._errors import StudyError
from search._interrupts import Interrupts
from search.storage._open import open_storage


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
    # gRPC shares a port with a process that listens already, and requests would go to either.
    try:
        socket.create_server((host, port)).close()
    except OSError as error:
        raise StudyError(f"cannot listen on {host}:{port}: {error.strerror}") from error

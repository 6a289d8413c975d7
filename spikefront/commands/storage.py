"""``spikefront storage``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    pass


@click.group("storage")
def storage_group() -> None:
    """Where studies live."""


@storage_group.command("serve")
@click.option(
    "--storage",
    envvar="SPIKEFRONT_STORAGE",
    required=True,
    help="The database to stand before, an Optuna URL; or $SPIKEFRONT_STORAGE.",
)
@click.option("--host", default="localhost", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(1, 65535), default=13000, show_default=True)
@click.option(
    "--threads", type=click.IntRange(1), default=10, show_default=True, help="Requests at a time."
)
def serve(storage: str, host: str, port: int, threads: int) -> None:
    """Stand between many workers and a database: they use --storage grpc://HOST:PORT.

    Optuna's gRPC proxy: it caches what the workers read, so that the database has one client. No
    password and no encryption: listen only where everyone may change the study.
    """
    from search import serve_storage

    ready = f"serving on grpc://{host}:{port}; Ctrl-C or SIGTERM ends it"
    serve_storage(storage, host, port, threads, on_start=lambda: click.echo(ready, err=True))

"""``spikefront storage``."""

from __future__ import annotations

import rich_click as click

from spikefront.options import MACHINE, STUDY, option


@click.group("storage")
def storage_group() -> None:
    """Serve a study's storage to many workers."""


@storage_group.command("serve")
@option(
    STUDY,
    "--storage",
    envvar="SPIKEFRONT_STORAGE",
    required=True,
    metavar="URL",
    help="The database behind it, an Optuna URL; or $SPIKEFRONT_STORAGE.",
)
@option(MACHINE, "--host", default="localhost", show_default=True, help="Address to listen on.")
@option(MACHINE, "--port", type=click.IntRange(1, 65535), default=13000, show_default=True)
@option(
    MACHINE,
    "--threads",
    type=click.IntRange(1),
    default=10,
    show_default=True,
    help="Requests at a time.",
)
def serve(storage: str, host: str, port: int, threads: int) -> None:
    """Serve a database to many workers, which use --storage grpc://HOST:PORT.

    This is Optuna's gRPC proxy: it caches what the workers read, so that the database has one
    client. It has no password and no encryption; listen only where everyone may change the study.

    \b
    spikefront storage serve --storage postgresql+psycopg://user@host/db --host 0.0.0.0
    """  # noqa: D301 - click wants the control character
    from search import serve_storage

    ready = f"serving on grpc://{host}:{port}; Ctrl-C or SIGTERM ends it"
    serve_storage(storage, host, port, threads, on_start=lambda: click.echo(ready, err=True))

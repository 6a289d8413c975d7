"""The command line: parses, calls the rooms, prints."""

from __future__ import annotations

import logging
import os
import sys
import warnings

import rich_click as click
from rich.logging import RichHandler

from spikefront._rooms import RoomError, check_rooms
from spikefront.commands import COMMANDS
from spikefront.loading import load_plugins
from spikefront.options import plugin_option
from spikefront.output import LOG, STDERR, installed_version

__all__ = ["cli", "main"]

click.rich_click.TEXT_PARAGRAPH_LINEBREAKS = "\n\n"
click.rich_click.PADDING_HELPTEXT_FIRST_LINE = (0, 0, 1, 0)
click.rich_click.MAX_WIDTH = 100

_GROUPS = (
    ("Search", ("search", "worker", "status", "storage")),
    ("Decide", ("report", "compare", "diff")),
    ("Deploy", ("export", "verify", "convert", "check")),
    ("Understand one network", ("profile", "evaluate", "diagnose", "sensitivity", "pareto-dp")),
)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(installed_version(), prog_name="spikefront")
@plugin_option
@click.option("-v", "--verbose", is_flag=True, help="Print more detail.")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def cli(plugins: tuple[str, ...], verbose: bool, debug: bool) -> None:
    """Find out how a trained ANN should spike: the Pareto front of accuracy against energy.

    \b
    spikefront search                    search on the built-in task; resumes
    spikefront report                    measure the front on the test split
    spikefront export --max-energy 0.08  write one point of it as a config
    spikefront verify CONFIG.json        measure a config in a fresh process
    """  # noqa: D301 - click wants the control character
    level = logging.DEBUG if debug or verbose else logging.INFO
    handler: logging.Handler = logging.StreamHandler()  # in a file, a line is a line
    if STDERR.is_terminal:
        handler = RichHandler(
            console=STDERR, show_path=False, show_time=False, show_level=False, markup=False
        )
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler])
    LOG.setLevel(level)
    warnings.simplefilter("ignore")
    load_plugins(plugins)


for _command in COMMANDS:
    cli.add_command(_command)
for _title, _names in _GROUPS:
    cli.add_panel(click.RichCommandPanel(_title, commands=list(_names)))


def main() -> None:
    """Run the command line: one clear line for what went wrong, never a traceback."""
    os.environ.setdefault("PYTHONWARNINGS", "ignore")  # worker processes too
    # Threads that wait spin briefly, then sleep: on a shared machine spinning costs five times and
    # more, and sleeping at once costs half again on small networks (measured on digits).
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    debug = "--debug" in sys.argv
    try:
        check_rooms()
        code = cli(standalone_mode=False)
        if isinstance(code, int) and code:  # a command that did its work and found a fault
            sys.exit(code)
    except click.ClickException as error:
        click.echo(_usage_error(error), err=True)
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        resumes = "search" in sys.argv or "worker" in sys.argv
        again = "; the same command resumes" if resumes else ""
        click.echo(f"stopped{again}", err=True)
        sys.exit(130)
    except Exception as error:
        if debug:
            raise
        click.echo(f"error: {_one_line(error)}", err=True)
        sys.exit(1)


def _usage_error(error: click.ClickException) -> str:
    context = getattr(error, "ctx", None)
    help_line = f"\nsee {context.command_path} --help" if context else ""
    return f"error: {error.format_message()}{help_line}"


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    conversion = sys.modules.get("conversion")  # not imported for this: it takes a second
    if isinstance(error, RoomError) or (
        conversion is not None and isinstance(error, conversion.SpikefrontError)
    ):
        return text
    return f"{type(error).__name__}: {text} (spikefront --debug shows where)"


if __name__ == "__main__":
    main()

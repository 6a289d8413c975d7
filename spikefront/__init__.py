"""The command line: parses, calls the rooms, prints."""

from __future__ import annotations

import logging
import os
import sys
import warnings

import click
from rich.logging import RichHandler

from spikefront.commands import COMMANDS
from spikefront.options import plugin_option
from spikefront.shared import LOG, STDERR, installed_version, load_plugins

__all__ = ["cli", "main"]


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(installed_version(), prog_name="spikefront")
@plugin_option
@click.option("-v", "--verbose", is_flag=True, help="Say more of what happens.")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def cli(plugins: tuple[str, ...], verbose: bool, debug: bool) -> None:
    """Search how a trained ANN should spike: the Pareto front of accuracy against energy.

    \b
    spikefront search                  search on the embedded task, resume with the same command
    spikefront report                  tables, figures and one HTML page, measured on the test split
    spikefront export --max-energy 0.08    write one point of the front as a config that deploys
    spikefront verify CONFIG.json      measure an exported config again, in a fresh process
    spikefront sensitivity             how much each layer matters; --figure
    spikefront worker --storage URL    take part in a search from any machine; see also status
    """  # noqa: D301 - click wants the control character
    level = logging.DEBUG if debug else logging.INFO if verbose else logging.WARNING
    if STDERR.is_terminal and not verbose:
        level = min(level, logging.INFO)
    handler = RichHandler(console=STDERR, show_path=False, show_time=False, markup=False)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler])
    LOG.setLevel(level)
    warnings.simplefilter("ignore")
    load_plugins(plugins)


for _command in COMMANDS:
    cli.add_command(_command)


def main() -> None:
    """Run the command line: one clear line for what went wrong, never a traceback."""
    os.environ.setdefault("PYTHONWARNINGS", "ignore")  # worker processes too
    # Threads that wait spin briefly, then sleep: on a shared machine spinning costs five times and
    # more, and sleeping at once costs half again on small networks (measured on digits).
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    debug = "--debug" in sys.argv
    try:
        code = cli(standalone_mode=False)
        if isinstance(code, int) and code:  # a command that did its work and found a fault
            sys.exit(code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        resumes = "search" in sys.argv or "worker" in sys.argv
        again = "; the same command goes on where it stopped" if resumes else ""
        click.echo(f"stopped{again}", err=True)
        sys.exit(130)
    except Exception as error:
        if debug:
            raise
        click.echo(f"error: {_one_line(error)}", err=True)
        sys.exit(1)


def _one_line(error: Exception) -> str:
    from conversion import SpikefrontError

    text = " ".join(str(error).split())
    if isinstance(error, SpikefrontError):
        return text
    return f"{type(error).__name__}: {text} (spikefront --debug shows where)"

"""What commands print: tables or JSON, progress, the log."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import rich_click as click
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

if TYPE_CHECKING:
    import optuna

    from conversion import ConversionConfig, OnIteration
    from evaluators import Evaluator
    from search import OnTrial

STDERR = Console(stderr=True)

LOG = logging.getLogger("spikefront")


def installed_version() -> str:
    """The version of the package, as installed."""
    try:
        return version("spikefront")
    except PackageNotFoundError:
        return "not installed"


@contextmanager
def working(what: str) -> Iterator[None]:
    """Say on a terminal what takes a while."""
    if not STDERR.is_terminal:
        yield
        return
    with STDERR.status(what):
        yield


def progress_bar() -> Progress:
    """A bar with an estimate of the time left; nothing where no terminal is."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[front]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=STDERR,
        disable=not STDERR.is_terminal,
        transient=True,
    )


@contextmanager
def learning_bar(conversion: ConversionConfig) -> Iterator[OnIteration | None]:
    """A bar over the gradient steps of a conversion that learns."""
    if not conversion.calibration.learns:
        yield None
        return
    with progress_bar() as progress:
        iterations = getattr(conversion.calibration, "iterations", None)
        bar = progress.add_task("learning", total=iterations, front="")
        yield lambda done, loss: progress.update(bar, completed=done, front=f"loss {loss:.3g}")


@contextmanager
def trial_bar(evaluator: Evaluator, trials: int, resumed: int, every: int) -> Iterator[OnTrial]:
    """A bar over the trials of a study with its front so far; without a terminal, lines.

    Args:
        evaluator: Of the study.
        trials: How many there will be.
        resumed: How many there are.
        every: Without a terminal, every how many trials a line is written; 0: none.
    """
    from reports import front_so_far
    from search import TrialRecord, passes

    ann = evaluator.ann("search").accuracy.value
    start = time.monotonic()
    with progress_bar() as progress:
        bar = progress.add_task("trials", total=trials, completed=resumed, front="")

        def on_trial(study: optuna.Study, count: int, reason: str | None) -> None:
            if reason is not None:
                LOG.warning("a trial failed: %s", reason)
            if count == resumed + 1 < trials:
                seconds = time.monotonic() - start
                LOG.info("the first trial took %s", duration(seconds))
            if not STDERR.is_terminal and (not every or count % every):
                return
            front = [point.search for point in front_so_far(study)]
            within = [m.energy_ratio for m in front if m.accuracy.value >= ann - 0.01]
            best = f", {min(within):.1%} energy within 1 point" if within else ""
            shown = f"{counted(len(front), 'trial')} on the front{best}"
            progress.update(bar, completed=count, front=shown)
            if not STDERR.is_terminal:
                seconds = time.monotonic() - start
                left = seconds / max(1, count - resumed) * max(0, trials - count)
                # The first baselines learn nothing: they say little of what is to come.
                early = TrialRecord.of(passes(study)[-1]).baseline is not None
                guess = "" if early else f", about {duration(left)} left"
                LOG.info("%d of %d trials%s; %s", count, trials, guess, shown)

        yield on_trial


def counted(number: int, noun: str) -> str:
    """A number and what it counts: 1 point, 2 points."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def duration(seconds: float) -> str:
    """As 48 s, 3 min 05 s or 2 h 10 min."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def show(as_json: bool, values: Callable[[], Any], table: Callable[[], Table]) -> None:
    """Print a result: one JSON object, or a table."""
    if as_json:
        click.echo(json.dumps(values(), allow_nan=False))
    else:
        print_table(table())


def print_table(table: Table) -> None:
    """Print a table as wide as the terminal, or 160 columns where there is none."""
    console = Console()
    Console(width=console.width if console.is_terminal else 160).print(table)

"""Progress of a study."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.table import Table

from reports._front import FrontPoint
from reports.tables._cells import cells
from search import StudyStatus


def status_table(status: StudyStatus, front: Sequence[FrontPoint]) -> Table:
    """Progress of a study, its workers and its current front."""
    table = Table.grid(padding=(0, 0, 1, 0))
    table.add_row("\n".join(_progress_lines(status, len(front))))
    if status.workers:
        table.add_row(_workers_table(status))
    if front:
        table.add_row(_short_front(front))
    return table


def _progress_lines(status: StudyStatus, points: int) -> list[str]:
    planned = f" of {status.planned}" if status.planned else ""
    rate = f", {status.per_hour:,.0f} an hour" if status.per_hour else ""
    left = f", {_duration(status.seconds_left)} left" if status.seconds_left else ""
    states = ", ".join(f"{n} {state.lower()}" for state, n in sorted(status.states.items()))
    return [
        f"{status.name}: {status.run}{planned} trials run{rate}{left}",
        f"{states or 'no trials'} ({status.exits} are additional exits); {points} points on the"
        " front",
        *(f"failed: {reason}" for reason in status.reasons),
    ]


def _workers_table(status: StudyStatus) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column(f"worker ({len(status.workers)} have a trial running)", overflow="fold")
    for column in ("trial", "for", "last sign of life"):
        table.add_column(column, justify="right", no_wrap=True)
    for worker in status.workers:
        numbers = ", ".join(map(str, worker.trials))
        ago = f"{_duration(worker.silent)} ago"
        table.add_row(worker.name, numbers, _duration(worker.seconds), ago)
    return table


def _short_front(front: Sequence[FrontPoint]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for column in (
        "trial",
        front[0].search.metric,
        "lost, points",
        "energy / ANN",
        "steps",
        "divergence",
    ):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("neuron, calibration", no_wrap=True)
    for point in front:
        m = point.search
        more = (f"{m.timesteps.value:.2f}", f"{m.kl.value:.3f}", point.how)
        table.add_row(str(point.trial), *cells(m), *more)
    return table


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"

"""The front as a table."""

from __future__ import annotations

from rich import box
from rich.table import Table

from evaluators import Measurement
from reports._baselines import BASELINES
from reports._front import ParetoFront, knee
from reports.tables._cells import cells
from spaces import names


def _caption(front: ParetoFront) -> str:
    """Explain the columns and marks of the table, one line each."""
    last = list(front.ann)[-1]
    shown = {point.baseline for point in front.points}
    lines = [
        f"within the budget: {front.budget}" if front.budget else "",
        f"lost: points of {front.metric} against the ANN on the same samples (95 % interval)",
        f"≤: the most that it loses on other samples, with {front.confidence:.0%} confidence",
        f"energy: share of the fp32 ANN's, by {front.energy_model.name}; /int8: of the same ANN's"
        f" in int8 ({last} split)",
        "*: the knee of the front; +n: continues what n earlier segments learned",
        *(f"{b.mark}: baseline, {b.meaning}" for name, b in BASELINES.items() if name in shown),
    ]
    return "\n".join(line for line in lines if line)


def front_table(front: ParetoFront) -> Table:
    """The front on every split that was measured, the ANN below it."""
    best = knee(front.points).trial
    last = list(front.ann)[-1]
    table = Table(
        title=f"{front.study}: {len(front.points)} points on the front of {front.passes} trials"
        f" and {len(front.trials) - front.passes} additional exits of the same runs",
        caption=_caption(front),
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        show_edge=False,
        pad_edge=False,
    )
    table.add_column("trial", justify="right", no_wrap=True)
    for split in front.ann:
        for column in (split, "lost", "energy"):
            table.add_column(column, justify="right", no_wrap=True)
    for column in ("≤", "/int8", "steps", "T", "exit"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("neuron, calibration", no_wrap=True)
    for point in front.points:
        kind = BASELINES.get(point.baseline or "")
        mark = kind.mark if kind else ""
        sign = ("*" if point.trial == best else "") + mark
        found = [cell for split in front.ann for cell in cells(getattr(point, split))]
        m: Measurement = getattr(point, last)
        bound = point.promise.bound(front.confidence) if point.promise else None
        table.add_row(
            f"{sign} {point.trial}".strip(),
            *found,
            "" if bound is None else f"{100 * bound:.1f}",
            f"{m.energy_ratio_int8:.0%}",
            f"{m.timesteps.value:.2f}",
            str(point.params[names.TIMESTEPS]),
            f"{point.params[names.ALPHA]:.2f}",
            point.how,
        )
    table.add_section()
    reference: list[str] = []
    for ann in front.ann.values():
        reference += [f"{ann.accuracy.value:.2%}", "", "100.0%"]
    int8 = front.ann[last].energy_pj / front.ann[last].energy_int8_pj
    table.add_row("ANN", *reference, "", f"{int8:.0%}", "", "", "", "")
    return table

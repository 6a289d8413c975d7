"""Tables about chips."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.table import Table

from conversion.export import Program
from conversion.targets import Violation, memory_bytes
from evaluators import Measurement


def violations_table(found: Sequence[Violation], title: str) -> Table:
    """Violations of a chip's limits, layer by layer."""
    alike = _alike(found)
    table = Table(
        title=f"{len(alike)} thing{'s do' if len(alike) > 1 else ' does'} not fit {title}",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
    )
    for column in ("layer", "what", "here", "there", "what to change"):
        table.add_column(column, overflow="fold")
    for where, one in alike:
        table.add_row(where, one.rule, one.found, one.limit, one.change)
    return table


def _alike(found: Sequence[Violation]) -> list[tuple[str, Violation]]:
    """Merge violations that differ only in the layer."""
    groups: dict[tuple[str, ...], list[Violation]] = {}
    for one in found:
        groups.setdefault((one.rule, one.found, one.limit, one.change), []).append(one)
    return [
        (g[0].layer if len(g) == 1 else f"{g[0].layer} and {len(g) - 1} more", g[0])
        for g in groups.values()
    ]


def bits_table(measured: Sequence[tuple[int | None, Measurement]], program: Program) -> Table:
    """Accuracy and energy in floating point and in integers."""
    first = measured[0][1]
    table = Table(
        title=f"in integers ({first.split} split, n = {first.n})",
        caption="energy: share of the fp32 ANN's by operations (Horowitz, 45 nm; int16 additions)",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
    )
    for column in ("weights", first.metric, "lost, points", "energy", "steps", "memory"):
        table.add_column(column, justify="right", no_wrap=True)
    for width, m in measured:
        kib = memory_bytes(program, weight_bits=width, state_bits=16 if width else None) / 1024
        table.add_row(
            f"{width} bits" if width else "fp32",
            f"{m.accuracy.value:.2%}",
            f"{100 * m.drop.mean:.1f}" if m.drop else "",
            f"{m.energy_ratio:.1%}",
            f"{m.timesteps.value:.2f}",
            f"{kib:,.0f} KiB",
        )
    return table

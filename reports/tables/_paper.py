"""Points of the paper's search."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich import box
from rich.table import Table

from evaluators import AnnReference, Measurement
from reports.tables._cells import cells
from reports.tables._data import metric_column
from search import ParetoDP


def paper_rows(front: Sequence[ParetoDP], measured: Sequence[Measurement]) -> list[dict[str, Any]]:
    """Points of the paper's search: its choice, its prediction, and the measurement."""
    return [
        {
            "phi": dict(choice.phi),
            "rho": dict(choice.rho),
            "predicted_energy_ratio": choice.energy,
            "predicted_kl": choice.divergence,
            "energy_ratio": m.energy_ratio,
            "kl": m.kl.value,
            metric_column(m): m.accuracy.value,
            f"{metric_column(m)}_low": m.accuracy.low,
            f"{metric_column(m)}_high": m.accuracy.high,
        }
        for choice, m in zip(front, measured, strict=True)
    ]


def paper_table(
    front: Sequence[ParetoDP], measured: Sequence[Measurement], ann: AnnReference
) -> Table:
    """Points of the paper's search, as predicted and as measured."""
    table = Table(
        title=f"the paper's search: points by its sums, n = {ann.n} of the {ann.split} split",
        caption="predicted: on the calibration inputs, as if single layers' effects added up; that"
        " may be less than nothing, where a change did no harm",
        box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False,
    )  # fmt: skip
    metric = measured[0].metric if measured else "accuracy"
    columns = (
        "mean φ",
        "mean ρ",
        metric,
        "lost",
        "energy",
        "predicted",
        "divergence",
        "predicted divergence",
    )
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    for choice, m in zip(front, measured, strict=True):
        phi = sum(choice.phi.values()) / len(choice.phi)
        rho = sum(choice.rho.values()) / len(choice.rho)
        table.add_row(
            f"{phi:.1f}", f"{rho:.2f}", *cells(m),
            f"{choice.energy:.1%}", f"{m.kl.value:.4f}", f"{choice.divergence:.4f}",
        )  # fmt: skip
    table.add_section()
    table.add_row("ANN", "", f"{ann.accuracy.value:.2%}", "", "100.0%")
    return table

"""The kinds of baselines, and how figures, tables and pages show them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class BaselineKind:
    """One kind of baseline.

    Attributes:
        label: In legends.
        mark: Its letter in tables.
        meaning: What the letter means.
        color: In figures and on pages; from the palette of Okabe and Ito (2008).
        marker: Matplotlib's marker.
        line: Matplotlib's line style.
        symbol: Plotly's symbol.
    """

    label: str
    mark: str
    meaning: str
    color: str
    marker: str
    line: str
    symbol: str


BASELINES: Mapping[str, BaselineKind] = {
    "uniform": BaselineKind(
        label="uniform φ, ρ", mark="u", meaning="the same φ and ρ in all layers",
        color="#E69F00", marker="s", line="--", symbol="square",
    ),
    "pareto_dp": BaselineKind(
        label="the paper's search", mark="p", meaning="a setting of the paper's search",
        color="#009E73", marker="^", line="-.", symbol="triangle-up",
    ),
    "learned": BaselineKind(
        label="uniform, learned", mark="l", meaning="the same φ and ρ in all layers, learned",
        color="#CC79A7", marker="D", line=":", symbol="diamond",
    ),
}  # fmt: skip
"""Kinds by the name in ``FrontPoint.baseline``."""

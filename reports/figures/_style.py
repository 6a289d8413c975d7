"""What the figures share: colours, axes, how they are written."""

from __future__ import annotations

import io
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from conversion import ConfigError, write_file
from reports._front import FrontPoint, ParetoFront, knee

FRONT, TEST, UNIFORM, OTHER = "#0b5fa5", "#d1495b", "#e8a33d", "#9aa5b1"

ANN, PAPER, LEARNED = "#333333", "#5b8c3e", "#7b4fa3"

THREE = ("#7fb7de", "#0b5fa5", "#082f52")


def axes_of(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.grid(alpha=0.25)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def three_points(front: ParetoFront) -> list[tuple[str, FrontPoint]]:
    """The cheapest, the knee and the most accurate point; fewer if they coincide."""
    named = [
        ("cheapest", front.points[0]),
        ("knee", knee(front.points)),
        ("most accurate", max(front.points, key=lambda p: p.search.accuracy.value)),
    ]
    seen: dict[int, tuple[str, FrontPoint]] = {}
    for label, point in named:
        seen.setdefault(point.trial, (f"{label} (trial {point.trial})", point))
    return list(seen.values())


def write_figure(figure: Figure, path: Path) -> Path:
    """Write a figure as PNG or SVG, by the name's ending.

    Raises:
        ConfigError: It ends otherwise.
        FileError: It cannot be written.
    """
    kind = path.suffix.removeprefix(".").lower()
    if kind not in ("png", "svg"):
        raise ConfigError(f"a figure is written as .png or .svg, got {path.name!r}")
    return write_file(path, rendered(figure, kind))


def rendered(figure: Figure, kind: str) -> bytes:
    buffer = io.BytesIO()
    # A fixed salt and no date: the same study gives the same bytes.
    with mpl.rc_context({"svg.hashsalt": "spikefront", "svg.fonttype": "path"}):
        metadata = {"Date": None} if kind == "svg" else {}
        figure.savefig(buffer, format=kind, dpi=160, metadata=metadata)
    return buffer.getvalue()

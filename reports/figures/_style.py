"""Shared style of the figures: colours, paper sizes, file formats."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from matplotlib.transforms import ScaledTranslation

from conversion import ConfigError, write_file
from reports._front import FrontPoint, ParetoFront, knee

ORANGE, SKY, GREEN, BLUE = "#E69F00", "#56B4E9", "#009E73", "#0072B2"
VERMILION, PURPLE, GREY, BLACK = "#D55E00", "#CC79A7", "#8A939C", "#1A1A1A"
"""Okabe and Ito (2008), which people with any colour vision tell apart; and a grey."""

ONE_COLUMN, TWO_COLUMNS = 88.0, 180.0
"""Widths of a figure in a paper, mm."""

_MM = 1 / 25.4
_STYLE: Any = {
    "font.size": 7,
    "axes.titlesize": 7,
    "axes.labelsize": 7,
    "xtick.labelsize": 6.5,
    "ytick.labelsize": 6.5,
    "legend.fontsize": 6.5,
    "legend.title_fontsize": 6.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.axisbelow": True,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.1,
    "lines.markersize": 3.5,
    "figure.constrained_layout.use": True,
}

P = ParamSpec("P")
R = TypeVar("R")


def styled(draw: Callable[P, R]) -> Callable[P, R]:
    """Draw at paper size with 7 pt text, independent of the caller's settings."""

    @functools.wraps(draw)
    def drawn(*arguments: P.args, **options: P.kwargs) -> R:
        with mpl.rc_context(_STYLE):
            return draw(*arguments, **options)

    return drawn


def figure_of(width_mm: float, height_mm: float) -> Figure:
    """An empty figure that needs no display."""
    return Figure(figsize=(width_mm * _MM, height_mm * _MM), layout="constrained")


def new_axes(ax: Axes | None, height_mm: float = 70.0, width_mm: float = ONE_COLUMN) -> Axes:
    """The given axes, or those of a new figure."""
    if ax is None:
        ax = figure_of(width_mm, height_mm).subplots()
    ax.grid(True)
    return ax


def width_of(ax: Axes) -> float:
    """Width of the figure in mm."""
    figure = ax.get_figure(root=True)
    return ONE_COLUMN if figure is None else float(figure.get_figwidth()) / _MM


def legend_below(ax: Axes, per_row: int | None = None, **options: Any) -> None:
    """Place a legend below the axes, where it covers nothing."""
    handles, labels = ax.get_legend_handles_labels()
    columns = per_row or max(1, min(len(labels), round(width_of(ax) / 44)))
    # Below the tick labels and the axis label, whose heights do not depend on the axes.
    figure = ax.get_figure(root=True)
    if figure is None:
        return
    down = ScaledTranslation(0, -27 / 72, figure.dpi_scale_trans)
    ax.legend(
        handles, labels, loc="upper center", bbox_to_anchor=(0.5, 0), ncols=columns,
        bbox_transform=ax.transAxes + down, frameon=False, handlelength=1.8, columnspacing=1.2,
        borderaxespad=0, **options,
    )  # fmt: skip


def energy_axis(ax: Axes, label: str) -> None:
    """Format a logarithmic axis of energies as shares of the ANN's."""
    ax.set_xscale("log")
    low, high = ax.get_xlim()
    wide = high > 60 * low
    ax.xaxis.set_major_locator(LogLocator(subs=(1,) if wide else (1, 2, 5)))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda ratio, _: share(ratio)))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlabel(label)


def share(ratio: float) -> str:
    """Format a ratio as a percentage; from nine on as a factor."""
    return f"{100 * ratio:g}%" if ratio < 9 else f"{ratio:g}×"


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


THREE = (SKY, BLUE, BLACK)
"""Of these three points, from light to dark."""


def write_figure(figure: Figure | Axes, path: Path) -> Path:
    """Write a figure, or the figure of some axes, as PNG, SVG or PDF by file suffix.

    Raises:
        ConfigError: The suffix is another one.
        FileError: The file cannot be written.
    """
    kind = path.suffix.removeprefix(".").lower()
    if kind not in KINDS:
        raise ConfigError(f"a figure file must end in .png, .svg or .pdf, got {path.name!r}")
    whole = figure.get_figure(root=True) if isinstance(figure, Axes) else figure
    if whole is None:
        raise ConfigError("these axes do not belong to a figure")
    return write_file(path, rendered(whole, kind))


_MOST_PIXELS = 60_000
"""Of one side: no more than Agg draws."""

KINDS: Sequence[str] = ("svg", "png", "pdf")


def rendered(figure: Figure, kind: str, dpi: int = 300) -> bytes:
    """Render a figure as the bytes of a file."""
    buffer = io.BytesIO()
    # A fixed salt and no date, so that the same study gives the same bytes.
    settings: Any = {"svg.hashsalt": "spikefront", "svg.fonttype": "path", "pdf.fonttype": 42}
    with mpl.rc_context(settings):
        metadata = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind)
        dpi = min(dpi, int(_MOST_PIXELS / max(figure.get_size_inches())))
        figure.savefig(buffer, format=kind, dpi=dpi, metadata=metadata)
    return buffer.getvalue()

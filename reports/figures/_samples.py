"""Samples as images, with the outputs of both networks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from torch import Tensor

from conversion import decisions
from evaluators import Metric, Pair, Task
from evaluators.metrics import MeanAveragePrecision
from reports.figures._style import TWO_COLUMNS, figure_of, styled

_COLORS = mpl.colormaps["tab20"]

_UNKNOWN = (0.85, 0.85, 0.85)

_SURE = 0.3
"""Least score of a box that is drawn."""


@styled
def draw_samples(
    pairs: Sequence[Pair], task: Task, width_mm: float = 180.0, *, classes: int = 0
) -> Figure | None:
    """Draw samples as images: target, ANN, spiking network.

    Args:
        pairs: The samples.
        task: The task.
        width_mm: Width of the figure.
        classes: Number of classes, for the colour legend.

    Returns:
        The figure, or None if the samples cannot be drawn.
    """
    if not pairs or (draw := _way_of(pairs[0], task.metric)) is None:
        return None
    three = pairs[0].inputs[0].dim() != 3
    options = {"projection": "3d"} if three else {}
    if pairs[0].target.dim() == 0:  # one answer per sample: a single image is enough
        return _in_a_grid(pairs, draw, width_mm, options)
    columns: tuple[str, ...] = ("target", "ANN", "spiking network")
    if draw in (_mask, _parts):
        columns = ("input", *columns)
    figure = figure_of(width_mm, len(pairs) * (0.84 * width_mm / len(columns) + 6))
    grid = figure.subplots(len(pairs), len(columns), squeeze=False, subplot_kw=options)
    for row, pair in zip(grid, pairs, strict=True):
        for axes, name in zip(row, columns, strict=True):
            draw(axes, pair, name)
            axes.set_axis_off()
            axes.set_title(_head(pair, name), fontsize=6)
    if len(columns) > 3:
        marks = [Patch(color=_COLORS(i % 20), label=str(i)) for i in range(min(classes, 20))]
        figure.legend(handles=marks, loc="outside lower center", ncols=10, title="class")
    return figure


def _in_a_grid(
    pairs: Sequence[Pair], draw: Draw, width_mm: float, options: dict[str, str]
) -> Figure:
    across = 6 if width_mm >= TWO_COLUMNS * 0.8 else 3
    rows = -(-len(pairs) // across)
    figure = figure_of(width_mm, rows * (0.86 * width_mm / across + 14))
    grid = figure.subplots(rows, across, squeeze=False, subplot_kw=options)
    for axes, pair in zip(grid.flat, pairs, strict=False):
        draw(axes, pair, None)
        axes.set_title(_said(pair), fontsize=6)
    for axes in grid.flat:
        axes.set_axis_off()
    return figure


def _head(pair: Pair, column: str) -> str:
    if column == "input":
        return f"sample {pair.place}: input"
    if column == "target":
        return f"sample {pair.place}: target"
    more = f"\nat step {pair.steps}, divergence {pair.divergence:.3g}" if column[0] == "s" else ""
    return column + more


def _said(pair: Pair) -> str:
    def answer(logits: Tensor) -> str:
        p = logits.softmax(0)
        return f"{int(p.argmax())} ({float(p.max()):.0%})"

    return (
        f"sample {pair.place}: class {int(pair.target)}\nANN {answer(pair.ann)}\n"
        f"SNN {answer(pair.spiking)}, step {pair.steps}"
    )


Draw = Callable[[Axes, Pair, str | None], None]


def _way_of(pair: Pair, metric: Metric) -> Draw | None:
    """The drawing function for a sample, or None."""
    x = pair.inputs[0]
    if x.dim() == 3 and x.shape[0] not in (1, 2, 3):
        return None
    if isinstance(metric, MeanAveragePrecision):
        return lambda axes, pair, column: _boxes(axes, pair, column, metric)
    if not isinstance(pair.ann, Tensor):
        return None
    if x.dim() == 3 and pair.ann.dim() == 3:
        return _mask
    if x.dim() == 2 and x.shape[0] == 3 and pair.ann.dim() == 2:
        return _parts
    if pair.ann.dim() != 1 or len(pair.ann) < 2 or pair.target.dim():
        return None
    if x.dim() == 3 and x.shape[0] in (1, 2, 3):
        return lambda axes, pair, column: _image(axes, pair.inputs[0])
    if x.dim() == 4 and x.shape[0] == 1:
        return lambda axes, pair, column: _voxels(axes, pair.inputs[0][0])
    if x.dim() == 2 and x.shape[0] == 3:
        return lambda axes, pair, column: _points(axes, pair.inputs[0])
    return None


def _image(axes: Axes, x: Tensor) -> None:
    """Draw an image scaled to its own range; two channels are events of both polarities."""
    low, high = x.amin(), x.amax()
    scaled = ((x - low) / (high - low).clamp_min(1e-12)).numpy()
    if len(scaled) == 2:
        white = np.ones((*scaled.shape[1:], 3))
        on, off = (np.clip(2 * part, 0, 1)[..., None] for part in scaled)
        axes.imshow(np.clip(white - on * (0, 0.7, 0.9) - off * (0.9, 0.6, 0), 0, 1))
        return
    axes.imshow(scaled.transpose(1, 2, 0).squeeze(), cmap="gray")


def _mask(axes: Axes, pair: Pair, column: str | None) -> None:
    if column == "input":
        _image(axes, pair.inputs[0])
        return
    found = {"target": pair.target, "ANN": pair.ann}.get(column or "", pair.spiking)
    labels = decisions(found[None], 1).view(found.shape[1:]) if found.dim() == 3 else found
    classes = max(len(pair.ann), 2)
    colors = np.array([_COLORS(i % 20)[:3] for i in range(classes)] + [_UNKNOWN])
    known = (labels >= 0) & (labels < classes)
    axes.imshow(colors[labels.where(known, torch.tensor(classes)).numpy()])


def _parts(axes: Any, pair: Pair, column: str | None) -> None:
    if column == "input":
        _points(axes, pair.inputs[0])
        return
    found = {"target": pair.target, "ANN": pair.ann}.get(column or "", pair.spiking)
    labels = decisions(found[None], 1)[0] if found.dim() == 2 else found
    colors = [_COLORS(int(label) % 20) for label in labels]
    axes.scatter(*pair.inputs[0].double().numpy(), s=2, c=colors, rasterized=True)
    axes.set_aspect("equal")


def _boxes(axes: Axes, pair: Pair, column: str | None, metric: MeanAveragePrecision) -> None:
    _image(axes, pair.inputs[0])
    if column == "target":
        rows = [(*row[:4].tolist(), int(row[4]), "") for row in pair.target if row[4] >= 0]
    else:
        answer: Mapping[str, Tensor] = pair.ann if column == "ANN" else pair.spiking
        found = metric.decode({name: value[None] for name, value in answer.items()})[0]
        rows = [
            (*box.tolist(), int(label), f"{float(score):.2f}")
            for box, score, label in zip(*(found[k] for k in _PARTS), strict=True)
            if score >= _SURE
        ]
    for x1, y1, x2, y2, label, text in rows:
        color = _COLORS(2 * label % 20)
        axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, color=color, lw=0.8))
        axes.text(x1, y1, text, fontsize=5, color=color, va="top", clip_on=True)


_PARTS = ("boxes", "scores", "labels")


def _voxels(axes: Any, grid: Tensor) -> None:
    _scattered(axes, grid.nonzero().double().numpy())


def _points(axes: Any, cloud: Tensor) -> None:
    _scattered(axes, cloud.T.double().numpy())


def _scattered(axes: Any, points: np.ndarray) -> None:
    axes.scatter(*points.T, s=1.5, c=points[:, -1], cmap="viridis", rasterized=True)
    axes.set_aspect("equal")

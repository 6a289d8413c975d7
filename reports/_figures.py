"""The figures of a report, each a matplotlib ``Figure`` that needs no display."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator, PercentFormatter

from conversion import PARTS, LayerDiagnosis
from evaluators import Measurement
from reports._front import FrontPoint, ParetoFront, hypervolume, knee
from search import Sensitivity
from spaces import names

_FRONT, _TEST, _UNIFORM, _OTHER = "#0b5fa5", "#d1495b", "#e8a33d", "#9aa5b1"
_ANN, _PAPER, _LEARNED = "#333333", "#5b8c3e", "#7b4fa3"


def front_figure(front: ParetoFront) -> Figure:
    """Accuracy against energy: every trial, the uniform baselines, the front on both splits."""
    figure, axes = _axes(7.2, 4.6)
    others = [p for p in front.trials if not p.baseline]
    uniform = [p for p in front.trials if p.baseline == "uniform"]
    learned = [p for p in front.trials if p.baseline == "learned"]
    paper = [p for p in front.trials if p.baseline == "pareto_dp"]
    _scatter(axes, others, color=_OTHER, marker=".", s=22, label="searched", zorder=1)
    _scatter(
        axes, uniform, color=_UNIFORM, marker="s", s=24, label="baselines: uniform φ, ρ", zorder=2
    )
    _scatter(
        axes, paper, color=_PAPER, marker="^", s=24, label="baselines: the paper's search", zorder=2
    )
    _line(axes, front.points, lambda p: p.search, _FRONT, "front, search split")
    named = "baselines: uniform, learned"
    _scatter(axes, learned, color=_LEARNED, marker="D", s=20, label=named, zorder=2)
    if any(p.test for p in front.points):
        _line(axes, front.points, lambda p: p.test, _TEST, "the same, test split")
    _ann_lines(axes, front)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda ratio, _: f"{100 * ratio:g}%"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    bottom, top = _accuracy_range(front)
    axes.set_ylim(bottom, top)
    found = [m for p in front.points for m in (p.search, p.test) if m is not None]
    below = sum(m.accuracy.value < bottom for m in found)
    if below:
        axes.annotate(
            f"↓ {below} more of the front below",
            (0.25, 0.02),
            xycoords="axes fraction",
            color=_FRONT,
            fontsize=8,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1},
            zorder=10,
        )
    model = front.energy_model.name
    axes.set_xlabel(f"energy per inference, share of the ANN's ({model})")
    axes.set_ylabel(f"{front.metric}; bars: 95 % interval of what is lost")
    axes.legend(loc="lower right", fontsize=8, framealpha=0.95)
    return figure


def hypervolume_figure(front: ParetoFront) -> Figure:
    """Hypervolume of the finished trials so far."""
    figure, axes = _axes(7.2, 3.4)
    pairs = [(p.search.accuracy.value, p.search.energy_ratio) for p in front.trials]
    values = [hypervolume(pairs[: i + 1]) for i in range(len(pairs))]
    axes.step(range(1, len(values) + 1), values, where="post", color=_FRONT)
    baselines = next((i for i, p in enumerate(front.trials) if p.baseline is None), 0)
    if baselines:
        axes.axvline(baselines, color=_UNIFORM, linestyle=":")
        axes.annotate(
            " baselines end",
            (baselines, values[0]),
            color=_UNIFORM,
            fontsize=8,
            va="bottom",
        )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("trials and additional exits, as they came")
    axes.set_ylabel(f"hypervolume\n({front.metric} × energy saved)")
    return figure


def layers_figure(front: ParetoFront) -> Figure:
    """φ and ρ of the front's points, layer by layer."""
    layers = _layers(front)
    points = _of_different_layers(front.points)
    figure = Figure(figsize=(7.2, 1.6 + 0.22 * len(layers)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for axes, symbol, name in ((left, "φ", names.phi), (right, "ρ", names.rho)):
        values = np.array([[p.params[name(layer)] for p in points] for layer in layers])
        most = values.max()
        whole = symbol == "φ"
        image = axes.imshow(
            values,
            aspect="auto",
            cmap=mpl.colormaps["viridis"].resampled(int(most) if whole else 256),
            vmin=0.5 if whole else 1.0,
            vmax=most + 0.5 if whole else max(most, 2.0),
            interpolation="nearest",
        )
        axes.set_title(f"{symbol}, {'spikes per step' if whole else 'threshold factor'}")
        axes.set_xlabel("trial, by rising energy; equal ones once")
        _label_points(axes, points)
        figure.colorbar(image, ax=axes, shrink=0.9, ticks=MaxNLocator(integer=whole))
    left.set_yticks(range(len(layers)), layers, fontsize=7)
    return figure


def energy_figure(front: ParetoFront) -> Figure:
    """Mean energy by the layer whose spikes cause it, for three points of the front."""
    chosen = _three_points(front)
    sources = max((list(p.search.layer_energy_pj) for _, p in chosen), key=len)
    figure, axes = _axes(7.2, 1.4 + 0.24 * len(sources))
    height = 0.8 / len(chosen)
    largest = max(max(point.search.layer_energy_pj.values()) for _, point in chosen)
    size, unit = next((s, u) for s, u in _UNITS if largest >= s or u == "pJ")
    for i, (label, point) in enumerate(chosen):
        values = [point.search.layer_energy_pj.get(source, 0.0) / size for source in sources]
        axes.barh(
            np.arange(len(sources)) + i * height, values, height, label=label, color=_THREE[i]
        )
    axes.set_yticks(np.arange(len(sources)) + 0.4 - height / 2, sources, fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel(f"energy per inference, search split, {unit}")
    axes.legend(fontsize=8)
    return figure


def timesteps_figure(front: ParetoFront) -> Figure:
    """Share of samples that leave at each step under the early exit, for three points."""
    figure, axes = _axes(7.2, 3.2)
    chosen = _three_points(front)
    width = 0.8 / len(chosen)
    for i, (label, point) in enumerate(chosen):
        exits = np.array(point.search.exits)
        mean = point.search.timesteps.value
        axes.bar(
            np.arange(1, len(exits) + 1) + (i - (len(chosen) - 1) / 2) * width,
            exits,
            width,
            label=f"{label}: mean {mean:.2f}",
            color=_THREE[i],
        )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_xlabel("step at which a sample leaves, search split")
    axes.set_ylabel("samples")
    axes.legend(fontsize=8)
    return figure


def diagnosis_figure(diagnoses: Sequence[LayerDiagnosis]) -> Figure:
    """What kind of error each layer makes, and how large all of it is."""
    figure, axes = _axes(7.2, 1.4 + 0.26 * len(diagnoses))
    places = np.arange(len(diagnoses))
    height = 0.8 / len(PARTS)
    for i, (part, color) in enumerate(zip(PARTS, _PARTS, strict=True)):
        values = [getattr(d, part) for d in diagnoses]
        axes.barh(places + i * height, values, height, label=part, color=color)
    middle = places + 0.4 - height / 2
    totals = [d.total for d in diagnoses]
    axes.plot(totals, middle, color=_ANN, marker="|", markersize=9, linestyle="", label="total")
    axes.set_yticks(middle, [d.layer for d in diagnoses], fontsize=7)
    axes.invert_yaxis()
    axes.set_ylim(len(diagnoses) - 0.1, -0.3)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_xlabel("error over the ANN's activations, root mean squares")
    axes.legend(fontsize=8, framealpha=0.95)
    return figure


def sensitivity_figure(found: Sensitivity) -> Figure:
    """S and E of each layer, as in Figure 3 of Wang et al.: over φ at ρ = 1, over ρ at most φ."""
    figure = Figure(figsize=(3.4 + 0.3 * len(found.layers), 6.6), layout="constrained")
    rows = figure.subplots(2, 2, sharex=True)
    lines = (
        ("φ", found.phis, found.phi_divergence, found.phi_energy),
        ("ρ", found.rhos, found.rho_divergence, found.rho_energy),
    )
    places = np.arange(len(found.layers))
    for (losses, energies), (symbol, values, divergence, energy) in zip(rows, lines, strict=True):
        colors = mpl.colormaps["viridis"](np.linspace(0.05, 0.9, len(values)))
        for i, (value, color) in enumerate(zip(values, colors, strict=True)):
            style = {"color": color, "marker": "o", "markersize": 3, "linewidth": 1}
            losses.plot(places, divergence[:, i, -1], label=f"{symbol} = {value:g}", **style)
            energies.plot(places, energy[:, i, -1], **style)
        losses.set_yscale("log")
        losses.set_ylabel("divergence from the ANN, nats")
        energies.set_ylabel("energy, share of the ANN's")
        energies.yaxis.set_major_formatter(PercentFormatter(1.0))
        figure.legend(
            *losses.get_legend_handles_labels(),
            loc="outside right upper" if symbol == "φ" else "outside right lower",
            fontsize=8,
        )
        other = f"ρ = 1, the others φ = {max(found.phis)}" if symbol == "φ" else (
            f"φ = {max(found.phis)} everywhere, the others ρ = 1"
        )  # fmt: skip
        for axes in (losses, energies):
            axes.set_title(f"{symbol} of one layer; {other}", fontsize=8)
            axes.grid(alpha=0.25)
    for axes in rows[1]:
        axes.set_xticks(places, found.layers, rotation=90, fontsize=7)
    return figure


FIGURES: dict[str, tuple[str, Callable[[ParetoFront], Figure]]] = {
    "front": ("What is kept against energy", front_figure),
    "hypervolume": ("Hypervolume over trials", hypervolume_figure),
    "layers": ("φ and ρ of the front by layer", layers_figure),
    "energy": ("Energy by layer", energy_figure),
    "timesteps": ("Timesteps under early exit", timesteps_figure),
}

_UNITS = ((1e9, "mJ"), (1e6, "µJ"), (1e3, "nJ"), (1.0, "pJ"))

_PARTS = ("#d1495b", "#e8a33d", "#0b5fa5", "#9aa5b1")
_THREE = ("#7fb7de", "#0b5fa5", "#082f52")


def _axes(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.grid(alpha=0.25)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _scatter(axes: Axes, points: Sequence[FrontPoint], **style: object) -> None:
    ratios = [p.search.energy_ratio for p in points]
    accuracies = [p.search.accuracy.value for p in points]
    if points:
        axes.scatter(ratios, accuracies, **style)  # type: ignore[arg-type]


def _line(
    axes: Axes,
    points: Sequence[FrontPoint],
    measurement_of: Callable[[FrontPoint], Measurement | None],
    color: str,
    label: str,
) -> None:
    found = [m for m in map(measurement_of, points) if m is not None]
    found.sort(key=lambda m: m.energy_ratio)
    accuracy = np.array([m.accuracy.value for m in found])
    low, high = np.array([_bars(m) for m in found]).T
    axes.errorbar(
        [m.energy_ratio for m in found],
        accuracy,
        yerr=np.maximum([low, high], 0),
        color=color,
        marker="o",
        markersize=4,
        linewidth=1.4,
        elinewidth=0.6,
        alpha=0.9,
        label=label,
        zorder=3,
    )


def _bars(m: Measurement) -> tuple[float, float]:
    """Below and above an accuracy: the paired interval of its difference from the ANN's."""
    if m.drop is None:
        return m.accuracy.value - m.accuracy.low, m.accuracy.high - m.accuracy.value
    low, high = m.drop.interval()
    return high - m.drop.mean, m.drop.mean - low


def _ann_lines(axes: Axes, front: ParetoFront) -> None:
    styles = {"search": ("-", _FRONT), "test": ("--", _TEST)}
    for split, (style, color) in styles.items():
        if split in front.ann and (split == "search" or any(p.test for p in front.points)):
            value = front.ann[split].accuracy.value
            axes.axhline(
                value,
                color=color,
                linestyle=style,
                linewidth=0.8,
                alpha=0.7,
                zorder=0,
                label=f"ANN, {split}: {value:.1%}",
            )
    ratio = front.ann["search"].energy_int8_pj / front.ann["search"].energy_pj
    if ratio < 1:
        axes.axvline(
            ratio,
            color=_ANN,
            linestyle=":",
            linewidth=1,
            label="the ANN in int8",
        )


def _accuracy_range(front: ParetoFront) -> tuple[float, float]:
    """From a little under the front's worst point to a little over the best interval."""
    found = [m for p in front.points for m in (p.search, p.test) if m is not None]
    top = max([m.accuracy.high for m in found] + [a.accuracy.value for a in front.ann.values()])
    best = max(m.accuracy.value for m in found)
    bottom = max(min(m.accuracy.low for m in found), best - 0.15)
    bottom = min(bottom, *(ann.accuracy.value for ann in front.ann.values()))
    margin = 0.05 * (top - bottom)
    return bottom - margin, min(top + margin, 1.0 + margin)


def _layers(front: ParetoFront) -> list[str]:
    return names.layers_of(front.points[0].params)


def _of_different_layers(points: Sequence[FrontPoint]) -> list[FrontPoint]:
    """Without those that differ from the point before in T, exit or calibration alone."""
    found: list[FrontPoint] = []
    for point in points:
        if not found or _layers_of(point) != _layers_of(found[-1]):
            found.append(point)
    return found


def _layers_of(point: FrontPoint) -> dict[str, Any]:
    return {k: v for k, v in point.params.items() if names.is_per_layer(k)}


def _label_points(axes: Axes, points: Sequence[FrontPoint]) -> None:
    numbers = [str(p.trial) for p in points]
    every = max(1, len(numbers) // 12)
    axes.set_xticks(range(0, len(numbers), every), numbers[::every], rotation=90, fontsize=7)


def _three_points(front: ParetoFront) -> list[tuple[str, FrontPoint]]:
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

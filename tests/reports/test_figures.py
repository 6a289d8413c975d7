"""Figures at the sizes of a paper: nothing overlaps, everything can be read, also in grey."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox
from torch import Tensor, nn
from torch.nn.functional import gelu

import reports
from conversion import ENERGY_MODELS, Classes, Inputs, profile
from evaluators._comparison import Comparing
from evaluators.metrics import metric_of
from reports import (
    FIGURES,
    Findings,
    energy_frame,
    exits_frame,
    findings,
    hypervolume,
    layers_frame,
    lineages_frame,
    measure_front,
    plot_front,
    progress_frame,
    reliability_frame,
    sensitivity_frame,
    steps_frame,
)
from reports.figures import _style
from search import sensitivity
from spaces import names


@pytest.fixture(scope="module")
def found(studied) -> Findings:
    study, evaluator = studied
    found = findings(study, evaluator, measure_front(study, evaluator, rivals=True))
    return replace(found, sensitivity=sensitivity(evaluator.profile, evaluator.energy))


def texts_of(figure: Figure) -> Iterator[tuple[Text, Bbox]]:
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    undrawn = set()  # labels of ticks beyond the ends of their axis
    for axis in (axis for ax in figure.axes for axis in (ax.xaxis, ax.yaxis)):
        every = {t for tick in (*axis.majorTicks, *axis.minorTicks) for t in tick.findobj(Text)}
        shown = axis._update_ticks() if axis.axes.axison else []
        undrawn |= every - {t for tick in shown for t in tick.findobj(Text)}
    for text in figure.findobj(Text):
        if text in undrawn:
            continue
        hidden = any(
            not parent.get_visible()
            for parent in (text, text.axes, text.figure)
            if parent is not None
        )
        if text.get_text().strip() and not hidden:
            box = text.get_window_extent(renderer)
            if box.width > 0:
                yield text, box


def overlapping(figure: Figure) -> list[tuple[str, str]]:
    """Pairs of texts that cover each other, by more than half a point."""
    edge = 0.5 * figure.dpi / 72
    shrunk = [
        (text.get_text(), Bbox.from_extents(b.x0 + edge, b.y0 + edge, b.x1 - edge, b.y1 - edge))
        for text, b in texts_of(figure)
    ]
    return [(a, b) for (a, one), (b, other) in combinations(shrunk, 2) if one.overlaps(other)]


@pytest.mark.parametrize("width", [reports.figures.ONE_COLUMN, reports.figures.TWO_COLUMNS])
@pytest.mark.parametrize("name", FIGURES)
def test_texts_are_apart_large_enough_and_inside(found: Findings, name: str, width: float) -> None:
    figure = FIGURES[name].drawn(found, width)
    if figure is None:
        pytest.fail(f"{name} is not drawn")
    assert 25.4 * figure.get_figwidth() == pytest.approx(width)
    assert overlapping(figure) == []
    whole = figure.bbox
    for text, box in texts_of(figure):
        assert text.get_fontsize() >= 6, text.get_text()
        inside = box.x0 >= -1 and box.y0 >= -1 and box.x1 <= whole.x1 + 1 and box.y1 <= whole.y1 + 1
        assert inside, text.get_text()
    for axes in figure.axes:
        if axes.axison and axes.get_visible() and axes.get_label() != "<colorbar>":
            shared = len(axes.get_shared_x_axes().get_siblings(axes)) > 1
            assert axes.get_xlabel() or axes.get_title() or shared, name
            shared = len(axes.get_shared_y_axes().get_siblings(axes)) > 1
            assert axes.get_ylabel() or axes.get_yticklabels() or shared, name


# Machado, Oliveira and Fernandes (2009), severity 1, on linear RGB.
DEFICIENCIES = {
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
                   [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
                     [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602],
                   [0.004733, 0.691367, 0.303900]],
}  # fmt: skip


def lab(rgb: np.ndarray) -> np.ndarray:
    """CIE L*a*b* of linear RGB, D65."""
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    scaled = xyz @ rgb / np.array([0.9505, 1.0, 1.089])
    f = np.where(scaled > 0.008856, np.cbrt(scaled), 7.787 * scaled + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("kind", DEFICIENCIES)
def test_colours_of_one_figure_differ_for_any_vision(kind: str) -> None:
    """What stands beside each other in a figure differs by ten times a just visible difference."""
    together = (_style.BLUE, _style.VERMILION, _style.ORANGE, _style.GREEN, _style.GREY)
    seen = []
    for color in together:
        rgb = np.array(to_rgb(color))
        linear = np.where(rgb > 0.04045, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92)
        seen.append(lab(np.clip(np.array(DEFICIENCIES[kind]) @ linear, 0, 1)))
    for one, other in combinations(seen, 2):
        assert np.linalg.norm(one - other) > 10


def test_what_shares_axes_differs_in_more_than_colour(found: Findings) -> None:
    """In grey, series are told apart by marker or line."""
    ax = plot_front(found.front, costs=found.costs)
    looks = []
    for handle in ax.get_legend_handles_labels()[0]:
        lines = handle.lines if hasattr(handle, "lines") else (handle,)
        first = lines[0]
        if hasattr(first, "get_linestyle") and hasattr(first, "get_marker"):
            looks.append((first.get_marker(), first.get_linestyle(), first.get_linewidth()))
        else:
            path = handle.get_paths()[0]
            filled = len(handle.get_facecolors()) > 0
            size = float(handle.get_sizes()[0])
            looks.append((len(path.vertices), float(path.vertices.sum()), filled, size))
    assert len(set(looks)) == len(looks)


def test_progress_ends_at_the_hypervolume_of_all_trials(found: Findings) -> None:
    frame = progress_frame(found.front)
    assert frame["hypervolume"].is_monotonic_increasing
    assert frame["hypervolume"].max() <= 1
    assert frame["minutes"].is_monotonic_increasing
    assert frame["trials"].iloc[-1] == found.front.passes
    points = found.front.points
    scores = [p.search.accuracy.value for p in points]
    energies = np.log([p.search.energy_ratio for p in points])
    high, wide = max(max(scores) - min(scores), 1e-12), -energies.min()
    scaled = [
        ((s - min(scores)) / high, (e - energies.min()) / wide)
        for s, e in zip(scores, energies, strict=True)
    ]
    assert frame["hypervolume"].iloc[-1] == pytest.approx(hypervolume(scaled))


@pytest.mark.parametrize("name", ["loihi", "spinnaker2"])
def test_progress_stays_in_its_box(found: Findings, name: str) -> None:
    """Fronts above the ANN's energy, of one point, and within a budget."""
    front = reports.repriced(found.front, ENERGY_MODELS[name], found.known_costs)
    for points in (front.points, front.points[:1]):
        some = replace(front, points=points, within=front.trials[::2])
        values = progress_frame(some)["hypervolume"]
        assert 0 < values.max() <= 1


class Mixed(nn.Module):
    """A ReLU, and a GELU that stays analog and feeds a linear layer with currents."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.mid, self.last = nn.Linear(8, 6), nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(gelu(self.mid(self.first(x).relu())))


def test_energy_of_a_step_goes_where_it_is_paid(found: Findings) -> None:
    """By hand: 5 values of the GELU and 15 products behind it pay MACs, potentials nothing."""
    costs = profile(Mixed().eval(), torch.randn(64, 8)).costs
    step = ENERGY_MODELS["horowitz45"].step_by_operator(costs)
    assert sorted(step.values()) == [5 * 4.6, pytest.approx(15 * 4.6)]
    assert sum(ENERGY_MODELS["horowitz45"].once_by_operator(costs).values()) == 48 * 4.6
    chip = ENERGY_MODELS["loihi"].step_by_operator(costs)
    assert chip["relu"] == 6 * 81
    for model in ENERGY_MODELS.values():
        prices = model.prices(costs, [1] * len(costs.fan_out))
        assert sum(model.step_by_operator(costs).values()) == pytest.approx(prices.step)
        assert sum(model.once_by_operator(costs).values()) == pytest.approx(prices.once)


def test_the_labels_of_a_deep_network_fit(found: Findings) -> None:
    deep = found.sensitivity
    times = 60 // len(deep.layers)
    names_ = tuple(f"stage{i}.block.relu" for i in range(times * len(deep.layers)))
    rows = {
        name: np.tile(getattr(deep, name), (times, *[1] * (getattr(deep, name).ndim - 1)))
        for name in ("phi_divergence", "phi_energy", "rho_divergence", "rho_energy")
    }
    many = replace(deep, layers=names_, **rows)
    for width in (88.0, 180.0):
        assert overlapping(reports.draw_sensitivity(many, width)) == []


@pytest.mark.parametrize("name", ["horowitz45", "lemaire", "loihi"])
def test_energy_by_operator_adds_up(found: Findings, name: str) -> None:
    costs, model = found.known_costs, ENERGY_MODELS[name]
    assert sum(model.ann_by_operator(costs).values()) == pytest.approx(model.ann_pj(costs))
    under = reports.repriced(found.front, model, costs)
    frame = energy_frame(under, costs)
    for trial, rows in frame.dropna().groupby("trial"):
        point = next(p for p in under.points if p.trial == trial)
        assert rows["energy_pj"].sum() == pytest.approx(point.search.energy_pj.value, rel=1e-6)


def test_frames_hold_what_is_drawn(found: Findings) -> None:
    front, comparison = found.front, found.known_comparison
    assert exits_frame(front).groupby("trial")["share"].sum().tolist() == pytest.approx(
        [1.0] * exits_frame(front)["trial"].nunique()
    )
    steps = steps_frame(comparison)
    assert steps["share_leaving"].sum() == pytest.approx(1)
    reliable = reliability_frame(comparison)
    assert reliable.groupby("network")["n"].sum().tolist() == [comparison.n] * 2
    layers = layers_frame(front)
    point = front.points[0]
    row = layers[(layers["trial"] == point.trial) & (layers["layer"] == "relu")].iloc[0]
    assert row["phi"] == point.params[names.phi("relu")]
    assert 0 < row["threshold"] < 3
    lineages = lineages_frame(front)
    assert set(lineages["parent"].dropna()) <= {p.trial for p in front.trials}
    sensible = sensitivity_frame(found.sensitivity)
    assert len(sensible) == len(found.sensitivity.layers) * (
        len(found.sensitivity.phis) + len(found.sensitivity.rhos)
    )


def test_reliability_by_hand(found: Findings) -> None:
    comparison = replace(
        found.known_comparison,
        confidence=torch.tensor([[0.55, 0.58, 1.0], [0.31, 0.95, 0.99]]),
        correct=torch.tensor([[True, False, True], [False, True, True]]),
    )
    rows = reliability_frame(comparison).to_dict("records")
    assert [(r["n"], r["accuracy"]) for r in rows] == [(2, 0.5), (1, 1.0), (1, 0.0), (2, 1.0)]
    assert rows[0]["confidence"] == pytest.approx(0.565)
    assert rows[3]["confidence"] == pytest.approx(0.97)


def test_one_logit_is_two_classes() -> None:
    """By hand: probabilities 0.88, 0.73, 0.88 of the decided class, two of three right."""
    logits = torch.tensor([[2.0], [-1.0], [-2.0]])
    answers = {"logits": logits}
    outputs = Classes(output="logits")
    comparing = Comparing(outputs, metric_of(None, outputs), 2)
    steps = torch.tensor([1, 1, 2])
    targets = torch.tensor([1, 0, 1])
    comparing.add(Inputs.of(torch.zeros(3, 4)), targets, answers, answers, steps)
    found = comparing.found("search")
    assert found.confidence[0].tolist() == pytest.approx([0.8808, 0.7311, 0.8808], abs=1e-4)
    assert found.correct[0].tolist() == [True, True, False]
    assert found.easiest[0].place == 0
    assert found.hardest[0].steps == 2


def test_figures_can_be_drawn_into_axes_of_one_s_own(found: Findings) -> None:
    figure = Figure(figsize=(8, 3))
    left, _ = figure.subplots(1, 2)
    assert plot_front(found.front, left) is left

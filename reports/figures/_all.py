"""The list of a report's figures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reports._findings import Findings
from reports.figures._classes import draw_classes
from reports.figures._diagnosis import plot_diagnosis
from reports.figures._energy import plot_energy
from reports.figures._exits import draw_exits
from reports.figures._front import plot_front
from reports.figures._layers import draw_layers, shows_layers
from reports.figures._lineages import lineages_frame, plot_lineages
from reports.figures._models import draw_models
from reports.figures._progress import draw_progress
from reports.figures._reliability import plot_reliability
from reports.figures._samples import draw_samples
from reports.figures._sensitivity import draw_sensitivity
from reports.figures._style import figure_of, styled

Draw = Callable[[Findings, float], Figure | None]


@dataclass(frozen=True)
class FigureKind:
    """A figure of a report.

    Attributes:
        title: What it shows.
        draw: Draws the figure, given the findings and a width in mm; None if they lack its data.
        photographs: Whether it shows images, which take less space as pixels.
    """

    title: str
    draw: Draw
    photographs: bool = False

    @styled
    def drawn(self, found: Findings, width_mm: float) -> Figure | None:
        """Draw the figure at paper size; None if the findings lack its data."""
        return self.draw(found, width_mm)


def _on_one(plot: Callable[[Findings, Axes], Axes], height: Callable[[Findings], float]) -> Draw:
    """A figure with a single plot."""

    def draw(found: Findings, width_mm: float) -> Figure:
        figure = figure_of(width_mm, height(found))
        plot(found, figure.subplots())
        return figure

    return draw


def _only_if(has: Callable[[Findings], object], draw: Draw) -> Draw:
    return lambda found, width_mm: draw(found, width_mm) if has(found) else None


def _samples(which: str) -> Draw:
    def draw(found: Findings, width_mm: float) -> Figure | None:
        if found.comparison is None or found.task is None:
            return None
        classes = len(found.comparison.confusion)
        return draw_samples(getattr(found.comparison, which), found.task, width_mm, classes=classes)

    return draw


FIGURES: dict[str, FigureKind] = {
    "front": FigureKind(
        "What is lost against energy",
        _on_one(lambda f, ax: plot_front(f.front, ax, costs=f.costs), lambda f: 100),
    ),
    "progress": FigureKind(
        "What the search gained, when", lambda f, width: draw_progress(f.front, width)
    ),
    "layers": FigureKind(
        "φ, ρ and thresholds along the front",
        _only_if(lambda f: shows_layers(f.front.points), lambda f, w: draw_layers(f.front, w)),
    ),
    "energy": FigureKind(
        "Energy by layer, spiking network against ANN",
        _only_if(
            lambda f: f.costs,
            _on_one(
                lambda f, ax: plot_energy(f.front, f.known_costs, ax),
                lambda f: 28 + 4.6 * len(f.known_costs.operators),
            ),
        ),
    ),
    "exits": FigureKind("Early exits", lambda f, width: draw_exits(f.front, f.comparison, width)),
    "easiest": FigureKind("Samples that leave first", _samples("easiest"), photographs=True),
    "hardest": FigureKind("Samples that run longest", _samples("hardest"), photographs=True),
    "reliability": FigureKind(
        "Confidence against accuracy at the exit, of the knee",
        _only_if(
            lambda f: f.comparison is not None and f.comparison.confidence.numel(),
            _on_one(lambda f, ax: plot_reliability(f.known_comparison, ax), lambda f: 85),
        ),
    ),
    "lineages": FigureKind(
        "Learned points and what they continue",
        _only_if(
            lambda f: len(lineages_frame(f.front)),
            _on_one(lambda f, ax: plot_lineages(f.front, ax), lambda f: 85),
        ),
    ),
    "errors": FigureKind(
        "Where the knee's errors come from, layer by layer",
        _only_if(
            lambda f: f.diagnosis,
            _on_one(
                lambda f, ax: plot_diagnosis(f.diagnosis, ax),
                lambda f: 28 + 4.2 * len(f.diagnosis),
            ),
        ),
    ),
    "sensitivity": FigureKind(
        "How much each layer matters",
        lambda f, width: draw_sensitivity(f.sensitivity, width) if f.sensitivity else None,
    ),
    "energy_models": FigureKind(
        "The same trials under other energy models",
        lambda f, width: draw_models(f.under, width) if f.under else None,
    ),
    "classes": FigureKind(
        "ANN and spiking network by class, at the knee",
        lambda f, width: draw_classes(f.comparison, width) if f.comparison else None,
    ),
    "samples": FigureKind(
        "Samples on which the two differ most, at the knee", _samples("pairs"), photographs=True
    ),
}

"""The whole report: tables, figures and one self-contained page."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import matplotlib as mpl
import optuna
from matplotlib.figure import Figure

from conversion import ConfigError, Costs, EnergyModel, write_file
from evaluators import AnnReference, Comparison, Evaluator, Measurement, QuantisedAnn, Task
from reports._figures import FIGURES
from reports._front import FrontPoint, ParetoFront, knee, pareto_front
from reports._models import (
    UnderModel,
    ann_under,
    models_figure,
    models_frame,
    repriced,
    spike_rate,
    under_models,
)
from reports._pictures import classes_figure, samples_figure
from reports._tables import front_frame, trials_frame
from search import study_setup

_TEST = "test/{trial}"
_TEST_ANN = "test/ann"
_RIVAL = "quantised/{trial}"


def measure_front(
    study: optuna.Study,
    evaluator: Evaluator,
    *,
    test: bool = True,
    rivals: bool = False,
    energy: EnergyModel | None = None,
    confidence: float | None = None,
    on_point: Callable[[int, int], None] | None = None,
) -> ParetoFront:
    """The front of a study, each point measured once on the test split.

    Test measurements are kept in the study: a later report shows them and does not touch the
    test split again.

    Args:
        study: A study with finished trials.
        evaluator: Of the study's task.
        test: Whether to look at the test split; if not, the front shows what an earlier report
            measured there, if it measured all of the points.
        rivals: Whether to measure the quantised ANN of as many levels beside each point, on the
            search split.
        energy: Another energy model than the study's: the front is then another one.
        confidence: With which promises are made; None: the study's.
        on_point: Told (points done, points in all).

    Raises:
        ConfigError: The study has no finished trial, or none that can be priced otherwise.
    """
    ann, costs = {"search": evaluator.ann("search")}, evaluator.profile.costs
    studied = pareto_front(study, ann, confidence=confidence)
    front = studied if energy is None else repriced(studied, energy, costs)
    if rivals:
        points = {p.trial: p for p in (*studied.points, *front.points)}.values()
        found = {p.trial: _rival(study, evaluator, p) for p in points}
        front = replace(front, rivals=found)
    known = {_TEST_ANN, *(_TEST.format(trial=point.trial) for point in front.points)}
    if not test and not known <= set(study.user_attrs):
        return front
    model = front.energy_model
    tested_ann = _ann_on_test(study, evaluator)
    points_ = []
    for done, point in enumerate(front.points, 1):
        found_ = _on_test(study, evaluator, point)
        found_ = found_ if energy is None else found_.priced(model, costs)
        points_.append(replace(point, test=found_))
        if on_point is not None:
            on_point(done, len(front.points))
    return replace(
        front,
        points=tuple(points_),
        ann={**front.ann, "test": ann_under(tested_ann, model, costs)},
    )


def _rival(study: optuna.Study, evaluator: Evaluator, point: FrontPoint) -> QuantisedAnn:
    """The quantised ANN of as many levels as a point has; measured once, the study keeps it."""
    key = _RIVAL.format(trial=point.trial)
    if key not in study.user_attrs:
        choice = study_setup(study).space.choice(point.params, point.lineage)
        found = evaluator.quantised(choice.conversion, point.search.timesteps.value, "search")
        study.set_user_attr(key, found.to_dict())
    return QuantisedAnn.from_dict(study.user_attrs[key])


def tested(study: optuna.Study, trial: int) -> Measurement | None:
    """What a trial gave on the test split, if an earlier report measured it."""
    found = study.user_attrs.get(_TEST.format(trial=trial))
    return None if found is None else Measurement.from_dict(found)


def ann_on_test(study: optuna.Study) -> AnnReference:
    """What the ANN gave there; KeyError if no report has looked."""
    return AnnReference.from_dict(study.user_attrs[_TEST_ANN])


def _ann_on_test(study: optuna.Study, evaluator: Evaluator) -> AnnReference:
    if _TEST_ANN not in study.user_attrs:
        study.set_user_attr(_TEST_ANN, evaluator.ann("test").to_dict())
    return ann_on_test(study)


def _on_test(study: optuna.Study, evaluator: Evaluator, point: FrontPoint) -> Measurement:
    key = _TEST.format(trial=point.trial)
    if key not in study.user_attrs:
        choice = study_setup(study).space.choice(point.params, point.lineage)
        study.set_user_attr(key, evaluator.measure(choice, "test").to_dict())
    return Measurement.from_dict(study.user_attrs[key])


def write_report(
    front: ParetoFront,
    folder: Path,
    *,
    costs: Costs | None = None,
    provenance: Mapping[str, Any] | None = None,
    comparison: Comparison | None = None,
    task: Task | None = None,
    again: str = "",
) -> list[Path]:
    """Write ``front.csv``, ``trials.csv``, ``figures/*.png|svg`` and ``report.html``.

    Args:
        front: What to report.
        folder: Where.
        costs: Of the network: what stays analog is then listed with its MACs.
        provenance: What the page says last, by name.
        comparison: Of the knee with the ANN: classes and pictures are then shown.
        task: The task, for the pictures.
        again: Options that further commands must name again.

    Raises:
        FileError: The folder cannot be written; every file is either whole or absent.
    """
    files = [
        write_file(folder / "front.csv", front_frame(front).to_csv(index=False)),
        write_file(folder / "trials.csv", trials_frame(front).to_csv(index=False)),
    ]
    figures = []
    drawn = {name: (title, draw(front)) for name, (title, draw) in FIGURES.items()}
    beside = under_models(front, costs) if costs is not None else []
    if beside:
        table = models_frame(beside).to_csv(index=False)
        files.append(write_file(folder / "energy_models.csv", table))
        drawn["energy_models"] = (
            "The same trials under other energy models",
            models_figure(beside),
        )
    for name, (title, figure) in {**drawn, **_compared(comparison, task)}.items():
        drawn_as = {kind: _render(figure, kind) for kind in ("svg", "png")}
        for kind, data in drawn_as.items():
            files.append(write_file(folder / "figures" / f"{name}.{kind}", data))
        kind = "png" if name == _PICTURES else "svg"  # photographs are smaller as they are
        mime = {"png": "image/png", "svg": "image/svg+xml"}[kind]
        inline = f"data:{mime};base64,{base64.b64encode(drawn_as[kind]).decode()}"
        figures.append({"title": title, "source": inline})
    note = task.outputs.note if task else ""
    page = _page(front, figures, folder, costs, provenance or {}, note, again, beside)
    return [*files, write_file(folder / "report.html", page)]


_PICTURES = "samples"


def compare_knee(study: optuna.Study, evaluator: Evaluator, front: ParetoFront) -> Comparison:
    """The knee of a front beside the ANN, on the last split that was measured."""
    point = next(p for p in front.points if p.trial == knee(front.points).trial)
    choice = study_setup(study).space.choice(point.params, point.lineage)
    return evaluator.compare(choice, list(front.ann)[-1])


def _compared(comparison: Comparison | None, task: Task | None) -> dict[str, tuple[str, Figure]]:
    if comparison is None:
        return {}
    top = comparison.top5
    five = f"; top-5 {top[0]:.1%} and {top[1]:.1%}" if top else ""
    where = f"the knee, {comparison.split} split, n = {comparison.n}"
    figures = {
        "classes": (
            f"ANN and spiking network by class ({where}{five})",
            classes_figure(comparison),
        ),
        _PICTURES: (
            f"Samples on which they differ most ({where})",
            samples_figure(comparison, task) if task else None,
        ),
    }
    return {name: (title, figure) for name, (title, figure) in figures.items() if figure}


def write_figure(figure: Figure, path: Path) -> Path:
    """Write a figure as PNG or SVG, by the name's ending.

    Raises:
        ConfigError: It ends otherwise.
        FileError: It cannot be written.
    """
    kind = path.suffix.removeprefix(".").lower()
    if kind not in ("png", "svg"):
        raise ConfigError(f"a figure is written as .png or .svg, got {path.name!r}")
    return write_file(path, _render(figure, kind))


def _render(figure: Figure, kind: str) -> bytes:
    buffer = io.BytesIO()
    # A fixed salt and no date: the same study gives the same bytes.
    with mpl.rc_context({"svg.hashsalt": "spikefront", "svg.fonttype": "path"}):
        metadata = {"Date": None} if kind == "svg" else {}
        figure.savefig(buffer, format=kind, dpi=160, metadata=metadata)
    return buffer.getvalue()


def _page(
    front: ParetoFront,
    figures: list[dict[str, str]],
    folder: Path,
    costs: Costs | None,
    provenance: Mapping[str, Any],
    note: str,
    again: str,
    beside: Sequence[UnderModel],
) -> str:
    source = resources.files("reports").joinpath("report.html.j2").read_text("utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(source).render(
        front=front,
        figures=figures,
        knee=knee(front.points).trial,
        splits=list(front.ann),
        model=front.energy_model,
        out=folder,
        costs=costs,
        provenance=provenance,
        note=note,
        again=again,
        beside=beside,
        spike_rate=spike_rate,
    )

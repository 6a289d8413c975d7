"""The whole report: tables, figures and one self-contained page."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from matplotlib.figure import Figure

from conversion import Costs, write_file
from evaluators import Comparison, Task
from reports._front import ParetoFront, knee
from reports._models import UnderModel, spike_rate, under_models
from reports.figures import (
    FIGURES,
    classes_figure,
    models_figure,
    rendered,
    samples_figure,
)
from reports.tables import front_frame, models_frame, trials_frame


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
        drawn_as = {kind: rendered(figure, kind) for kind in ("svg", "png")}
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
    source = resources.files("reports.page").joinpath("report.html.j2").read_text("utf-8")
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

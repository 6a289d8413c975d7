"""The report of one study: tables, figures and a page."""

from __future__ import annotations

import html
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from conversion import sha256, write_file
from reports._findings import Findings
from reports._front import knee
from reports._models import spike_rate
from reports.figures import FIGURES, TWO_COLUMNS, FigureKind, rendered
from reports.page._data import study_data
from reports.page._html import as_script, inline, page
from reports.tables import front_frame, models_frame, trials_frame

_STUDY = re.compile(r'<meta name="spikefront-study" content="([^"]*)">')


def report_folder(out: Path, study: str) -> Path:
    """The folder of a study's report: OUT, or OUT/STUDY if OUT holds another study's."""
    page = out / "report.html"
    try:
        found = _STUDY.search(page.read_text("utf-8")[:4000])
    except (OSError, UnicodeDecodeError):
        return out
    if found is None or html.unescape(found[1]) == study:
        return out
    name = re.sub(r"[^\w-]", "-", study)
    # Different names must not map to the same folder.
    return out / (name if name == study else f"{name}-{sha256(study.encode())[:6]}")


def write_report(
    found: Findings,
    folder: Path,
    *,
    provenance: Mapping[str, Any] | None = None,
    study_options: str | None = None,
    again: str = "",
    settings: str = "",
    figure_kinds: Sequence[str] = ("svg", "png"),
    width_mm: float = TWO_COLUMNS,
) -> list[Path]:
    """Write ``front.csv``, ``trials.csv``, ``figures/*`` and ``report.html``.

    Args:
        found: Findings of the study.
        folder: Folder to write to.
        provenance: Provenance entries for the end of the page, by name.
        study_options: Options with which other commands find the study; None: ``--out FOLDER``.
        again: Options naming the user's own code, which other commands must repeat.
        settings: The options file that reproduces the study, shown on the page.
        figure_kinds: File types of the figures: svg, png, pdf.
        width_mm: Width of the figures: 88 is a column of a paper, 180 a full page.

    Raises:
        FileError: The folder cannot be written. No file is ever partially written.
    """
    front = found.front
    files = [
        write_file(folder / "front.csv", front_frame(front).to_csv(index=False)),
        write_file(folder / "trials.csv", trials_frame(front).to_csv(index=False)),
    ]
    if found.under:
        table = models_frame(found.under).to_csv(index=False)
        files.append(write_file(folder / "energy_models.csv", table))
    shown = []
    for name, kind in FIGURES.items():
        figure = kind.drawn(found, width_mm)
        if figure is None:
            continue
        drawn = {ending: rendered(figure, ending) for ending in figure_kinds}
        for ending, data in drawn.items():
            files.append(write_file(folder / "figures" / f"{name}.{ending}", data))
        if width_mm != TWO_COLUMNS:
            figure, drawn = kind.drawn(found, TWO_COLUMNS) or figure, {}
        shown.append(_Shown(name, kind, figure, drawn.get("svg")))
    where = f" --out {shlex.quote(str(folder))}" if study_options is None else study_options
    export = f"spikefront export{where}{again} --trial"
    held = study_data(found, export)
    text = page(
        "report.html.j2",
        front=front,
        found=found,
        figures=_as_addresses(shown),
        knee=knee(front.points).trial,
        splits=list(front.ann),
        model=front.energy_model,
        export=export,
        folder=folder,
        costs=found.costs,
        provenance=provenance or {},
        note=found.task.outputs.note if found.task else "",
        again=again,
        settings=settings,
        spike_rate=spike_rate,
        data=as_script([held]),
        left_out=held["left_out"],
    )
    return [*files, write_file(folder / "report.html", text)]


_MOST_BYTES = 1_500_000
"""Maximum size of all figures; with the library the page stays below 3 MB."""


@dataclass(frozen=True)
class _Shown:
    """A figure of the page, and its SVG if it was already written to a file."""

    name: str
    kind: FigureKind
    figure: Figure
    svg: bytes | None

    @property
    def look(self) -> str:
        """Its style on a dark page: drawings are inverted, colours that encode values are not."""
        if self.kind.photographs:
            return "photographs"
        return "coloured" if any(axes.images for axes in self.figure.axes) else "drawn"

    def pixels(self) -> str:
        return inline("png", rendered(self.figure, "png", dpi=150))

    def source(self) -> str:
        if self.kind.photographs:
            return self.pixels()
        svg = self.svg or rendered(self.figure, "svg")
        return inline("svg", svg, clear=self.look == "drawn")


def _as_addresses(shown: Sequence[_Shown]) -> list[dict[str, Any]]:
    """Figures as data URLs: SVG as far as the page's size allows, then PNG."""
    sources = [one.source() for one in shown]
    for i in sorted(range(len(sources)), key=lambda i: -len(sources[i])):
        if sum(map(len, sources)) <= _MOST_BYTES:
            break
        sources[i] = min(shown[i].pixels(), sources[i], key=len)
    return [
        {"name": one.name, "title": one.kind.title, "look": one.look, "source": source}
        for one, source in zip(shown, sources, strict=True)
    ]  # fmt: skip

"""Two or more studies on one page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from conversion import write_file
from reports._findings import Findings
from reports.page._data import study_data
from reports.page._html import as_script, page
from reports.tables import comparison_frame


def write_comparison(found: Sequence[tuple[Findings, str]], path: Path) -> Path:
    """Write a page that overlays the fronts of several studies.

    Args:
        found: Findings of each study, with the command that exports a trial (without its number).
        path: Path of the page.

    Raises:
        FileError: The file cannot be written.
    """
    table = comparison_frame([f.front for f, _ in found])
    data = [study_data(f, export) for f, export in found]
    text = page(
        "compare.html.j2",
        names=[f.front.study for f, _ in found],
        columns=list(table.columns),
        rows=table.to_dict("records"),
        data=as_script(data),
        left_out=sum(one["left_out"] for one in data),
    )
    return write_file(path, text)

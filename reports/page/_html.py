"""Templates and embedded resources of pages."""

from __future__ import annotations

import base64
import json
import re
import urllib.parse
from importlib import resources
from typing import Any

import jinja2


def page(template: str, **values: Any) -> str:
    """Render a page from a template; it loads nothing from elsewhere."""
    loader = jinja2.PackageLoader("reports.page", ".")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, loader=loader, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    return environment.get_template(template).render(
        css=part("page.css"), script=part("page.js"), library=part("plotly-basic.min.js"), **values
    )


def part(name: str) -> str:
    """Read a file of this package as text."""
    return resources.files("reports.page").joinpath(name).read_text("utf-8")


def as_script(data: Any) -> str:
    """JSON that is safe inside a script element."""
    text = json.dumps(data, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", " ").replace("\u2029", " ")


def inline(kind: str, data: bytes, *, clear: bool = False) -> str:
    """An image as a data URL; a ``clear`` drawing shows the page's own background."""
    if kind == "svg":  # a fifth smaller as text than in base64
        text = re.sub(r"\s*\n\s*", " ", data.decode("utf-8"))
        text = text.replace("fill: #ffffff", "fill: none") if clear else text
        return "data:image/svg+xml," + urllib.parse.quote(text, safe=" !$&'()*+,-./:;=?@_~")
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"

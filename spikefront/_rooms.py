"""The packages that spikefront is made of, and whether it is these that Python finds."""

from __future__ import annotations

import importlib.util
from pathlib import Path

ROOMS = ("conversion", "spaces", "evaluators", "search", "reports")


class RoomError(ImportError):
    """A module of the user's has the name of one of spikefront's packages."""


def check_rooms() -> None:
    """Refuse to run with a ``search.py`` or a ``reports/`` of the user's in place of ours.

    Raises:
        RoomError: Python finds another module of such a name first.
    """
    home = Path(__file__).resolve().parent.parent
    for room in ROOMS:
        spec = importlib.util.find_spec(room)
        found = Path(spec.origin).resolve() if spec and spec.origin else None
        if found != home / room / "__init__.py":
            place = found or (spec and list(spec.submodule_search_locations or [])) or "nothing"
            raise RoomError(
                f"Python finds {place} where spikefront's package {room!r} should be: rename it,"
                " or run from another folder"
            )

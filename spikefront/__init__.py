"""The public names of all rooms under one: ``spikefront.convert``, ``spikefront.LayerSpace``.

Each is imported when it is first asked for, from ``conversion``, ``spaces``, ``evaluators``,
``search`` or ``reports``, where it is documented.
"""

from __future__ import annotations

import importlib
from typing import Any

from spikefront._rooms import ROOMS, check_rooms


def __getattr__(name: str) -> Any:
    if name.startswith("_"):
        raise AttributeError(name)
    check_rooms()
    for room in ROOMS:
        module = importlib.import_module(room)
        if name in module.__all__:
            return getattr(module, name)
    raise AttributeError(f"spikefront has no {name!r}; its names: dir(spikefront)")


def __dir__() -> list[str]:
    return sorted({name for room in ROOMS for name in importlib.import_module(room).__all__})

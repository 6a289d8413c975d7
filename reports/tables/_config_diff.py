"""Two exported configs, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
from rich import box
from rich.table import Table
from torch import Tensor

from conversion import DeployConfig

Exported = tuple[DeployConfig, Mapping[str, Tensor]]
Row = tuple[Any, ...]

_TENSORS = {"theta": "θ", "bias": "bias", "v_init": "v_init"}
"""What is kept of each layer, and what it is called here."""


def config_diff_frame(one: Exported, other: Exported) -> pd.DataFrame:
    """Differences between two configs.

    Args:
        one: A config and its tensors, from :meth:`DeployConfig.read` and
            :meth:`DeployConfig.read_tensors`.
        other: The other config and its tensors.

    Returns:
        Columns ``where`` (a layer, a weight, or ``network``), ``what``, ``first``, ``second``,
        ``largest``; one row per difference. Tensors are summarised by their means and the largest
        difference of two elements.
    """
    rows = _network(one[0], other[0])
    layers = dict.fromkeys([*one[0].conversion.layers, *other[0].conversion.layers])
    for layer in layers:
        rows += _settings(layer, one[0], other[0])
        for kind, what in _TENSORS.items():
            rows += _tensor(layer, what, *(t.get(f"{kind}/{layer}") for _, t in (one, other)))
    weights = sorted({n for _, t in (one, other) for n in t if n.startswith("weight/")})
    for name in weights:
        rows += _tensor(name, "weight", *(t.get(name) for _, t in (one, other)))
    return pd.DataFrame(rows, columns=["where", "what", "first", "second", "largest"])


def _network(one: DeployConfig, other: DeployConfig) -> list[Row]:
    def facts(config: DeployConfig) -> dict[str, Any]:
        m, conversion = config.measurement, config.conversion
        return {
            "model": config.model_fingerprint[:12],
            "T": conversion.timesteps,
            "calibration": conversion.calibration.name,
            "weight bits": conversion.bits or "floating point",
            "exit": "none" if config.exit is None else _exit(config),
            "energy model": config.energy_model.get("name", "unknown"),
            f"{m.get('metric', 'accuracy')}, {m.get('split', '?')}": _value(m, "accuracy", ".2%"),
            "energy / ANN": f"{m['energy_ratio']:.2%}" if "energy_ratio" in m else "unknown",
            "mean steps": _value(m, "timesteps", ".2f"),
        }

    first, second = facts(one), facts(other)
    return [
        ("network", what, first.get(what, ""), second.get(what, ""), "")
        for what in dict.fromkeys([*first, *second])
        if first.get(what) != second.get(what)
    ]


def _exit(config: DeployConfig) -> str:
    rule = config.exit
    if rule is None:
        return "none"
    texts = [f"{t:.3g}" for t in rule.thresholds]
    thresholds = texts[0] if len(set(texts)) == 1 else ", ".join(texts)
    return f"confidence ({rule.score}) above {thresholds}"


def _value(measurement: Mapping[str, Any], name: str, form: str) -> str:
    found = measurement.get(name)
    return format(found["value"], form) if isinstance(found, Mapping) else "unknown"


def _settings(layer: str, one: DeployConfig, other: DeployConfig) -> list[Row]:
    first, second = (c.conversion.layers.get(layer) for c in (one, other))
    if first is None or second is None:
        return [(layer, "layer", *("there" if x else "missing" for x in (first, second)), "")]
    pairs = (("φ", "phi"), ("ρ", "rho"), ("neuron", "neuron"))
    return [
        (layer, what, getattr(first, name), getattr(second, name), "")
        for what, name in pairs
        if getattr(first, name) != getattr(second, name)
    ]


def _tensor(where: str, what: str, one: Tensor | None, other: Tensor | None) -> list[Row]:
    if one is None and other is None:
        return []
    first, second = ("none" if t is None else f"{float(t.double().mean()):.4g}"
                     for t in (one, other))  # fmt: skip
    if one is None or other is None:
        return [(where, what, first, second, "")]
    if one.shape != other.shape:
        return [(where, f"{what}, shape", tuple(one.shape), tuple(other.shape), "")]
    largest = float((one.double() - other.double()).abs().max()) if one.numel() else 0.0
    return [(where, what, first, second, f"{largest:.3g}")] if largest else []


def config_diff_notes(frame: pd.DataFrame) -> list[str]:
    """Differences other than layer settings and tensors, one sentence each."""
    whole = frame[frame["where"] == "network"]
    if "model" in set(whole["what"]):
        return ["the configs belong to different models; layers are not compared",
                *_sentences(whole[whole["what"] != "model"])]  # fmt: skip
    weights = frame["where"].str.startswith("weight/")
    others = frame[~weights & ~frame["what"].isin(_COLUMNS) & (frame["where"] != "network")]
    notes = [*_sentences(whole), *(f"{r.where}: {s}" for r, s in zip(
        others.itertuples(), _sentences(others), strict=True))]  # fmt: skip
    return [*notes, f"{weights.sum()} weight tensors differ"] if weights.any() else notes


def _sentences(rows: pd.DataFrame) -> list[str]:
    return [f"{r.what}: {r.first} → {r.second}" for r in rows.itertuples()]


_COLUMNS = ("φ", "ρ", "neuron", *_TENSORS.values())


def config_diff_table(frame: pd.DataFrame) -> Table | None:
    """One line per layer with both values; None if no layer differs."""
    if "model" in set(frame.loc[frame["where"] == "network", "what"]):
        return None
    layers = frame[frame["what"].isin(_COLUMNS) & (frame["where"] != "network")]
    if layers.empty:
        return None
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    columns = [c for c in _COLUMNS if c in set(layers["what"])]
    for column in ("layer", *columns):
        table.add_column(f"mean {column}" if column in _TENSORS.values() else column, no_wrap=True)
    for layer, rows in layers.groupby("where", sort=False):
        cells = {r.what: f"{r.first} → {r.second}" for r in rows.itertuples()}
        table.add_row(str(layer), *(cells.get(column, "") for column in columns))
    return table

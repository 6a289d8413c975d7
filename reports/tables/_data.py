"""The front and the trials as data frames and as JSON."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from evaluators import Measurement
from reports._front import FrontPoint, ParetoFront


def front_rows(front: ParetoFront) -> list[dict[str, Any]]:
    """One row per point of the front and split, as the JSON report lists them."""
    on_search = [_row(front, point, point.search) for point in front.points]
    return on_search + [_row(front, p, p.test) for p in front.points if p.test is not None]


def front_frame(front: ParetoFront) -> pd.DataFrame:
    """``front.csv``: the front on every split, a column per parameter."""
    return _flat(front_rows(front))


def trials_frame(front: ParetoFront) -> pd.DataFrame:
    """``trials.csv``: every finished trial on the search split, a column per parameter."""
    on_front = {point.trial for point in front.points}
    rows = [
        {
            **_row(front, p, p.search),
            "baseline": p.baseline,
            "exit_of": p.exit_of,
            "on_front": p.trial in on_front,
        }
        for p in front.trials
    ]
    return _flat(rows)


def summary(front: ParetoFront) -> dict[str, Any]:
    """The object that ``spikefront report --json`` prints."""
    reference = front.ann["search"]
    named = f"ann_{metric_column(front.points[0].search)}"
    return {
        "study": front.study,
        "metric": front.metric,
        named: {split: ann.accuracy.value for split, ann in front.ann.items()},
        "ann_energy_pj": reference.energy_pj,
        "ann_energy_int8_pj": reference.energy_int8_pj,
        "energy_model": front.energy_model.name,
        "confidence": front.confidence,
        "trials": front.passes,
        "additional_exits": len(front.trials) - front.passes,
        "front": front_rows(front),
    }


def _row(front: ParetoFront, point: FrontPoint, m: Measurement) -> dict[str, Any]:
    low, high = m.drop.interval() if m.drop else (None, None)
    return {
        "trial": point.trial,
        "split": m.split,
        "n": m.n,
        metric_column(m): m.accuracy.value,
        f"{metric_column(m)}_low": m.accuracy.low,
        f"{metric_column(m)}_high": m.accuracy.high,
        "drop": m.drop.mean if m.drop else None,
        "drop_low": low,
        "drop_high": high,
        "drop_promised": point.promise.bound(front.confidence) if point.promise else None,
        "energy_pj": m.energy_pj.value,
        "energy_pj_low": _finite(m.energy_pj.low),
        "energy_pj_high": _finite(m.energy_pj.high),
        "energy_ratio": m.energy_ratio,
        "energy_ratio_int8": m.energy_ratio_int8,
        "timesteps_mean": m.timesteps.value,
        "spikes": m.spikes.value,
        "kl": m.kl.value,
        "segments_before": len(point.lineage),
        "params": dict(point.params),
    }


def metric_column(m: Measurement) -> str:
    """The metric's name as a column name."""
    return m.metric.replace(" ", "_")


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _flat(rows: list[dict[str, Any]]) -> pd.DataFrame:
    return pd.DataFrame(
        [{**{k: v for k, v in r.items() if k != "params"}, **r["params"]} for r in rows]
    )

"""The front under several energy models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from reports._front import FrontPoint
from reports._models import UnderModel, spike_rate


def models_frame(found: Sequence[UnderModel]) -> pd.DataFrame:
    """``energy_models.csv``: every trial that is on some front, under every model."""
    shown = sorted({p.trial for under in found for p in under.front.points})
    rows = []
    for under in found:
        on_front = {p.trial for p in under.front.points}
        by_number = {p.trial: p for p in under.front.trials}
        rows += [_row(under, by_number[trial], trial in on_front) for trial in shown]
    return pd.DataFrame(rows)


def _row(under: UnderModel, point: FrontPoint, on_front: bool) -> Mapping[str, object]:
    m, rival = point.search, under.front.rivals.get(point.trial)
    return {
        "energy_model": under.energy.name,
        "trial": point.trial,
        "on_front": on_front,
        "on_studied_front": point.trial in under.studied,
        m.metric.replace(" ", "_"): m.accuracy.value,
        "energy_pj": m.energy_pj.value,
        "energy_ratio": m.energy_ratio,
        "energy_ratio_int8": m.energy_ratio_int8,
        "spike_rate": spike_rate(point, under.costs),
        "break_even_rate": under.break_even_rate(point),
        "quantised_bits": rival.bits if rival else None,
        "quantised_drop": rival.drop.mean if rival else None,
        "quantised_energy_ratio": under.rival_ratio(point),
        "quantised_int8_energy_ratio": under.rival_ratio(point, int8=True),
        "cheaper_than_quantised": under.beats_its_rival(point),
    }

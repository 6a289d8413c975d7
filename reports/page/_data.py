"""The data of the page's script, as JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from evaluators import Measurement
from reports._baselines import BASELINES
from reports._findings import Findings
from reports._front import FrontPoint, ParetoFront, knee
from search import objective_values
from spaces import names

_MOST_NUMBERS = 60_000
"""Maximum number of per-layer values on a page; beyond it only the front has them."""


def study_data(found: Findings, export: str) -> dict[str, Any]:
    """The trials of one study, with their energy under each model.

    Args:
        found: The findings of the study.
        export: The command that exports a trial, without its number.
    """
    front = found.front
    layers = names.layers_of(front.points[0].params)
    on_front = {p.trial for p in front.points}
    tested = {p.trial: p.test for p in front.points if p.test is not None}
    detailed = on_front
    if 4 * len(layers) * len(_shown(found)) <= _MOST_NUMBERS:
        detailed = {p.trial for p in _shown(found)}
    candidates = {p.trial for p in front.candidates}
    ratios = _ratios(found)
    return {
        "name": front.study,
        "metric": front.metric,
        "ann": {split: ann.accuracy.value for split, ann in front.ann.items()},
        "n": {split: ann.n for split, ann in front.ann.items()},
        "model": front.energy_model.name,
        "models": {name: int8 for name, (int8, _) in ratios.items()},
        "confidence": front.confidence,
        "budget": front.budget.to_dict(),
        "knee": knee(front.points).trial,
        "baselines": [
            {"kind": name, "label": kind.label, "color": kind.color, "symbol": kind.symbol}
            for name, kind in BASELINES.items()
        ],
        "layers": layers,
        "export": export,
        "trials": [
            {
                **_trial(front, p, tested.get(p.trial), layers if p.trial in detailed else None),
                "front": p.trial in on_front,
                "candidate": p.trial in candidates,
                "others": [_rounded(x) for x in objective_values(p.search, front.objectives)[2:]],
                "ratios": [_rounded(ratio[p.trial]) for _, ratio in ratios.values()],
            }
            for p in _shown(found)
        ],
        "left_out": len(front.trials) - len(_shown(found)),
    }


_MOST_TRIALS = 1500


def _shown(found: Findings) -> list[FrontPoint]:
    """The trials on a page: all, or of very many those on any front, baselines, and a sample."""
    trials = found.front.trials
    if len(trials) <= _MOST_TRIALS:
        return list(trials)
    fronts = (found.front, *(u.front for u in found.under))
    kept = {p.trial for front in fronts for p in front.points}
    every = -(-len(trials) // _MOST_TRIALS)
    return [
        p for i, p in enumerate(trials) if p.trial in kept or p.baseline or i % every == 0
    ]  # fmt: skip


def _ratios(found: Findings) -> dict[str, tuple[float, Mapping[int, float]]]:
    """Energies of the int8 ANN and of every trial ÷ the ANN's, by energy model."""
    front = found.front
    fronts: Sequence[ParetoFront] = [u.front for u in found.under] or [front]
    return {
        f.energy_model.name: (
            f.ann["search"].energy_int8_pj / f.ann["search"].energy_pj,
            {p.trial: p.search.energy_ratio for p in f.trials},
        )
        for f in fronts
    }


def _trial(
    front: ParetoFront, p: FrontPoint, test: Measurement | None, layers: list[str] | None
) -> dict[str, Any]:
    found: dict[str, Any] = {
        "trial": p.trial,
        "baseline": p.baseline,
        "exit_of": p.exit_of,
        "T": p.params[names.TIMESTEPS],
        "neuron": p.params[names.NEURON],
        "calibration": p.params[names.CALIBRATION],
        "segments": len(p.lineage),
        "alpha": p.params.get(names.ALPHA),
        "bits": p.params.get(names.BITS),
        "promise": _rounded(p.promise.bound(front.confidence)) if p.promise else None,
        "search": _measured(front, p.search),
        "test": _measured(front, test) if test else None,
    }
    if layers is not None:
        found["phi"] = [p.params[names.phi(layer)] for layer in layers]
        found["rho"] = [p.params[names.rho(layer)] for layer in layers]
        found["energy"] = {k: _rounded(v, 5) for k, v in p.search.layer_energy_pj.items()}
    return found


def _measured(front: ParetoFront, m: Measurement) -> dict[str, Any]:
    lost = front.lost(m)
    low, high = m.drop.interval() if m.drop is not None else (lost, lost)
    return {
        "score": _rounded(m.accuracy.value),
        "lost": _rounded(lost),
        "low": _rounded(low),
        "high": _rounded(high),
        "ratio": _rounded(m.energy_ratio),
        "pj": _rounded(m.energy_pj.value),
        "steps": _rounded(m.timesteps.value, 4),
        "kl": _rounded(m.kl.value, 4),
        "spikes": _rounded(m.spikes.value),
        "exits": [_rounded(share, 4) for share in m.exits],
    }


def _rounded(value: float, digits: int = 6) -> float | None:
    """Round to significant digits; JSON has no infinity."""
    return float(f"{value:.{digits}g}") if math.isfinite(value) else None

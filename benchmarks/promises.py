"""How often promises of lost accuracy are kept on images that had no part in them.

    spikefront search --seed 0 --out a && spikefront search --seed 1 --out b
    python -m benchmarks.promises a b

For studies of the embedded task: every pass that learned nothing, or whose state is still there, at
seven exits, on the 900 images of search and test split together. These are divided into halves
twenty times: one half promises, on the other it is looked whether that was kept. The search itself
chose by its search split, which is half of them.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import optuna
import torch
from torch import Tensor

from conversion import ExitRule
from evaluators import Evaluator, PairedDrop, digits, estimate_mean
from search import (
    JOURNAL_NAME,
    DropModel,
    TrialRecord,
    choice_of,
    open_states,
    open_storage,
    passes,
    study_setup,
)

_EXITS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 1.0)
_SPLITS, _CONFIDENCE = 20, 0.9
_LIMITS = (0.01, 0.015, 0.02)


@dataclass
class Pooled:
    """Of each point and image: score, divergence, energy over the ANN's; and the ANN's scores."""

    scores: Tensor
    divergences: Tensor
    energies: Tensor
    ann: Tensor


def pooled(folder: Path) -> Pooled:
    """Every point of a study whose state is there, on all images that the network never saw."""
    storage = open_storage(folder / JOURNAL_NAME, create=False)
    study = optuna.load_study(study_name="digits", storage=storage)
    setup = study_setup(study)
    states = open_states(folder / "artifacts")
    evaluator = Evaluator(digits(seed=setup.seed), states=states, seed=setup.seed)
    rows: list[tuple[Tensor, ...]] = []
    ann = torch.zeros(0)
    for trial in passes(study):
        state = TrialRecord.of(trial).state
        if state is not None and states.get(state) is None:
            continue
        model = evaluator.convert(choice_of(setup.space, trial))
        parts = [evaluator.record(model, split) for split in ("search", "test")]
        energy = torch.cat([p.energy_pj() for p in parts], 1) / evaluator.ann_energy_pj
        scores = torch.cat([p.statistics for p in parts], 1)
        divergence = torch.cat([p.divergences for p in parts], 1)
        ann = torch.cat([p.ann_statistics for p in parts])
        for alpha in _EXITS:
            rule = ExitRule(score="entropy", thresholds=(alpha,) * parts[0].steps)
            at = torch.cat([p.exits(rule) for p in parts]), torch.arange(len(ann))
            rows.append((scores[at], divergence[at], energy[at]))
    scores, divergences, energies = (torch.stack(column) for column in zip(*rows, strict=True))
    return Pooled(scores, divergences, energies, ann)


def kept(found: Pooled, seed: int) -> dict[tuple[str, float], tuple[float, float]]:
    """Whether the cheapest point keeps its limit, and the share of all that do."""
    order = torch.randperm(len(found.ann), generator=torch.Generator().manual_seed(seed))
    here, there = order.chunk(2)
    measured: list[Any] = [
        SimpleNamespace(drop=PairedDrop.of(found.ann[here], s[here]), kl=estimate_mean(d[here]))
        for s, d in zip(found.scores, found.divergences, strict=True)
    ]
    model = DropModel(measured)
    promises = [model.promise(m) for m in measured]
    bounds = np.array([p.bound(_CONFIDENCE) for p in promises if p is not None])
    means = np.array([m.drop.mean for m in measured])
    energy = found.energies[:, here].mean(1).numpy()
    lost = (found.ann[there].mean() - found.scores[:, there].mean(1)).numpy()
    results = {}
    for way, values in (("promised", bounds), ("mean", means)):
        for limit in _LIMITS:
            within = np.flatnonzero(values <= limit + 1e-12)
            if len(within):
                keeps = lost[within] <= limit + 1e-12
                cheapest = int(energy[within].argmin())
                results[way, limit] = (float(keeps[cheapest]), float(keeps.mean()))
    return results


def main() -> None:
    """Print a table of the shares that were kept."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path)
    print("| study | chosen by | limit, points | splits | cheapest kept | all kept |")
    print("|---|---|---|---|---|---|")
    for folder in parser.parse_args().folders:
        found = pooled(folder)
        results = [kept(found, seed) for seed in range(_SPLITS)]
        for way in ("promised", "mean"):
            for limit in _LIMITS:
                rows = [r[way, limit] for r in results if (way, limit) in r]
                if rows:
                    cheapest, every = np.mean(rows, 0)
                    print(
                        f"| {folder.name} | {way} | {100 * limit:g} | {len(rows)} |"
                        f" {cheapest:.0%} | {every:.0%} |",
                        flush=True,
                    )


if __name__ == "__main__":
    main()

"""Integers of a few bits, and a finished study under every energy model, as Markdown tables.

    python -m benchmarks.hardware bits
    python -m benchmarks.hardware bits --task cifar10 --data DIR --weights resnet20.safetensors
    python -m benchmarks.hardware models --out runs/digits

The first measures uniform settings of the network in floating point and with weights of 8, 6, 4
and 3 bits; the second reads ``energy_models.csv`` of a report.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd

from conversion import Choice, ConversionConfig, ExitPolicy
from evaluators import Evaluator, TaskSpec, load_task

_SETTINGS = (("adafire", 1, 4), ("dual-threshold", 1, 4), ("adafire", 4, 2), ("adafire", 8, 4))
_BITS = (None, 8, 6, 4, 3)


def bits(spec: TaskSpec, split: str) -> None:
    """Points lost and energy over the ANN's, by operations and with memory."""
    models_ = ("horowitz45", "lemaire-blocks")
    found = {name: Evaluator(load_task(spec), energy=name) for name in models_}
    first = found["horowitz45"]
    ann = first.ann(split)
    print(f"ANN {ann.accuracy.value:.2%}, {split} split, n = {ann.n}\n")
    print(
        "| neuron, φ, T | " + " | ".join(f"{b} bits" if b else "fp32" for b in _BITS) + " | KiB |"
    )
    print("|---|" + "---|" * (len(_BITS) + 1))
    for neuron, phi, timesteps in _SETTINGS:
        cells, sizes = [], []
        for width in _BITS:
            config = ConversionConfig.uniform(
                first.layers, timesteps=timesteps, phi=phi, neuron=neuron, bits=width,
                calibration_timesteps=2,
            )  # fmt: skip
            choice = Choice(conversion=config, exit=ExitPolicy(alpha=1.0))
            m = first.measure(choice, split)
            memory = m.priced(found["lemaire-blocks"].energy, first.profile.costs)
            assert m.drop is not None
            assert m.memory_bytes is not None
            lost = 100 * m.drop.mean
            cells.append(f"{lost:.1f} at {m.energy_ratio:.1%} / {memory.energy_ratio:.0%}")
            sizes.append(f"{m.memory_bytes / 1024:,.0f}")
        print(f"| {neuron}, {phi}, {timesteps} | {' | '.join(cells)} | {', '.join(sizes)} |")


def models(out: Path) -> None:
    """Of each model: its front, what of it is on the studied one, and where it pays."""
    table = pd.read_csv(out / "energy_models.csv")
    print("| energy model | front | of the studied | cheapest near the best | rival | cheaper |")
    print("|---|---|---|---|---|---|")
    for name, rows in table.groupby("energy_model", sort=False):
        front = rows[rows.on_front]
        metric = rows.columns[4]
        ann = rows[metric].max() if "ann" not in rows else rows.ann.iloc[0]
        near = front[front[metric] >= ann - 0.015].sort_values("energy_ratio")
        best = near.iloc[0] if len(near) else front.iloc[-1]
        known = rows[rows.quantised_bits.notna()]
        cheaper = int(known.cheaper_than_quantised.astype(bool).sum())
        print(
            f"| {name} | {len(front)} | {int(front.on_studied_front.sum())} |"
            f" {best.energy_ratio:.1%} (int8: {best.energy_ratio_int8:.0%}) |"
            f" {best.quantised_energy_ratio:.1%} | {cheaper} of {len(known)} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["bits", "models"])
    for name in ("task", "data", "weights"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--search-samples", type=int)
    parser.add_argument("--split", default="test")
    parser.add_argument("--out", type=Path, default=Path("spikefront-out"))
    options = vars(parser.parse_args())
    what, split, out = (options.pop(name) for name in ("what", "split", "out"))
    if what == "models":
        models(out)
    else:
        bits(TaskSpec(**{n: v for n, v in options.items() if v is not None}), split)


if __name__ == "__main__":
    main()

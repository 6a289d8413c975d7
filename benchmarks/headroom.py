"""Held-out error against the number of calibration samples, with headroom and without.

``python -m benchmarks.headroom``: multilayer perceptrons, whose channels see one value a sample.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor, nn

from conversion import ConversionConfig, Profile, convert, profile

SIZES = (16, 64, 256, 1024)
STEPS = (2, 4, 16, 64)


def networks() -> Iterator[tuple[str, nn.Sequential]]:
    torch.manual_seed(0)
    for widths in ((10, 16, 4), (10, 32, 32, 32, 4), (20, 64, 64, 10)):
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(widths):
            layers += [nn.Linear(inputs, outputs), nn.ReLU()]
        yield "-".join(map(str, widths)), nn.Sequential(*layers[:-1])


def errors(net: nn.Module, found: Profile, x: Tensor, phi: int) -> list[float]:
    """Relative error at each T on inputs that calibration did not see."""
    with torch.no_grad():
        expected = net(x)
    measured = []
    for steps in STEPS:
        config = ConversionConfig.uniform(found.layers, timesteps=steps, phi=phi)
        logits = convert(found, config).simulate(x).logits[-1]
        measured.append(float((logits - expected).norm() / expected.norm()))
    return measured


def without_headroom(found: Profile) -> Profile:
    layers = {name: replace(layer, headroom=0.0) for name, layer in found.layers.items()}
    return replace(found, layers=layers, _thresholds={})


def main() -> None:
    print(f"| network | φ | samples | error in % at T = {STEPS}, without headroom | with |")
    print("|---|---|---|---|---|")
    for name, net in networks():
        for phi in (1, 4):
            for size in SIZES:
                torch.manual_seed(1)
                width = net[0].in_features
                seen, unseen = torch.randn(size, width), torch.randn(500, width)
                found = profile(net, seen)
                rows = [errors(net, p, unseen, phi) for p in (without_headroom(found), found)]
                cells = [" / ".join(f"{100 * e:.1f}" for e in row) for row in rows]
                print(f"| {name} | {phi} | {size} | {cells[0]} | {cells[1]} |")


if __name__ == "__main__":
    main()

"""The zoo of small networks, one by one: ``python -m benchmarks.zoo``.

Capture and profile in seconds, the captured ANN's error, and the spiking error at T = 4, 16 and 64
(φ = 4, light) on inputs that calibration did not see; or by what sentence a network is refused.
"""

from __future__ import annotations

import logging
import time
import warnings
from typing import Any

import torch
from torch import Tensor

from conversion import ConversionConfig, ConversionError, Inputs, ann_answers, convert, profile
from tests.conftest import settle
from tests.conversion.zoo import ZOO, Specimen

STEPS = (4, 16, 64)
SEEN, UNSEEN = 96, 24


def ann(net: Any, inputs: Inputs, place: int) -> Tensor:
    own = inputs.with_tensors([x.clone() for x in inputs.tensors])
    with torch.no_grad():
        leaves = torch.utils._pytree.tree_leaves(net(*own.args, **own.kwargs))
    found: Tensor = leaves[place].double()
    return found


def row(name: str, specimen: Specimen) -> str:
    torch.manual_seed(0)
    net = specimen.make()
    if specimen.refused is not None:
        try:
            profile(net, specimen.draw(8), outputs=specimen.output)
        except ConversionError as error:
            return f"| {name} | refused: {' '.join(str(error).split())} | | | | |"
        raise AssertionError(f"{name} was not refused")
    seen, unseen = (Inputs.of(specimen.draw(n)) for n in (SEEN, UNSEEN))
    net = settle(net, seen)
    start = time.perf_counter()
    found = profile(net, seen, outputs=specimen.output)
    seconds = time.perf_counter() - start
    expected = ann(net, unseen, found.network.output_names[str(found.outputs.output)])

    def relative(logits: Tensor) -> float:
        return float((logits.double() - expected).norm() / expected.norm())

    cells = [
        f"{seconds:.2f}",
        f"{relative(found.outputs.main(ann_answers(found.network, unseen))):.0e}",
    ]
    for steps in STEPS:
        config = ConversionConfig.uniform(found.layers, timesteps=steps, phi=4)
        cells.append(f"{relative(convert(found, config).simulate(unseen).logits[-1]):.2%}")
    return f"| {name} | {' | '.join(cells)} |"


def main() -> None:
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    print("| network | capture and profile, s | ANN's error | T = 4 | T = 16 | T = 64 |")
    print("|---|---|---|---|---|---|")
    for name, specimen in ZOO.items():
        print(row(name, specimen), flush=True)


if __name__ == "__main__":
    main()

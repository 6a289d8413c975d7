"""How other programs read NIR's integrate-and-fire neuron, so that a difference shows at export."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from conversion.export._program import Layer, Program
from conversion.export._run import RunState, run_step


@dataclass(frozen=True, kw_only=True)
class Reader:
    """What a program makes of a graph of ``nir.IF``, as its released version was read.

    Tests run the programs themselves on the same graphs.

    Attributes:
        name: Of the program.
        version: That was read.
        most: Spikes per neuron and step, or None for any number.
        floor: Lowest potential after a step, in thresholds, or None.
        reset: ``"subtract"``, or ``"zero"``: what is left above the threshold is lost.
        leak: What is left of the potential after a step.
        strict: Whether it fires only above the threshold, not at it.
        uniform: Whether all thresholds of a layer must be the same.
        depth_first: Whether it runs a graph depth first: a sum of two branches then misses one,
            unless one of them is the layer at which they part.
    """

    name: str
    version: str
    most: int | None
    floor: float | None
    reset: str = "subtract"
    leak: float = 1.0
    strict: bool = False
    uniform: bool = True
    depth_first: bool = False

    def step(self, current: Tensor, membrane: Tensor, threshold: Tensor) -> tuple[Tensor, Tensor]:
        """Spikes, and the potential after them."""
        membrane = self.leak * membrane + current
        ratio = membrane / threshold
        fired = (ratio.ceil() - 1 if self.strict else ratio.floor()).clamp(0, self.most)
        if self.reset == "zero":
            after = torch.where(fired > 0, torch.zeros_like(membrane), membrane)
        else:
            after = membrane - fired * threshold
        if self.floor is not None:
            after = torch.maximum(after, self.floor * threshold)
        return fired, after


READERS = {
    reader.name: reader
    for reader in (
        Reader(
            name="sinabs", version="3.1", most=None, floor=-1.0, uniform=False, depth_first=True
        ),
        Reader(name="spikingjelly", version="2.0", most=1, floor=None, reset="zero"),
        Reader(name="snntorch", version="1.0", most=1, floor=None, leak=0.9, strict=True),
    )
}


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How a reader's network differs from ours on the same inputs.

    Attributes:
        samples: How many.
        spikes: Spike counts compared, over all layers, steps and samples.
        differing: Those that differ, as a fraction.
        output: Largest difference of the mean outputs, over the largest output.
        decisions: Samples whose largest output is the same, as a fraction.
    """

    samples: int
    spikes: int
    differing: float
    output: float
    decisions: float

    @property
    def exact(self) -> bool:
        """Whether no spike differs."""
        return self.differing == 0


OnFire = Callable[[Layer, Tensor, RunState], Tensor]


@torch.inference_mode()
def compare(program: Program, reader: Reader, x: Tensor) -> Agreement:
    """Run both on the same inputs, in double precision.

    Args:
        program: With unit spikes.
        reader: Whose neurons take the place of ours.
        x: ``(N, ...)``, or ``(N, T, ...)`` of one over time.
    """
    ours, foreign = RunState(), RunState()
    different, counted, sums = 0, 0, [torch.zeros(()), torch.zeros(())]

    def other(layer: Layer, current: Tensor, state: RunState) -> Tensor:
        assert layer.neuron is not None
        if layer.name not in state.membrane:
            state.membrane[layer.name] = layer.neuron.v_init.to(current).expand_as(current)
        shape = (-1, *[1] * (current.dim() - 2))
        bias = layer.neuron.bias.to(current).view(shape)
        size = layer.neuron.threshold.to(current).view(shape)
        fired, after = reader.step(current + bias, state.membrane[layer.name], size)
        state.membrane[layer.name] = after
        return fired

    for step in range(program.timesteps):
        frame = (x[:, step] if program.over_time else x).double()
        kept: list[dict[str, Tensor]] = [{}, {}]
        outputs = [
            run_step(program, frame, ours, kept[0].__setitem__),
            run_step(program, frame, foreign, kept[1].__setitem__, fire=other),
        ]
        sums = [total + output for total, output in zip(sums, outputs, strict=True)]
        different += sum(int((kept[0][n] != kept[1][n]).sum()) for n in kept[0])
        counted += sum(found.numel() for found in kept[0].values())
    largest = float(sums[0].abs().max())
    decided = [total.flatten(1).argmax(1) for total in sums]
    return Agreement(
        samples=len(x),
        spikes=counted,
        differing=different / max(counted, 1),
        output=float((sums[0] - sums[1]).abs().max()) / max(largest, 1e-12),
        decisions=float((decided[0] == decided[1]).double().mean()),
    )

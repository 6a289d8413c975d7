"""The AdaFire neuron: burst firing with soft reset (Wang et al., arXiv 2412.16219, Sec. 3.2)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

NEURONS: dict[str, type[AdaFire]] = {}
"""Neurons by the name that a config gives them; a new one is a subclass of AdaFire put here."""


@dataclass
class NeuronState:
    """What a spiking layer remembers between steps.

    Attributes:
        membrane: Potential in units of the threshold, ``(N, C, ...)``.
        emitted: Net spikes fired so far, only kept by neurons that need them.
        step: Steps done.
    """

    membrane: Tensor
    emitted: Tensor | None = None
    step: int = 0

    def keep(self, index: Tensor) -> None:
        """Forget every sample that is not in ``index``."""
        self.membrane = self.membrane[index]
        self.emitted = None if self.emitted is None else self.emitted[index]


@dataclass(frozen=True)
class Slopes:
    """How a loss changes with what a spiking layer is given.

    Attributes:
        current: By its currents, in their shape.
        threshold: By V, ``(C,)``.
        bias: ``(C,)``.
        v_init: By the potential of each neuron, ``(C, ...)``.
    """

    current: Tensor
    threshold: Tensor
    bias: Tensor
    v_init: Tensor


class AdaFire:
    """A layer of neurons that fire up to φ spikes of size V = ρ·θ in one step.

    ``v <- v + x_t;  n_t = clip(floor(v / V), 0, phi);  v <- v - n_t V;  out_t = n_t V``,
    starting from ``v = v_init V``. φ = 1, ρ = 1 is the integrate-and-fire neuron with soft reset.
    A network with ReLU6 or Hardtanh adds the ceiling: at step t no neuron has fired more than
    ``t·ceiling / V`` spikes, rounded.

    Args:
        threshold: V per channel, ``(C,)``, in units of the activation, > 0.
        phi: Maximum spikes per neuron and step.
        bias: Added to the current at every step, ``(C,)``, in units of the activation.
        v_init: Potential before the first step, as a fraction of V: one for all, ``()``, or one
            per neuron, ``(C, ...)``.
        ceiling: Upper clip of the ANN's activation, or None.

    Attributes:
        signed: Whether a spike may be negative.
        described: Whether φ, thresholds and ``signed`` describe it completely, so that exports and
            integer models can reproduce it. Not inherited: a subclass must set it again.
    """

    signed = False
    described = True

    @staticmethod
    def staircase(
        x: Tensor, size: Tensor, *, phi: int, timesteps: int, shift: float | Tensor
    ) -> Tensor:
        """Spikes within T steps of a constant input: ``clip(floor(T x / V + v_init), 0, T phi)``.

        Thresholds, predictions and diagnosis are all derived from it (ClipFloor; Wang et al., arXiv
        2412.16219, with ``v_init`` = 0). A neuron that responds differently overrides it.

        Args:
            x: Input current per step.
            size: V, in the same unit; broadcast against ``x``.
            phi: Maximum spikes per step.
            timesteps: T.
            shift: v_init, as a fraction of V.
        """
        return torch.floor(x * timesteps / size + shift).clamp_(0, timesteps * phi)

    def __init__(
        self,
        *,
        threshold: Tensor,
        phi: int,
        bias: Tensor,
        v_init: Tensor,
        ceiling: float | None = None,
    ) -> None:
        self.threshold = threshold
        self.phi = phi
        self.bias = bias
        self.v_init = v_init
        self.ceiling = ceiling

    def start(self, current: Tensor) -> NeuronState:
        """The state before the first step, for currents like ``current``, ``(N, C, ...)``."""
        state = NeuronState(torch.empty_like(current).copy_(self.v_init))
        if self.ceiling is not None:
            state.emitted = torch.zeros_like(current)
        return state

    def fire(self, currents: Tensor, state: NeuronState, steps: int) -> Tensor:
        """Run several steps; returns spike counts as floats.

        Args:
            currents: ``(steps·N, C, ...)`` with the step outermost, or ``(N, C, ...)`` if the
                current is the same at every step.
            state: Changed in place.
            steps: Number of steps.

        Returns:
            Spike counts ``(steps·N, C, ...)``, whole numbers in 0..φ.
        """
        per_step = currents.chunk(steps) if len(currents) != len(state.membrane) else [currents]
        scale = _per_channel(1.0 / self.threshold, currents)
        bias = _per_channel(self.bias / self.threshold, currents) if self.bias.any() else None
        counts = _like(currents, steps * len(state.membrane))
        for step, fired in enumerate(counts.chunk(steps)):
            state.membrane.addcmul_(per_step[step % len(per_step)], scale)
            if bias is not None:
                state.membrane.add_(bias)
            self._step(state, fired)
        return counts

    def _step(self, state: NeuronState, fired: Tensor) -> None:
        state.step += 1
        torch.clamp(state.membrane, 0, self.phi, out=fired)
        fired.floor_()
        if state.emitted is not None:
            if self.ceiling is not None:
                room = (state.step * self.ceiling) / _per_channel(self.threshold, fired) + 0.5
                torch.minimum(fired, room.floor() - state.emitted, out=fired)
            state.emitted.add_(fired)
        state.membrane.sub_(fired)

    def values(self, counts: Tensor) -> Tensor:
        """What spike counts amount to at the synapses: ``n V``, same shape."""
        return counts * _per_channel(self.threshold, counts)

    def values_(self, counts: Tensor) -> Tensor:
        """:meth:`values`, in place."""
        return counts.mul_(_per_channel(self.threshold, counts))

    def slopes(self, grad: Tensor, currents: Tensor, samples: int, steps: int) -> Slopes:
        """Surrogate gradients of a loss, given its gradient by the counts of :meth:`fire`.

        The forward pass counts whole spikes. The backward pass differentiates their continuous
        relaxation, ``clip(Σ x / V + v_init − ½, 0, tφ)`` up to step t: the slope is 1/V in the
        current, and that of straight-through rounding in V (Bu et al., ICLR 2022, Sec. 4.2).

        Args:
            grad: Gradient by the counts of each step, ``(steps·N, C, ...)``; overwritten.
            currents: As in :meth:`fire`.
            samples: N.
            steps: Number of steps, from the first on.
        """
        # In place wherever it can be: on a CPU memory that is new costs more than the sums.
        each = currents.unflatten(0, (-1, samples))
        scale = _per_channel(1.0 / self.threshold, currents)
        shift = _per_channel(self.bias / self.threshold, currents)
        by_sum = grad.unflatten(0, (steps, samples))
        for t in range(steps - 1):  # a count is the difference of two sums
            by_sum[t].sub_(by_sum[t + 1])
        total = torch.addcmul(shift + (self.v_init - 0.5), each[0], scale)
        by_most = torch.zeros_like(self.threshold)
        for t in range(steps):
            if t:
                total.addcmul_(each[t % len(each)], scale).add_(shift)
            by_most += self._slope_of_most(by_sum[t], total, t + 1)
            self._slope_of_clip_(by_sum[t], total, t + 1)
        for t in reversed(range(steps - 1)):  # a current counts in every sum from its step on
            by_sum[t].add_(by_sum[t + 1])
        by_v_init = by_sum[0].sum(0)
        shared = by_sum.sum(0, keepdim=True) if len(each) < steps else by_sum
        by_shift = by_channel(shared.flatten(0, 1))
        by_growth = self.bias * by_shift
        for slope, current in zip(shared, each, strict=True):
            by_growth += by_channel(torch.mul(slope, current, out=total))
        return Slopes(
            current=shared.mul_(scale).flatten(0, 1),
            threshold=by_most - by_growth / self.threshold**2,
            bias=by_shift / self.threshold,
            v_init=by_v_init,
        )

    def _slope_of_clip_(self, grad: Tensor, total: Tensor, step: int) -> None:
        """Keep ``grad`` where a sum up to a step is clipped neither below nor above, else 0."""
        if self.ceiling is not None:
            total, most = total / self._most(step, self.ceiling, total), 1.0
        else:
            most = float(step * self.phi)
        torch.ops.aten.hardtanh_backward.grad_input(grad, total, 0.0, most, grad_input=grad)

    def _slope_of_most(self, grad: Tensor, total: Tensor, step: int) -> Tensor | float:
        """By V, where the ceiling clips: fewer spikes fit under it if V grows."""
        if self.ceiling is None:
            return 0.0
        most = self._most(step, self.ceiling, total)
        clipped = (total >= most) & (most < step * self.phi)
        return -by_channel(grad * clipped * most) / self.threshold

    def _most(self, step: int, ceiling: float, like: Tensor) -> Tensor:
        """Most spikes up to a step, by φ and by the ceiling, per channel."""
        most = step * ceiling / _per_channel(self.threshold, like)
        return most.clamp_max(step * self.phi)


NEURONS["adafire"] = AdaFire


def _like(x: Tensor, samples: int) -> Tensor:
    """An empty tensor of ``samples`` samples with the memory layout of ``x``."""
    layout = torch.channels_last if _is_channels_last(x) else torch.contiguous_format
    return torch.empty(
        (samples, *x.shape[1:]), dtype=x.dtype, device=x.device, memory_format=layout
    )


def _is_channels_last(x: Tensor) -> bool:
    return x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)


def by_channel(values: Tensor) -> Tensor:
    """Sums of ``(N, C, ...)``, ``(C,)``."""
    if _is_channels_last(values):  # measured: half the time of a sum
        rows = values.permute(0, 2, 3, 1).reshape(-1, values.shape[1])
        return rows.new_ones(len(rows)) @ rows
    return values.sum([0, *range(2, values.dim())])


def _per_channel(values: Tensor, like: Tensor) -> Tensor:
    return values.to(like.dtype).view(-1, *[1] * (like.dim() - 2))

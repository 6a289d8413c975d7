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


class AdaFire:
    """A layer of neurons that fire up to φ spikes of size V = ρ·θ in one step.

    ``v <- v + x_t;  n_t = clip(floor(v / V), 0, phi);  v <- v - n_t V;  out_t = n_t V``,
    starting from ``v = v_init V``. φ = 1, ρ = 1 is the integrate-and-fire neuron with soft reset.
    A network with ReLU6 or Hardtanh adds the ceiling: at step t no neuron has fired more than
    ``t·ceiling / V`` spikes, rounded.

    Args:
        threshold: V per channel, ``(C,)``, in units of the activation, > 0.
        phi: Most spikes per neuron and step.
        bias: Added to the current at every step, ``(C,)``, in units of the activation.
        v_init: Potential before the first step, as a fraction of V: one for all, ``()``, or one
            per neuron, ``(C, ...)``.
        ceiling: Upper clip of the ANN's activation, or None.

    Attributes:
        signed: Whether a spike may be negative.
    """

    signed = False

    @staticmethod
    def staircase(
        x: Tensor, size: Tensor, *, phi: int, timesteps: int, shift: float | Tensor
    ) -> Tensor:
        """Spikes of T steps under an even input: ``clip(floor(T x / V + v_init), 0, T phi)``.

        Thresholds, predictions and diagnosis all rest on it (ClipFloor; Wang et al., arXiv
        2412.16219, have ``v_init`` 0). A neuron that answers otherwise overrides it.

        Args:
            x: Current of each step.
            size: V, in the same unit; broadcasts.
            phi: Most spikes per step.
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
        state = NeuronState(torch.zeros_like(current).add_(self.v_init))
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
        """What the synapses see of spike counts: ``n V``, same shape."""
        return counts * _per_channel(self.threshold, counts)

    def values_(self, counts: Tensor) -> Tensor:
        """:meth:`values`, in place."""
        return counts.mul_(_per_channel(self.threshold, counts))

    def unrounded(self, currents: Tensor, samples: int, steps: int) -> Tensor:
        """Spikes of each step if they did not have to be whole: what gradients see of :meth:`fire`.

        Up to step t ``clip(Σ x / V, 0, tφ)``, so that a spike has the slope 1/V in its current
        and the slope of straight-through rounding in V (Bu et al., ICLR 2022).

        Args:
            currents: As in :meth:`fire`.
            samples: N.
            steps: Number of steps, from the first on.

        Returns:
            ``(steps·N, C, ...)``.
        """
        each = currents.unflatten(0, (-1, samples)) + _per_channel(self.bias, currents)
        total = each.expand(steps, *each.shape[1:]).cumsum(0) / _per_channel(
            self.threshold, currents
        )
        step = torch.arange(1, steps + 1, device=total.device).view(-1, *[1] * (total.dim() - 1))
        fired = torch.minimum(total.clamp_min(0), self._most(step, currents))
        return torch.cat([fired[:1], fired.diff(dim=0)]).flatten(0, 1)

    def _most(self, step: Tensor, like: Tensor) -> Tensor:
        """Most spikes up to a step, by φ and by the ceiling."""
        most = (step * self.phi).to(like.dtype)
        if self.ceiling is None:
            return most
        ceiling = (step * self.ceiling).to(like.dtype)
        return torch.minimum(most, ceiling / _per_channel(self.threshold, like))


NEURONS["adafire"] = AdaFire


def _like(x: Tensor, samples: int) -> Tensor:
    """An empty tensor of ``samples`` samples with the memory layout of ``x``."""
    layout = torch.channels_last if _is_channels_last(x) else torch.contiguous_format
    return torch.empty(
        (samples, *x.shape[1:]), dtype=x.dtype, device=x.device, memory_format=layout
    )


def _is_channels_last(x: Tensor) -> bool:
    return x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)


def _per_channel(values: Tensor, like: Tensor) -> Tensor:
    return values.to(like.dtype).view(-1, *[1] * (like.dim() - 2))

"""A neuron that takes back what it fired too much: the dual-threshold neuron."""

from __future__ import annotations

import torch
from torch import Tensor

from conversion.neurons._adafire import NEURONS, AdaFire, NeuronState

_NEGATIVE_THRESHOLD = 0.25


class DualThreshold(AdaFire):
    """:class:`AdaFire` that also fires −1 after firing too much.

    ``if v <= -V_neg and the net number of spikes so far > 0:  n_t = -1`` (so ``v <- v + V``); a
    neuron's rate never goes below zero. Related to error compensation (Liu et al., ICML 2025, arXiv
    2506.01968; we had no access to its full text) and to earlier signed neurons. ``V_neg`` is a
    quarter of V: a neuron that starts at V/2 then corrects itself once it is three quarters of a
    spike ahead of its input.
    """

    signed = True
    described = True

    def start(self, current: Tensor) -> NeuronState:
        """The state before the first step."""
        state = super().start(current)
        state.emitted = torch.zeros_like(current)
        return state

    def _step(self, state: NeuronState, fired: Tensor) -> None:
        assert state.emitted is not None
        if state.step == 0:  # nothing to take back yet
            return super()._step(state, fired)
        takes_back = (state.membrane <= -_NEGATIVE_THRESHOLD).logical_and_(state.emitted > 0.5)
        super()._step(state, fired)
        fired.masked_fill_(takes_back, -1.0)  # below its threshold it fired none
        back = takes_back.to(fired.dtype)
        state.membrane.add_(back)
        state.emitted.sub_(back)


NEURONS["dual-threshold"] = DualThreshold

"""Thresholds learned by gradient: the clip learning of error compensation."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from conversion._config import ConversionConfig
from conversion._convert import thresholds
from conversion._graph import Network
from conversion._profile import Profile


def learn_thresholds(
    profile: Profile,
    config: ConversionConfig,
    data: Iterable[Any],
    *,
    epochs: int = 3,
    rate: float = 0.02,
    on_batch: Callable[[int, float], None] | None = None,
) -> dict[str, Tensor]:
    """Thresholds of least divergence between the ANN and its quantised self, weights untouched.

    Every activation a is replaced by ``(θ/T) clip(round(T a / θ), 0, Tφ)``, what a neuron that
    starts at θ/2 gives for an even input, rounding passed by the gradient straight through; one
    factor per layer on the config's thresholds is learned by Adam with a cosine rate. Of the
    family of Bu et al., ICLR 2022 (QCFS), and of *Error Compensation Learning* (Liu et al., ICML
    2025, arXiv 2506.01968), whose full text was not available to us; labels are not needed.

    Args:
        profile: From :func:`conversion.profile`.
        config: Its φ, ρ, T and threshold rule are where learning starts.
        data: Batches of inputs or of ``(inputs, labels)``, gone through once per epoch.
        epochs: Rounds through the data.
        rate: Of Adam, on the logarithm of the factors.
        on_batch: Told (batches done, divergence).

    Returns:
        θ per layer and channel, ``(C,)``, for :func:`conversion.convert`.

    Raises:
        ConfigError: The config names other layers than the network has.
    """
    config.check_layers(profile.layers)
    start = thresholds(profile, config)
    factors = {name: torch.zeros((), device=profile.device) for name in start}
    for factor in factors.values():
        factor.requires_grad_()
    optimizer = torch.optim.Adam(factors.values(), lr=rate)
    batches = [_inputs(batch).to(profile.device) for batch in data]
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * len(batches))
    run = _QuantisedPass(profile.network, config, start, factors)
    for done in range(epochs * len(batches)):
        x = batches[done % len(batches)]
        with torch.no_grad():
            expected = profile.network.module(x).softmax(-1)
        loss = F.kl_div(run.run(x).log_softmax(-1), expected, reduction="batchmean")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if on_batch is not None:
            on_batch(done + 1, float(loss.detach()))
    return {name: (theta * factors[name].exp()).detach() for name, theta in start.items()}


def _inputs(batch: Any) -> Tensor:
    found: Tensor = batch if isinstance(batch, Tensor) else batch[0]
    return found


class _QuantisedPass(fx.Interpreter):
    """The ANN with every ReLU-like activation rounded to what spikes can say."""

    def __init__(
        self,
        network: Network,
        config: ConversionConfig,
        start: dict[str, Tensor],
        factors: dict[str, Tensor],
    ) -> None:
        super().__init__(network.module)
        self._sites = {site.node: site for site in network.sites.values()}
        self._config = config
        self._start = start
        self._factors = factors

    def run_node(self, n: fx.Node) -> Any:
        """Execute one node (the hook of ``fx.Interpreter``)."""
        value = super().run_node(n)
        if (site := self._sites.get(n.name)) is None:
            return value
        layer = self._config.layers[site.name]
        size = self._start[site.name] * self._factors[site.name].exp() * layer.rho
        shape = [1] * value.dim()
        shape[site.channels] = -1
        steps = self._config.calibration_timesteps or self._config.timesteps
        spikes = value * steps / size.view(shape)
        rounded = spikes + (torch.floor(spikes + self._config.v_init) - spikes).detach()
        return rounded.clamp(0, steps * layer.phi) * size.view(shape) / steps

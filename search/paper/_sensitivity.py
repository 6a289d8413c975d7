"""How much each layer's φ and ρ matter: divergence and energy when only that layer changes."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from platformdirs import user_cache_path

from conversion import (
    Branch,
    ConversionConfig,
    EnergyModel,
    FileError,
    LayerConfig,
    Profile,
    sweep,
    write_file,
)
from spaces import LayerSpace, names

_LOG = logging.getLogger("spikefront")

PHIS = (1, 2, 3, 4, 6, 8)
RHOS = (1.0, 1.25, 1.5, 2.0, 2.5, 3.0)

OnBranch = Callable[[int, int], None]
"""Called with (branches done, branches in total)."""


@dataclass(frozen=True, kw_only=True)
class Sensitivity:
    """Divergence and energy when one layer at a time changes and everything is recalibrated.

    The S_l(φ), S_l(ρ), E_l(φ), E_l(ρ) of Wang et al. (AAAI 2025, Sec. 3.5): symmetric KL divergence
    in nats between the outputs of the ANN and the spiking network, and energy ÷ the ANN's, on the
    calibration inputs at every step. φ changes at ρ = 1, ρ at the base's φ.

    Attributes:
        layers: The spiking layers, in order of execution.
        base: The uniform config that is varied.
        phis: Values of φ.
        rhos: Values of ρ.
        phi_divergence: ``(layers, φ, T)``.
        phi_energy: ``(layers, φ, T)``.
        rho_divergence: ``(layers, ρ, T)``.
        rho_energy: ``(layers, ρ, T)``.
        divergence: Divergence of the base, ``(T,)``.
        energy: Energy of the base, ``(T,)``.
        layer_energy: Energy of the base by source of the spikes, ``(layers, T)``.
    """

    layers: tuple[str, ...]
    base: ConversionConfig
    phis: tuple[int, ...]
    rhos: tuple[float, ...]
    phi_divergence: np.ndarray
    phi_energy: np.ndarray
    rho_divergence: np.ndarray
    rho_energy: np.ndarray
    divergence: np.ndarray
    energy: np.ndarray
    layer_energy: np.ndarray

    def to_dict(self) -> dict[str, Any]:
        """Convert to JSON-serialisable values."""
        arrays = {name: getattr(self, name).tolist() for name in _ARRAYS}
        return {**vars(self), **arrays, "base": self.base.to_dict()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Sensitivity:
        """Rebuild from the output of :meth:`to_dict`."""
        arrays = {name: np.array(values[name]) for name in _ARRAYS}
        names = {name: tuple(values[name]) for name in ("layers", "phis", "rhos")}
        base = ConversionConfig.from_dict(values["base"])
        return cls(**{**values, **arrays, **names, "base": base})


_ARRAYS = (
    "phi_divergence", "phi_energy", "rho_divergence", "rho_energy", "divergence", "energy",
    "layer_energy",
)  # fmt: skip


def sweep_of(space: LayerSpace) -> dict[str, Any]:
    """T and the values of φ and ρ of the profile that a search in a space starts with."""
    phis = tuple(sorted({*(phi for phi in PHIS if phi < space.phi_max), space.phi_max}))
    rhos = tuple(rho for rho in RHOS if rho in space.rhos())
    uniform = space.uniform(phi=1, rho=1.0, alpha=0.6)
    return {"timesteps": uniform[names.CALIBRATION_TIMESTEPS], "phis": phis, "rhos": rhos}


def kept_sensitivity(
    profile: Profile,
    energy: EnergyModel,
    *,
    timesteps: int,
    phis: tuple[int, ...],
    rhos: tuple[float, ...],
    cache: Path | None = None,
) -> Sensitivity | None:
    """The cached sensitivity profile, if there is one; arguments as in :func:`sensitivity`."""
    return _read(_place(profile, energy, timesteps, phis, rhos, cache))


def _place(
    profile: Profile,
    energy: EnergyModel,
    timesteps: int,
    phis: tuple[int, ...],
    rhos: tuple[float, ...],
    cache: Path | None,
) -> Path:
    folder = cache or user_cache_path("spikefront") / "sensitivity"
    return folder / f"{_fingerprint(profile, energy, timesteps, phis, rhos)}.json"


def _read(path: Path) -> Sensitivity | None:
    try:
        return Sensitivity.from_dict(json.loads(path.read_text("utf-8")))
    except OSError:
        return None  # missing or unreadable
    except (ValueError, KeyError, TypeError):
        _LOG.warning("%s is damaged and is ignored", path)
        return None


def sensitivity(
    profile: Profile,
    energy: EnergyModel,
    *,
    timesteps: int = 2,
    phis: tuple[int, ...] = PHIS,
    rhos: tuple[float, ...] = RHOS,
    cache: Path | None = None,
    on_branch: OnBranch | None = None,
) -> Sensitivity:
    """The sensitivity profile of a network around its largest φ, cached on disk.

    Args:
        profile: Profile of the network; it is measured on the calibration inputs, without labels.
        energy: Energy model.
        timesteps: T of calibration and measurement.
        phis: Values of φ; the base uses the largest.
        rhos: Values of ρ.
        cache: Folder of cached profiles; None uses the user's cache directory.
        on_branch: Called as branches finish.

    Raises:
        ConversionError: A layer's output is not finite, or memory runs out.
    """
    path = _place(profile, energy, timesteps, phis, rhos, cache)
    if (kept := _read(path)) is not None:
        return kept
    found = _measured(profile, energy, timesteps, phis, rhos, on_branch)
    try:
        write_file(path, json.dumps(found.to_dict()))
    except FileError as error:
        _LOG.warning("the sensitivity profile cannot be cached: %s", error)
    return found


def _fingerprint(profile: Profile, energy: EnergyModel, *method: Any) -> str:
    prices = {name: value for name, value in energy.to_dict().items() if name != "source"}
    whole = (_METHOD, profile.network.fingerprint, profile.data_fingerprint, prices, *method)
    return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()[:20]


_METHOD = "light, MMSE; 2"
"""Increased whenever the same input would give other figures."""


def _measured(
    profile: Profile,
    energy: EnergyModel,
    timesteps: int,
    phis: tuple[int, ...],
    rhos: tuple[float, ...],
    on_branch: OnBranch | None,
) -> Sensitivity:
    base = ConversionConfig.uniform(profile.layers, timesteps=timesteps, phi=max(phis))
    cells = [*((phi, 1.0) for phi in phis), *((max(phis), rho) for rho in rhos)]
    changes = [cell for cell in dict.fromkeys(cells) if cell != (max(phis), 1.0)]
    divergence: dict[tuple[str | None, int, float], np.ndarray] = {}
    energies: dict[tuple[str | None, int, float], np.ndarray] = {}
    layer_energy = np.zeros((len(profile.layers), timesteps))
    costs, ann = profile.costs, energy.ann_pj(profile.costs)

    def told(branch: Branch) -> None:
        nonlocal layer_energy
        phi, rho = (branch.config.phi, branch.config.rho) if branch.config else (max(phis), 1.0)
        key = (branch.layer, phi, rho)
        steps = [{n: answer[t] for n, answer in branch.answers.items()} for t in range(timesteps)]
        found = [profile.outputs.divergence(step, profile.expected).mean() for step in steps]
        divergence[key] = np.array([float(mean) for mean in found])
        prices = energy.prices(costs, branch.counts.bits)
        energies[key] = prices.run_pj(branch.counts).cpu().numpy() / ann
        if branch.layer is None:
            rows = [branch.counts.sources.index(layer) for layer in profile.layers]
            layer_energy = prices.by_source(branch.counts)[rows].cumsum(1).cpu().numpy() / ann
        if on_branch is not None:
            on_branch(len(divergence), len(changes) * len(profile.layers) + 1)

    alternatives = [LayerConfig(phi=phi, rho=rho) for phi, rho in changes]
    sweep(profile, base, alternatives, told)

    def table(found: dict[tuple[str | None, int, float], np.ndarray], line: Any) -> np.ndarray:
        unchanged = found[None, max(phis), 1.0]
        return np.array(
            [[found.get((layer, *cell), unchanged) for cell in line] for layer in profile.layers]
        )

    phi_line, rho_line = cells[: len(phis)], cells[len(phis) :]
    return Sensitivity(
        layers=tuple(profile.layers),
        base=base,
        phis=phis,
        rhos=rhos,
        phi_divergence=table(divergence, phi_line),
        phi_energy=table(energies, phi_line),
        rho_divergence=table(divergence, rho_line),
        rho_energy=table(energies, rho_line),
        divergence=divergence[None, max(phis), 1.0],
        energy=energies[None, max(phis), 1.0],
        layer_energy=layer_energy,
    )

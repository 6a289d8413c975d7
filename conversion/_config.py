"""The choices that make a spiking network out of an ANN."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, get_args

from conversion._errors import ConfigError
from conversion._exits import ExitPolicy
from conversion._thresholds import Granularity, ThresholdRule
from conversion.calibration import Calibration, Learned, Light, Segment, make_calibration
from conversion.neurons import NEURONS

PHI_MOST = 2**20
"""Largest φ: spikes are counted in float32, exact for whole numbers up to 2²⁴."""


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value < 2**31


@dataclass(frozen=True, kw_only=True)
class LayerConfig:
    """How a spiking layer fires.

    Attributes:
        phi: Maximum spikes per neuron and step, ≥ 1.
        rho: Factor on the calibrated threshold, ≥ 1.
        neuron: ``"adafire"``, ``"dual-threshold"``, or another name in ``NEURONS``.
    """

    phi: int = 1
    rho: float = 1.0
    neuron: str = "adafire"

    def __post_init__(self) -> None:
        if not (_is_count(self.phi) and self.phi <= PHI_MOST):
            raise ConfigError(f"phi must be a whole number in 1..{PHI_MOST:,}, got {self.phi!r}")
        if not (_is_number(self.rho) and 1 <= self.rho < 1e18):
            raise ConfigError(f"rho must be a finite number >= 1, got {self.rho!r}")
        if not isinstance(self.neuron, str) or self.neuron not in NEURONS:
            known = ", ".join(NEURONS)
            raise ConfigError(
                f"neuron must be one of {known}, got {self.neuron!r}; a plugin's neurons are"
                " available once it is imported (--plugin)"
            )


@dataclass(frozen=True, kw_only=True)
class ConversionConfig:
    """How every layer fires, and how the network is calibrated.

    Attributes:
        timesteps: T, the maximum number of steps per sample, ≥ 1.
        layers: One :class:`LayerConfig` per spiking layer.
        thresholds: ``"mmse"`` minimises the squared error of ClipFloor; ``"max"``: φ spikes per
            step represent the largest activation; ``"percentile"``: the 99.9th percentile.
        granularity: One threshold per ``"channel"`` or per ``"layer"``.
        calibration: A :class:`Calibration` such as ``Learned(iterations=50)``, or the name of one
            in ``CALIBRATIONS``.
        calibration_timesteps: T in the threshold formula and in the calibration pass; None uses
            ``timesteps``. With early exit most samples never reach the last step, so a smaller
            value fits better.
        v_init: Membrane potential before the first step, as a fraction of the threshold.
        bits: Width of integer weights, 2 to 16, with 16-bit potentials; None: floating point.
    """

    timesteps: int
    layers: Mapping[str, LayerConfig]
    thresholds: ThresholdRule = "mmse"
    granularity: Granularity = "channel"
    calibration: Calibration = field(default_factory=Light)
    calibration_timesteps: int | None = None
    v_init: float = 0.5
    bits: int | None = None

    def __post_init__(self) -> None:
        for name in ("timesteps", "calibration_timesteps"):
            value, optional = getattr(self, name), name == "calibration_timesteps"
            if not ((optional and value is None) or _is_count(value)):
                raise ConfigError(f"{name} must be a whole number >= 1, got {value!r}")
        for name, layer in dict(self.layers).items():
            if not (isinstance(name, str) and isinstance(layer, LayerConfig)):
                raise ConfigError(
                    f"layers must map layer names to LayerConfig, got {type(name).__name__}:"
                    f" {type(layer).__name__}; profile(model, data).layers has the names"
                )
        kinds = {"thresholds": ThresholdRule, "granularity": Granularity}
        for name, kind in kinds.items():
            value, known = getattr(self, name), get_args(kind)
            if value not in known:
                raise ConfigError(f"{name} must be one of {', '.join(known)}, got {value!r}")
        object.__setattr__(self, "calibration", make_calibration(self.calibration))
        if not (_is_number(self.v_init) and 0 <= self.v_init <= 1):
            raise ConfigError(f"v_init must be within 0..1 thresholds, got {self.v_init!r}")
        if self.bits is not None and not (_is_count(self.bits) and 2 <= self.bits <= 16):
            raise ConfigError(
                f"bits must be a whole number within 2..16 or None, got {self.bits!r}"
            )

    @property
    def steps_of_calibration(self) -> int:
        """T used for thresholds and calibration."""
        return self.calibration_timesteps or self.timesteps

    @classmethod
    def uniform(
        cls,
        layers: Iterable[str],
        *,
        timesteps: int,
        phi: int = 1,
        rho: float = 1.0,
        neuron: str = "adafire",
        **options: Any,
    ) -> ConversionConfig:
        """A config with the same φ, ρ and neuron in every layer."""
        layer = LayerConfig(phi=phi, rho=rho, neuron=neuron)
        return cls(timesteps=timesteps, layers=dict.fromkeys(layers, layer), **options)

    def quantised(self) -> ConversionConfig:
        """The ANN with ClipFloor activations of the same number of levels, as a one-step config.

        A neuron that may fire φ·T times in a single step rounds its activation to the levels that T
        steps can represent; only the timing of the spikes differs. It costs one step instead of T.

        Raises:
            ConfigError: The thresholds are calibrated for another T, so the levels would differ.
        """
        if self.steps_of_calibration != self.timesteps:
            raise ConfigError("a config calibrated at another T cannot be quantised")
        layers = {
            name: replace(layer, phi=layer.phi * self.timesteps)
            for name, layer in self.layers.items()
        }
        return replace(self, timesteps=1, calibration_timesteps=1, layers=layers)

    @property
    def lineage(self) -> tuple[Segment, ...]:
        """The learning segments that precede its own, oldest first."""
        return getattr(self.calibration, "before", ())

    def goes_on_from(self) -> ConversionConfig | None:
        """The config whose learned state this one continues, or None.

        This is the config of the previous segment, with the same φ and ρ.
        """
        if not self.lineage:
            return None
        last = self.lineage[-1]
        layers = {n: replace(layer, neuron=last.neuron) for n, layer in self.layers.items()}
        calibration = make_calibration(
            last.calibration,
            iterations=last.iterations,
            energy_weight=last.energy_weight,
            label_weight=last.label_weight,
            rate=last.rate,
            before=self.lineage[:-1],
        )
        return replace(
            self,
            timesteps=last.timesteps,
            calibration_timesteps=last.timesteps,
            layers=layers,
            calibration=calibration,
        )

    def segment(self) -> Segment:
        """This config's learning as a segment that another config can continue.

        Raises:
            ConfigError: It does not learn in segments, or its layers have different neurons.
        """
        calibration, neurons = self.calibration, {layer.neuron for layer in self.layers.values()}
        if not isinstance(calibration, Learned) or len(neurons) != 1:
            raise ConfigError(
                "a segment needs a learned calibration and one kind of neuron, got"
                f" {calibration.name!r} and {sorted(neurons)}"
            )
        return Segment(
            calibration=calibration.name,
            timesteps=self.steps_of_calibration,
            neuron=neurons.pop(),
            iterations=calibration.iterations,
            energy_weight=calibration.energy_weight,
            label_weight=calibration.label_weight,
            rate=calibration.rate,
        )

    def without_steps(self) -> ConversionConfig:
        """The same config for all configs that are calibrated alike and differ only in T."""
        steps = self.steps_of_calibration
        return replace(self, timesteps=steps, calibration_timesteps=steps)

    def check_layers(self, names: Iterable[str]) -> None:
        """Raise :class:`ConfigError` unless the config covers exactly these layers."""
        names = list(names)
        unknown = [name for name in self.layers if name not in names]
        missing = [name for name in names if name not in self.layers]
        if unknown:
            raise ConfigError(
                f"unknown layer {unknown[0]!r} in the config; the network has: {', '.join(names)}"
            )
        if missing:
            raise ConfigError(f"the config has no entry for layer {missing[0]!r}")

    def to_dict(self) -> dict[str, Any]:
        """Convert to JSON-serialisable values."""
        layers = {name: asdict(layer) for name, layer in self.layers.items()}
        values = {**vars(self), "layers": layers, "calibration": self.calibration.to_dict()}
        if self.bits is None:  # for older configs, whose text names learned states
            del values["bits"]
        return values

    def to_json(self) -> str:
        """One line of JSON; equal configs give equal lines."""
        return json.dumps(self.to_dict(), sort_keys=True)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ConversionConfig:
        """Rebuild from the output of :meth:`to_dict`.

        Raises:
            ConfigError: A field is missing, unknown or out of range.
        """
        try:
            layers = {name: LayerConfig(**layer) for name, layer in values["layers"].items()}
            return cls(**{**values, "layers": layers})
        except (TypeError, KeyError, AttributeError) as error:
            raise ConfigError(f"malformed conversion config: {error}") from error


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One point of the search space: the conversion, and when a sample may exit."""

    conversion: ConversionConfig
    exit: ExitPolicy

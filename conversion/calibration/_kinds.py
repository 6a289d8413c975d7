"""The ways to calibrate: one config class each, by name, made of steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from conversion._errors import ConfigError
from conversion.calibration._learn import Learn, TuneWeights
from conversion.calibration._steps import Correct, Step

CALIBRATIONS: dict[str, type[Calibration]] = {}
"""Calibrations by the name that a config gives them; :func:`register_calibration` adds one."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """How a network is calibrated: fields are its options, :meth:`steps` is what it does.

    Attributes:
        name: Its name in configs and on the command line.
        summary: What it does, in a few words, for ``--help``.
    """

    name: ClassVar[str]
    summary: ClassVar[str]

    @property
    def steps(self) -> tuple[Step, ...]:
        """The steps, in order."""
        return ()

    @property
    def learns(self) -> bool:
        """Whether it learns by gradient descent, on batches that the caller may provide."""
        return any(step.learns for step in self.steps)

    @property
    def saves(self) -> tuple[str, ...]:
        """Kinds of tensors it adds to a deployed config, such as ``"weight"``."""
        return tuple(kind for step in self.steps for kind in step.saves)

    @property
    def correction(self) -> Correct | None:
        """Its only step if one pass over the data suffices; None without any.

        Raises:
            ConfigError: It takes more than one pass.
        """
        if not self.steps:
            return None
        if len(self.steps) == 1 and isinstance(self.steps[0], Correct):
            return self.steps[0]
        raise ConfigError(f"a calibration in one pass is needed, but {self.name!r} takes several")

    @classmethod
    def options(cls) -> tuple[str, ...]:
        """Names of its options."""
        return tuple(cls.__dataclass_fields__)

    @classmethod
    def weighs_energy(cls) -> bool:
        """Whether it trades divergence for energy at a price that a search may choose."""
        return "energy_weight" in cls.options()

    @classmethod
    def continues(cls) -> bool:
        """Whether it can continue from an earlier learned state."""
        return "before" in cls.options()

    def to_dict(self) -> dict[str, Any]:
        """Convert to JSON-serialisable values, including its name."""
        return {"name": self.name, **asdict(self)}


def register_calibration(kind: type[Calibration]) -> type[Calibration]:
    """Register a calibration under its name; works as a class decorator."""
    CALIBRATIONS[kind.name] = kind
    return kind


def make_calibration(given: Calibration | str | Mapping[str, Any], **options: Any) -> Calibration:
    """Make a calibration from its name or from :meth:`Calibration.to_dict`.

    Raises:
        ConfigError: The name or an option is unknown.
    """
    if isinstance(given, Calibration):
        return given
    values = dict(given) if isinstance(given, Mapping) else {"name": given}
    name = values.pop("name", None)
    if not isinstance(name, str) or name not in CALIBRATIONS:
        raise ConfigError(f"calibration must be one of {', '.join(CALIBRATIONS)}, got {name!r}")
    values |= options
    known = CALIBRATIONS[name].options()
    if unknown := [option for option in values if option not in known]:
        raise ConfigError(f"calibration {name!r} has no option {unknown[0]!r}")
    return CALIBRATIONS[name](**values)


def _check_iterations(value: object) -> None:
    if not (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
        raise ConfigError(f"iterations must be a whole number >= 1, got {value!r}")


@register_calibration
@dataclass(frozen=True, kw_only=True)
class Light(Calibration):
    """Shifts the bias of each channel (Li et al., ICML 2021, Sec. 4.2)."""

    name = "light"
    summary = "corrects biases"

    @property
    def steps(self) -> tuple[Step, ...]:
        """One pass."""
        return (Correct(),)


@register_calibration
@dataclass(frozen=True, kw_only=True)
class Advanced(Calibration):
    """Light, then the initial potential of each neuron (ibid., Sec. 4.3)."""

    name = "advanced"
    summary = "also the initial potentials"

    @property
    def steps(self) -> tuple[Step, ...]:
        """One pass."""
        return (Correct(potentials=True),)


@register_calibration
@dataclass(frozen=True, kw_only=True)
class NoCalibration(Calibration):
    """Thresholds only."""

    name = "none"
    summary = "thresholds alone"


@register_calibration
@dataclass(frozen=True, kw_only=True)
class Tuned(Calibration):
    """Light, the weights of each layer (ibid., Sec. 4.3), then biases and potentials again.

    Attributes:
        iterations: Gradient steps.
    """

    name = "tuned"
    summary = "also the weights, by gradient"

    iterations: int = 100

    def __post_init__(self) -> None:
        _check_iterations(self.iterations)

    @property
    def steps(self) -> tuple[Step, ...]:
        """Three."""
        tune = TuneWeights(iterations=self.iterations)
        return (Correct(), tune, Correct(potentials=True))


@dataclass(frozen=True, kw_only=True)
class Segment:
    """One earlier stretch of learning: what was learned, with which options, and how long.

    Attributes:
        calibration: Name of the calibration, which says what was learned.
        timesteps: T of learning; in the first segment also of thresholds and biases.
        neuron: Kind of neuron in all layers.
        iterations: Gradient steps.
        energy_weight: The price of energy.
        label_weight: Weight of the labels.
        rate: Factor on the learning rate of the weights.
    """

    calibration: str
    timesteps: int
    neuron: str
    iterations: int
    energy_weight: float
    label_weight: float = 0.0
    rate: float = 1.0

    def __post_init__(self) -> None:
        if self.calibration not in CALIBRATIONS or not CALIBRATIONS[self.calibration].continues():
            raise ConfigError(
                f"a segment needs a calibration that learns, got {self.calibration!r}"
            )
        if not (isinstance(self.timesteps, int) and self.timesteps >= 1):
            raise ConfigError(f"timesteps must be a whole number >= 1, got {self.timesteps!r}")
        _check_iterations(self.iterations)
        _check_price("energy_weight", self.energy_weight)
        _check_price("label_weight", self.label_weight)
        _check_price("rate", self.rate)


@register_calibration
@dataclass(frozen=True, kw_only=True)
class Learned(Calibration):
    """Light, then thresholds, biases and potentials learned end to end by gradient descent.

    It can continue from an earlier learned state at another price of energy, T or neuron.
    ``before`` then lists the earlier segments, oldest first; :meth:`steps` covers only its own
    learning.

    Attributes:
        iterations: Gradient steps.
        energy_weight: The price of energy: nats of divergence per synaptic operation per MAC of
            the ANN, ≥ 0.
        label_weight: Weight of the cross-entropy with the labels, ≥ 0; 0 needs no labels.
        rate: Factor on the learning rate of the weights, which is 0.7 % of their spread per step.
        before: The segments it continues, oldest first.
    """

    name = "learned"
    summary = "learns thresholds, biases and potentials by gradient"
    weights: ClassVar[bool] = False

    iterations: int = 100
    energy_weight: float = 0.0
    label_weight: float = 0.0
    rate: float = 1.0
    before: tuple[Segment, ...] = ()

    def __post_init__(self) -> None:
        _check_iterations(self.iterations)
        _check_price("energy_weight", self.energy_weight)
        _check_price("label_weight", self.label_weight)
        _check_price("rate", self.rate)
        try:
            before = tuple(s if isinstance(s, Segment) else Segment(**s) for s in self.before)
        except TypeError as error:
            raise ConfigError(f"before must be segments of learning: {error}") from error
        object.__setattr__(self, "before", before)

    @property
    def steps(self) -> tuple[Step, ...]:
        """Light, in the first segment only; then learning."""
        learn = Learn(
            iterations=self.iterations,
            energy_weight=self.energy_weight,
            label_weight=self.label_weight,
            weights=self.weights,
            rate=self.rate,
        )
        return (learn,) if self.before else (Correct(), learn)

    @property
    def saves(self) -> tuple[str, ...]:
        """Weights, if this or an earlier segment learned them."""
        kinds = [type(self), *(CALIBRATIONS[segment.calibration] for segment in self.before)]
        learned = any(issubclass(kind, Learned) and kind.weights for kind in kinds)
        return ("weight",) if learned else ()


@register_calibration
@dataclass(frozen=True, kw_only=True)
class LearnedWeights(Learned):
    """Like :class:`Learned`, and also learns the weights."""

    name = "learned-weights"
    summary = "also learns the weights"
    weights = True


def _check_price(name: str, value: object) -> None:
    if not (isinstance(value, (int, float)) and 0 <= value < float("inf")):
        raise ConfigError(f"{name} must be finite and >= 0, got {value!r}")

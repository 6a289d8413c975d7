"""What a chip can hold and do: limits as data, each with its source."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from importlib import resources
from pathlib import Path
from typing import Any

from conversion._errors import ConfigError, check_fields
from conversion._files import read_file

_MOST, _MOST_CORES = 2**48, 2**16


@dataclass(frozen=True, kw_only=True)
class Core:
    """A kind of core.

    Attributes:
        count: How many there are.
        weights: Words of weight memory.
        neurons: Words of neuron memory.
        biases: Words of bias memory.
    """

    count: int
    weights: int
    neurons: int
    biases: int

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if type(value) is not int or not 0 <= value <= _MOST:
                raise ConfigError(f"{name} of a core must be a whole number >= 0, got {value!r}")
        if self.count > _MOST_CORES:
            raise ConfigError(f"count of a core must be at most {_MOST_CORES}, got {self.count!r}")


@dataclass(frozen=True, kw_only=True)
class Target:
    """Limits of a chip, or of what compiles for it; None: there is none, or none is known.

    Attributes:
        name: On the command line.
        title: In words.
        source: Where the limits come from.
        phi: Maximum spikes per neuron and step.
        analog_input: Whether a first layer may work on values that are no spikes.
        graded: Whether a spike carries a number.
        spike_bits: Of such a number.
        negative_spikes: Whether a neuron may fire −1.
        max_pool: Whether spikes can be max-pooled.
        ceilings: Whether a neuron can count how often it fired (ReLU6).
        convolutions: Whether it knows convolutions, or only dense connections.
        shortcuts: Whether two layers may meet in a sum.
        weight_bits, state_bits, threshold_bits: Widths of integers.
        kernel: Largest side of a kernel.
        strides: Strides that there are.
        padding: Largest padding.
        pools: Sides of pooling windows that there are; a pool works after a layer's spikes.
        input_size, output_size: Largest height and width of a layer's input and output.
        channels: Most channels.
        destinations: To how many layers one can send.
        memory: ``"powers of two"``: sizes are rounded up as Speck's are; ``"plain"``: they count.
        cores: Each holds one layer; none: layers share the chip.
        neurons, synapses, inputs, outputs: Most in all.
        bytes: Of weights and potentials in all.
    """

    name: str
    title: str
    source: str
    phi: int | None = None
    analog_input: bool = True
    graded: bool = False
    spike_bits: int | None = None
    negative_spikes: bool = True
    max_pool: bool = True
    ceilings: bool = True
    convolutions: bool = True
    shortcuts: bool = True
    weight_bits: int | None = None
    state_bits: int | None = None
    threshold_bits: int | None = None
    kernel: int | None = None
    strides: tuple[int, ...] | None = None
    padding: int | None = None
    pools: tuple[int, ...] | None = None
    input_size: tuple[int, int] | None = None
    output_size: tuple[int, int] | None = None
    channels: int | None = None
    destinations: int | None = None
    memory: str = "plain"
    cores: tuple[Core, ...] = ()
    neurons: int | None = None
    synapses: int | None = None
    inputs: int | None = None
    outputs: int | None = None
    bytes: int | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value, kind = getattr(self, field.name), str(field.type)
            whole = kind.startswith("int") and value is not None
            if whole and (type(value) is not int or not 1 <= value <= _MOST):
                raise ConfigError(f"{field.name} must be a whole number >= 1, got {value!r}")
            if kind == "bool" and type(value) is not bool:
                raise ConfigError(f"{field.name} must be true or false, got {value!r}")
            if kind == "str" and not isinstance(value, str):
                raise ConfigError(f"{field.name} must be a string, got {value!r}")
        if self.memory not in MEMORIES:
            raise ConfigError(f"memory must be one of {', '.join(MEMORIES)}, got {self.memory!r}")

    @property
    def most_spikes(self) -> int | None:
        """Largest φ that a spike, or so many spikes of a step, can carry."""
        if self.phi is None and self.graded and self.spike_bits is not None:
            return int(2**self.spike_bits - 1)
        return self.phi

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Target:
        """From the fields of a file.

        Raises:
            ConfigError: A field is missing, unknown or out of range.
        """
        found = dict(values)
        try:
            for name in ("strides", "pools", "input_size", "output_size"):
                if name in found:
                    found[name] = _whole_numbers(name, found[name])
            cores = found.pop("cores", ())
            for core in cores:
                check_fields(Core, core, "a core")
            check_fields(cls, found, "a target")
            return cls(**found, cores=tuple(Core(**core) for core in cores))
        except (TypeError, ValueError) as error:
            if isinstance(error, ConfigError):
                raise
            raise ConfigError(f"malformed target: {error}") from error


def _whole_numbers(name: str, values: Any) -> tuple[int, ...]:
    numbers = isinstance(values, list) and all(type(n) is int and 1 <= n <= _MOST for n in values)
    if not numbers or (name.endswith("size") and len(values) != 2):
        raise ConfigError(f"{name} must be a list of whole numbers >= 1, got {values!r}")
    return tuple(values)


MEMORIES = ("plain", "powers of two")


def target(name: str | Path) -> Target:
    """The target of that name, or of a TOML file.

    Raises:
        ConfigError: The name is unknown (the message lists the known ones), or the file is
            malformed.
        FileError: The file cannot be read.
    """
    if str(name).endswith(".toml"):
        try:
            return _read(read_file(name).decode("utf-8"))
        except (ConfigError, UnicodeDecodeError) as error:
            raise ConfigError(f"{name}: {error}") from error
    if name not in TARGETS:
        raise ConfigError(
            f"target {str(name)!r} is unknown; known: {', '.join(TARGETS)}, or a file.toml"
        )
    return TARGETS[str(name)]


def _read(text: str) -> Target:
    try:
        return Target.from_dict(tomllib.loads(text))
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"it is not TOML: {error}") from error


def _shipped() -> dict[str, Target]:
    folder = resources.files("conversion.targets").joinpath("data")
    files = sorted(folder.iterdir(), key=lambda file: file.name)
    found = [_read(f.read_text("utf-8")) for f in files if f.name.endswith(".toml")]
    return {one.name: one for one in found}


TARGETS = _shipped()
"""Targets by name: those that come with spikefront, then added ones."""

"""Energy models as data: kinds, the registry, and files of prices."""

from __future__ import annotations

import tomllib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from importlib import resources
from pathlib import Path
from typing import Any, ClassVar, Literal

from conversion._errors import ConfigError, check_fields
from conversion._files import read_file
from conversion.energy._costs import Costs
from conversion.energy._counts import Counts, MeanCounts
from conversion.energy._prices import Prices

Burst = Literal["count", "graded"]

INT8_MAC_PJ, INT8_ADD_PJ, INT16_ADD_PJ = 0.23, 0.03, 0.05
"""Horowitz, ISSCC 2014, 45 nm: int8 multiply 0.2 pJ + add 0.03 pJ; int16 add 0.05 pJ."""


_DEAREST_PJ = 1e15
"""A kilojoule: no operation costs as much, and sums of what is below stay finite."""

_MOST = 2**31


@dataclass(frozen=True, kw_only=True)
class EnergyModel(ABC):
    """Prices of operations in pJ, with their source; each kind of model defines how they add up.

    Add your own to :data:`ENERGY_MODELS` under its name, or write it as a TOML file. Studies and
    deployed configs store the whole model.

    Attributes:
        name: Name used on the command line and in every report.
        burst: ``"count"``: n spikes of a burst are n events; ``"graded"``: a burst is one event.
        source: Where the prices come from.
        leaves_out: What the model does not count.
        node_nm: Process node in nm, or None.
    """

    kind: ClassVar[str]

    name: str
    burst: Burst = "count"
    source: str = ""
    leaves_out: str = ""
    node_nm: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise ConfigError(f"an energy model needs a name, got {self.name!r}")
        if self.burst not in ("count", "graded"):
            raise ConfigError(f"burst must be 'count' or 'graded', got {self.burst!r}")
        for field in fields(self):
            value, kind = getattr(self, field.name), str(field.type)
            if value is None and "None" in kind:
                continue
            if kind.startswith("float"):
                self._check_price(field.name, value)
            elif kind.startswith("int") and not (type(value) is int and 0 <= value <= _MOST):
                raise ConfigError(
                    f"{field.name} of {self.name!r} must be a whole number >= 0, got {value!r}"
                )
            elif kind == "str" and not isinstance(value, str):
                raise ConfigError(
                    f"{field.name} of an energy model must be a string, got {value!r}"
                )

    def _check_price(self, name: str, value: Any) -> None:
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        least = 0 if name in self._may_be_free() else None
        if not number or not (value == least or 0 < value < _DEAREST_PJ):
            rule = ">= 0" if least == 0 else "> 0"
            raise ConfigError(
                f"energy prices must be finite and {rule}, got {name}={value!r} of {self.name!r}"
            )

    @classmethod
    def _may_be_free(cls) -> Sequence[str]:
        return ()

    @abstractmethod
    def prices(self, costs: Costs, bits: Sequence[int]) -> Prices:
        """Prices of the operations of a network.

        Args:
            costs: Costs of the network.
            bits: Width of a graded event of each source, as in ``Counts.bits``.
        """

    def prices_of(self, costs: Costs, counts: Counts | MeanCounts) -> Prices:
        """Prices for a run with these counts."""
        model = self if counts.weight_bits is None else self.in_integers(counts.weight_bits)
        return model.prices(costs, counts.bits)

    def in_integers(self, bits: int) -> EnergyModel:
        """This model for weights of the given width and 16-bit potentials."""
        return self

    @abstractmethod
    def ann_pj(
        self, costs: Costs, *, int8: bool = False, bits: Mapping[str, int] | None = None
    ) -> float:
        """Energy of one inference of the ANN, pJ.

        Args:
            costs: Costs of the network.
            int8: Price the ANN with int8 weights and activations instead of the model's own.
            bits: Width of the activations that each operator reads, if narrower.
        """

    def ann_by_operator(self, costs: Costs) -> dict[str, float]:
        """Energy of one inference of the ANN by operator, pJ; sums to :meth:`ann_pj`."""
        each = self.ann_pj(costs) / max(costs.ann_macs, 1)
        return {name: op.macs * each for name, op in costs.operators.items()}

    def once_by_operator(self, costs: Costs) -> dict[str, float]:
        """Energy spent once on the analog input, by operator, pJ; sums to ``Prices.once``."""
        found = self.ann_by_operator(costs)
        return {n: found[n] for n, op in costs.operators.items() if op.stage == "stem"}

    def step_by_operator(self, costs: Costs) -> dict[str, float]:
        """Energy of a step that does not depend on spikes, by operator or neurons, pJ.

        Sums to ``Prices.step``; empty if the model does not break it down.
        """
        return {}

    @property
    def summary(self) -> str:
        """The prices in one line."""
        words = ("name", "source", "leaves_out", "node_nm", "burst")
        prices = {n: v for n, v in asdict(self).items() if n not in words and v is not None}
        found = [_IN_WORDS.get(n, n + " {:g}").format(v) for n, v in prices.items() if v]
        burst = {"count": "a burst of n spikes counts as n events",
                 "graded": "a burst counts as one event"}[self.burst]  # fmt: skip
        return ", ".join(found) + f"; {burst}"

    def to_dict(self) -> dict[str, Any]:
        """Convert to JSON-serialisable values."""
        return {"kind": self.kind, **asdict(self)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> EnergyModel:
        """Rebuild from the output of :meth:`to_dict`.

        Raises:
            ConfigError: A field is missing, unknown or out of range.
        """
        fields = dict(values)
        kind = fields.pop("kind", "operations")  # as 0.1.0 had no other
        if kind not in ENERGY_KINDS:
            raise ConfigError(
                f"energy models of kind {kind!r} are unknown; known: {', '.join(ENERGY_KINDS)}"
            )
        shipped = ENERGY_MODELS.get(str(fields.get("name")))
        if kind == "operations" and "multiplier_bits" not in fields and shipped is not None:
            # Studies of 0.1.0 began without it.
            fields["multiplier_bits"] = getattr(shipped, "multiplier_bits", 24)
        check_fields(ENERGY_KINDS[kind], fields, f"an energy model of kind {kind!r}")
        try:
            return ENERGY_KINDS[kind](**fields)
        except TypeError as error:
            raise ConfigError(f"malformed energy model: {error}") from error


_IN_WORDS = {
    "mac_pj": "{:g} pJ per MAC on analog values",
    "ac_pj": "{:g} pJ per accumulate",
    "ann_mac_pj": "{:g} pJ per MAC of the ANN",
    "multiplier_bits": "a multiplier of {:g} bits",
    "synop_pj": "{:g} pJ per synaptic operation",
    "update_pj": "{:g} pJ per update of a neuron",
    "spike_pj": "{:g} pJ per spike",
    "step_pj": "{:g} pJ per step",
    "add_pj": "{:g} pJ per addition",
    "multiply_pj": "{:g} pJ per multiplication",
    "bits": "values of {:g} bits",
    "sram_pj": "{:g} pJ per access to SRAM",
    "sram_pj_per_bit": "{:g} pJ more for each bit that it holds",
    "int8_add_pj": "{:g} pJ per int8 addition",
    "int8_multiply_pj": "{:g} pJ per int8 multiplication",
    "bus_bits": "a bus of {:g} bits",
}
"""Descriptions of the models' fields."""

ENERGY_KINDS: dict[str, type[EnergyModel]] = {}


def energy_kind(kind: type[EnergyModel]) -> type[EnergyModel]:
    """Register a kind of energy model under its name."""
    ENERGY_KINDS[kind.kind] = kind
    return kind


def mac_pj(whole: float, add: float, bits: int | None, width: int) -> float:
    """A multiply-accumulate with activations of a number of bits, in pJ.

    An array multiplier's energy grows with the product of the widths of its operands: the weights
    stay as wide as they are, activations of fewer bits take that share of the multiplier.

    Args:
        whole: Energy with activations as wide as the multiplier, pJ.
        add: Energy of the addition in it, pJ.
        bits: Width of the activations; None: as wide as the multiplier.
        width: Width of the multiplier, in bits.
    """
    share = 1.0 if bits is None else min(1.0, bits / width)
    return add + (whole - add) * share


ENERGY_MODELS: dict[str, EnergyModel] = {}
"""Energy models by name: spikefront's own, then registered ones."""


def load_energy_models() -> None:
    """Read the models that come with spikefront."""
    for file in sorted(resources.files("conversion.energy").joinpath("models").iterdir(), key=str):
        if file.name.endswith(".toml"):
            for model in _models_in(file.read_text("utf-8"), file.name):
                ENERGY_MODELS[model.name] = model


def energy_model(name: str | Path) -> EnergyModel:
    """Look up an energy model by name, or read it from a TOML file.

    Raises:
        ConfigError: The name is unknown (the message lists the known ones), or the file is
            malformed.
        FileError: The file cannot be read.
    """
    if str(name).endswith(".toml"):
        models = _models_in(_text(Path(name)), str(name))
        if len(models) != 1:
            raise ConfigError(f"{name} must hold one energy model, it holds {len(models)}")
        return models[0]
    if name not in ENERGY_MODELS:
        raise ConfigError(
            f"energy model {str(name)!r} is unknown; known: {', '.join(ENERGY_MODELS)}, or a"
            " file.toml"
        )
    return ENERGY_MODELS[str(name)]


def _text(path: Path) -> str:
    try:
        return read_file(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not text in UTF-8") from error


def _models_in(text: str, where: str) -> list[EnergyModel]:
    """A file holds one model, or a table of prices for each name."""
    try:
        found = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"{where} is not TOML: {error}") from error
    tables = [found] if "kind" in found else list(found.values())
    models = []
    for table in tables:
        if not isinstance(table, dict) or "kind" not in table:
            raise ConfigError(
                f"{where} has an energy model without a kind; kinds: {', '.join(ENERGY_KINDS)}"
            )
        try:
            models.append(EnergyModel.from_dict(table))
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from error
    return models

"""What conversion, search and reports ask of a network's outputs, whatever their kind."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, Literal, TypeVar

from torch import Tensor

from conversion._errors import ConfigError, ConversionError

Answers = Mapping[str, Tensor]
"""The tensors that a network returns, by name, each with the samples in front."""

Score = Literal["entropy", "top1", "margin"]

_Kind = TypeVar("_Kind", bound="type[Outputs]")

OUTPUTS: dict[str, type[Outputs]] = {}
"""The kinds of outputs by name; a subclass of :class:`Outputs` with a ``kind`` enters itself."""


@dataclass(frozen=True, kw_only=True)
class Outputs(ABC):
    """How a network's outputs are interpreted.

    To add a kind, subclass this as a frozen dataclass with JSON-serialisable fields. A deployed
    config stores ``kind`` and the fields.

    Attributes:
        kind: Its name.
        scores: Names of its confidence scores. Without any there is no early exit: every sample
            runs T steps.
        note: What readers of a report need to know about them.
        output: Name or position of the main output; None uses the only one, or the one called
            ``out`` or ``logits``.
    """

    kind: ClassVar[str] = ""
    scores: ClassVar[tuple[Score, ...]] = ()
    note: ClassVar[str] = ""

    output: str | int | None = None

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if cls.kind:
            OUTPUTS[cls.kind] = cls

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not isinstance(value, (type(None), str, int, float)):
                raise ConfigError(f"{name} of outputs must be a name or a number, got {value!r}")

    def chosen(self, names: Mapping[str, int]) -> Outputs:
        """Resolve ``output`` for a network that returns tensors of these names and positions.

        Raises:
            ConversionError: There is no such output, or the choice is ambiguous.
        """
        return replace(self, output=find_output(self.output, names))

    def fitted(self, answers: Callable[[], Answers]) -> Outputs:
        """The outputs fitted to the ANN's answers on the calibration data, where they need it."""
        return self

    def main(self, answers: Answers) -> Tensor:
        """The main output, ``(N, ...)``."""
        return answers[str(self.output)]

    def read(self, answers: Answers) -> list[Tensor]:
        """All outputs that are used."""
        return [self.main(answers)]

    def answer(self, answers: Answers) -> Any:
        """The outputs that a metric receives."""
        return self.main(answers)

    def confidence(self, answers: Answers, score: Score) -> Tensor:
        """Confidence in each sample, ``(N,)``, in 0..1.

        Raises:
            ConfigError: Outputs of this kind do not have this score.
        """
        raise ConfigError(f"{self.kind} outputs have no confidence {score!r} to exit by")

    @property
    def score(self) -> Score | None:
        """The score that a search uses for early exit: entropy, if available."""
        return "entropy" if "entropy" in self.scores else next(iter(self.scores), None)

    def decisions(self, answers: Answers) -> Tensor | None:
        """The class at each position, ``(N, positions)``; None if outputs are not classes."""
        return None

    def agreement(self, answers: Answers, expected: Answers) -> Tensor:
        """Share of a sample's decisions that equal the ANN's, ``(N,)``; 1 if there are none.

        Args:
            answers: Outputs of the spiking network.
            expected: Outputs of the ANN.
        """
        answer = self.main(answers)
        return answer.new_ones(len(answer))

    @abstractmethod
    def divergence(self, answers: Answers, expected: Answers) -> Tensor:
        """Divergence of each sample from the ANN, ``(N,)``, ≥ 0; it steers the search."""

    @abstractmethod
    def loss(self, answers: Answers, expected: Answers) -> Tensor:
        """The differentiable loss that learning minimises: one number, the mean over samples."""

    def label_loss(self, answers: Answers, labels: Tensor) -> Tensor:
        """The loss term of learning with labels: one number.

        Raises:
            ConfigError: Outputs of this kind, or these labels, do not allow it.
        """
        raise ConfigError(f"{self.kind} outputs cannot be learned by labels: use label_weight 0")

    def to_dict(self) -> dict[str, Any]:
        """Convert to JSON-serialisable values."""
        return {"kind": self.kind, **asdict(self)}


def outputs_of(given: Outputs | str | int | None) -> Outputs:
    """Make outputs from a user's argument: a name or position stands for :class:`Classes`."""
    if isinstance(given, Outputs):
        return given
    return OUTPUTS["classes"](output=given)


def outputs_from_dict(values: Mapping[str, Any]) -> Outputs:
    """The inverse of :meth:`Outputs.to_dict`.

    Raises:
        ConfigError: The kind is unknown, or does not have such fields.
    """
    fields = dict(values)
    kind = fields.pop("kind", None)
    if not isinstance(kind, str) or kind not in OUTPUTS:
        raise ConfigError(
            f"outputs of the kind {kind!r} are unknown; known: {', '.join(OUTPUTS)}; import the"
            " module that defines them first"
        )
    try:
        return OUTPUTS[kind](**fields)
    except TypeError as error:
        raise ConfigError(f"malformed outputs: {error}") from error


_USUAL = ("out", "logits")


def find_output(wanted: str | int | None, names: Mapping[str, int]) -> str:
    """The name of an output.

    Raises:
        ConversionError: There is none, or there are several and nothing says which.
    """
    if not names:
        raise ConversionError("the model returns no tensor")
    if wanted is not None:
        for name, place in names.items():
            if wanted in (name, place):
                return name
        raise ConversionError(f"the model has no output {wanted!r}; it returns {', '.join(names)}")
    usual = [name for name in names if name in _USUAL or len(names) == 1]
    if usual:
        return usual[0]
    raise ConversionError(
        f"the model returns several tensors: {', '.join(names)}; say which holds the logits, as in"
        f" outputs={next(iter(names))!r}, or in another kind of outputs by output=..."
    )

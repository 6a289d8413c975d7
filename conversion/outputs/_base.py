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
    """How the outputs of a network are read.

    A kind of your own is a frozen dataclass of JSON-able fields that subclasses this. A deployed
    config keeps it by ``kind`` and fields.

    Attributes:
        kind: Its name.
        scores: The confidences that it has; none means no early exit: every sample runs T steps.
        note: What a reader of a report must know of them.
        output: The output that answers: its name or position; None takes the only one, or the one
            called ``out`` or ``logits``.
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
        """These outputs of a network that returns tensors of these names, at these positions.

        Raises:
            ConversionError: It has no such output, or has several and nothing says which.
        """
        return replace(self, output=find_output(self.output, names))

    def fitted(self, answers: Callable[[], Answers]) -> Outputs:
        """These outputs, once they may ask for the ANN's answers to calibration data."""
        return self

    def main(self, answers: Answers) -> Tensor:
        """The output that answers, ``(N, ...)``."""
        return answers[str(self.output)]

    def read(self, answers: Answers) -> list[Tensor]:
        """Every output that plays a part."""
        return [self.main(answers)]

    def answer(self, answers: Answers) -> Any:
        """What a metric is shown."""
        return self.main(answers)

    def confidence(self, answers: Answers, score: Score) -> Tensor:
        """How sure the network is of each sample, ``(N,)``, in 0..1.

        Raises:
            ConfigError: Outputs of this kind have no such score.
        """
        raise ConfigError(f"{self.kind} outputs have no confidence {score!r} to exit by")

    @property
    def score(self) -> Score | None:
        """The confidence that a search exits by: entropy, where there is one."""
        return "entropy" if "entropy" in self.scores else next(iter(self.scores), None)

    def decisions(self, answers: Answers) -> Tensor | None:
        """The class at each position, ``(N, positions)``; None where no classes are told apart."""
        return None

    def agreement(self, answers: Answers, expected: Answers) -> Tensor:
        """Share of a sample's decisions that are the ANN's, ``(N,)``; 1 where nothing is decided.

        Args:
            answers: Of the spiking network.
            expected: Of the ANN.
        """
        answer = self.main(answers)
        return answer.new_ones(len(answer))

    @abstractmethod
    def divergence(self, answers: Answers, expected: Answers) -> Tensor:
        """How far each sample is from the ANN, ``(N,)``, at least 0; it steers the search."""

    @abstractmethod
    def loss(self, answers: Answers, expected: Answers) -> Tensor:
        """What learning makes small: one number, the mean over the samples; differentiable."""

    def label_loss(self, answers: Answers, labels: Tensor) -> Tensor:
        """What learning with labels adds: one number.

        Raises:
            ConfigError: Outputs of this kind cannot be learned by labels, or not by these.
        """
        raise ConfigError(f"{self.kind} outputs cannot be learned by labels: use label_weight 0")

    def to_dict(self) -> dict[str, Any]:
        """As JSON-able values."""
        return {"kind": self.kind, **asdict(self)}


def outputs_of(given: Outputs | str | int | None) -> Outputs:
    """Outputs from what a user gives: a name or position stands for classes."""
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

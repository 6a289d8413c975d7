"""What goes into a network, whatever its structure: tensors with the samples in front."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from conversion._errors import ConfigError, ConversionError

Feed = Literal["static", "frames", "events"]
"""How inputs come over time: the same at every step; or ``(N, T, ...)``, one frame a step, of
values or of events, which are spikes already."""

FEEDS: tuple[Feed, ...] = get_args(Feed)


@dataclass(frozen=True)
class Inputs:
    """Arguments of a network's ``forward`` for a batch of samples.

    Tensors may be nested in tuples, lists and dicts, with the samples in their first dimension.
    Anything that is not a tensor (None, numbers, flags) is treated as part of the network.

    Args:
        args: Positional arguments.
        kwargs: Keyword arguments.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    @classmethod
    def of(cls, given: Any) -> Inputs:
        """Make inputs from a tensor, a tuple of arguments, or a dict of keyword arguments.

        Raises:
            ConversionError: ``given`` is none of these, or holds no tensor.
        """
        if isinstance(given, Inputs):
            return given
        if isinstance(given, Tensor):
            return cls((given,), {})
        if isinstance(given, Mapping):
            made = cls((), dict(given))
        elif isinstance(given, (tuple, list)):
            made = cls(tuple(given), {})
        else:
            raise ConversionError(
                "inputs must be a tensor, a tuple of them, or a dict of keyword arguments, got"
                f" {type(given).__name__}"
            )
        if not made.tensors:
            raise ConversionError("the inputs hold no tensor")
        return made

    @property
    def tensors(self) -> list[Tensor]:
        """The tensors, in the order of their structure."""
        return [leaf for leaf in self._leaves() if isinstance(leaf, Tensor)]

    @property
    def device(self) -> torch.device:
        """Their device."""
        return self.tensors[0].device

    def with_tensors(self, tensors: Sequence[Tensor]) -> Inputs:
        """The same structure with other tensors."""
        leaves, spec = pytree.tree_flatten((self.args, dict(self.kwargs)))
        given = iter(tensors)
        filled = [next(given) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        args, kwargs = pytree.tree_unflatten(filled, spec)
        return Inputs(args, kwargs)

    def simulated(self) -> Inputs:
        """The inputs in the types and layout of a simulation: half precision becomes float32."""
        return self.with_tensors([laid_out(x.to(wide(x.dtype))) for x in self.tensors])

    def to(self, device: torch.device | str) -> Inputs:
        """On another device."""
        return self.with_tensors([x.to(device) for x in self.tensors])

    def split(self, size: int) -> Iterator[Inputs]:
        """Batches of at most ``size`` samples."""
        for parts in zip(*(x.split(size) for x in self.tensors), strict=True):
            yield self.with_tensors(parts)

    def __getitem__(self, index: Any) -> Inputs:
        """Some of the samples: a slice, or a tensor of positions."""
        return self.with_tensors([x[index] for x in self.tensors])

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.tensors[0])

    def signature(self) -> tuple[Any, ...]:
        """A key equal for all inputs of one network, whatever the number of samples."""
        leaves, spec = pytree.tree_flatten((self.args, dict(self.kwargs)))
        kinds = [
            (tuple(leaf.shape[1:]), wide(leaf.dtype)) if isinstance(leaf, Tensor) else leaf
            for leaf in leaves
        ]
        return (str(spec), *kinds)

    def check(self) -> None:
        """Raise :class:`ConversionError` unless all tensors have as many samples, ≥ 1."""
        sizes = {len(x) if x.dim() else None for x in self.tensors}
        if len(sizes) > 1 or None in sizes:
            shapes = ", ".join(str(tuple(x.shape)) for x in self.tensors)
            raise ConversionError(
                "every input tensor has the samples in its first dimension, got the shapes"
                f" {shapes}"
            )
        if sizes == {0}:
            raise ConversionError("the inputs hold no sample: the batch is empty")

    def to_spec(self) -> dict[str, Any]:
        """The structure in JSON-serialisable values, with the shape of one sample.

        Raises:
            ConversionError: It holds a value that JSON cannot represent.
        """
        return {"args": _spec(list(self.args)), "kwargs": _spec(dict(self.kwargs))}

    @classmethod
    def from_spec(cls, spec: Any, samples: int) -> Inputs:
        """Zeros in the structure of a :meth:`to_spec`.

        Raises:
            ConversionError: The spec is malformed.
        """
        if not (isinstance(spec, dict) and set(spec) == {"args", "kwargs"}):
            raise ConversionError("the inputs' structure needs args and kwargs")
        args, kwargs = _made(spec["args"], samples), _made(spec["kwargs"], samples)
        if not (isinstance(args, list) and isinstance(kwargs, dict)):
            raise ConversionError("the inputs' args must be a list, and their kwargs a dict")
        return cls(tuple(args), kwargs)

    def describe(self) -> str:
        """The shapes of one batch, for messages."""
        return ", ".join(f"(N{''.join(f', {size}' for size in x.shape[1:])})" for x in self.tensors)

    def _leaves(self) -> list[Any]:
        return pytree.tree_leaves((self.args, dict(self.kwargs)))


_PLAIN = (type(None), bool, int, float, str)
_TUPLE, _TENSOR = "tuple", "tensor"


def _spec(value: Any) -> Any:
    if isinstance(value, Tensor):
        dtype = str(value.dtype).removeprefix("torch.")
        return {_TENSOR: {"shape": list(value.shape[1:]), "dtype": dtype}}
    if isinstance(value, tuple):
        return {_TUPLE: [_spec(part) for part in value]}
    if isinstance(value, list):
        return [_spec(part) for part in value]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {"dict": {key: _spec(part) for key, part in value.items()}}
    if isinstance(value, _PLAIN):
        return value
    raise ConversionError(f"inputs that hold a {type(value).__name__} cannot be written as JSON")


def _made(spec: Any, samples: int) -> Any:
    if isinstance(spec, list):
        return [_made(part, samples) for part in spec]
    if isinstance(spec, _PLAIN):
        return spec
    if isinstance(spec, dict) and len(spec) == 1:
        kind, value = next(iter(spec.items()))
        if kind == _TENSOR:
            return _zeros(value, samples)
        if kind == _TUPLE and isinstance(value, list):
            return tuple(_made(part, samples) for part in value)
        if kind == "dict" and isinstance(value, dict):
            return {key: _made(part, samples) for key, part in value.items()}
    raise ConversionError(f"the inputs' structure has an unknown part: {str(spec)[:60]}")


_LARGEST = 2**28
"""Most values of one input: a config that asks for more is damaged."""


def _zeros(spec: Any, samples: int) -> Tensor:
    try:
        shape, dtype = list(spec["shape"]), getattr(torch, spec["dtype"])
        whole = all(type(n) is int and n >= 0 for n in shape)
        if not (whole and isinstance(dtype, torch.dtype) and prod(shape) <= _LARGEST):
            raise ValueError(spec)
        return torch.zeros((samples, *shape), dtype=dtype)
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise ConversionError(f"the inputs' structure has no tensor {str(spec)[:60]}") from error


def wide(dtype: torch.dtype) -> torch.dtype:
    """The type in which a network of that type is simulated."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def laid_out(x: Tensor) -> Tensor:
    """Contiguous; images channels last, which is measured 2 to 3 times faster on a CPU."""
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x.contiguous()


def gather(data: Any) -> Inputs:
    """All samples of some data, with the labels left out.

    Args:
        data: Inputs, or batches: of inputs, or pairs ``(inputs, labels)``.

    Raises:
        ConfigError: There is no sample, or batches differ in their shapes.
        ConversionError: A batch is not what inputs can be.
    """
    batches = [Inputs.of(data)] if isinstance(data, (Tensor, Inputs)) else list(batches_of(data))
    batches = [batch for batch in batches if len(batch)]
    if not batches:
        raise ConfigError("the calibration data is empty; give at least one batch of inputs")
    first = batches[0]
    for batch in batches:
        if batch.signature() != first.signature():
            raise ConfigError(
                f"the batches of the calibration data differ: {first.describe()} and"
                f" {batch.describe()}; samples must have one shape and type, and several inputs of"
                " one network go together as Inputs((a, b), {})"
            )
    tensors = zip(*(batch.tensors for batch in batches), strict=True)
    return first.with_tensors([torch.cat(parts) for parts in tensors])


def labelled_batches(data: Any) -> Iterator[tuple[Inputs, Any]]:
    """Each batch of some data as inputs and labels; the labels are None where there are none.

    Raises:
        ConversionError: The data cannot be gone through, or a batch is not what inputs can be.
    """
    try:
        batches = iter(data)
    except TypeError as error:
        raise ConversionError(
            f"data must be inputs or an iterable of batches, got {type(data).__name__}"
        ) from error
    for batch in batches:
        pair = isinstance(batch, (tuple, list))
        if pair and not batch:
            raise ConversionError("a batch of the data is an empty tuple")
        yield Inputs.of(batch[0] if pair else batch), batch[1] if pair and len(batch) > 1 else None


def batches_of(data: Any) -> Iterator[Inputs]:
    """The inputs of each batch of some data: the first of a pair ``(inputs, labels)``."""
    return (inputs for inputs, _ in labelled_batches(data))

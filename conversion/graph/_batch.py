"""Which dimension of a value holds the samples, known from the symbolic size of the batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from torch import Tensor


@dataclass(frozen=True)
class Axis:
    """Where the samples of a value are: in dimension ``dim``, of size ``outer · N · inner``.

    A reshape may merge the samples with what lies before (``outer``) or behind (``inner``), as
    ``(L, N, C) -> (L·N, C)`` does.
    """

    dim: int
    outer: int = 1
    inner: int = 1

    @property
    def is_first(self) -> bool:
        """Whether the samples are the whole first dimension."""
        return self == Axis(0)

    def front(self, x: Tensor) -> Tensor:
        """The value with the samples in front, ``(N, ...)``."""
        if self.is_first:
            return x
        if self.outer == self.inner == 1:
            return x.movedim(self.dim, 0)
        parts: Tensor = x.unflatten(self.dim, (self.outer, -1, self.inner)).movedim(self.dim + 1, 0)
        ones = [self.dim + 1 + i for i, n in enumerate((self.outer, self.inner)) if n == 1]
        return parts.squeeze(ones)

    def back(self, x: Tensor) -> Tensor:
        """The inverse of :meth:`front`."""
        if self.is_first:
            return x
        if self.outer == self.inner == 1:
            return x.movedim(0, self.dim)
        if self.outer == 1:
            x = x.unsqueeze(self.dim + 1)
        if self.inner == 1:
            x = x.unsqueeze(self.dim + 2)
        return x.movedim(0, self.dim + 1).flatten(self.dim, self.dim + 2)

    def shape(self, sizes: Sequence[int]) -> tuple[int, ...]:
        """Shape of one sample in front of a value of these sizes, without the samples."""
        kept = [n for n in (self.outer, self.inner) if n > 1]
        return (*sizes[: self.dim], *kept, *sizes[self.dim + 1 :])

    def take(self, x: Tensor, index: Tensor) -> Tensor:
        """Some of the samples, in the layout of the value."""
        return self.back(self.front(x)[index])

    def repeat(self, x: Tensor, times: int) -> Tensor:
        """The whole batch, repeated so many times."""
        front = self.front(x)
        return self.back(front.repeat(times, *[1] * (front.dim() - 1)))


def reshaped(axis: Axis, before: Sequence[int], after: Sequence[int], dim: int) -> Axis | None:
    """Where the samples are behind a reshape.

    Args:
        axis: Where they were.
        before: Sizes before, for one sample.
        after: Sizes behind, for one sample.
        dim: The dimension behind that holds them.

    Returns:
        None if the samples are no longer apart.
    """
    ahead, there = prod(before[: axis.dim]) * axis.outer, prod(after[:dim])
    if there == 0 or ahead % there or after[dim] % (ahead // there):
        return None
    outer = ahead // there
    return Axis(dim, outer, after[dim] // outer)

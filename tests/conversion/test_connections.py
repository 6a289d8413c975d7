"""Fan-outs and MACs against a literal loop over connections."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from conversion import profile
from tests.conftest import Form

Place = tuple[int, int, int]
Links = Iterator[tuple[Place, Place]]
"""Pairs (input value, output value), each a channel, a row and a column: one per product."""


def convolved(size: tuple[int, ...], layer: nn.Conv2d) -> Links:
    """One by one: every output, every kernel element, every input channel of its group."""
    (k, _), (s, _), (p, _), (d, _) = layer.kernel_size, layer.stride, layer.padding, layer.dilation
    channels, height, width = size
    reach = d * (k - 1)
    rows, columns = (height + 2 * p - reach - 1) // s + 1, (width + 2 * p - reach - 1) // s + 1
    inputs, outputs = channels // layer.groups, layer.out_channels // layer.groups
    for group, o, r, c in itertools.product(
        range(layer.groups), range(outputs), range(rows), range(columns)
    ):
        for i, y, x in itertools.product(range(inputs), range(k), range(k)):
            row, column = r * s - p + y * d, c * s - p + x * d
            if 0 <= row < height and 0 <= column < width:
                yield (group * inputs + i, row, column), (group * outputs + o, r, c)


def transposed(size: tuple[int, ...], layer: nn.ConvTranspose2d) -> Links:
    """Every input sends its kernel to the outputs around it."""
    (k, _), (s, _), (p, _), (d, _) = layer.kernel_size, layer.stride, layer.padding, layer.dilation
    (extra, _) = layer.output_padding
    channels, height, width = size
    rows = (height - 1) * s - 2 * p + d * (k - 1) + extra + 1
    columns = (width - 1) * s - 2 * p + d * (k - 1) + extra + 1
    inputs, outputs = channels // layer.groups, layer.out_channels // layer.groups
    for i, r, c in itertools.product(range(channels), range(height), range(width)):
        for o, y, x in itertools.product(range(outputs), range(k), range(k)):
            row, column = r * s - p + y * d, c * s - p + x * d
            if 0 <= row < rows and 0 <= column < columns:
                yield (i, r, c), (i // inputs * outputs + o, row, column)


def windows(size: tuple[int, ...], kernel: int, stride: int, padding: int) -> Links:
    """An average pool with ``ceil_mode``: no window begins in the padding behind."""
    channels, height, width = size

    def cells(length: int) -> int:
        count = -(-(length + 2 * padding - kernel) // stride) + 1
        return count - ((count - 1) * stride >= length + padding)

    for ch, r, c in itertools.product(range(channels), range(cells(height)), range(cells(width))):
        for y, x in itertools.product(range(kernel), range(kernel)):
            row, column = r * stride - padding + y, c * stride - padding + x
            if 0 <= row < height and 0 <= column < width:
                yield (ch, row, column), (ch, r, c)


def counted(links: Links, size: tuple[int, ...]) -> np.ndarray:
    """How many connections leave each input."""
    counts = np.zeros(size)
    for source, _ in links:
        counts[source] += 1
    return counts


SIZE = (6, 7, 9)
IMAGES = torch.randn(3, *SIZE)


def single(layer: nn.Module) -> nn.Module:
    return nn.Sequential(nn.ReLU(), layer, nn.ReLU())


@pytest.mark.parametrize(
    ("layer", "links"),
    [
        (nn.Conv2d(6, 4, 3, padding=1, groups=2), convolved),
        (nn.Conv2d(6, 5, 3, stride=2, padding=1), convolved),
        (nn.Conv2d(6, 4, 2, dilation=3, padding=2), convolved),
        (nn.ConvTranspose2d(6, 4, 3, 2, 1, output_padding=1, groups=2), transposed),
        (nn.ConvTranspose2d(6, 3, 2, 3, dilation=2), transposed),
    ],
)
def test_layers(layer: nn.Module, links: Callable[..., Links]) -> None:
    """Grouped, strided, dilated, transposed."""
    found = profile(single(layer), IMAGES)
    expected = counted(links(SIZE, layer), SIZE)
    assert np.array_equal(found.costs.fan_out["0"].numpy(), expected)
    assert found.costs.ann_macs == expected.sum()


def test_a_pool_with_ceil_mode() -> None:
    """Each window sends on what arrives in it, and the next layer multiplies that."""
    layer, pool = nn.Conv2d(6, 4, 3, padding=1), (3, 2, 1)
    net = nn.Sequential(nn.ReLU(), nn.AvgPool2d(*pool, ceil_mode=True), layer, nn.ReLU())
    found = profile(net, IMAGES)
    with torch.no_grad():
        small = tuple(F.avg_pool2d(IMAGES, *pool, ceil_mode=True).shape[1:])
    behind = counted(convolved(small, layer), small)
    expected = np.zeros(SIZE)
    for source, window in windows(SIZE, *pool):
        expected[source] += behind[window]
    assert np.array_equal(found.costs.fan_out["0"].numpy(), expected)
    assert found.costs.ann_macs == behind.sum()


def test_a_residual_with_a_concatenation() -> None:
    """A spike goes through the layer, along the shortcut, and into the layer behind both."""

    def forward(net: Form, x: Tensor) -> Tensor:
        x = F.relu(x)
        y = F.relu(net.a(x) + x)
        return net.b(torch.cat([x, y], dim=1)).relu()

    a, b = nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(12, 3, 3)
    found = profile(Form(forward, a=a, b=b), IMAGES)
    both = counted(convolved((12, 7, 9), b), (12, 7, 9))
    through = counted(convolved(SIZE, a), SIZE)
    assert np.array_equal(found.costs.fan_out["relu"].numpy(), through + 1 + both[:6])
    assert np.array_equal(found.costs.fan_out["relu_1"].numpy(), both[6:])
    assert found.costs.ann_macs == through.sum() + both.sum()


@pytest.mark.parametrize(
    "pad",
    [
        lambda x: F.pad(x, (1, 2, 0, 1)),
        nn.ZeroPad2d((1, 2, 0, 1)),
        lambda x: torch.cat([x.new_zeros(x.shape[0], 6, 8, 1), F.pad(x, (0, 2, 0, 1))], dim=3),
    ],
)
def test_zeros_of_a_padding_are_no_products(pad: Callable[[Tensor], Tensor]) -> None:
    """Padding before a layer counts as padding of the layer does: not at all."""
    layer = nn.Conv2d(6, 4, 3)
    found = profile(Form(lambda m, x: m.a(pad(x)).relu(), a=layer), IMAGES)
    real = sum(
        0 <= source[1] < 7 and 1 <= source[2] < 10 for source, _ in convolved((6, 8, 12), layer)
    )
    assert found.costs.ann_macs == found.costs.stem_macs == real
    assert found.costs.padding_macs == 4 * 6 * 10 * 6 * 9 - real


def test_other_ways_to_write_a_padding_and_a_convolution() -> None:
    """Unfolded with a padding, masked, and taken apart by ``run_decompositions``."""
    x = torch.randn(3, 1, 6, 8)
    links = sum(1 for _ in convolved((1, 6, 8), nn.Conv2d(1, 4, 3, padding=1)))

    def unfolded(m: Form, v: Tensor) -> Tensor:
        return m.a(F.unfold(v, 3, padding=1).transpose(1, 2)).relu()

    found = profile(Form(unfolded, a=nn.Linear(9, 4)), x)
    assert found.costs.ann_macs == links
    assert found.costs.padding_macs == 48 * 9 * 4 - links
    for function in (torch.tril, lambda v: v.masked_fill(torch.ones(6, 8).triu(1) > 0, 0.0)):
        net = Form(lambda m, v, f=function: m.a(f(F.relu(v))).relu(), a=nn.Linear(8, 4))
        found = profile(net, x)
        assert found.costs.ann_macs == found.costs.fan_out["relu"].sum() == (6 * 7 / 2) * 4
    net = nn.Sequential(
        nn.ReLU(), nn.Conv2d(6, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()
    ).eval()
    shapes = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(net, (IMAGES,), dynamic_shapes=shapes).run_decompositions()
    first, second = profile(net, IMAGES), profile(program, IMAGES)
    assert not second.network.analog_nodes
    assert second.costs.ann_macs == first.costs.ann_macs
    assert second.costs.padding_macs == first.costs.padding_macs
    assert torch.equal(second.costs.fan_out["0"], first.costs.fan_out["0"])


@pytest.mark.parametrize(
    ("function", "layer", "inputs", "channels"),
    [
        (lambda a, v: a(v.flatten(0, 1)), nn.Conv2d(3, 8, 3), (5, 3, 6, 6), 8),
        (lambda a, v: a(v).unflatten(1, (5, 8)), nn.Linear(6, 40), (6,), 5),
        (lambda a, v: a.weight @ v, nn.Linear(4, 9), (4, 7), 9),
        (lambda a, v: torch.einsum("nli,oi->nlo", v, a.weight), nn.Linear(3, 9), (4, 3), 9),
        (lambda a, v: torch.einsum("nil,oi->nol", v, a.weight), nn.Linear(3, 9), (3, 4), 9),
        (lambda a, v: a(v.transpose(0, 1)), nn.Linear(6, 9), (7, 6), 9),
        (lambda a, v: a(v) + 1, nn.Conv1d(4, 6, 3), (4, 7), 6),
    ],
)
def test_channels_are_those_of_the_layer_before(
    function: Callable[..., Tensor], layer: nn.Module, inputs: tuple[int, ...], channels: int
) -> None:
    """One threshold for each output of the weights, wherever the layout puts them."""

    def forward(m: Form, v: Tensor) -> Tensor:
        y = function(m.a, v).relu()
        return y.transpose(0, 1) if y.shape[0] == 7 else y.reshape(v.shape[0], -1)

    found = profile(Form(forward, a=layer), torch.randn(3, *inputs))
    assert [len(layer.mean) for layer in found.layers.values()] == [channels]

"""Compact networks, one for each built-in task."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class _Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu2 = nn.ReLU()
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu1(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out)) + self.downsample(x)
        return self.relu2(out)  # type: ignore[no-any-return]


def _stage(inputs: int, outputs: int, blocks: int, *, stride: int) -> nn.Sequential:
    rest = (_Block(outputs, outputs, 1) for _ in range(blocks - 1))
    return nn.Sequential(_Block(inputs, outputs, stride), *rest)


class ResNetCifar(nn.Module):
    """ResNet-20 of He et al. 2016, Sec. 4.2: three stages of three blocks, 19 ReLUs.

    Args:
        widths: Channels of the three stages.
        in_channels: Channels of the input.
        classes: Number of outputs.
        blocks: Blocks per stage.
    """

    def __init__(
        self,
        *,
        widths: tuple[int, int, int] = (16, 32, 64),
        in_channels: int = 3,
        classes: int = 10,
        blocks: int = 3,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, widths[0], 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.relu = nn.ReLU()
        self.layer1 = _stage(widths[0], widths[0], blocks, stride=1)
        self.layer2 = _stage(widths[0], widths[1], blocks, stride=2)
        self.layer3 = _stage(widths[1], widths[2], blocks, stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(widths[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(N, classes)`` of images ``(N, C, H, W)``."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(self.flatten(self.avgpool(x)))  # type: ignore[no-any-return]


def conv_block(inputs: int, outputs: int, *, stride: int = 1, kernel: int = 3) -> nn.Sequential:
    """Convolution, normalisation, ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


class EventNet(nn.Module):
    """A small convolutional network for event frames, ``(N, 2, H, W)``.

    Args:
        classes: Number of outputs.
        width: Channels of the first stage.
    """

    def __init__(self, *, classes: int = 10, width: int = 16) -> None:
        super().__init__()
        self.stage1 = conv_block(2, width)
        self.stage2 = nn.Sequential(
            conv_block(width, 2 * width, stride=2), conv_block(2 * width, 2 * width)
        )
        self.stage3 = nn.Sequential(
            conv_block(2 * width, 4 * width, stride=2), nn.AdaptiveAvgPool2d(1)
        )
        self.fc = nn.Linear(4 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(N, classes)``."""
        return self.fc(self.stage3(self.stage2(self.stage1(x))).flatten(1))  # type: ignore[no-any-return]


class UNet(nn.Module):
    """A small U-Net with additive skip connections, after Ronneberger et al., MICCAI 2015.

    Args:
        classes: Number of classes.
        width: Channels of the first stage.
    """

    def __init__(self, *, classes: int, width: int = 16) -> None:
        super().__init__()
        self.down1 = nn.Sequential(conv_block(3, width, stride=2), conv_block(width, width))
        self.down2 = nn.Sequential(
            conv_block(width, 2 * width, stride=2), conv_block(2 * width, 2 * width)
        )
        self.down3 = nn.Sequential(
            conv_block(2 * width, 4 * width, stride=2),
            conv_block(4 * width, 4 * width),
            conv_block(4 * width, 4 * width),
        )
        self.up2 = conv_block(4 * width, 2 * width)
        self.up1 = conv_block(2 * width, width)
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(N, classes, H, W)`` of images ``(N, 3, H, W)``."""
        one = self.down1(x)
        two = self.down2(one)
        three = self.down3(two)
        two = two + _resized(self.up2(three), two.shape[-2:])
        one = one + _resized(self.up1(two), one.shape[-2:])
        return _resized(self.head(one), x.shape[-2:])


def _resized(x: Tensor, size: Any) -> Tensor:
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


class VoxelNet(nn.Module):
    """A small 3-d convolutional network for occupancy grids ``(N, 1, D, H, W)``.

    After VoxNet (Maturana & Scherer, IROS 2015).

    Args:
        classes: Number of outputs.
        width: Channels of the first stage.
    """

    def __init__(self, *, classes: int, width: int = 8) -> None:
        super().__init__()

        def stage(inputs: int, outputs: int) -> nn.Sequential:
            conv = nn.Conv3d(inputs, outputs, 3, 2, 1, bias=False)
            return nn.Sequential(conv, nn.BatchNorm3d(outputs), nn.ReLU())

        self.features = nn.Sequential(
            stage(1, width), stage(width, 4 * width), stage(4 * width, 8 * width)
        )
        self.pool = nn.AdaptiveAvgPool3d(1)
        self.fc = nn.Linear(8 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(N, classes)``."""
        return self.fc(self.pool(self.features(x)).flatten(1))  # type: ignore[no-any-return]


def _mlp(*widths: int) -> nn.Sequential:
    """The same layers for every point."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Conv1d(inputs, outputs, 1, bias=False), nn.BatchNorm1d(outputs), nn.ReLU()]
    return nn.Sequential(*layers)


class PointNet(nn.Module):
    """PointNet (Qi et al., CVPR 2017) without its transforms, for points ``(N, 3, P)``.

    Args:
        classes: Number of outputs.
        parts: Whether to classify each point (part segmentation) instead of the whole cloud.
        width: Channels of the first layers.
    """

    def __init__(self, *, classes: int, parts: bool = False, width: int = 32) -> None:
        super().__init__()
        self.local = _mlp(3, width, width)
        self.wide = _mlp(width, 2 * width, 8 * width)
        self.parts = parts
        if parts:
            self.head = nn.Sequential(
                _mlp(9 * width, 4 * width, 2 * width), nn.Conv1d(2 * width, classes, 1)
            )
        else:
            self.head = nn.Sequential(
                nn.Linear(8 * width, 4 * width), nn.ReLU(), nn.Linear(4 * width, classes)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(N, classes)``, or ``(N, classes, P)`` for parts."""
        local = self.local(x)
        shape = self.wide(local).amax(2)
        if not self.parts:
            return self.head(shape)  # type: ignore[no-any-return]
        whole = shape.unsqueeze(2).expand(-1, -1, x.shape[2])
        return self.head(torch.cat([local, whole], 1))  # type: ignore[no-any-return]


COMPACT: dict[str, Callable[..., nn.Module]] = {
    "resnet20": ResNetCifar,
    "unet": UNet,
    "eventnet": EventNet,
    "voxelnet": VoxelNet,
    "pointnet": PointNet,
    "pointnet-parts": partial(PointNet, parts=True),
}
"""By name; each takes ``classes``."""

"""Small networks of many kinds, written as people write them: what converts, and what is refused.

Each entry makes a model and inputs for a number of samples; all are drawn anew for a seed.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from conversion import Inputs
from tests.conftest import Form

Draw = Callable[[int], Any]


@dataclass(frozen=True)
class Specimen:
    """A network of the zoo.

    Attributes:
        make: Gives the model.
        draw: Gives inputs for so many samples.
        refused: Pattern of the error, or None if it converts.
        within: Relative error at T = 64 on inputs that calibration did not see.
        output: Which output holds the logits.
    """

    make: Callable[[], nn.Module]
    draw: Draw
    refused: str | None = None
    within: float = 0.03
    output: str | int | None = None


ZOO: dict[str, Specimen] = {}


def images(n: int) -> Tensor:
    return torch.randn(n, 3, 12, 12)


def vectors(n: int) -> Tensor:
    return torch.randn(n, 10)


def tokens(n: int) -> Tensor:
    return torch.randn(n, 7, 8)


def words(n: int) -> Tensor:
    return torch.randint(0, 20, (n, 7))


def points(n: int) -> Tensor:
    return torch.randn(n, 16, 3)


def sounds(n: int) -> Tensor:
    return torch.randn(n, 1, 64)


def specimen(draw: Draw, **options: Any) -> Callable[[Callable[[], nn.Module]], Any]:
    def add(make: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
        ZOO[make.__name__] = Specimen(make, draw, **options)
        return make

    return add


def chain(name: str, draw: Draw, *layers: Callable[[], nn.Module], **options: Any) -> None:
    """A sequence of modules as a specimen."""
    ZOO[name] = Specimen(lambda: nn.Sequential(*(layer() for layer in layers)), draw, **options)


def L(kind: Callable[..., nn.Module], *args: Any, **options: Any) -> Callable[[], nn.Module]:  # noqa: N802
    return functools.partial(kind, *args, **options)


def conv(i: int, o: int, k: int = 3, **options: Any) -> nn.Module:
    return nn.Conv2d(i, o, k, **{"padding": k // 2, **options})


# --- chains of modules --------------------------------------------------------------------------

HEAD = (L(nn.AdaptiveAvgPool2d, 1), L(nn.Flatten), L(nn.Linear, 8, 4))
STEM = (L(conv, 3, 8), L(nn.ReLU))

chain("mlp", vectors, L(nn.Linear, 10, 16), L(nn.ReLU), L(nn.Linear, 16, 4))
chain(
    "deep_mlp", vectors, L(nn.Linear, 10, 16), L(nn.ReLU), L(nn.Linear, 16, 16), L(nn.ReLU),
    L(nn.Linear, 16, 16), L(nn.ReLU), L(nn.Linear, 16, 4),
)  # fmt: skip
chain(
    "mlp_with_norms", vectors, L(nn.Linear, 10, 16), L(nn.BatchNorm1d, 16), L(nn.ReLU),
    L(nn.Dropout, 0.3), L(nn.Linear, 16, 4), L(nn.BatchNorm1d, 4),
)  # fmt: skip
chain(
    "flattened_images", images, L(nn.Flatten), L(nn.LazyLinear, 24), L(nn.ReLU),
    L(nn.Linear, 24, 4),
)  # fmt: skip
chain("mobile_block", images, L(conv, 3, 8), L(nn.BatchNorm2d, 8), L(nn.ReLU6),
      L(conv, 8, 8, groups=8), L(nn.BatchNorm2d, 8), L(nn.ReLU6), L(conv, 8, 8, 1), *HEAD)  # fmt: skip
chain("dilated", images, *STEM, L(conv, 8, 8, dilation=2, padding=2), L(nn.ReLU), *HEAD)
chain("same_padding", images, L(nn.Conv2d, 3, 8, 3, padding="same"), L(nn.ReLU), *HEAD)
chain("circular_padding", images, L(conv, 3, 8, padding_mode="circular"), L(nn.ReLU), *HEAD)
chain("reflected_padding", images, L(conv, 3, 8, padding_mode="reflect"), L(nn.ReLU), *HEAD)
chain("replicated_padding", images, *STEM, L(nn.ReplicationPad2d, 1), L(nn.Conv2d, 8, 8, 3),
      L(nn.ReLU), *HEAD)  # fmt: skip
chain("zero_padding_modules", images, *STEM, L(nn.ZeroPad2d, (1, 2, 0, 1)), L(nn.Conv2d, 8, 8, 3),
      L(nn.ReLU), *HEAD)  # fmt: skip
chain("strided", images, L(nn.Conv2d, 3, 8, 3, 2), L(nn.ReLU), L(nn.Conv2d, 8, 8, 2, 2),
      L(nn.ReLU), *HEAD)  # fmt: skip
chain("max_pools_with_ceil", images, *STEM, L(nn.MaxPool2d, 3, 2, ceil_mode=True), L(conv, 8, 8),
      L(nn.ReLU), *HEAD)  # fmt: skip
chain("average_pools", images, *STEM, L(nn.AvgPool2d, 3, 2, 1, count_include_pad=False),
      L(conv, 8, 8), L(nn.ReLU), *HEAD)  # fmt: skip
chain("average_pool_with_a_divisor", images, *STEM, L(nn.AvgPool2d, 2, divisor_override=3), *HEAD)
chain("adaptive_max_pool", images, *STEM, L(nn.AdaptiveMaxPool2d, 3), L(conv, 8, 8), L(nn.ReLU),
      *HEAD)  # fmt: skip
chain("lp_pool", images, *STEM, L(nn.LPPool2d, 2, 2), *HEAD)
chain("fractional_adaptive_pool", images, *STEM, L(nn.AdaptiveAvgPool2d, (5, 7)), L(conv, 8, 8),
      L(nn.ReLU), *HEAD)  # fmt: skip
chain("transposed_with_groups", images, L(conv, 3, 8), L(nn.ReLU),
      L(nn.ConvTranspose2d, 8, 8, 3, 2, groups=4), L(nn.BatchNorm2d, 8), L(nn.ReLU), *HEAD)  # fmt: skip
chain("transposed_with_output_padding", images, L(conv, 3, 8), L(nn.ReLU),
      L(nn.ConvTranspose2d, 8, 8, 3, 2, 1, output_padding=1, dilation=2), L(nn.ReLU), *HEAD)  # fmt: skip
chain("sound_cnn", sounds, L(nn.Conv1d, 1, 8, 9, 4), L(nn.BatchNorm1d, 8), L(nn.ReLU),
      L(nn.MaxPool1d, 2), L(nn.Conv1d, 8, 8, 3), L(nn.ReLU), L(nn.AdaptiveAvgPool1d, 1),
      L(nn.Flatten), L(nn.Linear, 8, 4))  # fmt: skip
chain("video_cnn", lambda n: torch.randn(n, 2, 4, 6, 6), L(nn.Conv3d, 2, 6, 3, padding=1),
      L(nn.BatchNorm3d, 6), L(nn.ReLU), L(nn.MaxPool3d, 2), L(nn.Conv3d, 6, 6, 2), L(nn.ReLU),
      L(nn.Flatten), L(nn.LazyLinear, 4))  # fmt: skip
chain("layer_norm_mlp", vectors, L(nn.Linear, 10, 16), L(nn.LayerNorm, 16), L(nn.ReLU),
      L(nn.Linear, 16, 4))  # fmt: skip
chain("group_norm", images, L(conv, 3, 8), L(nn.GroupNorm, 2, 8), L(nn.ReLU), L(conv, 8, 8),
      L(nn.GroupNorm, 8, 8), L(nn.ReLU), *HEAD)  # fmt: skip
chain("instance_norm", images, L(conv, 3, 8), L(nn.InstanceNorm2d, 8, affine=True), L(nn.ReLU),
      L(conv, 8, 8), L(nn.InstanceNorm2d, 8), L(nn.ReLU), *HEAD)  # fmt: skip
chain("response_norm", images, *STEM, L(nn.LocalResponseNorm, 3), L(conv, 8, 8), L(nn.ReLU), *HEAD)
chain("rms_norm", vectors, L(nn.Linear, 10, 16), L(nn.RMSNorm, 16), L(nn.ReLU), L(nn.Linear, 16, 4))
for _kind in (nn.LeakyReLU, nn.PReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Hardswish, nn.Mish, nn.Softplus,
              nn.Tanh, nn.Sigmoid, nn.Softsign, nn.CELU, nn.SELU, nn.Hardsigmoid):  # fmt: skip
    chain(f"relu_and_{_kind.__name__.lower()}", images, *STEM, L(conv, 8, 8), L(_kind), L(conv, 8, 8),
          L(nn.ReLU), *HEAD)  # fmt: skip
chain(
    "threshold_module",
    vectors,
    L(nn.Linear, 10, 16),
    L(nn.Threshold, 0.0, 0.0),
    L(nn.Linear, 16, 4),
)
chain(
    "clipped_at_one", vectors, L(nn.Linear, 10, 16), L(nn.Hardtanh, 0.0, 1.0), L(nn.Linear, 16, 4)
)
chain("in_place_everywhere", images, L(conv, 3, 8), L(nn.ReLU, inplace=True), L(conv, 8, 8),
      L(nn.LeakyReLU, 0.1, inplace=True), L(nn.Dropout2d, 0.2, inplace=True), *HEAD)  # fmt: skip
chain("upsampled", images, *STEM, L(nn.Upsample, scale_factor=2), L(conv, 8, 8), L(nn.ReLU), *HEAD)
chain("upsampled_bilinear", images, *STEM, L(nn.Upsample, scale_factor=1.5, mode="bilinear"),
      L(conv, 8, 8), L(nn.ReLU), *HEAD)  # fmt: skip
chain("pixel_shuffled", images, L(conv, 3, 32), L(nn.ReLU), L(nn.PixelShuffle, 2), L(conv, 8, 8),
      L(nn.ReLU), *HEAD)  # fmt: skip
chain("unfolded_patches", images, *STEM, L(nn.Unfold, 3, stride=3), L(nn.Flatten),
      L(nn.LazyLinear, 12), L(nn.ReLU), L(nn.Linear, 12, 4))  # fmt: skip
chain("softmax_at_the_end", vectors, L(nn.Linear, 10, 16), L(nn.ReLU), L(nn.Linear, 16, 4),
      L(nn.Softmax, dim=-1))  # fmt: skip
chain("one_logit", vectors, L(nn.Linear, 10, 16), L(nn.ReLU), L(nn.Linear, 16, 1))
chain("text_cnn", words, L(nn.Embedding, 20, 8), L(nn.Conv1d, 7, 8, 3), L(nn.ReLU),
      L(nn.AdaptiveMaxPool1d, 1), L(nn.Flatten), L(nn.Linear, 8, 4))  # fmt: skip
chain("double_precision", lambda n: vectors(n).double(), L(nn.Linear, 10, 16, dtype=torch.float64),
      L(nn.ReLU), L(nn.Linear, 16, 4, dtype=torch.float64))  # fmt: skip
for _half in (torch.float16, torch.bfloat16):
    chain(f"{str(_half).removeprefix('torch.')}_cnn", lambda n, t=_half: images(n).to(t),
          L(conv, 3, 8, dtype=_half), L(nn.ReLU), L(nn.AdaptiveAvgPool2d, 1), L(nn.Flatten),
          L(nn.Linear, 8, 4, dtype=_half))  # fmt: skip


# --- images -------------------------------------------------------------------------------------


@specimen(images)
def residual() -> nn.Module:
    def forward(net: Form, x: Tensor) -> Tensor:
        x = F.relu(net.stem(x), inplace=True)
        y = net.norm(net.b(net.norm_a(net.a(x)).relu_()))
        y += x
        return net.out(y.relu().mean((-2, -1)))

    return Form(forward, stem=conv(3, 8), a=conv(8, 8), norm_a=nn.BatchNorm2d(8), b=conv(8, 8),
                norm=nn.BatchNorm2d(8), out=nn.Linear(8, 4))  # fmt: skip


@specimen(images)
def pre_activation() -> nn.Module:
    def forward(net: Form, x: Tensor) -> Tensor:
        x = net.stem(x)
        x = x + net.a(F.relu(net.norm(x)))
        x = x + net.b(F.relu(net.norm2(x)))
        return net.out(F.adaptive_avg_pool2d(F.relu(x), 1).flatten(1))

    return Form(forward, stem=conv(3, 8), norm=nn.BatchNorm2d(8), a=conv(8, 8), b=conv(8, 8),
                norm2=nn.BatchNorm2d(8), out=nn.Linear(8, 4))  # fmt: skip


@specimen(images)
def dense() -> nn.Module:
    def forward(net: Form, x: Tensor) -> Tensor:
        features = [F.relu(net.stem(x))]
        for layer in net.layers:
            features.append(F.relu(layer(torch.cat(features, 1))))
        return net.out(torch.cat(features, 1).mean([2, 3]))

    return Form(forward, stem=conv(3, 4), layers=nn.ModuleList(conv(4 * i, 4) for i in (1, 2, 3)),
                out=nn.Linear(16, 4))  # fmt: skip


@specimen(images)
def inception() -> nn.Module:
    def forward(net: Form, x: Tensor) -> Tensor:
        x = F.relu(net.stem(x))
        pooled = F.avg_pool2d(x, kernel_size=3, stride=1, padding=1)
        branches = [net.a(x), net.b(x), net.c(pooled), F.max_pool2d(x, 3, stride=1, padding=1)]
        return net.out(F.relu(torch.cat(branches, dim=1)).amax((2, 3)))

    return Form(forward, stem=conv(3, 8), a=conv(8, 4, 1), b=conv(8, 4), c=conv(8, 4, 1),
                out=nn.Linear(20, 4))  # fmt: skip


@specimen(images)
def squeeze_and_excitation() -> nn.Module:
    def forward(net: Form, x: Tensor) -> Tensor:
        x = F.relu(net.stem(x))
        b, c, _, _ = x.size()
        gate = net.b(F.relu(net.a(x.mean((2, 3)).view(b, c)))).sigmoid().view(b, c, 1, 1)
        return net.out((x * gate.expand_as(x)).flatten(2).sum(-1) / 144)

    return Form(forward, stem=conv(3, 8), a=nn.Linear(8, 4), b=nn.Linear(4, 8), out=nn.Linear(8, 4))


@specimen(images)
def spatial_attention() -> nn.Module:
    def forward(net: Form, x: Tensor) -> Tensor:
        x = F.relu(net.stem(x))
        most, mean = torch.max(x, dim=1, keepdim=True)[0], torch.mean(x, dim=1, keepdim=True)
        return net.out((x * torch.sigmoid(net.a(torch.cat([most, mean], dim=1)))).mean((2, 3)))

    return Form(forward, stem=conv(3, 8), a=conv(2, 1, 7), out=nn.Linear(8, 4))


@specimen(images)
def shuffled() -> nn.Module:
    def forward(net: Form, x: Tensor) -> Tensor:
        left, right = F.relu(net.stem(x)).chunk(2, 1)
        x = torch.cat((left, F.relu(net.a(right))), dim=1)
        n, c, h, w = x.shape
        x = x.reshape(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, c, h, w)
        return net.out(torch.cat(x.chunk(2, 1), 1).mean(dim=(2, 3)))

    return Form(forward, stem=conv(3, 8), a=conv(4, 4), out=nn.Linear(8, 4))


@specimen(images)
def ghost() -> nn.Module:
    def forward(net: Form, x: Tensor) -> Tensor:
        x = F.relu(net.stem(x))
        x = torch.cat([x, F.relu(net.cheap(x))], 1)[:, :12]
        x[:, 0] = x[:, 0] * 2
        return net.out(x.mean([-1, -2]))

    return Form(forward, stem=conv(3, 8), cheap=conv(8, 8, groups=8), out=nn.Linear(12, 4))


def _unet(up: Callable[[Form, Tensor, Tensor], Tensor]) -> nn.Module:
    def forward(net: Form, x: Tensor) -> Tensor:
        skip = F.relu(net.down(x))
        low = F.relu(net.low(F.max_pool2d(skip, 2)))
        return net.out(F.relu(net.join(torch.cat([skip, up(net, low, skip)], dim=1))))

    return Form(forward, down=conv(3, 6), low=conv(6, 6), up=nn.ConvTranspose2d(6, 6, 2, 2),
                join=conv(12, 6), out=conv(6, 2, 1))  # fmt: skip


@specimen(lambda n: torch.randn(n, 3, 13, 11))
def unet_padded_by_differences() -> nn.Module:
    def up(net: Form, low: Tensor, skip: Tensor) -> Tensor:
        low = net.up(low)
        dy, dx = skip.size()[2] - low.size()[2], skip.size()[3] - low.size()[3]
        return F.pad(low, [dx // 2, dx - dx // 2, dy // 2, dy - dy // 2])

    return _unet(up)


@specimen(lambda n: torch.randn(n, 3, 13, 11))
def unet_interpolated() -> nn.Module:
    def up(net: Form, low: Tensor, skip: Tensor) -> Tensor:
        return F.interpolate(low, size=skip.shape[2:], mode="bilinear", align_corners=False)

    return _unet(up)


@specimen(lambda n: torch.randn(n, 3, 13, 11))
def unet_nearest() -> nn.Module:
    return _unet(lambda net, low, skip: F.interpolate(low, skip.shape[-2:], mode="nearest"))


@specimen(images, output="p2")
def feature_pyramid() -> nn.Module:
    def forward(net: Form, x: Tensor) -> dict[str, Tensor]:
        c1 = F.relu(net.a(x))
        c2 = F.relu(net.b(c1))
        p2 = net.side2(c2)
        p1 = net.side1(c1) + F.interpolate(p2, scale_factor=2.0, mode="nearest")
        return {"p1": net.smooth(p1), "p2": p2}

    return Form(forward, a=conv(3, 8), b=conv(8, 8, stride=2), side1=conv(8, 4, 1),
                side2=conv(8, 4, 1), smooth=conv(4, 4))  # fmt: skip


@specimen(images)
def pyramid_pooling() -> nn.Module:
    def forward(net: Form, x: Tensor) -> Tensor:
        x = F.relu(net.stem(x))
        size = x.shape[2:]
        parts = [x]
        for bins, layer in zip((1, 2, 3), net.layers, strict=True):
            pooled = F.relu(layer(F.adaptive_avg_pool2d(x, bins)))
            parts.append(F.interpolate(pooled, size=size, mode="bilinear", align_corners=True))
        return net.out(torch.cat(parts, 1))

    return Form(forward, stem=conv(3, 8), layers=nn.ModuleList(conv(8, 4, 1) for _ in range(3)),
                out=conv(20, 2, 1))  # fmt: skip


@specimen(images)
def pooled_to_the_size_of_another() -> nn.Module:
    def forward(net: Form, x: Tensor) -> Tensor:
        a = F.relu(net.a(x))
        b = F.relu(net.b(a))
        return net.out((F.adaptive_avg_pool2d(a, (b.size(2), b.size(3))) + b).mean((2, 3)))

    return Form(forward, a=conv(3, 8), b=conv(8, 8, stride=2), out=nn.Linear(8, 4))


@specimen(images)
def coordinate_channels() -> nn.Module:
    def forward(net: Form, x: Tensor) -> Tensor:
        n, _, h, w = x.shape
        ys = torch.linspace(-1, 1, h, device=x.device).view(1, 1, h, 1).expand(n, 1, h, w)
        xs = torch.linspace(-1, 1, w, device=x.device).view(1, 1, 1, w).expand(n, 1, h, w)
        x = F.relu(net.a(torch.cat([x, ys, xs], dim=1)))
        x = F.relu(net.b(torch.cat([x, ys, xs.type_as(x)], dim=1)))
        return net.out(x.mean((2, 3)))

    return Form(forward, a=conv(5, 8), b=conv(10, 8), out=nn.Linear(8, 4))


@specimen(images)
def spatial_transformer() -> nn.Module:
    def forward(net: Form, x: Tensor) -> Tensor:
        theta = net.where(F.relu(net.a(x)).mean((2, 3))).view(-1, 2, 3) / 9
        grid = F.affine_grid(theta, x.size(), align_corners=False)
        x = F.grid_sample(x, grid, align_corners=False)
        return net.out(F.relu(net.b(x)).mean((2, 3)))

    return Form(forward, a=conv(3, 8), where=nn.Linear(8, 6), b=conv(3, 8), out=nn.Linear(8, 4))


@specimen(images)
def maxout() -> nn.Module:
    def forward(net: Form, x: Tensor) -> Tensor:
        x = F.relu(net.a(x))
        return net.out(torch.maximum(net.b(x), net.c(x)).mean((2, 3)))

    return Form(forward, a=conv(3, 8), b=conv(8, 8), c=conv(8, 8), out=nn.Linear(8, 4))


@specimen(images)
def written_by_hand() -> nn.Module:
    """ReLU as ``maximum`` with zero, as a product with a mask, and as ``where``."""

    def forward(net: Form, x: Tensor) -> Tensor:
        x = torch.maximum(net.a(x), torch.zeros(1))
        y = net.b(x)
        y = y * (y > 0)
        z = net.c(y)
        return net.out(torch.where(z > 0, z, torch.zeros_like(z)).mean((2, 3)))

    return Form(forward, a=conv(3, 8), b=conv(8, 8), c=conv(8, 8), out=nn.Linear(8, 4))


@specimen(lambda n: torch.randint(0, 256, (n, 12, 12, 3), dtype=torch.uint8))
def bytes_in_the_order_of_files() -> nn.Module:
    def forward(net: Form, x: Tensor) -> Tensor:
        x = (x.permute(0, 3, 1, 2).float() / 255.0 - net.mean) / net.std
        return net.out(F.relu(net.a(x)).mean((2, 3)))

    net = Form(forward, a=conv(3, 8), out=nn.Linear(8, 4))
    net.register_buffer("mean", torch.tensor([0.5, 0.4, 0.6]).view(1, 3, 1, 1), persistent=False)
    net.std = torch.full((1, 3, 1, 1), 0.25)
    return net


@specimen(lambda n: torch.rand(n, 3, 12, 12) + 0.1)
def log_and_root_of_the_input() -> nn.Module:
    def forward(net: Form, x: Tensor) -> Tensor:
        return net.out(F.relu(net.a(torch.log(x) + x.sqrt())).mean((2, 3)))

    return Form(forward, a=conv(3, 8), out=nn.Linear(8, 4))


@specimen(images)
def changed_input() -> nn.Module:
    def forward(net: Form, x: Tensor) -> Tensor:
        x.mul_(2).clamp_(-1, 1)
        return net.out(F.relu(net.a(x)).mean((2, 3)))

    return Form(forward, a=conv(3, 8), out=nn.Linear(8, 4))


@specimen(images)
def length_of_the_batch() -> nn.Module:
    def forward(net: Form, x: Tensor) -> Tensor:
        return net.out(F.relu(net.a(x)).view(len(x), -1))

    return Form(forward, a=nn.Conv2d(3, 2, 5, 3), out=nn.Linear(18, 4))


@specimen(images)
def autocast_inside() -> nn.Module:
    def forward(net: Form, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=True):
            x = F.relu(net.a(x))
        return net.out(x.float().mean((2, 3)))

    return Form(forward, a=conv(3, 8), out=nn.Linear(8, 4))


@specimen(images)
def checkpointed() -> nn.Module:
    def forward(net: Form, x: Tensor) -> Tensor:
        x = torch.utils.checkpoint.checkpoint(net.a, x, use_reentrant=False)
        return net.out(F.relu(x).mean((2, 3)))

    return Form(forward, a=conv(3, 8), out=nn.Linear(8, 4))


@specimen(images)
def computed_weights() -> nn.Module:
    def forward(net: Form, x: Tensor) -> Tensor:
        w = net.a.weight
        w = (w - w.mean((1, 2, 3), keepdim=True)) / w.std((1, 2, 3), keepdim=True)
        x = F.relu(F.conv2d(x, w, net.a.bias, padding=1))
        return F.linear(x.mean((2, 3)), F.normalize(net.out.weight, dim=1) * 3.0)

    return Form(forward, a=conv(3, 8), out=nn.Linear(8, 4))


@specimen(images)
def normed_weights() -> nn.Module:
    return nn.Sequential(
        nn.utils.weight_norm(conv(3, 8)), nn.ReLU(), nn.utils.spectral_norm(conv(8, 8)), nn.ReLU(),
        parametrizations.weight_norm(conv(8, 8)), nn.ReLU(), nn.Flatten(),
        nn.LazyLinear(4),
    )  # fmt: skip


@specimen(images)
def generated_kernels() -> nn.Module:
    """A kernel for each sample, from the sample itself."""

    def forward(net: Form, x: Tensor) -> Tensor:
        x = F.relu(net.a(x))
        kernel = net.b(x.mean((2, 3))).view(-1, 5, 8)
        return net.out(torch.einsum("nchw,nkc->nkhw", x, kernel).mean((2, 3)))

    return Form(forward, a=conv(3, 8), b=nn.Linear(8, 40), out=nn.Linear(5, 4))


@specimen(images)
def autoencoder() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU(),
        nn.ConvTranspose2d(8, 8, 2, 2), nn.ReLU(), nn.ConvTranspose2d(8, 3, 2, 2),
    )  # fmt: skip


@specimen(images)
def fourier_features() -> nn.Module:
    def forward(net: Form, x: Tensor) -> Tensor:
        x = F.relu(net.a(x))
        spectrum = torch.fft.rfft2(x)
        mixed = torch.fft.irfft2(spectrum * net.filter, s=x.shape[-2:])
        return net.out(F.relu(mixed).mean((2, 3)))

    net = Form(forward, a=conv(3, 8), out=nn.Linear(8, 4))
    net.filter = torch.rand(8, 12, 7)
    return net


@specimen(sounds)
def spectrogram() -> nn.Module:
    def forward(net: Form, x: Tensor) -> Tensor:
        spec = torch.stft(x.squeeze(1), 16, 8, window=net.window, return_complex=True).abs()
        return net.out(F.relu(net.a(torch.log1p(spec).unsqueeze(1))).mean((2, 3)))

    net = Form(forward, a=conv(1, 8), out=nn.Linear(8, 4))
    net.register_buffer("window", torch.hann_window(16))
    return net


# --- sequences ----------------------------------------------------------------------------------


def _heads(x: Tensor, heads: int) -> Tensor:
    return x.view(x.size(0), x.size(1), heads, -1).transpose(1, 2)


def _attention(net: Form, x: Tensor, mask: Tensor | None = None) -> Tensor:
    q, k, v = (_heads(layer(x), 2) for layer in (net.q, net.k, net.v))
    scores = q @ k.transpose(-2, -1) * k.size(-1) ** -0.5
    if mask is not None:
        scores = scores.masked_fill(mask, float("-inf"))
    mixed = scores.softmax(dim=-1) @ v
    return mixed.transpose(1, 2).contiguous().view(x.size(0), x.size(1), -1)


def _block(forward: Callable[..., Tensor], **more: nn.Module) -> Form:
    return Form(forward, q=nn.Linear(8, 8), k=nn.Linear(8, 8), v=nn.Linear(8, 8),
                up=nn.Linear(8, 16), down=nn.Linear(16, 8), out=nn.Linear(8, 4), **more)  # fmt: skip


@specimen(tokens)
def attention_by_views() -> nn.Module:
    def forward(net: Form, x: Tensor) -> Tensor:
        x = F.relu(net.stem(x))
        x = x + _attention(net, x)
        return net.out((x + net.down(F.relu(net.up(net.norm(x))))).mean(1))

    return _block(forward, stem=nn.Linear(8, 8), norm=nn.LayerNorm(8))


@specimen(tokens)
def causal_attention() -> nn.Module:
    """GPT's mask, behind a ReLU: −inf at every step."""

    def forward(net: Form, x: Tensor) -> Tensor:
        length = x.size(1)
        x = F.relu(net.stem(x))
        mask = torch.triu(torch.ones(length, length, dtype=torch.bool), diagonal=1)
        x = x + _attention(net, x, mask)
        return net.out(net.down(F.relu(net.up(x)))[:, -1])

    return _block(forward, stem=nn.Linear(8, 8))


@specimen(tokens)
def attention_with_a_buffered_mask() -> nn.Module:
    def forward(net: Form, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        x = F.relu(net.stem(x)) + net.position[:, :t]
        scores = net.q(x) @ net.k(x).transpose(1, 2) / math.sqrt(8)
        scores = scores.masked_fill(net.mask[:t, :t] == 0, -1e9)
        x = x + F.softmax(scores, -1) @ net.v(x)
        return net.out(net.down(F.relu(net.up(x))).view(b, t * 8)[:, :8])

    net = _block(forward, stem=nn.Linear(8, 8))
    net.position = nn.Parameter(torch.randn(1, 16, 8) / 4)
    net.register_buffer("mask", torch.tril(torch.ones(16, 16)))
    return net


@specimen(tokens)
def attention_by_einsum() -> nn.Module:
    def forward(net: Form, x: Tensor) -> Tensor:
        x = F.relu(net.stem(x))
        q, k, v = torch.einsum("nld,sde->snle", x, net.qkv)
        weights = torch.einsum("nqe,nke->nqk", q, k).div(8**0.5).softmax(-1)
        x = torch.einsum("nqk,nke->nqe", weights, v)
        return net.out(F.relu(net.up(x)).mean(dim=1)[:, :8])

    net = _block(forward, stem=nn.Linear(8, 8))
    net.qkv = nn.Parameter(torch.randn(3, 8, 8) / 3)
    return net


@specimen(tokens)
def attention_called_by_keywords() -> nn.Module:
    def forward(net: Form, x: Tensor) -> Tensor:
        x = F.relu(input=net.stem(input=x))
        mixed, _ = net.mix(query=x, key=x, value=x, need_weights=True)
        return net.out(F.layer_norm(x + mixed, x.shape[2:]).mean(dim=1))

    return Form(forward, stem=nn.Linear(8, 8), out=nn.Linear(8, 4),
                mix=nn.MultiheadAttention(8, 2, batch_first=True))  # fmt: skip


@specimen(tokens)
def attention_of_torch_with_a_mask() -> nn.Module:
    def forward(net: Form, x: Tensor) -> Tensor:
        x = F.relu(net.stem(x))
        q, k, v = (_heads(layer(x), 2) for layer in (net.q, net.k, net.v))
        x = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
        return net.out(net.down(F.relu(net.up(x))).amax(1))

    return _block(forward, stem=nn.Linear(8, 8))


@specimen(tokens)
def sequence_first_encoder() -> nn.Module:
    def forward(net: Form, x: Tensor) -> Tensor:
        x = F.relu(net.stem(x)).transpose(0, 1)
        return net.out(net.encoder(x).mean(0))

    layer = nn.TransformerEncoderLayer(8, 2, 16)
    return Form(forward, stem=nn.Linear(8, 8), out=nn.Linear(8, 4),
                encoder=nn.TransformerEncoder(layer, 2, enable_nested_tensor=False))  # fmt: skip


@specimen(tokens)
def encoder_with_norm_first() -> nn.Module:
    def forward(net: Form, x: Tensor) -> Tensor:
        return net.out(net.encoder(net.stem(x))[:, 0])

    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True)
    return Form(forward, stem=nn.Linear(8, 8), out=nn.Linear(8, 4),
                encoder=nn.TransformerEncoder(layer, 1, enable_nested_tensor=False))  # fmt: skip


@specimen(lambda n: Inputs((torch.randn(n, 7, 8), torch.randn(n, 5, 8)), {}))
def whole_transformer() -> nn.Module:
    def forward(net: Form, source: Tensor, target: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(target.size(1))
        return net.out(net.model(source, target, tgt_mask=mask).mean(1))

    class Two(Form):
        def forward(self, source: Tensor, target: Tensor) -> Tensor:
            return self.function(self, source, target)

    model = nn.Transformer(8, 2, 1, 1, 16, batch_first=True)
    return Two(forward, model=model, out=nn.Linear(8, 4))


@specimen(words)
def words_with_positions() -> nn.Module:
    def forward(net: Form, x: Tensor) -> Tensor:
        x = net.embed(x) + net.place(torch.arange(x.size(1), device=x.device))
        x = x + _attention(net, x)
        return net.out(net.down(F.relu(net.up(x))).mean(1))

    return _block(forward, embed=nn.Embedding(20, 8), place=nn.Embedding(7, 8))


@specimen(words)
def mean_of_words_that_are_there() -> nn.Module:
    def forward(net: Form, x: Tensor) -> Tensor:
        there = (x != 0).unsqueeze(-1).float()
        y = (net.embed(x) * there).sum(1) / there.sum(1).clamp(min=1)
        return net.out(F.relu(net.a(y)))

    return Form(forward, embed=nn.Embedding(20, 8, padding_idx=0), a=nn.Linear(8, 16),
                out=nn.Linear(16, 4))  # fmt: skip


@specimen(words)
def last_word_by_position() -> nn.Module:
    """CLIP's text encoder takes the features at the largest index."""

    def forward(net: Form, x: Tensor) -> Tensor:
        y = F.relu(net.a(net.embed(x)))
        return net.out(y[torch.arange(x.shape[0]), x.argmax(dim=-1)])

    return Form(forward, embed=nn.Embedding(20, 8), a=nn.Linear(8, 16), out=nn.Linear(16, 4))


@specimen(tokens)
def relative_positions() -> nn.Module:
    def forward(net: Form, x: Tensor) -> Tensor:
        x = F.relu(net.stem(x))
        bias = net.table[net.index.view(-1)].view(7, 7, -1).permute(2, 0, 1).unsqueeze(0)
        q, k, v = (_heads(layer(x), 2) for layer in (net.q, net.k, net.v))
        weights = F.softmax(q @ k.transpose(2, 3) + bias, dim=-1)
        x = (weights @ v).transpose(1, 2).reshape(x.shape)
        return net.out(net.down(F.relu(net.up(x))).mean(1))

    net = _block(forward, stem=nn.Linear(8, 8))
    net.table = nn.Parameter(torch.randn(13, 2))
    net.index = torch.arange(7)[:, None] - torch.arange(7)[None] + 6
    return net


@specimen(lambda n: torch.randn(n, 8, 8, 8))
def windows() -> nn.Module:
    """Swin's windows: the batch is merged with them and taken apart again, shifted in between."""

    def forward(net: Form, x: Tensor) -> Tensor:
        n, h, w, c = x.shape
        x = torch.roll(F.relu(net.stem(x)), (-2, -2), (1, 2))
        x = x.view(n, h // 4, 4, w // 4, 4, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, 16, c)
        x = x + _attention(net, x)
        x = x.view(n, h // 4, w // 4, 4, 4, c).permute(0, 1, 3, 2, 4, 5).reshape(n, h, w, c)
        return net.out(net.down(F.relu(net.up(x))).mean((1, 2)))

    return _block(forward, stem=nn.Linear(8, 8))


@specimen(tokens)
def linear_attention() -> nn.Module:
    def forward(net: Form, x: Tensor) -> Tensor:
        q, k, v = F.relu(net.q(x)), F.relu(net.k(x)), net.v(x)
        top = q @ (k.transpose(-1, -2) @ v)
        bottom = (q * k.sum(1, keepdim=True)).sum(-1, keepdim=True) + 1.0
        return net.out(net.down(F.relu(net.up(top / bottom))).mean(1))

    return _block(forward)


@specimen(tokens)
def learned_queries() -> nn.Module:
    def forward(net: Form, x: Tensor) -> Tensor:
        x = F.relu(net.stem(x))
        query = net.query.expand(x.shape[0], -1, -1)
        mixed = torch.bmm(torch.softmax(torch.bmm(query, net.k(x).mT), 2), net.v(x))
        return net.out(net.down(F.relu(net.up(mixed))).flatten(1)[:, :8])

    net = _block(forward, stem=nn.Linear(8, 8))
    net.query = nn.Parameter(torch.randn(1, 3, 8))
    return net


@specimen(tokens)
def class_token() -> nn.Module:
    def forward(net: Form, x: Tensor) -> Tensor:
        x = torch.cat([net.token.repeat(x.size(0), 1, 1), net.stem(x)], dim=1) + net.place
        x = x + _attention(net, x)
        return net.out(x[:, 0] + net.down(F.relu(net.up(x)))[:, 0])

    net = _block(forward, stem=nn.Linear(8, 8))
    net.token, net.place = nn.Parameter(torch.randn(1, 1, 8)), nn.Parameter(torch.randn(1, 8, 8))
    return net


@specimen(tokens)
def rotary_positions() -> nn.Module:
    def forward(net: Form, x: Tensor) -> Tensor:
        x = F.relu(net.stem(x))
        turn = torch.outer(torch.arange(x.size(1)).float(), net.frequency)
        cosine, sine = torch.cat([turn, turn], 1).cos(), torch.cat([turn, turn], 1).sin()

        def rotated(y: Tensor) -> Tensor:
            a, b = y.chunk(2, dim=-1)
            return y * cosine + torch.cat((-b, a), dim=-1) * sine

        scores = rotated(net.q(x)) @ rotated(net.k(x)).transpose(1, 2)
        return net.out(net.down(F.relu(net.up((scores / 8).softmax(-1) @ net.v(x)))).mean(1))

    net = _block(forward, stem=nn.Linear(8, 8))
    net.register_buffer("frequency", torch.rand(4))
    return net


@specimen(tokens)
def causal_convolutions() -> nn.Module:
    def forward(net: Form, x: Tensor) -> Tensor:
        x = x.transpose(1, 2)
        for dilation, layer in zip((1, 2), net.layers, strict=True):
            x = F.relu(layer(F.pad(x, (2 * dilation, 0)))) + x
        return net.out(x[:, :, -1])

    layers = nn.ModuleList(nn.Conv1d(8, 8, 3, dilation=d) for d in (1, 2))
    return Form(forward, layers=layers, out=nn.Linear(8, 4))


@specimen(tokens)
def trimmed_convolutions() -> nn.Module:
    """TCN pads on both sides and cuts off the end."""

    def forward(net: Form, x: Tensor) -> Tensor:
        y = F.relu(net.a(x.transpose(1, 2))[:, :, :-2].contiguous())
        return net.out(F.relu(net.b(y)[..., :-2]).mean(-1))

    return Form(forward, a=nn.Conv1d(8, 8, 3, padding=2), b=nn.Conv1d(8, 8, 3, padding=2),
                out=nn.Linear(8, 4))  # fmt: skip


@specimen(tokens)
def lstm_over_features() -> nn.Module:
    def forward(net: Form, x: Tensor) -> Tensor:
        y, (h, _) = net.rnn(F.relu(net.a(x)))
        return net.out(torch.cat([y[:, -1], h[-1]], 1))

    return Form(forward, a=nn.Linear(8, 8), rnn=nn.LSTM(8, 6, 2, batch_first=True),
                out=nn.Linear(12, 4))  # fmt: skip


@specimen(tokens)
def gru_cells_in_a_loop() -> nn.Module:
    def forward(net: Form, x: Tensor) -> Tensor:
        x = F.relu(net.a(x))
        h = torch.zeros(x.size(0), 6, device=x.device)
        for t in range(x.size(1)):
            h = net.cell(x[:, t], h)
        return net.out(h)

    return Form(forward, a=nn.Linear(8, 8), cell=nn.GRUCell(8, 6), out=nn.Linear(6, 4))


@specimen(tokens)
def bidirectional_gru_sequence_first() -> nn.Module:
    def forward(net: Form, x: Tensor) -> Tensor:
        y, _ = net.rnn(F.relu(net.a(x)).permute(1, 0, 2))
        return net.out(F.relu(net.b(y)).mean(dim=0))

    return Form(forward, a=nn.Linear(8, 8), rnn=nn.GRU(8, 6, bidirectional=True),
                b=nn.Linear(12, 12), out=nn.Linear(12, 4))  # fmt: skip


@specimen(tokens)
def relu_recurrence() -> nn.Module:
    """The same layer again and again: a spiking layer for each time."""

    def forward(net: Form, x: Tensor) -> Tensor:
        h = x.new_zeros(x.shape[0], 8)
        for step in x.unbind(1):
            h = F.relu(net.a(step) + net.b(h))
        return net.out(h)

    net = Form(forward, a=nn.Linear(8, 8), b=nn.Linear(8, 8), out=nn.Linear(8, 4))
    with torch.no_grad():
        nn.init.eye_(net.b.weight).mul_(0.7)
    return net


@specimen(tokens)
def convolution_without_padding_first() -> nn.Module:
    def forward(net: Form, x: Tensor) -> Tensor:
        x = x.unsqueeze(1)
        x = torch.stack([F.relu(net.a(x)), F.relu(net.b(x))], dim=2).flatten(1, 2)
        return net.out(x.squeeze(-1).mean(2))

    return Form(forward, a=nn.Conv2d(1, 4, (3, 8)), b=nn.Conv2d(1, 4, (3, 8)), out=nn.Linear(8, 4))


# --- points, graphs, tables ---------------------------------------------------------------------


@specimen(points)
def point_net() -> nn.Module:
    def forward(net: Form, x: Tensor) -> Tensor:
        x = x.transpose(2, 1)
        turn = net.turn(torch.max(F.relu(net.t(x)), 2, keepdim=True)[0].view(-1, 8)).view(-1, 3, 3)
        x = torch.bmm(x.transpose(2, 1), turn + torch.eye(3)).transpose(2, 1)
        return net.out(torch.max(F.relu(net.norm(net.a(x))), 2)[0])

    return Form(forward, t=nn.Conv1d(3, 8, 1), turn=nn.Linear(8, 9), a=nn.Conv1d(3, 12, 1),
                norm=nn.BatchNorm1d(12), out=nn.Linear(12, 4))  # fmt: skip


@specimen(points)
def deep_sets() -> nn.Module:
    def forward(net: Form, x: Tensor) -> Tensor:
        x = F.relu(net.a(x)).sum(dim=1)
        return net.out(F.relu(net.b(x / 16)))

    return Form(forward, a=nn.Linear(3, 12), b=nn.Linear(12, 12), out=nn.Linear(12, 4))


@specimen(points)
def neighbours_in_space() -> nn.Module:
    """EdgeConv: the neighbours depend on the points, not on the features."""

    def forward(net: Form, x: Tensor) -> Tensor:
        near = torch.cdist(x, x).topk(4, largest=False).indices
        y = F.relu(net.a(x))
        index = near.reshape(x.size(0), -1, 1).expand(-1, -1, 12)
        gathered = torch.gather(y, 1, index).view(x.size(0), 16, 4, 12)
        edges = torch.cat([gathered - y.unsqueeze(2), y.unsqueeze(2).expand(-1, -1, 4, -1)], -1)
        return net.out(F.relu(net.b(edges)).amax(2).mean(1))

    return Form(forward, a=nn.Linear(3, 12), b=nn.Linear(24, 12), out=nn.Linear(12, 4))


@specimen(lambda n: {"x": torch.randn(n, 6, 5), "links": (torch.rand(n, 6, 6) > 0.5).float()})
def graph_convolution() -> nn.Module:
    class Graph(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.out = nn.Linear(5, 8), nn.Linear(8, 8), nn.Linear(8, 4)

        def forward(self, x: Tensor, links: Tensor) -> Tensor:
            links = links / links.sum(-1, keepdim=True).clamp(min=1)
            x = F.relu(links @ self.a(x))
            return self.out(F.relu(links @ self.b(x)).mean(1))

    return Graph()


@specimen(lambda n: Inputs((images(n), torch.randn(n, 5)), {}))
def conditioned() -> nn.Module:
    """FiLM: scale and shift from a second input."""

    class Film(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = conv(3, 8), conv(8, 8), nn.Linear(5, 16)
            self.out = nn.Linear(8, 4)

        def forward(self, x: Tensor, condition: Tensor) -> Tensor:
            scale, shift = self.c(condition)[..., None, None].chunk(2, dim=1)
            x = F.relu(self.b(F.relu(self.a(x))) * (1 + scale) + shift)
            return self.out(x.mean((2, 3)))

    return Film()


@specimen(lambda n: Inputs((vectors(n), vectors(n)), {}))
def siamese() -> nn.Module:
    """Both inputs in one batch, taken apart again."""

    class Twins(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.out = nn.Linear(10, 16), nn.Linear(16, 4)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            both = F.relu(self.a(torch.cat([x, y])))
            one, two = both[: x.size(0)], both[x.size(0) :]
            return self.out(torch.abs(one - two))

    return Twins()


@specimen(lambda n: Inputs((vectors(n),), {"mask": None, "scale": 2.0}))
def optional_inputs() -> nn.Module:
    class Optional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.out = nn.Linear(10, 16), nn.Linear(16, 4)

        def forward(self, x: Tensor, *, mask: Tensor | None = None, scale: float = 1.0) -> Tensor:
            x = F.relu(self.a(x)) * scale
            return self.out(x if mask is None else x * mask)

    return Optional()


@specimen(vectors)
def mixture_of_experts() -> nn.Module:
    def forward(net: Form, x: Tensor) -> Tensor:
        gate = net.gate(x).softmax(-1)
        experts = torch.stack([F.relu(layer(x)) for layer in net.experts], dim=1)
        return net.out((gate.unsqueeze(-1) * experts).sum(1))

    return Form(forward, gate=nn.Linear(10, 3), out=nn.Linear(12, 4),
                experts=nn.ModuleList(nn.Linear(10, 12) for _ in range(3)))  # fmt: skip


@specimen(vectors)
def crossed_features() -> nn.Module:
    def forward(net: Form, x: Tensor) -> Tensor:
        y = x * net.a(x) + x
        y = x * net.b(F.relu(y)) + y
        return net.out(F.relu(y))

    return Form(forward, a=nn.Linear(10, 10), b=nn.Linear(10, 10), out=nn.Linear(10, 4))


@specimen(vectors)
def bilinear_layer() -> nn.Module:
    def forward(net: Form, x: Tensor) -> Tensor:
        y = F.relu(net.a(x))
        return net.out(F.relu(net.both(y, x)))

    return Form(forward, a=nn.Linear(10, 6), both=nn.Bilinear(6, 10, 8), out=nn.Linear(8, 4))


@specimen(vectors)
def cosine_head() -> nn.Module:
    def forward(net: Form, x: Tensor) -> Tensor:
        x = F.normalize(F.relu(net.a(x)), dim=-1)
        return 10 * x @ F.normalize(net.out.weight, dim=-1).t()

    return Form(forward, a=nn.Linear(10, 16), out=nn.Linear(16, 4))


@specimen(vectors)
def numbers_without_classes() -> nn.Module:
    """A regression: one number a sample, squeezed."""
    return Form(lambda net, x: net.b(F.relu(net.a(x))).squeeze(-1), a=nn.Linear(10, 16),
                b=nn.Linear(16, 1))  # fmt: skip


@specimen(vectors)
def relu_of_a_single_number() -> nn.Module:
    def forward(net: Form, x: Tensor) -> Tensor:
        y = F.relu(net.b(F.relu(net.a(x))).squeeze(1) + 3)
        return y[:, None] * torch.tensor([1.0, -1.0])

    return Form(forward, a=nn.Linear(10, 16), b=nn.Linear(16, 1))


class Answer(NamedTuple):
    logits: Tensor
    features: Tensor


@specimen(vectors)
def named_outputs() -> nn.Module:
    def forward(net: Form, x: Tensor) -> Answer:
        x = F.relu(net.a(x))
        return Answer(net.out(x), x)

    return Form(forward, a=nn.Linear(10, 16), out=nn.Linear(16, 4))


@dataclasses.dataclass
class Detection:
    boxes: Tensor
    scores: Tensor


torch.export.register_dataclass(Detection)


@specimen(images, output="scores")
def dataclass_outputs() -> nn.Module:
    def forward(net: Form, x: Tensor) -> Detection:
        x = F.relu(net.a(x))
        return Detection(boxes=net.boxes(x).exp(), scores=net.scores(x).permute(0, 2, 3, 1))

    return Form(forward, a=conv(3, 8), boxes=conv(8, 4, 1), scores=conv(8, 2, 1))


@specimen(vectors, output=1)
def classes_as_numbers() -> nn.Module:
    def forward(net: Form, x: Tensor) -> tuple[Tensor, Tensor]:
        y = net.out(F.relu(net.a(x)))
        return y.argmax(-1), y

    return Form(forward, a=nn.Linear(10, 16), out=nn.Linear(16, 4))


@specimen(tokens)
def squares_by_hand() -> nn.Module:
    """RMSNorm and a variance as people write them: products of a value with itself."""

    def forward(net: Form, x: Tensor) -> Tensor:
        y = F.relu(net.a(x))
        y = y / torch.sqrt((y * y).mean(-1, keepdim=True) + 1e-3)
        d = y - y.mean(-1, keepdim=True)
        return net.out(F.relu(net.b(d.mul(d) + torch.mul(d, d.detach()))).mean(1))

    return Form(forward, a=nn.Linear(8, 8), b=nn.Linear(8, 8), out=nn.Linear(8, 4))


@specimen(lambda n: torch.randn(n, 5, 3, 6, 6))
def frames_as_samples() -> nn.Module:
    """A convolution for each frame: the samples are merged with the frames."""

    def forward(net: Form, x: Tensor) -> Tensor:
        y = F.relu(net.a(x.flatten(0, 1))).mean((2, 3)).view(x.size(0), x.size(1), -1)
        return net.out(y.mean(1))

    return Form(forward, a=conv(3, 8), out=nn.Linear(8, 4))


@specimen(vectors)
def images_from_vectors() -> nn.Module:
    return nn.Sequential(
        nn.Linear(10, 120), nn.Unflatten(1, (4, 6, 5)), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(4, 3, 2), nn.Flatten(),
    )  # fmt: skip


@specimen(tokens)
def turned_complex_numbers() -> nn.Module:
    """LLaMA's rotary positions."""

    def forward(net: Form, x: Tensor) -> Tensor:
        y = F.relu(net.a(x)).reshape(x.size(0), x.size(1), 4, 2)
        turned = torch.view_as_complex(y) * torch.polar(torch.ones(4), torch.arange(4.0))
        return net.out(torch.view_as_real(turned).flatten(2).mean(1))

    return Form(forward, a=nn.Linear(8, 8), out=nn.Linear(8, 4))


@specimen(vectors)
def siamese_taken_apart() -> nn.Module:
    def forward(net: Form, x: Tensor) -> Tensor:
        one, two = F.relu(net.a(torch.cat([x, -x]))).chunk(2, 0)
        return net.out(one - two)

    return Form(forward, a=nn.Linear(10, 16), out=nn.Linear(16, 4))


@specimen(tokens)
def rows_filled() -> nn.Module:
    def forward(net: Form, x: Tensor) -> Tensor:
        y = F.relu(net.a(x))
        y[:, 0] = 0
        y[:, 1].fill_(0.3)
        y = y.masked_fill(torch.arange(8) > 5, torch.tensor(0.7))
        return net.out(y.mean(1))

    return Form(forward, a=nn.Linear(8, 8), out=nn.Linear(8, 4))


@specimen(tokens)
def pools_without_channels() -> nn.Module:
    def forward(net: Form, x: Tensor) -> Tensor:
        y = F.relu(net.a(x))
        y = torch.cat([F.avg_pool2d(y, 2), F.max_pool2d(y, 2)], dim=1)
        return net.out(F.avg_pool1d(y.mean(1), 2))

    return Form(forward, a=nn.Linear(8, 8), out=nn.Linear(2, 4))


@specimen(tokens)
def einsum_of_one() -> nn.Module:
    def forward(net: Form, x: Tensor) -> Tensor:
        y = torch.einsum("nlc->ncl", F.relu(net.a(x)))
        z = torch.einsum("nlgi,goi->nlgo", y.reshape(y.size(0), 7, 2, 4), net.mix)
        return net.out(F.relu(z).flatten(1))

    net = Form(forward, a=nn.Linear(8, 8), out=nn.Linear(42, 4))
    net.mix = nn.Parameter(torch.randn(2, 3, 4))
    return net


@specimen(words)
def bag_of_words() -> nn.Module:
    return nn.Sequential(nn.EmbeddingBag(20, 8), nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))


@specimen(images)
def weights_standardised_by_batch_norm() -> nn.Module:
    """timm's: batch statistics, but of the weights."""

    def forward(net: Form, x: Tensor) -> Tensor:
        rows = net.a.weight.reshape(1, 8, -1)
        w = F.batch_norm(rows, None, None, weight=net.gain, training=True, momentum=0.0)
        return net.out(F.relu(F.conv2d(x, w.reshape_as(net.a.weight), padding=1)).mean((2, 3)))

    net = Form(forward, a=conv(3, 8), out=nn.Linear(8, 4))
    net.gain = nn.Parameter(torch.rand(8) + 0.5)
    return net


# --- wrapped ------------------------------------------------------------------------------------


def _plain() -> nn.Sequential:
    return nn.Sequential(nn.Linear(10, 16), nn.ReLU(), nn.Linear(16, 4))


ZOO["data_parallel"] = Specimen(lambda: nn.DataParallel(_plain()), vectors)
ZOO["compiled"] = Specimen(lambda: torch.compile(_plain()), vectors)
ZOO["graph_module"] = Specimen(lambda: torch.fx.symbolic_trace(_plain()), vectors)


# --- refused ------------------------------------------------------------------------------------

_MIXES = "mixes the samples of a batch"
_LINEAR = {"a": L(nn.Linear, 10, 8), "out": L(nn.Linear, 8, 4)}


def refuse(name: str, pattern: str, function: Callable[[Form, Tensor], Any]) -> None:
    """A network of two layers that is refused."""
    ZOO[name] = Specimen(
        lambda: Form(function, **{key: make() for key, make in _LINEAR.items()}),
        vectors,
        refused=pattern,
    )


def _branch(net: Form, x: Tensor) -> Tensor:
    return net.out(F.relu(net.a(x))) if bool((x > 0).any()) else net.out(net.a(x))


def _loop(net: Form, x: Tensor) -> Tensor:
    y = F.relu(net.a(x))
    while y.norm() > 1:
        y = y / 2
    return net.out(y)


refuse("branch_on_values", "decides by the values of a tensor at zoo.py", _branch)
refuse("loop_on_values", "decides by the values of a tensor at zoo.py", _loop)
refuse(
    "item",
    "depends on the values of a tensor|decides by the values",
    lambda m, x: m.a(x) * x.max().item(),
)
refuse("numpy", "leaves PyTorch for NumPy", lambda m, x: torch.tensor(m.a(x).detach().numpy()))
refuse("fixed_batch", "one size of the batch only", lambda m, x: m.a(x).view(3, 8))
refuse("normed_by_the_batch", _MIXES, lambda m, x: m.out(F.relu(m.a(x - x.mean(0)))))
refuse(
    "centred_behind_a_relu", _MIXES, lambda m, x: (y := F.relu(m.a(x))) - y.mean(0, keepdim=True)
)
refuse("softmax_over_the_batch", _MIXES, lambda m, x: m.out(F.relu(m.a(x))).softmax(0))
refuse("sorted_batch", _MIXES, lambda m, x: m.out(F.relu(m.a(x.sort(0).values))))
refuse("flipped_batch", _MIXES, lambda m, x: m.out(F.relu(m.a(x)).flip(0)))
refuse("similarities", _MIXES, lambda m, x: (y := F.relu(m.a(x))) @ y.t())
refuse("loss", _MIXES, lambda m, x: m.out(F.relu(m.a(x))).sum())
refuse("divided_by_the_batch", _MIXES, lambda m, x: m.out(F.relu(m.a(x))) / x.size(0))
refuse(
    "shuffled_batch", "draws random", lambda m, x: m.out(F.relu(m.a(x)))[torch.randperm(x.size(0))]
)
refuse("noise", "draws random numbers", lambda m, x: m.out(F.relu(m.a(x)) + torch.randn(8)))
refuse("dropout_always", "draws random numbers", lambda m, x: m.out(F.dropout(F.relu(m.a(x)), 0.5)))
refuse(
    "batch_statistics",
    "statistics of each batch",
    lambda m, x: m.out(F.batch_norm(F.relu(m.a(x)), None, None, training=True)),
)
refuse(
    "chosen_rows",
    "gives as many values as other values decide",
    lambda m, x: m.out(F.relu(m.a(x)))[x[:, 0] > 0],
)
refuse(
    "distinct_values",
    "gives as many values as other values decide",
    lambda m, x: torch.unique(F.relu(m.a(x))),
)
refuse("no_tensor", "returns no tensor", lambda m, x: 3.0)
refuse(
    "several_outputs", "say which holds the logits", lambda m, x: (m.a(x), m.out(F.relu(m.a(x))))
)
refuse("wrong_shape", "does not run on inputs of the shape", lambda m, x: m.out(x))
refuse(
    "memory",
    "reads memory by strides",
    lambda m, x: F.relu(m.a(x)).as_strided((x.size(0), 4), (8, 2)),
)
ZOO["scripted"] = Specimen(lambda: torch.jit.script(_plain()), vectors, refused="is TorchScript")
ZOO["traced"] = Specimen(
    lambda: torch.jit.trace(_plain(), torch.randn(2, 10)), vectors, refused="is TorchScript"
)


def _not_a_number() -> nn.Module:
    net = _plain()
    with torch.no_grad():
        net[2].weight[0, 0] = torch.nan
    return net


ZOO["not_a_number"] = Specimen(
    _not_a_number, vectors, refused="'2.weight' of the model contains NaN"
)

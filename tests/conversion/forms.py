"""Small networks of every form that people write; each takes ``(N, 3, 8, 8)``."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from tests.conftest import Form


def depthwise() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU6(),
        nn.Conv2d(8, 8, 3, groups=8), nn.BatchNorm2d(8), nn.ReLU6(),
        nn.Conv2d(8, 4, 1), nn.Flatten(), nn.Linear(4 * 16, 3),
    )  # fmt: skip


def norm_before_relu_and_concat() -> nn.Module:
    def forward(net: Form, x: Tensor) -> Tensor:
        a = F.relu(net.a(x))
        b = net.b(F.relu(net.norm(a)))
        return net.out(torch.cat([a, b], 1).mean([2, 3]))

    return Form(
        forward, a=nn.Conv2d(3, 4, 3), norm=nn.BatchNorm2d(4), b=nn.Conv2d(4, 4, 3, padding=1),
        out=nn.Linear(8, 3),
    )  # fmt: skip


def max_pool_of_a_concat() -> nn.Module:
    def forward(net: Form, x: Tensor) -> Tensor:
        a = F.relu(net.a(x))
        both = torch.cat([F.relu(net.b(a)), F.relu(net.c(a))], 1)
        return net.out(F.max_pool2d(both, kernel_size=2, stride=2).flatten(1))

    return Form(
        forward, a=nn.Conv2d(3, 3, 3), b=nn.Conv2d(3, 4, 1), c=nn.Conv2d(3, 4, 1),
        out=nn.Linear(8 * 9, 3),
    )  # fmt: skip


def max_pool_before_relu() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.MaxPool2d(2), nn.ReLU(),
        nn.Flatten(), nn.Linear(36, 3),
    )  # fmt: skip


def reused_module() -> nn.Module:
    relu = nn.ReLU()
    return nn.Sequential(
        nn.Conv2d(3, 3, 3), relu, nn.Conv2d(3, 3, 1), relu, nn.MaxPool2d(3, 1, 1),
        nn.Conv2d(3, 2, 1), relu, nn.Flatten(), nn.Linear(72, 3),
    )  # fmt: skip


def transposed() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.ConvTranspose2d(4, 3, 3, 2), nn.BatchNorm2d(3),
        nn.ReLU(), nn.AvgPool2d(3, 2, 1), nn.Flatten(), nn.Linear(48, 3),
    )  # fmt: skip


def one_dimensional() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(2), nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4), nn.ReLU(), nn.MaxPool1d(2),
        nn.Conv1d(4, 4, 3), nn.ReLU(), nn.AvgPool1d(2), nn.Flatten(), nn.Linear(56, 3),
    )  # fmt: skip


def three_dimensional() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (1, 3)), nn.Conv3d(1, 4, 2), nn.ReLU(), nn.AdaptiveAvgPool3d(2),
        nn.Flatten(), nn.Linear(32, 3),
    )  # fmt: skip


def attention_like() -> nn.Module:
    """A product of two activations and a sigmoid: both stay analog."""

    def forward(net: Form, x: Tensor) -> Tensor:
        a = F.relu(net.a(x))
        gate = torch.sigmoid(net.b(a.mean([2, 3], keepdim=True)))
        return net.out((a * gate).flatten(1))

    return Form(forward, a=nn.Conv2d(3, 2, 3), b=nn.Conv2d(2, 2, 1), out=nn.Linear(72, 3))


def static_and_temporal() -> nn.Module:
    def forward(net: Form, x: Tensor) -> Tensor:
        return net.out((F.relu(net.a(x)) + net.b(x)).flatten(1))

    return Form(forward, a=nn.Conv2d(3, 2, 3), b=nn.Conv2d(3, 2, 3), out=nn.Linear(72, 3))


def constants() -> nn.Module:
    def forward(net: Form, x: Tensor) -> Tensor:
        return net.out((2 * F.relu(net.a(x)) - 0.5).flatten(1) / 3)

    return Form(forward, a=nn.Conv2d(3, 2, 3), out=nn.Linear(72, 3))


def shuffled_halves() -> nn.Module:
    """ShuffleNet's unit: halves of the channels, one of them transformed, then shuffled."""

    def forward(net: Form, x: Tensor) -> Tensor:
        left, right = F.relu(net.stem(x)).chunk(2, dim=1)
        x = torch.cat([left, F.relu(net.right(right))], dim=1)
        batch, channels, height, width = x.size()
        x = x.view(batch, 2, channels // 2, height, width).transpose(1, 2).contiguous()
        return net.out(x.view(batch, -1, height, width).mean([2, 3], True).flatten(1))

    return Form(
        forward, stem=nn.Conv2d(3, 6, 3), right=nn.Conv2d(3, 3, 3, padding=1), out=nn.Linear(6, 3)
    )


def padded_and_permuted() -> nn.Module:
    def forward(net: Form, x: Tensor) -> Tensor:
        x = F.dropout2d(F.relu(net.a(F.pad(x, (1, 1, 1, 1)))), training=net.training)
        x = F.pad(x.mul(0.5), (0, 1)).permute(0, 2, 3, 1)[:, 1:]
        return net.out(x.permute(0, 3, 1, 2).flatten(1))

    return Form(forward, a=nn.Conv2d(3, 2, 3), out=nn.Linear(2 * 7 * 9, 3))


class Standardised(nn.Conv2d):
    """A convolution whose weights are computed from its parameters."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


def functional_layers() -> nn.Module:
    def forward(net: Form, x: Tensor) -> Tensor:
        x = F.relu_(net.norm(net.a(x)))
        return F.linear(torch.clamp(net.b(x), min=0).flatten(1), net.out.weight, bias=net.out.bias)

    return Form(
        forward, a=Standardised(3, 4, 3), norm=nn.BatchNorm2d(4),
        b=Standardised(4, 4, 3, stride=2, groups=2), out=nn.Linear(16, 3),
    )  # fmt: skip


def pools_of_what_is_no_spike() -> nn.Module:
    """Max-pools behind a norm, behind an average and behind a sum of spikes."""

    def forward(net: Form, x: Tensor) -> Tensor:
        a, b = F.relu(net.a(x)), F.relu(net.b(x))
        x = torch.cat([F.max_pool2d(net.norm(a), 2), F.max_pool2d(F.avg_pool2d(b, 2), 1)], 1)
        return net.out(torch.add(x, other=F.max_pool2d(a + b, 2).repeat(1, 2, 1, 1)).flatten(1))

    return Form(
        forward, a=nn.Conv2d(3, 2, 3), b=nn.Conv2d(3, 2, 3), norm=nn.BatchNorm2d(2),
        out=nn.Linear(36, 3),
    )  # fmt: skip


def same_tensor_twice() -> nn.Module:
    def forward(net: Form, x: Tensor) -> Tensor:
        a, b = F.relu(net.a(x)), F.relu(net.b(x))
        return net.out(F.max_pool2d(torch.cat(tensors=[a, b, a], dim=1), 2).flatten(1))

    return Form(forward, a=nn.Conv2d(3, 2, 3), b=nn.Conv2d(3, 2, 3), out=nn.Linear(54, 3))


def changed_in_place_and_read_again() -> nn.Module:
    def forward(net: Form, x: Tensor) -> Tensor:
        y = net.a(x)
        z = net.relu(y)
        return net.out((z + y).flatten(1))  # y has been clipped

    return Form(forward, a=nn.Conv2d(3, 2, 3), relu=nn.ReLU(inplace=True), out=nn.Linear(72, 3))


def interpolated() -> nn.Module:
    """A segmentation network's shape: a dict of outputs, up-sampled."""

    def forward(net: Form, x: Tensor) -> Tensor:
        small = F.relu(net.b(F.relu(net.a(x))))
        large = F.interpolate(small, size=x.shape[-2:], mode="bilinear", align_corners=False)
        return {"out": net.out(large).mean([2, 3]), "aux": small}

    return Form(forward, a=nn.Conv2d(3, 4, 3, 2), b=nn.Conv2d(4, 4, 1), out=nn.Conv2d(4, 3, 1))


def token_transformer() -> nn.Module:
    """A vision transformer with attention ReLU(q) (ReLU(k)ᵀ v) / tokens and a spiking MLP."""

    def forward(net: Form, x: Tensor) -> Tensor:
        tokens = net.patch(x).flatten(2).transpose(1, 2)
        batch = tokens.shape[0]
        tokens = torch.cat([net.token.expand(batch, -1, -1), tokens], dim=1) + net.position
        y = net.norm1(tokens)
        q, k, v = F.relu(net.q(y)), F.relu(net.k(y)), net.v(y)
        tokens = tokens + net.mix(q @ (k.transpose(1, 2) @ v) / 17)
        tokens = tokens + net.down(F.relu(net.up(net.norm2(tokens))))
        return net.out(tokens[:, 0])

    net = Form(
        forward, patch=nn.Conv2d(3, 8, 2, 2), norm1=nn.LayerNorm(8), norm2=nn.LayerNorm(8),
        q=nn.Linear(8, 8), k=nn.Linear(8, 8), v=nn.Linear(8, 8), mix=nn.Linear(8, 8),
        up=nn.Linear(8, 16), down=nn.Linear(16, 8), out=nn.Linear(8, 3),
    )  # fmt: skip
    net.token = nn.Parameter(torch.randn(1, 1, 8))
    net.position = nn.Parameter(torch.randn(1, 17, 8) / 4)
    return net


def softmax_attention() -> nn.Module:
    def forward(net: Form, x: Tensor) -> Tensor:
        tokens = F.relu(net.patch(x)).flatten(2).transpose(1, 2)
        mixed, _ = net.attention(tokens, tokens, tokens, need_weights=False)
        return net.out(F.relu(net.up(tokens + mixed)).mean(1))

    return Form(
        forward, patch=nn.Conv2d(3, 8, 2, 2), up=nn.Linear(8, 16), out=nn.Linear(16, 3),
        attention=nn.MultiheadAttention(8, 2, batch_first=True),
    )  # fmt: skip


def norm_over_tokens() -> nn.Module:
    """BatchNorm1d behind a linear layer on (N, L, F) has L channels and cannot be folded."""

    def forward(net: Form, x: Tensor) -> Tensor:
        return net.out(F.relu(net.norm(net.a(x.flatten(2)))).flatten(1))

    return Form(forward, a=nn.Linear(64, 3), norm=nn.BatchNorm1d(3), out=nn.Linear(9, 3))


def largest_over_points() -> nn.Module:
    """PointNet's pool, by position and by name, as a function and as a method."""

    def forward(net: Form, x: Tensor) -> Tensor:
        y = F.relu(net.a(x.flatten(2)))
        parts = (torch.max(y, 2)[0], y.max(2)[0], y.max(dim=2).values, torch.max(y, 2).values)
        return net.out(torch.stack(parts, 1).sum(1))

    return Form(forward, a=nn.Conv1d(3, 6, 1), out=nn.Linear(6, 3))


def modules_that_move() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.ZeroPad2d(1), nn.PixelShuffle(2), nn.ReflectionPad2d(1),
        nn.Conv2d(2, 4, 3), nn.ReLU(), nn.ChannelShuffle(2), nn.Flatten(), nn.LazyLinear(3),
    )  # fmt: skip


def chosen_by_a_comparison() -> nn.Module:
    def forward(net: Form, x: Tensor) -> Tensor:
        y = net.b(F.relu(net.a(x)))
        y = torch.where(y > 0.1, y, -0.1 * y)
        return net.out((y * (y < 0.5)).flatten(1))

    return Form(forward, a=nn.Conv2d(3, 4, 3), b=nn.Conv2d(4, 4, 3), out=nn.Linear(64, 3))


def pooled_and_put_back() -> nn.Module:
    """SegNet's unpooling, by the indices of the pool."""

    def forward(net: Form, x: Tensor) -> Tensor:
        y, where = net.pool(net.c(F.relu(net.a(x))))
        return net.out(net.unpool(net.b(y), where).flatten(1))

    return Form(
        forward, a=nn.Conv2d(3, 4, 3, padding=1), pool=nn.MaxPool2d(2, return_indices=True),
        b=nn.Conv2d(4, 4, 3, padding=1), c=nn.Conv2d(4, 4, 1), unpool=nn.MaxUnpool2d(2),
        out=nn.Linear(256, 3),
    )  # fmt: skip


def changed_in_place_by_any_name() -> nn.Module:
    def forward(net: Form, x: Tensor) -> Tensor:
        y = net.b(F.relu(net.a(x)))
        z = y.sigmoid_()
        w = torch.sigmoid_(net.c(z))
        return net.out((z + y).clamp_min_(0.7).add_(other=w).flatten(1))

    return Form(
        forward, a=nn.Conv2d(3, 4, 3), b=nn.Conv2d(4, 4, 3), c=nn.Conv2d(4, 4, 1),
        out=nn.Linear(64, 3),
    )  # fmt: skip


def other_names_of_relu() -> nn.Module:
    def forward(net: Form, x: Tensor) -> Tensor:
        y = net.b(net.a(x).clamp_min(0)).clip(0, 3)
        return net.out(torch.clip(y, min=0).flatten(1).neg().mul(other=2.0))

    return Form(forward, a=nn.Conv2d(3, 4, 3), b=nn.Conv2d(4, 4, 3), out=nn.Linear(64, 3))


def normed_weights() -> nn.Module:
    return nn.Sequential(
        weight_norm(nn.Conv2d(3, 4, 3)), nn.BatchNorm2d(4), nn.ReLU(),
        weight_norm(nn.Conv2d(4, 4, 3)), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3),
    )  # fmt: skip


def tied_weights() -> nn.Module:
    net = nn.Sequential(
        nn.Conv2d(3, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 3, 3, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(192, 3),
    )  # fmt: skip
    net[2].weight = net[0].weight
    return net


def max_pool_over_tokens() -> nn.Module:
    """As many tokens as features, so that a threshold along the wrong one would fit too."""

    def forward(net: Form, x: Tensor) -> Tensor:
        return net.out(net.pool(F.relu(net.a(x.flatten(2)))).flatten(1))

    return Form(forward, a=nn.Linear(64, 3), pool=nn.MaxPool1d(3), out=nn.Linear(3, 3))


FORMS = (
    depthwise, norm_before_relu_and_concat, max_pool_of_a_concat, max_pool_before_relu,
    reused_module, transposed, one_dimensional, three_dimensional, attention_like,
    static_and_temporal, constants, shuffled_halves, padded_and_permuted, functional_layers,
    pools_of_what_is_no_spike, same_tensor_twice, changed_in_place_and_read_again, interpolated,
    token_transformer, softmax_attention, norm_over_tokens, largest_over_points,
    modules_that_move, chosen_by_a_comparison, changed_in_place_by_any_name,
    other_names_of_relu, normed_weights, tied_weights, max_pool_over_tokens,
)  # fmt: skip

"""Which networks convert, how exactly, how fast: ``python -m benchmarks.conversion [--json]``.

Random weights, BatchNorm settled on random images, the smallest images that each network takes.
Deep random networks enlarge any disturbance; *amplification* is by how much the ANN itself enlarges
a relative noise of 1e-4 on its input, and the spiking errors are to be read against it.
Each network runs in a process of its own, whose peak memory is reported.
"""

from __future__ import annotations

import json
import multiprocessing
import resource
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import click
import torch
import torchvision
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

from conversion import ConversionConfig, convert, profile
from evaluators import ResNetCifar

STEPS = (4, 16, 64)
PHI = 8


class Finest(nn.Module):
    """The finest feature map of a detection backbone."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, x: Tensor) -> Tensor:
        """Features of level 0."""
        return self.backbone(x)["0"]


def _torchvision(name: str, **options: Any) -> Callable[[], nn.Module]:
    return lambda: torchvision.models.get_model(name, weights=None, **options)


def _segmentation(name: str) -> Callable[[], nn.Module]:
    return _torchvision(name, weights_backbone=None, num_classes=5)


_PLAIN = (
    "vgg11", "vgg16", "vgg16_bn", "resnet18", "resnet34", "resnet50", "resnet101", "resnet152",
    "wide_resnet50_2", "resnext50_32x4d", "regnet_x_400mf", "regnet_y_400mf", "mobilenet_v2",
    "mnasnet1_0", "shufflenet_v2_x1_0", "squeezenet1_0", "squeezenet1_1", "densenet121",
    "densenet161",
)  # fmt: skip

MODELS: dict[str, tuple[int, Callable[[], nn.Module]]] = {
    "resnet20 (CIFAR)": (32, ResNetCifar),
    "resnet32 (CIFAR)": (32, lambda: ResNetCifar(blocks=5)),
    "alexnet": (63, _torchvision("alexnet")),
    **{name: (32, _torchvision(name)) for name in _PLAIN},
    "googlenet": (32, _torchvision("googlenet", init_weights=True)),
    "inception_v3": (75, _torchvision("inception_v3", init_weights=True)),
    "fcn_resnet50": (32, _segmentation("fcn_resnet50")),
    "deeplabv3_resnet50": (32, _segmentation("deeplabv3_resnet50")),
    "resnet50 + FPN": (
        32,
        lambda: Finest(resnet_fpn_backbone(backbone_name="resnet50", weights=None)),
    ),
    "vit_b_16": (32, _torchvision("vit_b_16", image_size=32)),
    "swin_t": (32, _torchvision("swin_t")),
    "convnext_tiny": (32, _torchvision("convnext_tiny")),
}


def measure(name: str, images: int) -> dict[str, Any]:
    """Convert one network and compare it with its ANN."""
    size, make = MODELS[name]
    torch.manual_seed(0)
    model = _settled(make(), size)
    x = torch.randn(images, 3, size, size)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    found = profile(model, x)
    first = convert(found, _config(found.layers, STEPS[0]))
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with torch.inference_mode():
        expected = _one(model(x))
        analog = found.network.module(x)
        noise = torch.randn_like(x)
        disturbed = _one(model(x + 1e-4 * noise * x.norm() / noise.norm()))
    errors = {}
    for steps in STEPS:
        spiking = first if steps == STEPS[0] else convert(found, _config(found.layers, steps))
        errors[steps] = _relative(spiking.simulate(x).logits[-1], expected)
    return {
        "model": name,
        "image_size": size,
        "spiking_layers": len(found.layers),
        "analog_nodes": len(found.network.analog_nodes),
        "analog_macs_share": found.costs.step_macs / found.costs.ann_macs,
        "max_relative_error": _relative(analog, expected),
        "snn_relative_error": errors,
        "amplification": _relative(disturbed, expected) / 1e-4,
        "seconds": round(seconds, 2),
        "peak_mb": round(peak / 1024),
        "peak_mb_before": round(before / 1024),
    }


def _config(layers: Any, steps: int) -> ConversionConfig:
    return ConversionConfig.uniform(
        layers, timesteps=steps, phi=PHI, neuron="dual-threshold", calibration="advanced"
    )


def _settled(model: nn.Module, size: int) -> nn.Module:
    """Evaluation mode, BatchNorm statistics of random images, no head of zeros."""
    model.eval()
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.momentum = None
        norm.train()
    with torch.no_grad():
        if norms:
            for _ in range(3):
                # Larger images: a map of one cell has no variance worth dividing by.
                model(torch.randn(16, 3, max(size, 64), max(size, 64)))
        for parameter in model.parameters():
            if parameter.dim() > 1 and not parameter.any():
                parameter.normal_(0, 0.02)
    return model.eval()


def _one(out: Any) -> Tensor:
    found: Tensor = out["out"] if isinstance(out, dict) else out
    return found


def _relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@click.command()
@click.option("--model", "models", multiple=True, help="Only these (may be repeated).")
@click.option("--images", default=4, show_default=True, help="Images to calibrate and compare on.")
@click.option("--json", "as_json", is_flag=True, help="Print one line of JSON, last.")
def main(models: tuple[str, ...], images: int, as_json: bool) -> None:
    """Convert every ReLU network of torchvision and compare it with its ANN."""
    rows = []
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, max_tasks_per_child=1) as pool:
        for name in models or MODELS:
            row = pool.submit(measure, name, images).result()
            rows.append(row)
            click.echo(_line(row), err=True)
    if as_json:
        click.echo(json.dumps({"models": rows, "torch": torch.__version__}))
        return
    _print(rows)


def _line(row: dict[str, Any]) -> str:
    return f"{row['model']}: {row['seconds']} s, {row['snn_relative_error'][STEPS[-1]]:.2%}"


def _print(rows: list[dict[str, Any]]) -> None:
    table = Table(
        "network", "image", "spiking layers", "analog nodes", "analog error",
        "amplification", *(f"T = {steps}" for steps in STEPS), "seconds", "peak, MB",
        title=f"relative errors of the outputs; spiking at φ = {PHI}, dual-threshold, advanced",
    )  # fmt: skip
    for row in rows:
        errors = (f"{row['snn_relative_error'][steps]:.2%}" for steps in STEPS)
        table.add_row(
            row["model"], str(row["image_size"]), str(row["spiking_layers"]),
            str(row["analog_nodes"]), f"{row['max_relative_error']:.0e}",
            f"{row['amplification']:.0f}", *errors,
            f"{row['seconds']:.1f}", str(row["peak_mb"]),
        )  # fmt: skip
    Console(width=140).print(table)


if __name__ == "__main__":
    main()

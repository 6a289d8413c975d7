"""Which networks convert, how exactly, how fast: ``python -m benchmarks.conversion [--json]``.

Random weights, BatchNorm settled on random images, the smallest images that each network takes.
Errors are on images that calibration did not see. Networks of timm and Hugging Face where those are
installed (``pip install timm transformers``).
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
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import click
import torch
import torchvision
from torch import Tensor, nn

from conversion import ConversionConfig, ConversionError, ann_answers, convert, profile
from evaluators import ResNetCifar, TorchvisionDetector

STEPS = (4, 16, 64)
UNSEEN = 8
PHI = 8


def _detector(name: str) -> Callable[[], nn.Module]:
    return lambda: TorchvisionDetector(name, 4)


class Proposals(nn.Module):
    """Backbone and region proposals of Faster R-CNN and its kin."""

    def __init__(self, name: str) -> None:
        super().__init__()
        options = {"weights": None, "weights_backbone": None, "num_classes": 5}
        whole = torchvision.models.get_model(name, **options)
        self.backbone, self.head = whole.backbone, whole.rpn.head

    def forward(self, x: Tensor) -> Tensor:
        """Objectness of the finest level."""
        return self.head(list(self.backbone(x).values()))[0][0]


class Logits(nn.Module):
    """A Hugging Face network's logits, or its last hidden state."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        """The first output."""
        return self.inner(x, return_dict=False)[0]


def _timm(name: str) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        import timm

        return timm.create_model(name, pretrained=False, num_classes=10)

    return make


def _hugging_face(kind: str, head: str, **options: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        import transformers

        config = getattr(transformers, f"{kind}Config")(**options)
        return Logits(getattr(transformers, head)(config))

    return make


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

_TIMM = (
    "resnet18", "resnet26", "resnet26d", "resnet34", "resnet50", "resnetv2_50", "resnext50_32x4d",
    "seresnet18", "seresnet50", "skresnet18", "ecaresnet26t", "res2net50_26w_4s", "resnest14d",
    "regnetx_002", "regnety_002", "densenet121", "dpn48b", "vgg11_bn", "vgg13", "mobilenetv2_050",
    "mobilenetv2_100", "mobilenetv3_small_050", "ghostnet_100", "mnasnet_small", "hrnet_w18_small",
    "dla34", "vovnet39a", "selecsls42", "inception_resnet_v2", "inception_v4", "xception41",
    "repvgg_a0", "nf_resnet26", "cspresnet50", "gernet_s", "levit_128s", "tresnet_m",
    "legacy_senet154", "efficientnet_lite0", "fbnetc_100",
)  # fmt: skip

_SMALL: dict[str, Any] = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
_ENCODER = {**_SMALL, "intermediate_size": 96, "vocab_size": 99, "hidden_act": "relu"}
_WORDS = 99

WORDS: dict[str, Callable[[], nn.Module]] = {
    "hf OPT": _hugging_face(
        "OPT", "OPTForSequenceClassification", vocab_size=99, hidden_size=48, ffn_dim=96,
        num_hidden_layers=2, num_attention_heads=4, word_embed_proj_dim=48, pad_token_id=None,
    ),
    "hf BERT, relu": _hugging_face("Bert", "BertForSequenceClassification", **_ENCODER),
    "hf T5 encoder": _hugging_face(
        "T5", "T5EncoderModel", vocab_size=99, d_model=48, d_kv=12, d_ff=96, num_layers=2,
        num_heads=4,
    ),
    "hf DistilBERT, relu": _hugging_face(
        "DistilBert", "DistilBertForSequenceClassification", vocab_size=99, dim=48, n_layers=2,
        n_heads=4, hidden_dim=96, activation="relu",
    ),
}  # fmt: skip

MODELS: dict[str, tuple[int, Callable[[], nn.Module]]] = {
    "resnet20 (CIFAR)": (32, ResNetCifar),
    "resnet32 (CIFAR)": (32, lambda: ResNetCifar(blocks=5)),
    "alexnet": (63, _torchvision("alexnet")),
    **{name: (32, _torchvision(name)) for name in _PLAIN},
    "googlenet": (32, _torchvision("googlenet", init_weights=True)),
    "inception_v3": (75, _torchvision("inception_v3", init_weights=True)),
    "fcn_resnet50": (32, _segmentation("fcn_resnet50")),
    "deeplabv3_mobilenet_v3_large": (64, _segmentation("deeplabv3_mobilenet_v3_large")),
    "deeplabv3_resnet50": (32, _segmentation("deeplabv3_resnet50")),
    "lraspp_mobilenet_v3_large": (64, _segmentation("lraspp_mobilenet_v3_large")),
    "retinanet_resnet50_fpn": (64, _detector("retinanet_resnet50_fpn")),
    "fcos_resnet50_fpn": (64, _detector("fcos_resnet50_fpn")),
    "ssd300_vgg16": (300, _detector("ssd300_vgg16")),
    "ssdlite320_mobilenet_v3_large": (96, _detector("ssdlite320_mobilenet_v3_large")),
    "fasterrcnn_resnet50_fpn": (64, lambda: Proposals("fasterrcnn_resnet50_fpn")),
    "vit_b_16": (32, _torchvision("vit_b_16", image_size=32)),
    "swin_t": (32, _torchvision("swin_t")),
    "convnext_tiny": (32, _torchvision("convnext_tiny")),
    **{f"timm {name}": (96 if "inception" in name else 64, _timm(name)) for name in _TIMM},
    "timm levit_128s": (224, _timm("levit_128s")),
    "hf ResNet": (64, _hugging_face("ResNet", "ResNetForImageClassification")),
    "hf RegNet": (64, _hugging_face("RegNet", "RegNetForImageClassification")),
    "hf MobileNetV2": (64, _hugging_face("MobileNetV2", "MobileNetV2ForImageClassification")),
    **{name: (12, make) for name, make in WORDS.items()},
}


def measure(name: str, images: int) -> dict[str, Any]:
    """Convert one network and compare it with its ANN."""
    size, make = MODELS[name]
    torch.manual_seed(0)
    model = _settled(make(), size) if name not in WORDS else make().eval()
    # T = 64 of many large images would not fit into memory.
    count = images if size <= 96 else max(2, images * 96**2 // size**2 // 2)
    x, unseen = _drawn(name, count, size), _drawn(name, min(UNSEEN, count), size)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    found = profile(
        model, x, outputs=model.outputs if isinstance(model, TorchvisionDetector) else None
    )
    captured = time.perf_counter() - start
    first = convert(found, _config(found.layers, STEPS[0]))
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with torch.inference_mode():
        expected = _one(model(unseen))
        analog = found.outputs.main(ann_answers(found.network, unseen))
        if name in WORDS:
            disturbed = expected
        else:
            noise = torch.randn_like(unseen)
            disturbed = _one(model(unseen + 1e-4 * noise * unseen.norm() / noise.norm()))
    errors = {}
    for steps in STEPS:
        spiking = first if steps == STEPS[0] else convert(found, _config(found.layers, steps))
        errors[steps] = _relative(spiking.simulate(unseen).logits[-1], expected)
    return {
        "model": name,
        "image_size": size,
        "spiking_layers": len(found.layers),
        "analog_nodes": len(found.network.analog_nodes),
        "analog_macs_share": found.costs.step_macs / found.costs.ann_macs,
        "max_relative_error": _relative(analog, expected),
        "snn_relative_error": errors,
        "amplification": _relative(disturbed, expected) / 1e-4,
        "capture_seconds": round(captured, 2),
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


def _drawn(name: str, images: int, size: int) -> Tensor:
    if name in WORDS:
        return torch.randint(2, _WORDS, (8 * images, size))
    return torch.randn(images, 3, size, size)


def _one(out: Any) -> Tensor:
    if not isinstance(out, dict):
        return out
    found: Tensor = out["cls_logits"] if "cls_logits" in out else out["out"]
    return found


def _relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@click.command()
@click.option("--model", "models", multiple=True, help="Only these (may be repeated).")
@click.option("--images", default=32, show_default=True, help="Images to calibrate on.")
@click.option("--json", "as_json", is_flag=True, help="Print one line of JSON, last.")
def main(models: tuple[str, ...], images: int, as_json: bool) -> None:
    """Convert every ReLU network of torchvision and compare it with its ANN."""
    rows = []
    if not as_json:
        click.echo(f"| {' | '.join(_COLUMNS)} |\n|{'---|' * len(_COLUMNS)}")
    context = multiprocessing.get_context("spawn")
    for name in models or MODELS:
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            try:
                row = pool.submit(measure, name, images).result()
            except (ImportError, ConversionError, BrokenProcessPool) as error:
                click.echo(f"{name}: {error}", err=True)
                continue
            rows.append(row)
            click.echo(_line(row), err=as_json)
    if as_json:
        click.echo(json.dumps({"models": rows, "torch": torch.__version__}))


_COLUMNS = (
    "network", "image", "spiking layers", "analog nodes", "analog error", "amplification",
    *(f"T = {steps}" for steps in STEPS), "capture, s", "all, s", "peak, MB",
)  # fmt: skip


def _line(row: dict[str, Any]) -> str:
    cells = (
        row["model"], row["image_size"], row["spiking_layers"], row["analog_nodes"],
        f"{row['max_relative_error']:.0e}", f"{row['amplification']:.0f}",
        *(f"{row['snn_relative_error'][steps]:.2%}" for steps in STEPS),
        f"{row['capture_seconds']:.1f}", f"{row['seconds']:.1f}", row["peak_mb"],
    )  # fmt: skip
    return f"| {' | '.join(map(str, cells))} |"


if __name__ == "__main__":
    main()

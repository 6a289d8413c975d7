"""A trained network of others, with the weights that its package ships: CREPE's pitch tracker."""

from __future__ import annotations

import importlib.util
import math
import sys
import types
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from conversion import ConversionConfig, convert, profile

RATE, FRAME, BINS = 16_000, 1024, 360


def crepe(size: str, monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    """The network alone: the package's other modules want a whole toolbox for sound."""
    spec = importlib.util.find_spec("torchcrepe")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("torchcrepe is not installed: pip install --no-deps -r tests/peers.txt")
    folder = Path(spec.submodule_search_locations[0])
    package = types.ModuleType("torchcrepe")
    package.PITCH_BINS = BINS  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torchcrepe", package)
    source = importlib.util.spec_from_file_location("crepe_model", folder / "model.py")
    assert source is not None
    assert source.loader is not None
    module = importlib.util.module_from_spec(source)
    source.loader.exec_module(module)
    net: nn.Module = module.Crepe(size)
    net.load_state_dict(torch.load(folder / "assets" / f"{size}.pth", weights_only=True))
    return net.eval()


def tones(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Frames of harmonic tones between 80 and 1,000 Hz, each normalised as CREPE wants it."""
    random = torch.Generator().manual_seed(seed)
    pitch = 80 * 2 ** (torch.rand(count, 1, generator=random) * math.log2(1000 / 80))
    phase = torch.rand(count, 1, generator=random) * 2 * math.pi
    time = torch.arange(FRAME) / RATE
    sound = sum(
        (torch.sin(2 * math.pi * k * pitch * time + k * phase) / k for k in range(1, 5)),
        torch.randn(count, FRAME, generator=random) * 0.02,
    )
    return (sound - sound.mean(1, True)) / sound.std(1, keepdim=True), pitch.squeeze(1)


def cents(bins: Tensor) -> Tensor:
    """CREPE's bins are 20 cents apart, the first at 1997.38 cents above 10 Hz."""
    return 20 * bins + 1997.3794084376191


@pytest.mark.slow
@pytest.mark.parametrize(("size", "macs"), [("tiny", 30.8e6), ("full", None)])
def test_the_pitch_is_the_same_within_a_bin(
    size: str, macs: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = crepe(size, monkeypatch)
    seen, _ = tones(128 if size == "tiny" else 24, seed=0)
    unseen, pitch = tones(64 if size == "tiny" else 12, seed=1)
    found = profile(net, seen, batch_size=16)
    if macs is not None:
        assert found.costs.ann_macs == pytest.approx(macs, rel=0.005)
    model = convert(found, ConversionConfig.uniform(found.layers, timesteps=16, phi=8))
    with torch.no_grad():
        expected = net(unseen).argmax(1)
    true = 1200 * (pitch / 10).log2()
    assert float((cents(expected) - true).abs().median()) < 15, "it does hear the pitch"
    logits = torch.cat([model.simulate(x).logits[-1] for x in unseen.split(8)])
    off = (logits.argmax(1) - expected).abs()
    assert float((off <= 1).double().mean()) >= 0.95, off.tolist()

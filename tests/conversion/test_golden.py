"""Numbers of digits' architecture and of ten forms, as an earlier commit gave them.

They were equal, bit for bit, before and after the engine was rebuilt on ``torch.export``, and have
been written anew since for thresholds with headroom. ``python -m tests.conversion.test_golden``
writes the file; do so only for a change that is meant to change numbers, and say in the commit
which and why.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from conversion import ConversionConfig, convert, energy_model, profile
from evaluators import ResNetCifar
from tests.conftest import settle
from tests.conversion import forms

_FILE = Path(__file__).parent / "golden" / "numbers.json"
_FORMS = (
    forms.depthwise, forms.norm_before_relu_and_concat, forms.max_pool_of_a_concat,
    forms.reused_module, forms.transposed, forms.one_dimensional, forms.attention_like,
    forms.shuffled_halves, forms.functional_layers, forms.token_transformer,
)  # fmt: skip
_SETTINGS: tuple[dict[str, Any], ...] = (
    {"timesteps": 4, "phi": 4, "rho": 2.0},
    {"timesteps": 3, "phi": 1, "neuron": "dual-threshold", "calibration": "advanced"},
)


def _networks() -> dict[str, tuple[nn.Module, Tensor]]:
    torch.manual_seed(0)
    images, x = torch.rand(32, 1, 8, 8), torch.randn(24, 3, 8, 8)
    made = {"digits": (settle(ResNetCifar(in_channels=1), images), images)}
    return made | {form.__name__: (settle(form(), x), x) for form in _FORMS}


def _sum(values: Tensor) -> float:
    return float(values.double().sum())


def _numbers(net: nn.Module, x: Tensor) -> dict[str, Any]:
    """Everything that a study depends on, in the order of the layers."""
    found = profile(net, x)
    costs = found.costs
    numbers: dict[str, Any] = {
        "layers": list(found.layers),
        "fan_out": [_sum(fan_out) for fan_out in costs.fan_out.values()],
        "macs": [costs.stem_macs, costs.step_macs, costs.ann_macs, costs.padding_macs],
        "runs": [],
    }
    price = energy_model("horowitz45")
    for setting in _SETTINGS:
        model = convert(found, ConversionConfig.uniform(found.layers, **setting))
        run = model.simulate(x)
        analog = costs.stem_macs + costs.step_macs * setting["timesteps"]
        numbers["runs"].append(
            {
                "thetas": [_sum(theta) for theta in model.thetas.values()],
                "biases": [_sum(bias) for bias in model.biases.values()],
                "spikes": run.counts.spikes.sum(2).tolist(),
                "synops": run.counts.synops.sum(2).tolist(),
                "energy_pj": _sum(run.counts.synops) * price.ac_pj / len(x) + analog * price.mac_pj,
                "logits": run.logits[-1].double().abs().sum(0).tolist(),
            }
        )
    return numbers


def _close(found: Any, expected: Any, rel: float) -> None:
    torch.testing.assert_close(
        torch.tensor(found, dtype=torch.float64), torch.tensor(expected, dtype=torch.float64),
        rtol=rel, atol=1e-4,
    )  # fmt: skip


@pytest.fixture(scope="module")
def networks() -> dict[str, tuple[nn.Module, Tensor]]:
    return _networks()


@pytest.mark.parametrize("name", ["digits", *(form.__name__ for form in _FORMS)])
def test_numbers_stay(name: str, networks: dict[str, tuple[nn.Module, Tensor]]) -> None:
    """Counts exactly; what floating-point sums decide, as far as another machine may differ."""
    expected = json.loads(_FILE.read_text())[name]
    found = _numbers(*networks[name])
    for key in ("layers", "fan_out", "macs"):
        assert found[key] == expected[key], key
    for run, golden in zip(found["runs"], expected["runs"], strict=True):
        _close(run["thetas"], golden["thetas"], 0.002)
        for key in ("biases", "logits", "energy_pj"):
            _close(run[key], golden[key], 0.02)
        for key in ("spikes", "synops"):
            totals = [torch.tensor(side[key], dtype=torch.float64).sum(1) for side in (run, golden)]
            _close(totals[0].tolist(), totals[1].tolist(), 0.02)


if __name__ == "__main__":
    _FILE.parent.mkdir(exist_ok=True)
    numbers = {name: _numbers(*made) for name, made in _networks().items()}
    _FILE.write_text(json.dumps(numbers, indent=1) + "\n")

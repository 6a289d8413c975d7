"""The zoo: every network converges on unseen inputs, or is refused by one of our errors."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from conversion import (
    ConversionConfig,
    ConversionError,
    ExitRule,
    Inputs,
    SpikingModel,
    confidence,
    convert,
    load,
    profile,
    save,
)
from tests.conftest import settle
from tests.conversion.zoo import ZOO

STEPS = (4, 64)


def ann(net: Any, inputs: Inputs, position: int) -> Tensor:
    own = inputs.with_tensors([x.clone() for x in inputs.tensors])
    with torch.no_grad():
        leaves = torch.utils._pytree.tree_leaves(net(*own.args, **own.kwargs))
    return leaves[position].double()


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected).norm() / expected.norm())


@pytest.mark.parametrize("name", [n for n, s in ZOO.items() if s.refused is None])
def test_converges_on_unseen_inputs(name: str, tmp_path: Path) -> None:
    specimen = ZOO[name]
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net = specimen.make()
    seen, unseen = (Inputs.of(specimen.draw(n)) for n in (96, 24))
    net = settle(net, seen) if isinstance(net, torch.nn.Module) else net
    found = profile(net, seen, outputs=specimen.output)
    assert found.layers
    expected = ann(net, unseen, found.network.output_names[str(found.outputs.output)])
    errors = []
    for steps in STEPS:
        model = convert(found, ConversionConfig.uniform(found.layers, timesteps=steps, phi=4))
        run = model.simulate(unseen)
        errors.append(relative(run.logits[-1], expected))
    assert errors[1] < specimen.within, errors
    assert errors[1] < max(0.6 * errors[0], 3e-3), "bfloat16 alone rounds to 2e-3"
    check_exits(model, unseen, run.logits)
    check_file(model, net, unseen, run.logits, tmp_path)


def check_exits(model: SpikingModel, inputs: Inputs, logits: Tensor) -> None:
    """Half of the samples leave after the first step; the others go on as if none had."""
    scores = confidence(logits, "margin", samples=2)[0]
    limit = float(scores.median())
    model.exit = ExitRule(score="margin", thresholds=(limit, *(2.0,) * (STEPS[1] - 1)))
    answer = model.infer(inputs)
    assert STEPS[1] in answer.timesteps
    assert (1 in answer.timesteps) == (limit < float(scores.max()))
    expected = logits[answer.timesteps - 1, torch.arange(len(inputs))]
    torch.testing.assert_close(answer.logits, expected, rtol=2e-3, atol=1e-3)


def check_file(model: SpikingModel, net: Any, inputs: Inputs, logits: Tensor, folder: Path) -> None:
    """What is saved comes back without the calibration data."""
    save(model, folder / "a.json")
    again = load(folder / "a.json", net)
    assert torch.equal(again.simulate(inputs).logits, logits)


@pytest.mark.parametrize("name", [n for n, s in ZOO.items() if s.refused is not None])
def test_is_refused_by_name(name: str) -> None:
    specimen = ZOO[name]
    torch.manual_seed(0)
    net = specimen.make()
    with pytest.raises(ConversionError, match=specimen.refused):
        profile(net, specimen.draw(8), outputs=specimen.output)


def test_the_zoo_is_large() -> None:
    assert len(ZOO) >= 100

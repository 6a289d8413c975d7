from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn

from conversion import Branch, ConfigError, ConversionConfig, LayerConfig, convert, profile, sweep
from conversion.energy._counts import KINDS
from evaluators import Task
from tests.conversion.forms import FORMS

CHANGES = (LayerConfig(phi=1), LayerConfig(phi=3, rho=2.0))


def branches(found, config: ConversionConfig) -> list[Branch]:
    told: list[Branch] = []
    sweep(found, config, CHANGES, told.append)
    return told


def check(found, config: ConversionConfig) -> None:
    """Every branch is what converting and simulating the changed config gives."""
    told = branches(found, config)
    layers = [b.layer for b in told]
    assert layers == [*(name for name in found.layers for _ in CHANGES), None]
    for branch in told:
        changed = config
        if branch.layer is not None:
            changed = replace(config, layers={**config.layers, branch.layer: branch.config})
        simulated = convert(found, changed).simulate(found.inputs)
        torch.testing.assert_close(found.outputs.main(branch.answers), simulated.logits)
        for kind in KINDS:
            expected = getattr(simulated.counts, kind).mean(2)
            torch.testing.assert_close(getattr(branch.counts, kind), expected)
        assert branch.counts.sources == simulated.counts.sources
        assert branch.counts.bits == simulated.counts.bits


@pytest.mark.parametrize("calibration", ["none", "light", "advanced"])
def test_a_branch_is_the_conversion_of_its_config(small_task: Task, calibration) -> None:
    inputs = next(small_task.calibration.batches(64))[0]
    found = profile(small_task.model, inputs)
    config = ConversionConfig.uniform(found.layers, timesteps=3, phi=4, calibration=calibration)
    check(found, config)


@pytest.mark.parametrize("form", FORMS)
def test_networks_of_every_form(form: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    model, x = form(), torch.rand(6, 3, 8, 8)
    model(x)  # a lazy module takes its shape
    found = profile(model.eval(), x)
    check(found, ConversionConfig.uniform(found.layers, timesteps=2, phi=4))


def test_what_learns_has_no_prefix_to_share() -> None:
    found = profile(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), torch.rand(5, 3))
    config = ConversionConfig.uniform(found.layers, timesteps=1, calibration="learned")
    with pytest.raises(ConfigError, match="in one pass is needed, but 'learned' takes several"):
        sweep(found, config, CHANGES, print)

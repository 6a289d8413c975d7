"""CIFAR-10 with a trained ResNet-20, where both are at hand.

Set ``SPIKEFRONT_DATA`` to a folder with ``cifar10/train`` and ``cifar10/val`` and
``SPIKEFRONT_MODELS`` to one with ``cifar10_resnet20.safetensors``.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from conversion import Choice, ConversionConfig, ExitPolicy
from evaluators import Evaluator, TaskSpec, load_task

DATA = Path(os.environ.get("SPIKEFRONT_DATA", "absent")) / "cifar10"
WEIGHTS = Path(os.environ.get("SPIKEFRONT_MODELS", "absent")) / "cifar10_resnet20.safetensors"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (DATA.is_dir() and WEIGHTS.is_file()),
        reason="SPIKEFRONT_DATA and SPIKEFRONT_MODELS do not name CIFAR-10 and its ResNet-20",
    ),
]


def test_two_steps_of_bursts_come_near_the_ann() -> None:
    evaluator = Evaluator(
        load_task(
            TaskSpec(task="cifar10", data=str(DATA), weights=str(WEIGHTS), search_samples=500)
        )
    )
    ann = evaluator.ann("search").accuracy.value
    assert ann > 0.83
    choice = Choice(
        conversion=ConversionConfig.uniform(evaluator.layers, timesteps=2, phi=4, rho=1.0),
        exit=ExitPolicy(alpha=1.0),
    )
    found = evaluator.measure(choice)
    assert found.timesteps.value == 2
    assert found.accuracy.value > ann - 0.03
    assert 0.15 < found.energy_ratio < 0.25

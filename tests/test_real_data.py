"""Real data, where they are at hand.

Set ``SPIKEFRONT_DATA`` to a folder with ``cifar10/train`` and ``cifar10/val``, ``camvid``,
``bccd``, ``nmnist_small`` and ``modelnet10_voxels``, and ``SPIKEFRONT_MODELS`` to one with
``cifar10_resnet20.safetensors``.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from conversion import Choice, ConversionConfig, ExitPolicy
from evaluators import UNTRAINED, Evaluator, Split, TaskSpec, load_task

ROOT = Path(os.environ.get("SPIKEFRONT_DATA", "absent"))
DATA = ROOT / "cifar10"
WEIGHTS = Path(os.environ.get("SPIKEFRONT_MODELS", "absent")) / "cifar10_resnet20.safetensors"

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("spec", "sizes", "shape"),
    [
        (TaskSpec(task="segmentation", data=str(ROOT / "camvid"), ignore_label=11,
                  calibration_samples=8),
         (367, 50, 51), (11, 180, 240)),
        (TaskSpec(task="detection", data=str(ROOT / "bccd"), image_size=240,
                  calibration_samples=8),
         (205, 43, 44), (900, 3)),
        (TaskSpec(task="events", data=str(ROOT / "nmnist_small")), (599, 202, 199), (10,)),
        (TaskSpec(task="voxels", data=str(ROOT / "modelnet10_voxels")), None, (2,)),
        (TaskSpec(task="pointcloud", data=str(ROOT / "modelnet10_voxels")), None, (2,)),
    ],
)  # fmt: skip
def test_real_files_are_read(spec: TaskSpec, sizes: Any, shape: tuple[int, ...]) -> None:
    if not Path(str(spec.data)).is_dir():
        pytest.skip(f"SPIKEFRONT_DATA has no {Path(str(spec.data)).name}")
    task = load_task(replace(spec, weights=UNTRAINED))
    assert isinstance(task.train, Split)
    found = (len(task.train), len(task.search), len(task.test))
    assert found == sizes if sizes else abs(found[0] / sum(found) - 0.6) < 0.01
    evaluator = Evaluator(task, batch_size=4)
    answer = evaluator.profile.outputs.main(evaluator.profile.expected)
    assert answer.shape[1:] == shape
    assert 0 <= evaluator.ann("test").accuracy.value <= 1


@pytest.mark.skipif(
    not (DATA.is_dir() and WEIGHTS.is_file()),
    reason="SPIKEFRONT_DATA and SPIKEFRONT_MODELS do not name CIFAR-10 and its ResNet-20",
)
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

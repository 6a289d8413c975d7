"""A small task of the user's own, and a study of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import CommandLine

SMALL = """
import torch
from torch import nn
from evaluators import Split, Task

def make_task():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Conv2d(6, 6, 3), nn.ReLU(),
                        nn.Flatten(), nn.Linear(96, 4)).eval()
    x = torch.randn(180, 1, 8, 8)
    with torch.no_grad():
        y = net(x).argmax(1)
    parts = [Split.of(x[i:i + 60], y[i:i + 60]) for i in (0, 60, 120)]
    return Task(name="small", model=net, calibration=parts[0], search=parts[1], test=parts[2])

def untraceable():
    task = make_task()
    class Net(nn.Module):
        def forward(self, x):
            return torch.relu(x) if x.sum() > 0 else x
    return Task(name="u", model=Net(), calibration=task.calibration, search=task.search,
                test=task.test)
"""


@pytest.fixture
def small(tmp_path: Path) -> str:
    (tmp_path / "small.py").write_text(SMALL)
    return "small.py:make_task"


@pytest.fixture
def searched(spikefront: CommandLine, small: str) -> str:
    spikefront("search", "--task", small, "--trials", 24, "--timesteps", "1,4")
    return small


PLAIN = ("--trials", 9, "--timesteps", "1,4", "--no-paper", "--calibration", "light")
"""A search that learns nothing, in a few seconds."""


@pytest.fixture
def plainly_searched(spikefront: CommandLine, small: str) -> str:
    spikefront("search", "--task", small, *PLAIN)
    return small

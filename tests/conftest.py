from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from conversion import Inputs
from evaluators import Evaluator, Split, Task, digits
from tests import command_line

ROOT = Path(__file__).parent.parent


class SmallNet(nn.Module):
    """Every form in one small network: functional and reused ReLU, residual add, max-pool."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(2, 4, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)
        self.pool = nn.MaxPool2d(2)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1, groups=2)
        self.bn2 = nn.BatchNorm2d(4)
        self.conv3 = nn.Conv2d(4, 6, 3, stride=2)
        self.fc = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        batch = x.shape[0]
        x = self.pool(self.relu(self.bn1(self.conv1(x))))
        y = self.bn2(self.conv2(x))
        y += x
        y = self.relu(y)
        y = torch.relu(self.conv3(y))
        y = y.mean([2, 3]).view(batch, -1)
        return self.fc(y)


class Form(nn.Module):
    """A network written as one function of itself and its input."""

    def __init__(self, function: Callable[..., Tensor], **modules: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def settle(model: nn.Module, x: Tensor | Inputs) -> nn.Module:
    """Give every BatchNorm statistics and affine parameters that do something."""
    given = Inputs.of(x)
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.3, 0.3)
    model.train()
    with torch.no_grad():
        for _ in range(20):
            own = given.with_tensors([tensor.clone() for tensor in given.tensors])
            model(*own.args, **own.kwargs)
    return model.eval()


def made_small_net() -> nn.Module:
    torch.manual_seed(1)
    return settle(SmallNet(), torch.randn(16, 2, 10, 10))


@pytest.fixture
def small_net() -> nn.Module:
    return made_small_net()


@pytest.fixture
def small_inputs() -> Tensor:
    return torch.randn((24, 2, 10, 10), generator=torch.Generator().manual_seed(2))


def made_small_task(net: nn.Module | None = None) -> Task:
    net = net or made_small_net()
    x = torch.randn((96, 2, 10, 10), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        y = net(x).argmax(1)
    parts = [Split.of(x[i : i + 32], y[i : i + 32]) for i in (0, 32, 64)]
    return Task(name="small", model=net, calibration=parts[0], search=parts[1], test=parts[2])


@pytest.fixture
def small_task(small_net: nn.Module) -> Task:
    return made_small_task(small_net)


@pytest.fixture(scope="session")
def digits_task() -> Task:
    return digits()


@pytest.fixture(scope="session")
def digits_evaluator(digits_task: Task) -> Evaluator:
    return Evaluator(digits_task)


@pytest.fixture
def folder() -> Iterator[Path]:
    # The tests' own folder may be closed to another user, as who a server must run.
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        os.chmod(name, 0o755)
        yield Path(name)


CommandLine = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def spikefront(tmp_path: Path) -> CommandLine:
    """Run the command line in a process of its own, in an empty folder."""

    def run(*arguments: object, check: bool = True) -> subprocess.CompletedProcess[str]:
        result = command_line.run(list(map(str, arguments)), tmp_path, 300)
        if check:
            assert result.returncode == 0, result.stderr
        else:
            assert "Traceback" not in result.stderr
        return result

    return run

"""What the examples share: training an ANN, and the commands that a user would type."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import safetensors.torch
import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.utils.data import DataLoader

from evaluators import UNTRAINED, Split, Task, TaskSpec, load_task

Loss = Callable[[Any, Any], Tensor]


def train(
    task: Task,
    loss_of: Loss,
    *,
    epochs: int,
    batch_size: int = 32,
    rate: float = 3e-3,
    prepare: Callable[[Any], Any] = lambda x: x,
) -> nn.Module:
    """Train a task's model on its training split: AdamW, one cycle of the rate.

    Args:
        task: The task.
        loss_of: ``(outputs, targets) -> loss``.
        epochs: Passes over the training split.
        batch_size: Samples per step.
        rate: The largest.
        prepare: What the model sees of a batch of inputs.
    """
    torch.manual_seed(0)
    split = task.train
    assert isinstance(split, Split)
    loader = DataLoader(
        split.dataset, batch_size, shuffle=True, drop_last=True, collate_fn=split.collate
    )
    model = task.model.train()
    if any(isinstance(module, nn.Conv2d) for module in model.modules()):  # faster on a CPU
        model = model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, rate, total_steps=epochs * len(loader)
    )
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, disable=None) as progress:
        bar = progress.add_task("training", total=epochs * len(loader))
        for epoch in range(1, epochs + 1):
            for x, y in loader:
                loss = loss_of(model(prepare(x)), y)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                text = f"training: epoch {epoch} of {epochs}, loss {float(loss.detach()):.3f}"
                progress.update(bar, advance=1, description=text)
    return model.eval()


def run(
    spec: TaskSpec,
    out: Path,
    search: str,
    train_ann: Callable[[Task], nn.Module],
) -> None:
    """Train unless the weights are there, then search and report, saying each command.

    Args:
        spec: What to load, without weights.
        out: Folder of weights, study and report.
        search: More options of ``spikefront search``.
        train_ann: Trains the task's model.
    """
    weights = out / "ann.safetensors"
    if not weights.is_file():
        out.mkdir(parents=True, exist_ok=True)
        model = train_ann(load_task(replace(spec, weights=UNTRAINED)))
        safetensors.torch.save_file(
            {name: value.contiguous() for name, value in model.state_dict().items()}, weights
        )
    given = {
        name: value for name, value in vars(spec).items() if value != getattr(TaskSpec(), name)
    }
    loads = [
        part for name, value in given.items() for part in (f"--{name.replace('_', '-')}", value)
    ]
    loads += ["--weights", weights, "--out", out / "study"]
    for command in (["search", *loads, *shlex.split(search)], ["report", "--out", out / "study"]):
        words = [str(word) for word in command]
        click.echo(f"\n$ spikefront {shlex.join(words)}")
        subprocess.run([sys.executable, "-m", "spikefront", *words], check=True)


def options(default: str) -> Callable[[Any], Any]:
    """The options of an example.

    Args:
        default: Name of its folder under ``examples-out``.
    """

    def add(command: Any) -> Any:
        for option in (
            click.option("--trials", type=click.IntRange(1), default=40, show_default=True),
            click.option(
                "--out",
                type=click.Path(path_type=Path),
                default=Path("examples-out") / default,
                show_default=True,
            ),
            click.option("--data", required=True, type=click.Path(exists=True, path_type=Path)),
        ):
            command = option(command)
        return click.command()(command)

    return add

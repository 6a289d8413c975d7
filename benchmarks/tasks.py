"""Every built-in task on real data: the ANN, uniform settings, and what a search finds.

    python -m benchmarks.tasks segmentation --data CamVid --out results --minutes 15

Search images are the data set's validation images; the test split is carved from its training
images, which the ANN then does not see. Recordings and shapes come without splits: 60, 20 and 20 %.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import safetensors.torch

from conversion import Choice, ConversionConfig, ExitPolicy
from evaluators import UNTRAINED, Evaluator, Measurement, TaskSpec, load_task

CARVED = {"segmentation": 67, "detection": 45}
SEARCH = {
    "segmentation": ["--timesteps", "1,2,4", "--iterations", "50,100,200"],
    "detection": ["--timesteps", "1,2,4", "--iterations", "50,100,200"],
}


def carved(task: str, data: Path, out: Path) -> Path:
    """The data with a test split, the last of the training images."""
    if task not in CARVED:
        return data
    place = out / "data"
    if place.exists():
        return place
    count = CARVED[task]
    if task == "detection":
        shutil.copytree(data, place)
        lists = place / "ImageSets" / "Main"
        names = (lists / "train.txt").read_text().split()
        (lists / "train.txt").write_text("\n".join(names[:-count]))
        (lists / "test.txt").write_text("\n".join(names[-count:]))
        return place
    for kind in ("", "annot"):
        shutil.copytree(data / f"val{kind}", place / f"val{kind}")
        files = sorted((data / f"train{kind}").iterdir())
        for split, some in (("train", files[:-count]), ("test", files[-count:])):
            (place / f"{split}{kind}").mkdir(parents=True)
            for path in some:
                shutil.copy(path, place / f"{split}{kind}" / path.name)
    return place


def trained(task: str, data: Path, out: Path) -> TaskSpec:
    """The task with its ANN, trained as the example does."""
    example = import_module(f"examples.{task}.__main__")
    spec: dict[str, Any] = {"task": task, "data": str(data), **example.SETTINGS}
    weights = out / "ann.safetensors"
    if not weights.is_file():
        model = example.train_ann(load_task(TaskSpec(**spec, weights=UNTRAINED)))
        state = {name: value.contiguous() for name, value in model.state_dict().items()}
        safetensors.torch.save_file(state, weights)
    return TaskSpec(**spec, weights=str(weights))


def uniform(evaluator: Evaluator) -> None:
    """Print φ = 1, 4, 8 at T = 4 and 8, light calibration, without an early exit."""
    for split in ("search", "test"):
        ann = evaluator.ann(split)
        value = ann.accuracy
        print(
            f"| ANN | {split}, n = {ann.n} | {100 * value.value:.1f} ({100 * value.low:.1f} to"
            f" {100 * value.high:.1f}) | | 100 % |",
            flush=True,
        )
    for steps in (4, 8):
        for phi in (1, 4, 8):
            length = evaluator.profile.length or steps
            config = ConversionConfig.uniform(
                evaluator.layers,
                timesteps=min(steps, length),
                phi=phi,
                calibration_timesteps=length,
            )
            for split in ("search", "test"):
                found = evaluator.measure(Choice(conversion=config, exit=ExitPolicy()), split)
                print(row(f"φ = {phi}, T = {steps}", found), flush=True)


def row(name: str, found: Measurement) -> str:
    """A line of the table."""
    assert found.drop is not None
    low, high = found.drop.interval()
    return (
        f"| {name} | {found.split}, n = {found.n} | {100 * found.accuracy.value:.1f} |"
        f" {100 * found.drop.mean:.1f} ({100 * low:.1f} to {100 * high:.1f}) |"
        f" {100 * found.energy_ratio:.1f} % |"
    )


def searched(spec: TaskSpec, out: Path, minutes: float) -> None:
    """Search for so long, then print the cheapest points within 0.5, 1 and 2 points."""
    loads = [
        part
        for name, value in vars(spec).items()
        if value != getattr(TaskSpec(), name)
        for part in (f"--{name.replace('_', '-')}", str(value))
    ]
    command = [sys.executable, "-m", "spikefront", "search", *loads, "--out", str(out / "study")]
    command += ["--trials", "1000", "--no-paper", *SEARCH.get(spec.task, [])]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as search:
        try:
            search.wait(60 * minutes)
        except subprocess.TimeoutExpired:
            search.send_signal(signal.SIGINT)
    report = [sys.executable, "-m", "spikefront", "report", "--out", str(out / "study"), "--json"]
    found = json.loads(subprocess.run(report, check=True, capture_output=True).stdout)
    print(f"\nsearch of {minutes:g} minutes: {found['trials']} trials with their exits")
    for line in found["front"]:
        print(
            f"| trial {line['trial']} | {line['split']}, n = {line['n']} |"
            f" {100 * line[found['metric']]:.1f} | {100 * line['drop']:.1f}"
            f" ({100 * line['drop_low']:.1f} to {100 * line['drop_high']:.1f}) |"
            f" {100 * line['energy_ratio']:.1f} % |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("task")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=10)
    given = parser.parse_args()
    out = given.out / given.task
    out.mkdir(parents=True, exist_ok=True)
    spec = trained(given.task, carved(given.task, given.data, out), out)
    uniform(Evaluator(load_task(spec)))
    searched(spec, out, given.minutes)


if __name__ == "__main__":
    main()

"""Time of one evaluation over its physical floor.

The floor is T dense passes of the spiking part plus one of the stem: the very convolution and
linear calls of the evaluation, on inputs of the same shapes, and nothing else. Run it as

    python -m benchmarks.evaluation [--weights resnet20.safetensors --data CIFAR10_FOLDER] [--json]

Without weights and data the CIFAR network has random weights and inputs, which costs the same.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import click
import torch
from torch import Tensor, fx

from conversion import Choice, ConversionConfig, ExitPolicy
from conversion.graph import Role, Timing, laid_out, run_ann
from conversion.graph._operations import call, varying
from evaluators import Evaluator, ResNetCifar, Split, Task, TaskSpec, load_task


def cifar_task(weights: str | None, data: str | None) -> Task:
    if weights and data:
        return load_task(TaskSpec(task="cifar10", weights=weights, data=data))
    torch.manual_seed(0)
    parts = [Split.of(torch.randn(256, 3, 32, 32), torch.randint(0, 10, (256,))) for _ in range(3)]
    return Task(
        name="cifar10 (random)",
        model=ResNetCifar().eval(),
        calibration=parts[0],
        search=parts[1],
        test=parts[2],
    )


def floor(evaluator: Evaluator, timesteps: int) -> Callable[[], None]:
    """All convolutions and products with weights of one pass over the search split."""
    network = evaluator.profile.network
    calls: list[tuple[fx.Node, Tensor]] = []

    def keep(node: fx.Node, value: Any) -> None:
        values[node] = value
        if network.roles[node.name] is not Role.SYNAPSE:
            return
        source = varying(node)[0]
        seen = values[source]
        if network.timing[source.name] is Timing.TEMPORAL:
            seen = torch.cat([seen] * timesteps)
        calls.append((node, laid_out(seen)))

    count = 0
    with torch.inference_mode():
        for x, _ in evaluator.task.search.batches(evaluator.batch_size):
            values: dict[fx.Node, Any] = {}
            run_ann(network, network.take(x), keep)
            count += 1
            if count == 20:  # enough batches to be out of the caches
                break
    repeats = -(-len(evaluator.task.search) // evaluator.batch_size) / count

    def run() -> None:
        with torch.inference_mode():
            for _ in range(max(1, round(repeats))):
                for node, x in calls:
                    call(node, lambda n, x=x: network.constant(n) if n.op == "get_attr" else x)

    return run


def seconds(run: Callable[[], Any], repeats: int) -> list[float]:
    run()
    found = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        found.append(time.perf_counter() - start)
    return found


def measure(task: Task, timesteps: int, repeats: int) -> dict[str, Any]:
    evaluator = Evaluator(task)
    evaluator.ann("search")
    choice = Choice(
        conversion=ConversionConfig.uniform(
            evaluator.layers, timesteps=timesteps, phi=4, rho=2.0, calibration_timesteps=2
        ),
        exit=ExitPolicy(alpha=0.6),
    )
    model = evaluator.convert(choice)
    bottom = statistics.median(seconds(floor(evaluator, timesteps), repeats))
    record = statistics.median(seconds(lambda: evaluator.record(model, "search"), repeats))

    def evaluate() -> None:  # not evaluator.measure, which remembers passes
        made = evaluator.convert(choice)
        evaluator.record(made, "search").measure(made.exit)

    whole = statistics.median(seconds(evaluate, repeats))
    return {
        "task": task.name,
        "n": len(task.search),
        "timesteps": timesteps,
        "floor_s": bottom,
        "simulation_over_floor": record / bottom,
        "evaluation_over_floor": whole / bottom,
    }


@click.command(help=__doc__)
@click.option("--weights")
@click.option("--data")
@click.option("--timesteps", default="4,8")
@click.option("--repeats", default=5)
@click.option("--json", "as_json", is_flag=True)
def main(
    weights: str | None, data: str | None, timesteps: str, repeats: int, as_json: bool
) -> None:
    rows = [
        measure(task, int(steps), repeats)
        for task in (load_task(TaskSpec()), cifar_task(weights, data))
        for steps in timesteps.split(",")
    ]
    click.echo(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    click.echo(
        f"{'task':18} {'n':>5} {'T':>3} {'floor':>9} {'simulation/floor':>17} {'whole/floor':>12}"
    )
    for row in rows:
        click.echo(
            f"{row['task']:18} {row['n']:5} {row['timesteps']:3} {row['floor_s']:8.3f}s"
            f" {row['simulation_over_floor']:17.2f} {row['evaluation_over_floor']:12.2f}"
        )
    if as_json:
        click.echo(json.dumps({"evaluation": rows}))


if __name__ == "__main__":
    main()

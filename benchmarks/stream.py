"""Images per second step by step with early exit, against all T steps at once.

    python -m benchmarks.stream
    python -m benchmarks.stream --task cifar10 --data DIR --weights resnet20.safetensors

A run of all T steps is the fast way where nothing leaves early. One step at a time, every sample
that is confident leaves: with a mean exit at step t̄ the gain can be at most about T ÷ t̄. The goal
is 0.9 of that.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch

from conversion import ConversionConfig, ExitRule, SpikingModel
from evaluators import Evaluator, TaskSpec, load_task


def rate(run: Callable[[], object], images: int, repeats: int) -> float:
    """Images per second, the best of some repeats: noise only adds."""
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - start)
    return images / best


def stream(model: SpikingModel, x: torch.Tensor) -> float:
    """Run until all are done; mean steps."""
    state, steps = None, 0
    while state is None or len(state.samples):
        found, state = model.step(x if state is None else None, state)
        steps += len(found.samples)
    return steps / len(x)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("task", "data", "weights"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--threshold", type=float, default=0.6)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    given = {n: v for n in ("task", "data", "weights") if (v := getattr(options, n)) is not None}
    evaluator = Evaluator(load_task(TaskSpec(**given)))
    x, _ = next(evaluator.task.search.batches(options.samples))
    print("T  exit  all steps/s  step by step/s  gain  of T / exit")
    for timesteps in (4, 8):
        config = ConversionConfig.uniform(
            evaluator.layers, timesteps=timesteps, phi=4, calibration_timesteps=2
        )
        model = evaluator._converted(config)
        whole = rate(lambda m=model: m.simulate(x), len(x), options.repeats)
        model.exit = ExitRule(score="entropy", thresholds=(options.threshold,) * timesteps)
        mean = stream(model, x)
        lively = rate(lambda m=model: stream(m, x), len(x), options.repeats)
        gain, most = lively / whole, timesteps / mean
        print(
            f"{timesteps}  {mean:.2f}  {whole:9.0f}  {lively:12.0f}  {gain:6.2f}  {gain / most:.2f}"
        )


if __name__ == "__main__":
    main()

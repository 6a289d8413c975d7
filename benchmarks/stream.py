"""Images per second step by step with early exit, against all T steps at once.

    python -m benchmarks.stream
    python -m benchmarks.stream --task cifar10 --data DIR --weights resnet20.safetensors

Running all T steps at once is fastest if nothing leaves early. One step at a time, each sample
that is confident leaves. If every step cost the same, a mean exit at step t̄ would gain T ÷ t̄; the
goal is 0.9 of that. The first step includes the stem, though, and T steps at once share its fixed
costs. The column "one step" shows what running a single step of all images gains over T steps: no
live run can gain much more than that.
"""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Callable, Sequence

import torch

from conversion import ConversionConfig, ExitRule, SpikingModel
from evaluators import Evaluator, TaskSpec, load_task


def rates(runs: Sequence[Callable[[], object]], images: int, repeats: int) -> list[float]:
    """Images per second of each, the best of some repeats that take turns: noise only adds."""
    best = [float("inf")] * len(runs)
    for _ in range(repeats):
        for i, run in enumerate(runs):
            start = time.perf_counter()
            run()
            best[i] = min(best[i], time.perf_counter() - start)
    return [images / seconds for seconds in best]


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
    print("T  exit  all steps/s  step by step/s  gain  ÷ (T ÷ exit)  one step")
    for timesteps in (4, 8):
        config = ConversionConfig.uniform(
            evaluator.layers, timesteps=timesteps, phi=4, calibration_timesteps=2
        )
        model = evaluator._converted(config)
        whole = functools.partial(model.running(timesteps).simulate, x)
        model.exit = ExitRule(score="entropy", thresholds=(options.threshold,) * timesteps)
        mean = stream(model, x)
        runs = (whole, functools.partial(stream, model, x), functools.partial(model.step, x))
        whole_rate, live_rate, step_rate = rates(runs, len(x), options.repeats)
        gain = live_rate / whole_rate
        print(
            f"{timesteps}  {mean:.2f}  {whole_rate:9.0f}  {live_rate:12.0f}  {gain:6.2f}"
            f"  {gain * mean / timesteps:11.2f}  {step_rate / whole_rate:8.2f}"
        )


if __name__ == "__main__":
    main()

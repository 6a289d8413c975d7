"""One step at a time: the same answers and exits as all steps, for samples that still run."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from conversion import (
    ConversionConfig,
    ConversionError,
    ExitRule,
    SpikingModel,
    convert,
    first_above,
    profile,
)


def made(x: Tensor, *, timesteps: int, feed: str = "static") -> SpikingModel:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16, 3)
    )
    found = profile(net, x, feed=feed)  # type: ignore[arg-type]
    config = ConversionConfig.uniform(
        found.layers, timesteps=timesteps, phi=3, calibration_timesteps=timesteps
    )
    return convert(found, config)


def halfway(model: SpikingModel, x: Tensor) -> float:
    """A confidence that half of the samples have after two steps."""
    return float(model.outputs.confidence(model.simulate(x).at(1), "entropy").median())


def streamed(model: SpikingModel, frames) -> tuple[Tensor, Tensor]:
    """Answers and steps of a batch, one step at a time."""
    answers, steps, state, t = None, None, None, 0
    while state is None or len(state.samples):
        found, state = model.step(frames(t, state), state)
        if answers is None:
            answers = torch.zeros(state.begun, *found.logits.shape[1:])
            steps = torch.zeros(state.begun, dtype=torch.long)
        answers[found.samples] = found.logits
        steps[found.samples] = found.step
        t += 1
    return answers, steps


def test_steps_of_a_still_image_are_those_of_a_whole_run() -> None:
    x = torch.rand(80, 2, 6, 6, generator=torch.Generator().manual_seed(0))
    model = made(x, timesteps=6)
    limit = halfway(model, x)
    model.exit = ExitRule(score="entropy", thresholds=(limit,) * 6)
    answers, steps = streamed(model, lambda t, state: x if state is None else None)
    whole = model.infer(x)
    assert torch.equal(answers, whole.logits)
    assert torch.equal(steps, whole.timesteps)
    assert 1 < float(steps.double().mean()) < 6
    every = model.simulate(x)
    certain = torch.stack([model.outputs.confidence(every.at(t), "entropy") for t in range(6)])
    exits = first_above(certain, torch.full((6,), limit))
    differ = (exits + 1 != steps).double().mean()
    assert differ <= 0.02, "other batches round otherwise"
    torch.testing.assert_close(answers, every.logits[steps - 1, torch.arange(80)])


def test_frames_are_given_as_they_come() -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.poisson(torch.rand(60, 5, 2, 6, 6, generator=generator), generator=generator)
    model = made(x, timesteps=5, feed="events")
    model.exit = ExitRule(score="entropy", thresholds=(halfway(model, x),) * 5)
    seen: list[int] = []

    def live(t: int, state) -> Tensor:
        samples = torch.arange(60) if state is None else state.samples
        seen.append(len(samples))
        return x[samples, t]

    answers, steps = streamed(model, live)
    whole = model.infer(x)
    assert torch.equal(answers, whole.logits)
    assert torch.equal(steps, whole.timesteps)
    assert seen == sorted(seen, reverse=True)
    assert seen[-1] < seen[0]
    assert sum(seen) == int(steps.sum()), "who is done costs no more"


def test_what_cannot_go_on_says_so() -> None:
    x = torch.rand(64, 2, 6, 6)
    model = made(x, timesteps=2)
    _, state = model.step(x[:4])
    with pytest.raises(ConversionError, match="is static: pass it only once"):
        model.step(x[:4], state)
    _, state = model.step(None, state)
    assert not len(state.samples)
    with pytest.raises(ConversionError, match="all samples have left"):
        model.step(None, state)
    frames = torch.ones(64, 3, 2, 6, 6)
    moving = made(frames + torch.rand(frames.shape), timesteps=3, feed="frames")
    _, state = moving.step(frames[:4, 0])
    with pytest.raises(ConversionError, match="4 samples still run, got frames of 3"):
        moving.step(frames[:3, 1], state)
    with pytest.raises(ConversionError, match="the inputs have 1 steps, and T is 2"):
        moving.step(None, state)

"""Inputs over time: hand counts of what events cost, and the ANN that sees their mean."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from conversion import (
    ConfigError,
    ConversionConfig,
    ConversionError,
    DeployConfig,
    ExitRule,
    LearnedWeights,
    SpikingModel,
    confidence,
    convert,
    diagnose,
    load,
    profile,
    save,
    sweep,
)
from conversion import LayerConfig as Layer


def made() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 8, 3), nn.ReLU(),
        nn.Flatten(), nn.Linear(72, 4),
    )  # fmt: skip


def events(samples: int = 24, steps: int = 6, seed: int = 0) -> Tensor:
    rates = torch.rand(samples, 1, 2, 10, 10, generator=torch.Generator().manual_seed(seed))
    return torch.poisson(
        rates.expand(-1, steps, -1, -1, -1), generator=torch.Generator().manual_seed(seed + 1)
    )


def spiking(x: Tensor, steps: int, *, feed: str = "events", **options: object) -> SpikingModel:
    found = profile(made(), x, feed=feed)
    config = ConversionConfig.uniform(
        found.layers, timesteps=steps, calibration_timesteps=x.shape[1], **{"phi": 6, **options}
    )
    return convert(found, config)


def test_the_ann_sees_the_mean_over_the_frames() -> None:
    x = events()
    found = profile(made(), x, feed="events")
    with torch.no_grad():
        torch.testing.assert_close(
            found.expected["output"], made()(x.mean(1)), rtol=1e-4, atol=1e-5
        )
    assert found.length == 6
    assert (
        profile(made(), x.to(torch.uint8), feed="events")
        .expected["output"]
        .equal(found.expected["output"])
    )


def test_events_cost_synaptic_operations_by_hand() -> None:
    """Each event reaches 6 channels times the kernel's taps that lie within the image."""
    x, steps = events(), 4
    model = spiking(x, steps)
    assert model.costs.stem_macs == 0
    assert model.costs.analog_macs == {}
    taps = torch.full((10, 10), 9.0)
    taps[[0, -1]] = 6.0
    taps[:, [0, -1]] = 6.0
    taps[[0, 0, -1, -1], [0, -1, 0, -1]] = 4.0
    run = model.simulate(x)
    source = run.counts.sources[0]
    assert source.startswith("input")
    expected = (x[:, :steps] * 6 * taps).sum((2, 3, 4)).T.double()
    torch.testing.assert_close(run.counts.synops[0], expected)
    torch.testing.assert_close(run.counts.spikes[0], x[:, :steps].sum((2, 3, 4)).T.double())
    graded = run.counts.burst_synops[0]
    torch.testing.assert_close(graded, ((x[:, :steps] > 0) * 6 * taps).sum((2, 3, 4)).T.double())


def test_frames_of_values_cost_macs_at_every_step() -> None:
    x = events() / 3
    model = spiking(x, 3, feed="frames")
    assert model.costs.stem_macs == 0
    assert model.costs.step_macs == 6 * 2 * sum((3 * 10 - 2) ** 2 for _ in range(1))
    assert all(not source.startswith("input") for source in model.simulate(x).counts.sources)


def test_the_same_frame_every_step_is_a_static_input() -> None:
    frame = events(steps=1)
    repeated = frame.expand(-1, 5, -1, -1, -1).contiguous()
    moving, still = spiking(repeated, 5, feed="frames"), profile(made(), frame[:, 0])
    config = ConversionConfig.uniform(still.layers, timesteps=5, calibration_timesteps=5, phi=6)
    torch.testing.assert_close(
        moving.simulate(repeated).logits, convert(still, config).simulate(frame[:, 0]).logits,
        rtol=1e-3, atol=1e-4,
    )  # fmt: skip


def test_the_answer_converges_on_even_events() -> None:
    few, many = events(steps=6), events(steps=96)
    errors = []
    for x in (few, many):
        model = spiking(x, x.shape[1], neuron="dual-threshold")
        with torch.no_grad():
            expected = made()(x.mean(1))
        errors.append(float((model.simulate(x).logits[-1] - expected).norm() / expected.norm()))
    assert errors[1] < 0.5 * errors[0]
    assert errors[1] < 0.1


def test_step_by_step_is_all_steps_at_once_and_leaves_early() -> None:
    x = events()
    model = spiking(x, 6)
    logits = model.simulate(x).logits
    torch.testing.assert_close(model.infer(x).logits, logits[-1], rtol=1e-3, atol=1e-4)
    scores = confidence(logits, "margin", samples=2)
    model.exit = ExitRule(score="margin", thresholds=(float(scores[:3].median()),) * 6)
    answer = model.infer(x)
    assert len(answer.timesteps.unique()) > 1
    assert torch.equal(model.exit.exits(scores) + 1, answer.timesteps)


def test_a_recording_ends() -> None:
    x = events()
    with pytest.raises(ConversionError, match="the inputs have 6 steps, and T is 7"):
        spiking(x, 7).simulate(x)


def test_calibration_learning_sweep_and_diagnosis_take_sequences() -> None:
    x = events()
    found = profile(made(), x, feed="events")
    config = ConversionConfig.uniform(
        found.layers,
        timesteps=6,
        phi=2,
        calibration=LearnedWeights(iterations=4, energy_weight=1.0),
    )
    assert convert(found, config).weights
    assert len(diagnose(spiking(x, 6), x)) == 2
    told = []
    base = ConversionConfig.uniform(found.layers, timesteps=6, calibration_timesteps=6, phi=4)
    sweep(found, base, [Layer(phi=1, rho=1.0)], told.append)
    assert len(told) == 3
    torch.testing.assert_close(
        told[-1].answers["output"], convert(found, base).simulate(x).logits, rtol=1e-4, atol=1e-5
    )


def test_a_config_knows_how_its_inputs_come(tmp_path: Path) -> None:
    x = events()
    model = spiking(x, 4)
    save(model, tmp_path / "a.json")
    assert DeployConfig.read(tmp_path / "a.json").feed == "events"
    again = load(tmp_path / "a.json", made())
    assert torch.equal(again.simulate(x).logits, model.simulate(x).logits)
    body = json.loads((tmp_path / "a.json").read_text())
    assert body["version"] == 4


@pytest.mark.parametrize(
    ("x", "feed", "message"),
    [
        (torch.zeros(4, 2, 10, 10), "video", "feed must be one of static, frames, events"),
        (torch.zeros(4, 3), "frames", r"inputs over time have the shape \(N, T, ...\)"),
        (-torch.ones(4, 3, 2, 10, 10), "events", "events are counts, whole numbers"),
        (torch.full((4, 3, 2, 10, 10), 0.5), "events", "for other values use feed='frames'"),
    ],
)
def test_bad_sequences_are_told_of(x: Tensor, feed: str, message: str) -> None:
    with pytest.raises((ConfigError, ConversionError), match=message):
        profile(made(), x, feed=feed)


def test_other_frames_are_told_of() -> None:
    x = events()
    model = spiking(x, 4)
    with pytest.raises(ConversionError, match=r"the shape \(N, T, 2, 10, 10\), one frame"):
        model.simulate(x[:, 0])

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from conversion import (
    Choice,
    ConfigError,
    ConversionConfig,
    ConversionError,
    ExitPolicy,
    Learned,
    SpikingModel,
    confidence,
)
from evaluators import Evaluator, Measurement, Task, _evaluator
from evaluators._recording import pipelined


def choice(evaluator: Evaluator, *, alpha: float = 1.0, beta: float = 0.0, **options) -> Choice:
    settings = {"timesteps": 4, "phi": 4, **options}
    return Choice(
        conversion=ConversionConfig.uniform(evaluator.layers, **settings),
        exit=ExitPolicy(alpha=alpha, beta=beta),
    )


def test_every_quantity_by_hand(small_task: Task) -> None:
    evaluator = Evaluator(small_task, batch_size=5)
    picked = choice(evaluator, alpha=0.1, phi=2)
    model = evaluator.convert(picked)
    assert model.exit is not None
    x, y = next(small_task.search.batches(100))
    found = evaluator.measure(picked)

    simulation = model.simulate(x)
    exits = model.exit.exits(confidence(simulation.logits, model.exit.score, samples=2)).tolist()
    cost = evaluator.profile.costs
    right, energies, spikes = 0, [], []
    for n, last in enumerate(exits):
        right += int(simulation.logits[last, n].argmax() == y[n])
        synops = float(simulation.counts.synops[:, : last + 1, n].sum())
        energies.append(0.9 * synops + 4.6 * cost.stem_macs)
        spikes.append(float(simulation.counts.spikes[:, : last + 1, n].sum()))
    n = len(exits)
    assert found.n == n
    assert found.accuracy.value == pytest.approx(right / n)
    assert found.energy_pj.value == pytest.approx(sum(energies) / n)
    assert found.energy_ratio == pytest.approx(sum(energies) / n / (4.6 * cost.ann_macs))
    assert found.energy_ratio_int8 == pytest.approx(found.energy_ratio * 4.6 / 0.23)
    assert found.spikes.value == pytest.approx(sum(spikes) / n)
    assert found.timesteps.value == pytest.approx(sum(e + 1 for e in exits) / n)
    assert sum(found.layer_energy_pj.values()) == pytest.approx(found.energy_pj.value)
    assert [round(share * n) for share in found.exits] == [exits.count(t) for t in range(4)]


def test_many_steps_and_spikes_come_near_the_ann(digits_evaluator: Evaluator) -> None:
    found = digits_evaluator.measure(choice(digits_evaluator, timesteps=32, phi=8))
    ann = digits_evaluator.ann("search")
    assert abs(found.accuracy.value - ann.accuracy.value) <= 0.01
    assert found.kl.value < 0.003
    assert found.energy_ratio > 1


def test_an_early_exit_saves_energy(digits_evaluator: Evaluator) -> None:
    full = digits_evaluator.measure(choice(digits_evaluator, phi=6, rho=2.0))
    early = digits_evaluator.measure(choice(digits_evaluator, alpha=0.6, phi=6, rho=2.0))
    assert full.timesteps.value == 4
    assert early.timesteps.value < 2
    assert early.energy_pj.value < 0.6 * full.energy_pj.value
    assert early.logits_sha256 == full.logits_sha256, "one pass serves every policy"


def test_a_smaller_t_shares_the_pass(small_task: Task, monkeypatch) -> None:
    evaluator, runs = Evaluator(small_task), []
    record = evaluator.record

    def counted(model, split):
        runs.append(model.config.timesteps)
        return record(model, split)

    def picked(steps: int) -> Choice:
        options = {"calibration": "light", "calibration_timesteps": 2}
        conversion = ConversionConfig.uniform(evaluator.layers, timesteps=steps, phi=2, **options)
        return Choice(conversion=conversion, exit=ExitPolicy(alpha=0.5, beta=0.1))

    monkeypatch.setattr(evaluator, "record", counted)
    found = [evaluator.measure(picked(steps)) for steps in (4, 1, 2, 8, 4)]
    assert runs == [4, 8], "the shorter ones are its first steps; a longer one runs anew"
    assert found == [Evaluator(small_task).measure(picked(steps)) for steps in (4, 1, 2, 8, 4)]


def test_exit_policies_share_one_pass(small_task: Task, monkeypatch) -> None:
    evaluator, passes = Evaluator(small_task), []
    record = evaluator.record

    def counted(model, split):
        passes.append(split)
        return record(model, split)

    monkeypatch.setattr(evaluator, "record", counted)
    found = [evaluator.measure(choice(evaluator, alpha=a)) for a in (0.05, 0.1, 1.0)]
    assert passes == ["search"]
    alone = [Evaluator(small_task).measure(choice(evaluator, alpha=a)) for a in (0.05, 0.1, 1.0)]
    assert found == alone
    for phi in range(1, 10):
        evaluator.measure(choice(evaluator, phi=phi, timesteps=1))
    evaluator.measure(choice(evaluator))
    assert len(passes) == 11, "only the last passes are remembered"


def test_choices_that_differ_in_t_alone_are_calibrated_once(small_task: Task, monkeypatch) -> None:
    def picked(steps: int) -> Choice:
        options = {"calibration": Learned(iterations=3), "calibration_timesteps": 2}
        layers = Evaluator(small_task).layers
        conversion = ConversionConfig.uniform(layers, timesteps=steps, phi=2, **options)
        return Choice(conversion=conversion, exit=ExitPolicy(alpha=0.5))

    alone = [Evaluator(small_task).measure(picked(steps)) for steps in (1, 4, 2)]
    made = []
    convert = _evaluator.convert
    monkeypatch.setattr(_evaluator, "convert", lambda *a, **k: made.append(a) or convert(*a, **k))
    evaluator = Evaluator(small_task)
    assert [evaluator.measure(picked(steps)) for steps in (1, 4, 2)] == alone
    assert len(made) == 1


def test_the_same_choice_gives_the_same_measurement(digits_task: Task) -> None:
    picked = choice(Evaluator(digits_task), alpha=0.5, beta=0.2)
    first, second = (Evaluator(digits_task).measure(picked) for _ in range(2))
    assert first == second


def test_beta_makes_thresholds_follow_the_calibration_entropy(digits_evaluator: Evaluator) -> None:
    constant = digits_evaluator.convert(choice(digits_evaluator, alpha=0.6))
    moving = digits_evaluator.convert(choice(digits_evaluator, alpha=0.6, beta=0.4))
    assert constant.exit is not None
    assert moving.exit is not None
    assert set(constant.exit.thresholds) == {0.6}
    assert len(set(moving.exit.thresholds)) > 1
    assert max(moving.exit.thresholds) == pytest.approx(1.0)


def test_energy_models_change_prices_only(small_task: Task) -> None:
    measured = {}
    for name in ("horowitz45", "horowitz45-int8", "horowitz45-graded"):
        evaluator = Evaluator(small_task, energy=name)
        measured[name] = evaluator.measure(choice(evaluator))
    fp32, int8, graded = measured.values()
    assert fp32.logits_sha256 == int8.logits_sha256 == graded.logits_sha256
    assert int8.energy_ratio == pytest.approx(int8.energy_ratio_int8)
    assert int8.energy_pj.value < fp32.energy_pj.value
    assert graded.energy_pj.value < fp32.energy_pj.value


def test_the_critical_path_of_a_pipeline() -> None:
    """Two layers, three steps, by hand: 2 then 5; 4 waits for 2, and its 1 for the 5 before."""
    synops = torch.tensor([[[2.0], [4.0], [3.0]], [[5.0], [1.0], [6.0]]])
    assert pipelined(synops)[:, 0].tolist() == [7.0, 8.0, 15.0]
    many = torch.rand(4, 6, 10, generator=torch.Generator().manual_seed(0))
    found = pipelined(many)
    torch.testing.assert_close(found[0], many[:, 0].sum(0))
    assert bool((found[-1] >= many.sum(1).amax(0) - 1e-6).all()), "the busiest layer bounds it"
    assert bool((found[-1] <= many.sum((0, 1)) + 1e-6).all())
    assert pipelined(torch.zeros(0, 3, 2)).tolist() == [[0, 0]] * 3


def test_out_of_memory_halves_the_batch(small_task: Task, monkeypatch) -> None:
    evaluator = Evaluator(small_task, batch_size=32)
    expected = Evaluator(small_task).measure(choice(evaluator))
    simulate, sizes = SpikingModel.simulate, []

    def short_of_memory(model, x):
        sizes.append(len(x))
        if len(x) > 10:
            raise torch.OutOfMemoryError("no more")
        return simulate(model, x)

    monkeypatch.setattr(SpikingModel, "simulate", short_of_memory)
    found = evaluator.measure(choice(evaluator))
    assert sizes == [32, 16, 8, 8, 8, 8]
    assert found.accuracy == expected.accuracy


def test_other_errors_are_not_mistaken_for_memory(small_task: Task, monkeypatch) -> None:
    evaluator = Evaluator(small_task)

    def broken(model, x):
        raise RuntimeError("sizes differ")

    monkeypatch.setattr(SpikingModel, "simulate", broken)
    with pytest.raises(RuntimeError, match="sizes differ"):
        evaluator.measure(choice(evaluator))


def test_nan_is_an_error(small_task: Task) -> None:
    evaluator = Evaluator(small_task)
    model = evaluator.convert(choice(evaluator))
    model.neurons["relu"].threshold[0] = float("nan")
    with pytest.raises(ConversionError, match="NaN or infinity"):
        evaluator.record(model, "search")


def test_measurements_round_trip(small_task: Task) -> None:
    evaluator = Evaluator(small_task)
    found = evaluator.measure(choice(evaluator))
    assert Measurement.from_dict(found.to_dict()) == found


def test_exits_of_every_step_are_told(small_task: Task) -> None:
    evaluator = Evaluator(small_task)
    conversion = ConversionConfig.uniform(evaluator.layers, timesteps=6, phi=2)
    found = evaluator.measure(Choice(conversion=conversion, exit=ExitPolicy()))
    assert {row[0] for row in found.exit_curve} == {1, 2, 4, 6}
    never = next(row for row in found.exit_curve if row[:2] == (6, 1.0))
    expected = (found.accuracy.value, found.energy_ratio, found.kl.value)
    assert never[2:] == pytest.approx(expected, rel=1e-12)


def test_any_score_within_0_and_1_serves_as_metric(small_task: Task) -> None:
    def confidence_in_target(logits, targets):
        return logits.softmax(-1)[torch.arange(len(targets)), targets]

    evaluator = Evaluator(replace(small_task, metric=confidence_in_target))
    found = evaluator.measure(choice(evaluator, timesteps=32, phi=8))
    assert found.accuracy.value == pytest.approx(evaluator.ann("search").accuracy.value, abs=0.05)


def test_unknown_splits_are_refused(small_task: Task) -> None:
    evaluator = Evaluator(small_task)
    with pytest.raises(ConfigError, match="split must be one of calibration, search, test"):
        evaluator.measure(choice(evaluator), "train")


def test_small_activations_run_in_larger_batches(small_task: Task, digits_task: Task) -> None:
    """As many samples as have 2^17 neurons in the largest layer: 16 × 8 × 8 on digits."""
    evaluator = Evaluator(digits_task)
    assert max(p.neuron_mean.numel() for p in evaluator.profile.layers.values()) == 1024
    assert evaluator.batch_size == 128
    tiny = Evaluator(small_task)
    assert tiny.profile
    assert tiny.batch_size == 256
    given = Evaluator(digits_task, batch_size=7)
    assert given.profile
    assert given.batch_size == 7


def test_the_batch_size_changes_no_fingerprint(small_task: Task) -> None:
    """Or a worker with a GPU, whose batches are larger, could not take part in a CPU's study."""
    sizes = (3, 32, 256, None)
    found = {Evaluator(small_task, batch_size=size).search_fingerprint for size in sizes}
    assert len(found) == 1

"""A finished study under other energy models: the same as if it had been measured with them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from conversion import (
    ENERGY_MODELS,
    ConfigError,
    ConversionConfig,
    energy_model,
    level_bits,
    operator_bits,
    profile,
    quantised_answers,
)
from evaluators import Evaluator, Measurement, QuantisedAnn, Task
from reports import (
    Findings,
    FrontPoint,
    ParetoFront,
    measure_front,
    repriced,
    under_models,
    write_report,
)
from search import StudySetup, make_sampler, open_storage, open_study, run_study
from spaces import LayerSpace


@pytest.fixture
def studied(small_task: Task, tmp_path: Path):
    evaluator = Evaluator(small_task)
    space = LayerSpace(
        layers=evaluator.layers, timesteps=(1, 4), phi_max=4, calibrations=("light",)
    )
    study = open_study(open_storage(tmp_path / "s.journal"), "s", StudySetup.of(evaluator, space))
    study.sampler = make_sampler("random", seed=0, profile=evaluator.profile, space=space)
    run_study(study, space, lambda: evaluator, trials=12, folder=tmp_path)
    return study, evaluator


def choice_of(front: ParetoFront, point: FrontPoint, space: LayerSpace):
    return space.choice(point.params, point.lineage)


@pytest.mark.parametrize("name", ["lemaire", "lemaire-graded", "loihi", "horowitz45-int8"])
def test_a_repriced_study_is_that_of_the_other_model(studied, name: str) -> None:
    study, evaluator = studied
    other = Evaluator(evaluator.task, energy=name)
    plain = measure_front(study, evaluator, test=False)
    front = measure_front(study, evaluator, test=False, energy=energy_model(name))
    assert front.energy_model.name == name
    space = LayerSpace(
        layers=evaluator.layers, timesteps=(1, 4), phi_max=4, calibrations=("light",)
    )
    for point in front.trials:
        found, expected = point.search, other.measure(choice_of(front, point, space))
        for field in ("energy_ratio", "energy_ratio_int8"):
            assert getattr(found, field) == pytest.approx(getattr(expected, field)), field
        assert found.energy_pj.value == pytest.approx(expected.energy_pj.value)
        assert found.energy_pj.high >= expected.energy_pj.high * (1 - 1e-9)
        assert found.layer_energy_pj == pytest.approx(expected.layer_energy_pj)
        assert found.energy_model == expected.energy_model == name
    assert front.ann["search"].energy_pj == pytest.approx(other.ann("search").energy_pj)
    assert front.ann["search"].energy_int8_pj == pytest.approx(other.ann("search").energy_int8_pj)
    energies = [p.search.energy_pj.value for p in front.points]
    assert energies == sorted(energies)
    assert {p.trial for p in plain.trials} == {p.trial for p in front.trials}


def test_points_that_are_not_on_the_test_split_yet_are_measured(studied) -> None:
    study, evaluator = studied
    front = measure_front(study, evaluator, energy=energy_model("loihi"))
    for point in front.points:
        assert point.test is not None
        assert point.test.energy_model == "loihi"
    assert front.ann["test"].energy_pj == evaluator.profile.costs.ann_macs * 4.6
    plain = measure_front(study, evaluator)
    assert all(p.test is not None and p.test.energy_model == "horowitz45" for p in plain.points)


def test_a_report_puts_models_side_by_side(studied, tmp_path: Path) -> None:
    study, evaluator = studied
    front = measure_front(study, evaluator, rivals=True)
    again = measure_front(study, evaluator, rivals=True)
    assert front.rivals == again.rivals
    files = write_report(Findings(front=front, costs=evaluator.profile.costs), tmp_path / "r")
    assert tmp_path / "r" / "energy_models.csv" in files
    table = pd.read_csv(tmp_path / "r" / "energy_models.csv")
    assert next(iter(table.energy_model.unique())) == "horowitz45"
    assert {"lemaire", "loihi", "spinnaker2"} <= set(table.energy_model)
    studied_rows = table[table.on_studied_front]
    assert studied_rows.quantised_bits.notna().all()
    same = studied_rows[studied_rows.energy_model == "horowitz45"]
    assert same.on_front.all()
    cheaper = same.energy_ratio < same.quantised_energy_ratio
    assert (same.cheaper_than_quantised == cheaper).all()
    page = (tmp_path / "r" / "report.html").read_text()
    assert "Where a spiking network pays" in page


def test_the_rival_of_an_integer_trial_has_integer_weights(studied) -> None:
    study, evaluator = studied
    front = measure_front(study, evaluator, rivals=True)
    point = front.points[0]
    counts = replace(point.search.counts, weight_bits=8)
    whole = replace(point, search=replace(point.search, counts=counts))
    (under,) = under_models(front, evaluator.profile.costs, [front.energy_model])
    assert under.rival_ratio(whole) == under.rival_ratio(point, int8=True)
    assert under.rival_ratio(whole) < under.rival_ratio(point)
    assert under.break_even_rate(whole) is not None


def test_trials_without_counts_say_so(studied) -> None:
    study, evaluator = studied
    found = measure_front(study, evaluator, test=False).points[0].search
    old = found.to_dict()
    for name in ("counts", "latency_synops"):
        del old[name]
    before = Measurement.from_dict(old)
    with pytest.raises(ConfigError, match="stored no counts; search again"):
        before.priced(energy_model("loihi"), evaluator.profile.costs)


def test_the_same_model_changes_nothing(studied) -> None:
    study, evaluator = studied
    front = measure_front(study, evaluator, test=False)
    assert repriced(front, front.energy_model, evaluator.profile.costs) is front
    first = under_models(front, evaluator.profile.costs)[0]
    assert first.energy == front.energy_model
    assert not first.fallen
    assert first.kept == len(front.points)


def test_rounded_activations_by_hand() -> None:
    """A literal staircase in the module's own forward pass."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5), nn.ReLU(),
                        nn.Linear(5, 3))  # fmt: skip
    x = torch.randn(64, 1, 6, 6)
    found = profile(net, x)
    sizes = [found.threshold(name, phi=1, timesteps=3, shift=0.5) / 3 for name in found.layers]

    def rounded(values: Tensor, size: Tensor) -> Tensor:
        size = size.view(1, -1, *[1] * (values.dim() - 2))
        return size * torch.clamp(torch.floor(values.relu() / size + 0.5), max=3)

    with torch.inference_mode():
        hidden = rounded(net[0](x), sizes[0]).flatten(1)
        expected = net[5](rounded(net[3](hidden), sizes[1]))
        exact = net(x)
    few = quantised_answers(found, x, dict.fromkeys(found.layers, 3))["output"]
    torch.testing.assert_close(few, expected)
    many = quantised_answers(found, x, dict.fromkeys(found.layers, 4096))["output"]
    torch.testing.assert_close(many, exact, atol=0.02, rtol=0.02)
    assert not torch.allclose(few, exact, atol=0.02, rtol=0.02)


def test_bits_follow_the_levels(small_task: Task) -> None:
    assert [level_bits(n) for n in (1, 2, 3, 4, 7, 8, 255)] == [1, 2, 2, 3, 3, 4, 8]
    evaluator = Evaluator(small_task)
    config = ConversionConfig.uniform(evaluator.layers, timesteps=4, phi=2)
    found = evaluator.quantised(config, 1.2, "search")
    assert set(found.levels.values()) == {4}
    assert found.bits == 3
    assert QuantisedAnn.from_dict(found.to_dict()) == found
    costs = evaluator.profile.costs
    bits = operator_bits(costs, found.levels)
    assert set(bits.values()) == {3}
    by_hand = sum(
        op.macs * (4.6 if op.stage == "stem" else 0.9 + 3.7 * 3 / 24)
        for op in costs.operators.values()
    )
    assert found.energy_pj(ENERGY_MODELS["horowitz45"], costs) == pytest.approx(by_hand)

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conversion import ConfigError, ConversionConfig, LayerConfig, convert, symmetric_kl
from evaluators import Evaluator, Task
from search import ParetoSearch, Sensitivity, frontier, sensitivity


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 10**6))
def test_the_frontier_is_the_exact_one(layers: int, options: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    costs = [random.integers(0, 9, options).astype(float) for _ in range(layers)]
    losses = [random.integers(0, 9, options).astype(float) for _ in range(layers)]
    found = frontier(costs, losses)
    every = {
        (
            sum(costs[i][o] for i, o in enumerate(choice)),
            sum(losses[i][o] for i, o in enumerate(choice)),
        )
        for choice in itertools.product(range(options), repeat=layers)
    }
    best = sorted(
        p for p in every if not any(q != p and q[0] <= p[0] and q[1] <= p[1] for q in every)
    )
    assert list(zip(found.cost, found.loss, strict=True)) == best
    for point, (cost, loss) in enumerate(best):
        chosen = found.options(point)
        assert sum(costs[i][o] for i, o in enumerate(chosen)) == cost
        assert sum(losses[i][o] for i, o in enumerate(chosen)) == loss
        assert found.least_loss(cost) == found.least_cost(loss) == point


def test_a_thinned_frontier_is_nearly_the_exact_one() -> None:
    random = np.random.default_rng(0)
    costs = list(np.sort(random.random((12, 6)), axis=1))
    losses = list(-np.sort(-random.random((12, 6)), axis=1))
    exact, thin = frontier(costs, losses, limit=10**6), frontier(costs, losses, limit=100)
    assert len(thin.cost) <= 101 < len(exact.cost)
    for budget in np.linspace(exact.cost[0], exact.cost[-1], 20):
        loss = exact.loss[exact.least_loss(budget)]
        slack = 12 * (exact.cost[-1] - exact.cost[0]) / 99
        assert thin.loss[thin.least_loss(budget + slack)] <= loss + 1e-9


def test_budgets_that_nothing_meets() -> None:
    found = frontier([np.array([1.0, 2.0])], [np.array([4.0, 3.0])])
    with pytest.raises(ConfigError, match=r"no choice costs 0.5 or less; the minimum is 1"):
        found.least_loss(0.5)
    with pytest.raises(ConfigError, match=r"no choice loses 2 or less; the minimum is 3"):
        found.least_cost(2)


@pytest.fixture
def evaluator(small_task: Task) -> Evaluator:
    return Evaluator(small_task)


def found_by(evaluator: Evaluator, folder: Path, **options) -> Sensitivity:
    return sensitivity(
        evaluator.profile,
        evaluator.energy,
        phis=(1, 2, 4),
        rhos=(1.0, 2.0),
        cache=folder,
        **options,
    )


def test_sensitivities_are_those_of_whole_conversions(evaluator: Evaluator, tmp_path: Path) -> None:
    found = found_by(evaluator, tmp_path)
    profile, costs = evaluator.profile, evaluator.profile.costs
    base = ConversionConfig.uniform(found.layers, timesteps=2, phi=4)
    for i, layer in enumerate(found.layers):
        cells = [(found.phi_divergence[i, j], found.phi_energy[i, j], LayerConfig(phi=phi))
                 for j, phi in enumerate(found.phis)]  # fmt: skip
        cells += [(found.rho_divergence[i, j], found.rho_energy[i, j], LayerConfig(phi=4, rho=rho))
                  for j, rho in enumerate(found.rhos)]  # fmt: skip
        for divergence, energy, config in cells:
            changed = ConversionConfig(timesteps=2, layers={**base.layers, layer: config})
            run = convert(profile, changed).simulate(profile.inputs)
            spent = run.counts.synops.sum(0).mean(1).cumsum(0) * evaluator.energy.ac_pj
            analog = (costs.stem_macs + costs.step_macs * np.arange(1, 3)) * evaluator.energy.mac_pj
            for t in range(2):
                expected = symmetric_kl(run.logits[t], profile.expected["output"]).mean()
                assert divergence[t] == pytest.approx(float(expected), abs=1e-6)
                total = (float(spent[t]) + analog[t]) / evaluator.ann_energy_pj
                assert energy[t] == pytest.approx(total, rel=1e-5)


def test_sensitivities_are_kept_on_disk(evaluator: Evaluator, tmp_path: Path, caplog) -> None:
    told: list[int] = []
    first = found_by(evaluator, tmp_path, on_branch=lambda done, total: told.append(total - done))
    assert told[-1] == 0
    (file,) = tmp_path.iterdir()
    again = found_by(evaluator, tmp_path, on_branch=lambda *_: pytest.fail("measured again"))
    assert again.to_dict() == first.to_dict()
    file.write_text("{")
    assert found_by(evaluator, tmp_path).to_dict() == first.to_dict()
    assert "is damaged and is ignored" in caplog.text
    found_by(evaluator, tmp_path, timesteps=1)
    assert len(list(tmp_path.iterdir())) == 2
    (tmp_path / "a file").touch()
    found_by(evaluator, tmp_path / "a file")
    assert "cannot be cached" in caplog.text


def test_phi_then_rho_are_the_optimum_of_their_sums(evaluator: Evaluator, tmp_path: Path) -> None:
    found = found_by(evaluator, tmp_path)
    search = ParetoSearch(found)
    layers, base = range(len(found.layers)), found.energy[-1]
    options = list(itertools.product(range(len(found.phis)), repeat=len(found.layers)))

    def phi_sums(choice) -> tuple[float, float]:
        costs = sum(found.phi_energy[i, o, -1] - base for i, o in zip(layers, choice, strict=True))
        losses = sum(
            found.phi_divergence[i, o, -1] - found.divergence[-1]
            for i, o in zip(layers, choice, strict=True)
        )
        return base + costs, found.divergence[-1] + losses

    cheapest, dearest = phi_sums([0] * len(layers))[0], phi_sums([2] * len(layers))[0]
    for budget in np.linspace(cheapest, dearest, 6):
        choice = search.choose(max_energy=float(budget) + 1e-9, max_divergence=0)
        chosen = [found.phis.index(choice.phi[layer]) for layer in found.layers]
        within = [phi_sums(o)[1] for o in options if phi_sums(o)[0] <= budget + 1e-8]
        assert phi_sums(chosen)[1] == pytest.approx(min(within))
        own = [
            found.layer_energy[i, -1] + found.phi_energy[i, chosen[i], -1] - base for i in layers
        ]
        share = [
            np.clip((found.rho_energy[i, :, -1] - base) / found.layer_energy[i, -1], -1, 1)
            for i in layers
        ]
        limit = 2 * choice.divergence
        saved = [
            sum(max(own[i], 0) * share[i][r] for i, r in enumerate(rhos))
            for rhos in itertools.product(range(2), repeat=len(found.layers))
            if phi_sums(chosen)[1]
            + sum(found.rho_divergence[i, r, -1] - found.divergence[-1] for i, r in enumerate(rhos))
            <= limit + 1e-12
        ]
        twice = search.choose(max_energy=float(budget) + 1e-9, max_divergence=limit)
        assert twice.energy == pytest.approx(phi_sums(chosen)[0] + min(saved))
        loose = search.choose(max_energy=float(budget) + 1e-9, max_divergence=1.0)
        assert loose.phi == choice.phi
        assert loose.energy <= choice.energy + 1e-12
        assert loose.divergence >= choice.divergence - 1e-12
    with pytest.raises(ConfigError, match="no choice costs"):
        search.choose(max_energy=cheapest / 2, max_divergence=1)


def test_the_paper_s_front_rises_and_falls(evaluator: Evaluator, tmp_path: Path) -> None:
    front = ParetoSearch(found_by(evaluator, tmp_path), step=None).front(8)
    energies, divergences = [c.energy for c in front], [c.divergence for c in front]
    assert energies == sorted(energies)
    assert divergences == sorted(divergences, reverse=True)
    assert 2 <= len(front) <= 8
    assert set(front[0].params()) == {
        f"{kind}/{layer}" for kind in ("phi", "rho") for layer in evaluator.layers
    }

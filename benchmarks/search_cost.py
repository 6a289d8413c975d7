"""What a search costs beside its evaluations: ``python -m benchmarks.search_cost [--json]``.

A sensitivity sweep that begins at the changed layer against one that converts and simulates the
whole network for every change; the ANN with ClipFloor activations, one step instead of T, as a
proxy: rank correlation with the truth, and time; and the sampler's time per proposal, 50 layers,
after 100 to 2,000 trials.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import replace
from statistics import median
from typing import Any

import click
import numpy as np
import optuna
from optuna.samplers import RandomSampler
from scipy.stats import spearmanr

from conversion import ConversionConfig, LayerConfig, Profile, convert, profile, sweep
from evaluators import Evaluator, Measurement, TaskSpec, load_task
from search import AdditiveSampler, layer_tables
from spaces import LayerSpace

CHANGES = tuple(LayerConfig(phi=phi) for phi in (1, 2, 4))
LAYERS, TRIALS = 50, (100, 500, 2000)


def sweep_ratio(found: Profile, timesteps: int) -> dict[str, float]:
    """Time of the sweep over that of as many whole conversions and simulations."""
    base = ConversionConfig.uniform(found.layers, timesteps=timesteps, phi=8)
    branches: list[Any] = []
    start = time.perf_counter()
    sweep(found, base, CHANGES, branches.append)
    reused = time.perf_counter() - start
    start = time.perf_counter()
    for name in found.layers:
        for layer in CHANGES:
            changed = replace(base, layers={**base.layers, name: layer})
            convert(found, changed).simulate(found.inputs)
    naive = time.perf_counter() - start
    return {"branches": len(branches), "sweep_s": reused, "naive_s": naive, "ratio": reused / naive}


def proxy(evaluator: Evaluator, choices: int = 60, timesteps: int = 4) -> dict[str, float]:
    """How well one quantised pass ranks random choices, by divergence; and its share of the time.

    Beside it the sum of the errors that the histograms predict, which needs no pass at all.
    """
    space = LayerSpace(
        layers=evaluator.layers,
        timesteps=(timesteps,),
        neurons=("adafire",),
        calibrations=("light",),
        calibration_timesteps=(timesteps,),
        pins={"iat/alpha": 1.0},
    )
    tables = layer_tables(evaluator.profile, space, timesteps, steps=timesteps)
    random = np.random.default_rng(0)
    rows, seconds = [], np.zeros(2)
    for _ in range(choices):
        params = _of_one_level(space, random)
        choice = space.choice(params)
        found = []
        for i, config in enumerate((choice.conversion, choice.conversion.quantised())):
            start = time.perf_counter()
            found.append(evaluator.measure(replace(choice, conversion=config)).kl.value)
            seconds[i] += time.perf_counter() - start
        cells = [
            (params[f"phi/{n}"] - 1, space.rhos().index(params[f"rho/{n}"])) for n in space.layers
        ]
        errors = sum(tables.error[(layer, *cell)] for layer, cell in enumerate(cells))
        rows.append((*found, errors))
    truth, quantised, summed = np.array(rows).T
    return {
        "proxy": float(spearmanr(truth, quantised).statistic),
        "histograms": float(spearmanr(truth, summed).statistic),
        "time_share": float(seconds[1] / seconds[0]),
    }


def _of_one_level(space: LayerSpace, random: np.random.Generator) -> dict[str, Any]:
    """A random choice whose layers are alike, as those near a front are."""
    levels = space.phi_max, len(space.rhos())
    middle = random.uniform(0, 1, 2)
    params = space.uniform(phi=1, rho=1.0, alpha=1.0)
    for layer in space.layers:
        phi, rho = np.clip(middle + random.normal(0, 0.15, 2), 0, 1) * (np.array(levels) - 1)
        params |= {f"phi/{layer}": 1 + round(phi), f"rho/{layer}": space.rhos()[round(rho)]}
    return params


def overhead(evaluator: Evaluator) -> dict[int, float]:
    """Median milliseconds of a proposal for a network of 50 layers, by finished trials."""
    space = LayerSpace(layers=tuple(f"layer{i}" for i in range(LAYERS)))
    sampler = AdditiveSampler(_deep(evaluator.profile, space), space, seed=0)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
    shallow = LayerSpace(layers=evaluator.layers)
    choice = shallow.choice(shallow.uniform(phi=4, rho=2.0, alpha=0.6))
    template = evaluator.measure(choice)
    random, draw = np.random.default_rng(0), RandomSampler(seed=0)
    found = {}
    for count in TRIALS:
        while len(study.get_trials(deepcopy=False)) < count:
            _add_random(study, space, template, random, draw)
        last = study.get_trials(deepcopy=False)[-1]
        space_of_all = space.distributions()
        sampler.sample_relative(study, last, space_of_all)  # reads the new trials
        times = []
        for _ in range(20):
            start = time.perf_counter()
            sampler.sample_relative(study, last, space_of_all)
            times.append(time.perf_counter() - start)
        found[count] = 1e3 * median(times)
    return found


def _deep(found: Profile, space: LayerSpace) -> Profile:
    """A profile of 50 layers, each a copy of one of the network's."""
    layers = list(found.layers.values())
    copies = {name: layers[i % len(layers)] for i, name in enumerate(space.layers)}

    class Deep:
        costs = found.costs

        def __init__(self) -> None:
            self.layers = {name: replace(layer, name=name) for name, layer in copies.items()}

        def threshold(self, name: str, **settings: Any) -> Any:
            return found.threshold(copies[name].name, **settings)

    return Deep()  # type: ignore[return-value]


def _add_random(
    study: optuna.Study,
    space: LayerSpace,
    template: Measurement,
    random: np.random.Generator,
    draw: RandomSampler,
) -> None:
    params: Mapping[str, Any] = {
        name: draw.sample_independent(study, None, name, distribution)  # type: ignore[arg-type]
        for name, distribution in space.distributions().items()
    }
    divergence, energy = np.exp(random.normal((-3, -2), 1))
    measurement = replace(
        template,
        kl_by_step=(float(divergence),) * len(template.kl_by_step),
        exit_curve=tuple(
            (row[0], row[1], row[2], float(energy) * row[3], float(divergence))
            for row in template.exit_curve
        ),
        energy_ratio=float(energy),
        layer_energy_pj=dict.fromkeys(space.layers, 1000.0),
    )
    study.add_trial(
        optuna.trial.create_trial(
            params=dict(params),
            distributions=space.distributions(),
            values=(measurement.accuracy.value, measurement.energy_pj.value),
            user_attrs={"measurement": measurement.to_dict()},
        )
    )


@click.command(help=__doc__)
@click.option("--data", help="CIFAR-10's folder; without it the sweep is that of digits.")
@click.option("--weights")
@click.option("--images", default=128, show_default=True)
@click.option("--timesteps", default=2, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one line of JSON, last.")
def main(data: str | None, weights: str | None, images: int, timesteps: int, as_json: bool) -> None:
    digits = Evaluator(load_task(TaskSpec()))
    found = digits.profile
    if data is not None:
        spec = TaskSpec(task="cifar10", data=data, weights=weights, calibration_samples=images)
        task = load_task(spec)
        found = profile(task.model, next(task.calibration.batches(images))[0])
    swept = sweep_ratio(found, timesteps)
    click.echo(
        f"sensitivity sweep, {swept['branches']} branches of {len(found.inputs)} images,"
        f" T = {timesteps}: {swept['sweep_s']:.2f} s, {swept['ratio']:.2f} of the naive one's"
    )
    ranks = proxy(digits)
    click.echo(
        f"one quantised pass: Spearman's rank correlation with the divergence {ranks['proxy']:.2f},"
        f" {ranks['time_share']:.2f} of the time; errors of the histograms, summed:"
        f" {ranks['histograms']:.2f}"
    )
    milliseconds = overhead(digits)
    for count, value in milliseconds.items():
        click.echo(f"a proposal, {LAYERS} layers, {count} trials: {value:.0f} ms")
    if as_json:
        click.echo(json.dumps({"sweep": swept, "proxy": ranks, "proposal_ms": milliseconds}))


if __name__ == "__main__":
    main()

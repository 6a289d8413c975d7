"""``spikefront search``."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from spikefront.options import (
    CALIBRATION,
    NEURON,
    SAMPLER,
    TARGET,
    EnergyLimit,
    artifacts_option,
    confidence_option,
    energy_option,
    limit_options,
    read_pins,
    read_whole_numbers,
    run_options,
    study_options,
    task_options,
    timeout_option,
)
from spikefront.shared import (
    LOG,
    checked_evaluator,
    make_evaluator,
    measured_sensitivity,
    named_again,
    named_task,
    print_table,
    provenance_of,
    trial_bar,
    working,
)

if TYPE_CHECKING:
    import optuna

    from evaluators import Evaluator, TaskSpec
    from spaces import LayerSpace


@click.command()
@task_options
@study_options
@run_options
@energy_option("horowitz45")
@click.option(
    "--trials",
    type=click.IntRange(1),
    default=60,
    show_default=True,
    help="Trials to run, across all workers; additional exits of the same passes are free.",
)
@click.option(
    "--sampler",
    type=SAMPLER,
    default="additive",
    show_default=True,
    help="additive is ours, the others are Optuna's.",
)
@click.option(
    "--workers",
    type=click.IntRange(0),
    default=1,
    show_default=True,
    help="Processes that measure, here; on cuda each has a GPU of its own. 0 only makes the study"
    " and its queue, for `spikefront worker`.",
)
@click.option(
    "--dask",
    metavar="ADDRESS",
    help="Measure on the workers of this Dask scheduler (or scheduler file) instead.",
)
@timeout_option
@click.option(
    "--timesteps",
    callback=lambda context, option, text: None if text is None else read_whole_numbers(text),
    help="Values of T to choose from. Default: 1,2,4,8; of events those up to their frames.",
)
@click.option(
    "--neuron",
    "neurons",
    type=NEURON,
    multiple=True,
    default=("adafire", "dual-threshold"),
    show_default=True,
    help="Neurons to choose from; repeat it for both. dual-threshold fires negative spikes too.",
)
@click.option(
    "--calibration",
    "calibrations",
    type=CALIBRATION,
    multiple=True,
    default=("light", "advanced", "none", "learned", "learned-weights"),
    show_default=True,
    help="Calibrations to choose from; repeat it. `--calibration light` alone learns nothing.",
)
@click.option(
    "--iterations",
    default="100,200,400",
    show_default=True,
    callback=lambda context, option, text: read_whole_numbers(text),
    help="Numbers of gradient steps of learning to choose from.",
)
@click.option(
    "--label-weight",
    type=click.FloatRange(0),
    default=0.0,
    show_default=True,
    help="Weight of the training labels in what is learned; 0 learns from the ANN alone.",
)
@artifacts_option
@click.option(
    "--phi-max",
    type=click.IntRange(1),
    default=8,
    show_default=True,
    help="Largest φ, spikes per neuron and step.",
)
@click.option(
    "--rho-max",
    type=click.FloatRange(1),
    default=3.0,
    show_default=True,
    help="Largest ρ, factor on the threshold.",
)
@click.option(
    "--objective",
    "objectives",
    default="energy",
    show_default=True,
    callback=lambda context, option, text: tuple(part.strip() for part in text.split(",")),
    help="What to minimise while the metric is maximised, like energy,latency: energy, latency"
    " (mean steps until the exit), synops (on the critical path), memory (bytes; with --bits)."
    " The sampler additive steers by energy alone, Optuna's by all of them.",
)
@click.option(
    "--bits",
    callback=lambda context, option, text: read_whole_numbers(text) if text else (),
    help="Widths of integer weights to choose from, like 8,6,4: every trial then runs in integers,"
    " potentials of 16 bits. Default: floating point, or a target's.",
)
@click.option(
    "--target",
    type=TARGET,
    help="Keep φ, neurons and bits within the limits of this chip. Warns of everything else that"
    " does not fit; `spikefront check` lists it.",
)
@click.option(
    "--pin",
    "pins",
    multiple=True,
    metavar="LAYER:phi=1",
    callback=lambda context, option, texts: read_pins(texts),
    help="Keep φ or ρ of a layer; repeat it. `spikefront profile` lists the layers.",
)
@limit_options(
    "Most energy of a point of the front",
    "Most that it may lose of the task's metric (0.01 is one point).",
)
@click.option(
    "--max-steps",
    type=click.FloatRange(1),
    help="Most mean steps until the exit of a point of the front: its latency.",
)
@confidence_option
@click.option(
    "--paper/--no-paper",
    default=True,
    show_default=True,
    help="Measure points of the paper's search as baselines too; see `spikefront pareto-dp`.",
)
def search(
    out: Path,
    storage: str | None,
    study_name: str | None,
    device: str,
    batch_size: int | None,
    prices: str,
    trials: int,
    sampler: str,
    workers: int,
    dask: str | None,
    timeout: float | None,
    timesteps: tuple[int, ...] | None,
    neurons: tuple[str, ...],
    calibrations: tuple[str, ...],
    iterations: tuple[int, ...],
    label_weight: float,
    artifacts: str | None,
    phi_max: int,
    rho_max: float,
    objectives: tuple[str, ...],
    bits: tuple[int, ...],
    target: str | None,
    pins: dict[str, Any],
    max_energy: EnergyLimit | None,
    max_accuracy_drop: float | None,
    max_steps: float | None,
    confidence: float | None,
    paper: bool,
    **task: Any,
) -> None:
    """Search the trade-off. Ctrl-C stops cleanly; the same command goes on where it stopped.

    Uniform settings, those of the paper's search and learned uniform ones are measured first, as
    baselines. Then the sampler chooses φ and ρ for every layer, T, the calibration and the early
    exit, and what to learn on from at which price of energy. Ends with a table of the front and a
    report of the search split in OUT.
    """
    import optuna

    import search as rooms
    from conversion import energy_model

    optuna.logging.set_verbosity(optuna.logging.WARNING)

    spec = named_task(task)
    name = study_name or _study_name(spec)
    limits: dict[str, Any] = {
        "phi_max": phi_max,
        "rho_max": rho_max,
        "neurons": neurons,
        "calibrations": calibrations,
        "iterations": iterations,
        "label_weight": label_weight,
        "bits": bits,
        "pins": pins,
    }
    limits |= _within(target, limits) if target is not None else {}
    limits |= {"timesteps": timesteps} if timesteps is not None else {}
    place = storage or out / rooms.JOURNAL_NAME
    limit = max_energy or EnergyLimit()
    budget = rooms.Budget(
        max_energy=limit.share,
        max_accuracy_drop=max_accuracy_drop,
        max_steps=max_steps,
        confidence=confidence or 0.9,
    )
    objectives = _objectives(objectives, limits["bits"])
    settings = {
        "energy": energy_model(prices), "task": spec, "objectives": objectives, **limits
    }  # fmt: skip
    if limit.picojoules is None:  # else what share that is shows when the network is loaded
        _check_place(out, place, name, budget=budget, **settings)
    states = artifacts or str((out / rooms.ARTIFACTS_NAME).resolve())
    make = functools.partial(make_evaluator, spec, device, settings["energy"], batch_size, states)
    with working(f"loading {spec.task} and profiling its network"):
        evaluator = make()
        space = _space(evaluator, limits)
    if limit.picojoules is not None:
        budget = replace(budget, max_energy=limit.over(evaluator.ann_energy_pj))
        _check_place(out, place, name, budget=budget, **settings)
    budget.check(evaluator, bits)
    if target is not None:
        _warn_of_what_never_fits(evaluator, space, target)
    _warn_of_a_useless_ann(evaluator)
    setup = rooms.StudySetup.of(evaluator, space, spec, budget, objectives)
    study = rooms.open_study(rooms.open_storage(place), name, setup)
    resumed = len(rooms.passes(study))
    planned = max(trials, resumed)
    plan = rooms.Plan(trials=planned, sampler=sampler, timeout=timeout, artifacts=states)
    rooms.set_plan(study, plan)
    rooms.note_ann(study, evaluator.ann("search"))
    # A resumed search must not draw what the first one drew.
    seed = spec.seed + len(study.get_trials(deepcopy=False))
    study.sampler = rooms.make_sampler(
        sampler,
        seed=seed,
        profile=evaluator.profile,
        space=space,
        energy=evaluator.energy,
        budget=budget,
    )
    if resumed >= trials:
        click.echo(f"the study has run {resumed} trials already: nothing to run", err=True)
    baselines = _paper_baselines(evaluator, space) if paper and resumed < trials else []
    with trial_bar(evaluator, trials, resumed) as on_trial:
        rooms.run_study(
            study,
            space,
            functools.partial(checked_evaluator, make, name, setup)
            if workers > 1 or dask
            else lambda: evaluator,
            trials=trials,
            workers=workers,
            dask=dask,
            folder=out,
            device=device,
            timeout=timeout,
            pareto_dp=baselines,
            ann_accuracy=evaluator.ann("search").accuracy.value,
            on_trial=on_trial,
            states=rooms.open_states(states),
        )
    again = named_again(task)
    if workers == 0 and dask is None:
        shown = rooms.without_password(str(place))
        click.echo(
            f"the study {name!r} is ready. On every machine:\n"
            f"spikefront worker --storage {shown} --study {name}{again}"
        )
        return
    _report_search(study, evaluator, spec, out, again)
    click.echo(
        f"Next:   spikefront report --out {out}{again}    (measures the front on the test split)"
    )


def _space(evaluator: Evaluator, limits: dict[str, Any]) -> LayerSpace:
    """What the task's inputs and outputs allow of what was asked for."""
    from spaces import LayerSpace

    outputs = evaluator.profile.outputs
    if outputs.score is None:
        LOG.warning("%s outputs have no confidence: every sample runs all T steps", outputs.kind)
    return LayerSpace(
        layers=evaluator.layers,
        score=outputs.score or "entropy",
        exits=outputs.score is not None,
        length=evaluator.profile.length,
        **limits,
    )


def _objectives(names: tuple[str, ...], bits: tuple[int, ...]) -> tuple[str, ...]:
    from search import checked_objectives

    if "memory" in names and len(bits) < 2:
        raise click.UsageError("memory differs with --bits alone: name two widths or more")
    return checked_objectives(names)


def _within(name: str, limits: dict[str, Any]) -> dict[str, Any]:
    """The limits of a search, narrowed to those of a target."""
    from conversion import NEURONS, ConfigError
    from conversion.targets import target

    chip = target(name)
    allowed = tuple(n for n in limits["neurons"] if chip.negative_spikes or not NEURONS[n].signed)
    if not allowed:
        raise ConfigError(f"{chip.title} has no negative spikes: search with --neuron adafire")
    if limits["bits"] and chip.weight_bits and max(limits["bits"]) > chip.weight_bits:
        raise ConfigError(f"{chip.title} has weights of {chip.weight_bits} bits, see --bits")
    most = min(limits["phi_max"], chip.most_spikes or limits["phi_max"])
    usual = (chip.weight_bits,) if chip.weight_bits is not None else ()
    return {"neurons": allowed, "phi_max": most, "bits": limits["bits"] or usual}


def _warn_of_what_never_fits(evaluator: Evaluator, space: LayerSpace, name: str) -> None:
    """Say what of the network does not fit a target, whatever is chosen."""
    from conversion import ConversionConfig, convert
    from conversion.export import program_of
    from conversion.targets import check, target

    config = ConversionConfig.uniform(
        evaluator.layers, timesteps=min(space.timesteps), calibration="none",
        calibration_timesteps=min(space.calibration_timesteps),
    )  # fmt: skip
    chip = target(name)
    found = [v for v in check(program_of(convert(evaluator.profile, config)), chip) if not v.chosen]
    for one in found[:3]:
        LOG.warning(
            "%s: %s is %s, %s has %s; %s",
            one.layer, one.rule, one.found, chip.name, one.limit, one.change,
        )  # fmt: skip
    if len(found) > 3:
        LOG.warning("and %d more that no choice changes; see `spikefront check`", len(found) - 3)


def _check_place(out: Path, place: Any, name: str, **settings: Any) -> None:
    """Refuse what cannot go on there, before anything is loaded."""
    import search as rooms

    if out.exists():
        rooms.hold(out).release()  # fails while another search holds it
    if isinstance(place, str) or place.exists():
        rooms.check_settings(rooms.open_storage(place), name, **settings)
    rooms.check_writable(out)


_PAPER_POINTS = 8


def _paper_baselines(evaluator: Evaluator, space: LayerSpace) -> list[dict[str, Any]]:
    """Parameters of the paper's search, as far as the space offers them."""
    from conversion import ConversionError
    from search import PHIS, RHOS, ParetoSearch
    from spaces import names

    phis = sorted({*(phi for phi in PHIS if phi < space.phi_max), space.phi_max})
    rhos = [rho for rho in RHOS if rho in space.rhos()]
    uniform = space.uniform(phi=1, rho=1.0, alpha=0.6)
    try:
        found = measured_sensitivity(evaluator, uniform[names.CALIBRATION_TIMESTEPS], phis, rhos)
    except ConversionError as error:  # a baseline less is better than no search
        LOG.warning("no baselines of the paper's search: %s", error)
        return []
    front = ParetoSearch(found, step=None).front(_PAPER_POINTS)
    return [{**uniform, **choice.params(), **space.pins} for choice in front]


def _report_search(
    study: optuna.Study, evaluator: Evaluator, spec: TaskSpec, out: Path, again: str
) -> None:
    from reports import front_table, measure_front, write_report

    front = measure_front(study, evaluator, test=False)
    costs = evaluator.profile.costs
    provenance = provenance_of(study, evaluator, spec)
    write_report(front, out, costs=costs, provenance=provenance, task=evaluator.task, again=again)
    print_table(front_table(front))
    click.echo(f"\nReport: {out / 'report.html'}")


def _warn_of_a_useless_ann(evaluator: Evaluator) -> None:
    ann = evaluator.ann("search")
    if ann.accuracy.value <= ann.chance:
        LOG.warning(
            "the ANN's %s is %.1f %% on the search split, no better than the same answer every time"
            " (%.1f %%): are weights, labels and preprocessing the right ones?",
            evaluator.task.metric.name,
            100 * ann.accuracy.value,
            100 * ann.chance,
        )


def _study_name(spec: TaskSpec) -> str:
    return Path(spec.task.partition(":")[0]).stem if ":" in spec.task else str(spec.task)

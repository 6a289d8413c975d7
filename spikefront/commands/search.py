"""``spikefront search``."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click

from spikefront.loading import (
    checked_evaluator,
    make_evaluator,
    measured_sensitivity,
    named_again,
    named_task,
    provenance_of,
    study_named,
    write_files,
)
from spikefront.options import (
    CALIBRATION,
    LIMITS,
    MACHINE,
    NEURON,
    SAMPLER,
    SETTING,
    STUDY,
    TARGET,
    EnergyLimit,
    artifacts_option,
    command,
    confidence_option,
    energy_option,
    limit_options,
    log_option,
    option,
    read_by,
    read_pins,
    run_options,
    study_options,
    task_options,
    timeout_option,
    whole_numbers,
)
from spikefront.output import LOG, counted, print_table, trial_bar, working
from spikefront.settings import what_was_given

if TYPE_CHECKING:
    from collections.abc import Callable

    import optuna

    from evaluators import Evaluator, TaskSpec
    from search import Budget, Plan, StudySetup
    from spaces import LayerSpace

CHOICES = "Choices of the search"


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(","))


@command()
@task_options
@study_options
@option(
    STUDY,
    "--trials",
    type=click.IntRange(1),
    default=60,
    show_default=True,
    metavar="N",
    help="Trials to run, across all workers; additional exits of the same runs are free.",
)
@option(
    STUDY,
    "--sampler",
    type=SAMPLER,
    default="additive",
    show_default=True,
    help="additive is our own, the others are Optuna's. One of:",
)
@option(
    STUDY,
    "--objective",
    "objectives",
    default="energy",
    show_default=True,
    metavar="NAME,NAME,…",
    callback=read_by(_words),
    help="What to minimise while the metric is maximised: energy, and any of latency (mean"
    " steps until the exit), synops (on the critical path) and memory (bytes; with --bits)."
    " Of the samplers, additive steers by energy alone.",
)
@option(
    STUDY,
    "--paper/--no-paper",
    default=True,
    show_default=True,
    help="Measure points of the paper's search as baselines too; see `spikefront pareto-dp`.",
)
@energy_option("horowitz45")
@option(
    CHOICES,
    "--phi-max",
    type=click.IntRange(1),
    default=8,
    show_default=True,
    metavar="N",
    help="Largest φ, spikes per neuron and step.",
)
@option(
    CHOICES,
    "--rho-max",
    type=click.FloatRange(1),
    default=3.0,
    show_default=True,
    metavar="X",
    help="Largest ρ, factor on the threshold.",
)
@option(
    CHOICES,
    "--timesteps",
    callback=read_by(lambda text: whole_numbers(text) or None),
    metavar="N,N,…",
    help="Values of T. Default: 1,2,4,8; for events up to their frames.",
)
@option(
    CHOICES,
    "--neuron",
    "neurons",
    type=NEURON,
    multiple=True,
    default=("adafire", "dual-threshold"),
    show_default=True,
    help="Repeatable. dual-threshold also fires negative spikes. Of:",
)
@option(
    CHOICES,
    "--calibration",
    "calibrations",
    type=CALIBRATION,
    multiple=True,
    default=("light", "advanced", "none", "learned", "learned-weights"),
    show_default=True,
    help="Repeatable. `--calibration light` alone learns nothing and is fast. Of:",
)
@option(
    CHOICES,
    "--iterations",
    default="100,200,400",
    show_default=True,
    metavar="N,N,…",
    callback=read_by(whole_numbers),
    help="Numbers of gradient steps of learning.",
)
@option(
    CHOICES,
    "--bits",
    callback=read_by(whole_numbers),
    metavar="N,N,…",
    help="Widths of integer weights, like 8,6,4: every trial then runs in integers, with"
    " potentials of 16 bits. Default: floating point, or a target's.",
)
@option(
    CHOICES,
    "--pin",
    "pins",
    multiple=True,
    metavar="LAYER:phi=1",
    callback=read_by(read_pins),
    help="Fix φ or ρ of a layer. Repeatable. `spikefront profile` lists the layers.",
)
@option(
    CHOICES,
    "--target",
    type=TARGET,
    help="Keep φ, neurons and bits within the limits of this"
    " chip, and warn of everything else that does not fit. Built in:",
)
@option(
    SETTING,
    "--label-weight",
    type=click.FloatRange(0),
    default=0.0,
    show_default=True,
    metavar="X",
    help="Weight of the training labels in learning; 0 learns from the ANN alone.",
)
@limit_options(
    "Most energy of a point of the front",
    "Most that a point may lose of the task's metric; 0.01 is one point.",
)
@option(
    LIMITS,
    "--max-steps",
    type=click.FloatRange(1),
    metavar="X",
    help="Most mean steps until the exit, the latency of a point.",
)
@confidence_option
@run_options
@option(
    MACHINE,
    "--workers",
    type=click.IntRange(0),
    default=1,
    show_default=True,
    metavar="N",
    help="Processes on this machine; on cuda each has a GPU of its own. 0 makes the study for"
    " `spikefront worker` and runs nothing.",
)
@option(
    MACHINE,
    "--dask",
    metavar="ADDRESS",
    help="Measure on the workers of this Dask scheduler (or scheduler file) instead.",
)
@artifacts_option
@timeout_option
@log_option
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
    artifacts: str | None,
    log_every: int,
    objectives: tuple[str, ...],
    target: str | None,
    max_energy: EnergyLimit | None,
    max_accuracy_drop: float | None,
    max_steps: float | None,
    confidence: float | None,
    paper: bool,
    **options: Any,
) -> None:
    """Search the trade-off between accuracy and energy; Ctrl-C stops, the same command resumes.

    Baselines come first: uniform settings, those of the paper's search, and learned ones. Then
    the sampler chooses φ and ρ for every layer, T, the calibration and the early exit, and which
    learned state to continue from, at what price of energy. At the end it prints a table of the
    front and writes a report of the search split to OUT.

    \b
    spikefront search
    spikefront search --task cifar10 --data ~/data --weights net.safetensors
    spikefront search --max-accuracy-drop 0.01 --phi-max 4 --workers 4
    spikefront search --config search.toml
    """  # noqa: D301 - click wants the control character
    import optuna

    import search as rooms
    from conversion import energy_model

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    limits, task = _part(options)
    limits |= _within(target, limits) if target is not None else {}
    spec, place = named_task(task), storage or out / rooms.JOURNAL_NAME
    name, energy = study_name or _study_name(spec), energy_model(prices)
    objectives = _objectives(objectives, limits["bits"])
    budget = rooms.Budget(
        max_accuracy_drop=max_accuracy_drop, max_steps=max_steps, confidence=confidence or 0.9,
        max_energy=max_energy.share if max_energy else None,
    )  # fmt: skip
    settings = {"energy": energy, "task": spec, "objectives": objectives, **limits}
    check = functools.partial(_check_place, out, place, name, **settings)
    in_joules = max_energy is not None and max_energy.picojoules is not None
    if not in_joules:  # which share that is shows when the network is loaded
        check(budget=budget)
    states = artifacts or str((out / rooms.ARTIFACTS_NAME).resolve())
    make = functools.partial(make_evaluator, spec, device, energy, batch_size, states)
    with working(f"loading {spec.task} and profiling its network"):
        evaluator = make()
        space = _space(evaluator, limits)
    if max_energy is not None and in_joules:
        budget = replace(budget, max_energy=max_energy.over(evaluator.ann_energy_pj))
        check(budget=budget)
    _check_feasible(evaluator, space, budget, target)
    setup = rooms.StudySetup.of(evaluator, space, spec, budget, objectives)
    study = rooms.open_study(rooms.open_storage(place), name, setup)
    plan = rooms.Plan(
        trials=max(trials, len(rooms.passes(study))), sampler=sampler, timeout=timeout,
        artifacts=states, options=what_was_given(),
    )  # fmt: skip
    _prepare(study, plan, evaluator, setup)
    elsewhere = functools.partial(checked_evaluator, make, name, setup)
    _run(
        study, space, evaluator, elsewhere if workers > 1 or dask else lambda: evaluator,
        paper=paper, log_every=log_every, trials=trials, workers=workers, dask=dask, folder=out,
        device=device, timeout=timeout, states=rooms.open_states(states),
    )  # fmt: skip
    if workers == 0 and dask is None:
        _invite_workers(place, name, named_again(task))
    else:
        _report_search(study, evaluator, spec, out, storage, named_again(task))


_SPACE = (
    "phi_max", "rho_max", "neurons", "calibrations", "iterations", "label_weight", "bits", "pins",
    "timesteps",
)  # fmt: skip


def _part(options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What limits the space, and what names the task."""
    limits = {name: options.pop(name) for name in _SPACE}
    if limits["timesteps"] is None:
        del limits["timesteps"]
    return limits, options


def _prepare(study: optuna.Study, plan: Plan, evaluator: Evaluator, setup: StudySetup) -> None:
    """Write into the study what workers need, and give it its sampler."""
    from search import make_sampler, note_ann, set_plan

    set_plan(study, plan)
    note_ann(study, evaluator.ann("search"))
    study.sampler = make_sampler(
        plan.sampler,
        # A resumed search must not draw what the first one drew.
        seed=evaluator.seed + len(study.get_trials(deepcopy=False)),
        profile=evaluator.profile,
        space=setup.space,
        energy=evaluator.energy,
        budget=setup.budget,
    )


def _run(
    study: optuna.Study,
    space: LayerSpace,
    evaluator: Evaluator,
    make: Callable[[], Evaluator],
    *,
    paper: bool,
    log_every: int,
    trials: int,
    workers: int,
    **options: Any,
) -> None:
    """Run what is left of a study, with its progress; options as of ``run_study``."""
    from search import passes, run_study

    resumed = len(passes(study))
    if resumed >= trials:
        click.echo(f"the study has run {counted(resumed, 'trial')}: nothing to run", err=True)
    else:
        _announce(evaluator, space, trials, resumed, workers)
    with trial_bar(evaluator, trials, resumed, log_every) as on_trial:
        run_study(
            study, space, make, trials=trials, workers=workers, on_trial=on_trial,
            pareto_dp=_paper_baselines(evaluator, space) if paper and resumed < trials else [],
            ann_accuracy=evaluator.ann("search").accuracy.value, **options,
        )  # fmt: skip


def _invite_workers(place: Any, name: str, again: str) -> None:
    """Say how to work on a study that this process leaves to others."""
    from search import without_password

    click.echo(
        f"the study {name!r} is ready. On every machine:\n"
        f"spikefront worker --storage {without_password(str(place))} --study {name}{again}"
    )


def _announce(
    evaluator: Evaluator, space: LayerSpace, trials: int, resumed: int, workers: int
) -> None:
    """Say what is going to happen."""
    ann = evaluator.ann("search")
    LOG.info(
        "%s: %s %.2f %% on %d search samples; %s, φ 1 to %d, ρ 1 to %g, T %s",
        evaluator.task.name, evaluator.task.metric.name, 100 * ann.accuracy.value, ann.n,
        counted(len(space.layers), "spiking layer"), space.phi_max, space.rho_max,
        ", ".join(map(str, space.timesteps)),
    )  # fmt: skip
    done = f", {resumed} of them done" if resumed else ""
    LOG.info(
        "%s%s, by %s; the baselines come first",
        counted(trials, "trial"), done, counted(max(1, workers), "worker"),
    )  # fmt: skip


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


def _check_feasible(
    evaluator: Evaluator, space: LayerSpace, budget: Budget, target: str | None
) -> None:
    """Refuse a budget that nothing can keep, and warn of what no choice can mend."""
    budget.check(evaluator, space.bits)
    if target is not None:
        _warn_of_what_never_fits(evaluator, space, target)
    _warn_of_a_useless_ann(evaluator)


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
            "%s, %s: %s here, on %s %s; %s",
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
    from search import ParetoSearch, sweep_of

    uniform = space.uniform(phi=1, rho=1.0, alpha=0.6)
    try:
        found = measured_sensitivity(evaluator, **sweep_of(space))
    except ConversionError as error:  # a baseline less is better than no search
        LOG.warning("no baselines of the paper's search: %s", error)
        return []
    front = ParetoSearch(found, step=None).front(_PAPER_POINTS)
    return [{**uniform, **choice.params(), **space.pins} for choice in front]


def _report_search(
    study: optuna.Study,
    evaluator: Evaluator,
    spec: TaskSpec,
    out: Path,
    storage: str | None,
    again: str,
) -> None:
    from reports import findings, front_table, measure_front

    front = measure_front(study, evaluator, test=False)
    found = findings(study, evaluator, front, closely=False)
    provenance = provenance_of(study, evaluator, spec)
    files = write_files(study, found, out, storage, provenance, again)
    print_table(front_table(front))
    click.echo(
        f"\nReport: {files[-1]}\n"
        f"Next:   spikefront report{study_named(study, out, storage)}{again}"
        "    (measures the front on the test split)"
    )


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

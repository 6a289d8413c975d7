"""The command line: parses, calls the rooms, prints."""

from __future__ import annotations

import functools
import json
import logging
import os
import platform
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.logging import RichHandler
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

STDERR = Console(stderr=True)
LOG = logging.getLogger("spikefront")

SAMPLERS = ("additive", "nsga2", "nsga3", "tpe", "tpe-multivariate", "gp", "random")
NEURONS = ("adafire", "dual-threshold")
THRESHOLDS = ("mmse", "max", "percentile")
GRANULARITIES = ("channel", "layer")
CALIBRATIONS = ("light", "advanced", "none", "tuned", "learned")
ENERGY_MODELS = ("horowitz45", "horowitz45-int8", "horowitz45-graded")

# torch, optuna and matplotlib take seconds to import: each command imports what it needs, so
# that --help and a mistyped option answer at once.


def _version() -> str:
    try:
        return version("spikefront")
    except PackageNotFoundError:
        return "not installed"


Command = Callable[..., Any]


@dataclass(frozen=True)
class EnergyLimit:
    """A limit as a share of the ANN's energy, or in picojoules: one of the two."""

    share: float | None = None
    picojoules: float | None = None

    def over(self, ann_pj: float) -> float:
        """As a share of an ANN's energy, pJ."""
        return self.share or (self.picojoules or 0.0) / ann_pj


def _apply(options: list[Command], command: Command) -> Command:
    return functools.reduce(lambda found, option: option(found), reversed(options), command)


def limit_options(energy: str, drop: str) -> Callable[[Command], Command]:
    """Limits on energy and on lost accuracy, with what they do."""
    units = ": 0.08 (of the ANN's), or 350nJ (pJ, nJ, uJ, mJ)."
    options: list[Command] = [
        click.option(
            "--max-energy",
            metavar="LIMIT",
            callback=lambda context, option, text: _energy_limit(text),
            help=energy + units,
        ),
        click.option("--max-accuracy-drop", type=click.FloatRange(0, 1), help=drop),
    ]
    return functools.partial(_apply, options)


def task_options(command: Command) -> Command:
    """Options that say what to load."""
    options: list[Command] = [
        click.option(
            "--task",
            help="digits (default), cifar10, cifar100, imagefolder, or path/to/file.py:function.",
        ),
        click.option("--data", type=click.Path(), help="Folder of the data set."),
        click.option("--model", help="resnet20, a torchvision model, or module:function."),
        click.option(
            "--weights",
            type=click.Path(),
            help="Trained state dict: .safetensors, or .pt (loaded without unpickling).",
        ),
        click.option("--calibration-samples", type=click.IntRange(1), help="Default 256."),
        click.option("--search-samples", type=click.IntRange(1), help="Default 1000."),
        click.option("--test-samples", type=click.IntRange(1), help="Default: all that are left."),
        click.option("--image-size", type=click.IntRange(1), help="imagefolder's crop, pixels."),
        click.option("--seed", type=int, help="Seed of the splits and the sampler. Default 0."),
    ]
    return _apply(options, command)


def run_options(command: Command) -> Command:
    """Options that say where and how to measure."""
    options: list[Command] = [
        click.option("--device", default="cpu", show_default=True, help="A torch device."),
        click.option("--batch-size", type=click.IntRange(1), help="Default 32 on cpu, else 256."),
    ]
    return _apply(options, command)


def timeout_option(command: Command) -> Command:
    """How long a trial may take."""
    limit = click.option(
        "--timeout",
        type=click.FloatRange(0, min_open=True),
        metavar="SECONDS",
        help="Longest time of a trial. Default: an hour, or ten times the longest so far.",
    )
    return _apply([limit], command)


def energy_option(command: Command) -> Command:
    """The energy model."""
    meaning = "Prices of a MAC and of a synaptic operation."
    return _apply([_one_of("--energy-model", ENERGY_MODELS, meaning)], command)


def _one_of(name: str, known: tuple[str, ...], meaning: str) -> Command:
    """An option with a few known values, the first of them by default."""
    return click.option(
        name, type=click.Choice(known), default=known[0], show_default=True, help=meaning
    )


def _at_least_one(name: str, default: float, meaning: str) -> Command:
    kind = click.IntRange(1) if isinstance(default, int) else click.FloatRange(1)
    return click.option(name, type=kind, default=default, show_default=True, help=meaning)


def choice_options(command: Command) -> Command:
    """Options that name one uniform choice."""
    options: list[Command] = [
        _at_least_one("--phi", 4, "φ of all layers."),
        _at_least_one("--rho", 1.0, "ρ of all layers."),
        _one_of("--neuron", NEURONS, "dual-threshold takes back what it fired too much."),
        _one_of("--thresholds", THRESHOLDS, "Rule of the thresholds."),
        _one_of("--granularity", GRANULARITIES, "One threshold per channel or per layer."),
        _at_least_one("--timesteps", 8, "T."),
        _at_least_one("--calibration-timesteps", 2, "T of thresholds and calibration."),
        _one_of(
            "--calibration",
            CALIBRATIONS,
            "light corrects biases, advanced also the initial potentials, tuned also the weights;"
            " learned learns thresholds and biases by gradient.",
        ),
        _at_least_one("--iterations", 100, "Gradient steps of tuned and learned."),
        click.option(
            "--energy-weight",
            type=click.FloatRange(0),
            default=0.0,
            show_default=True,
            help="What learned weighs synaptic operations with; 0.1 to 1 saves energy.",
        ),
    ]
    return _apply(options, command)


_CHOICE = (
    "phi", "rho", "neuron", "timesteps", "thresholds", "granularity", "calibration",
    "calibration_timesteps", "iterations", "energy_weight",
)  # fmt: skip


def split_option(command: Command) -> Command:
    """The split to run."""
    return _apply([_one_of("--split", ("search", "test"), "The split to run.")], command)


def study_options(command: Command) -> Command:
    """Options that say which study."""
    options: list[Command] = [
        click.option(
            "--out",
            type=click.Path(path_type=Path),
            default=Path("spikefront-out"),
            show_default=True,
            help="Folder of the study and its report.",
        ),
        click.option(
            "--storage",
            envvar="SPIKEFRONT_STORAGE",
            help="An Optuna storage URL, or $SPIKEFRONT_STORAGE. Default: OUT/study.journal.",
        ),
        click.option("--study", "study_name", help="Name of the study. Default: the task's."),
    ]
    return _apply(options, command)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(_version(), prog_name="spikefront")
@click.option("-v", "--verbose", is_flag=True, help="Say more of what happens.")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def cli(verbose: bool, debug: bool) -> None:
    """Search how a trained ANN should spike: the Pareto front of accuracy against energy.

    \b
    spikefront search                  search on the embedded task, resume with the same command
    spikefront report                  tables, figures and one HTML page, measured on the test split
    spikefront export --max-energy 0.08    write one point of the front as a config that deploys
    spikefront verify CONFIG.json      measure an exported config again, in a fresh process
    spikefront sensitivity             how much each layer matters; --figure
    spikefront worker --storage URL    take part in a search from any machine; see also status
    """  # noqa: D301 - click wants the control character
    level = logging.DEBUG if debug else logging.INFO if verbose else logging.WARNING
    if STDERR.is_terminal and not verbose:
        level = min(level, logging.INFO)
    handler = RichHandler(console=STDERR, show_path=False, show_time=False, markup=False)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler])
    LOG.setLevel(level)
    warnings.simplefilter("ignore")


@cli.command()
@task_options
@study_options
@run_options
@energy_option
@click.option(
    "--trials",
    type=click.IntRange(1),
    default=200,
    show_default=True,
    help="Trials that the study shall have run, whoever ran them; further exits are free.",
)
@click.option(
    "--sampler",
    type=click.Choice(SAMPLERS),
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
    default="1,2,4,8",
    show_default=True,
    callback=lambda context, option, text: _whole_numbers(text),
    help="Values of T to choose from.",
)
@click.option(
    "--neuron",
    "neurons",
    type=click.Choice(NEURONS),
    multiple=True,
    default=NEURONS,
    show_default=True,
    help="Neurons to choose from; repeat it for both. dual-threshold fires negative spikes too.",
)
@click.option(
    "--calibration",
    "calibrations",
    type=click.Choice(CALIBRATIONS),
    multiple=True,
    default=("light", "advanced", "none", "learned"),
    show_default=True,
    help="Calibrations to choose from; tuned and learned take many times longer per trial.",
)
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
    "--pin",
    "pins",
    multiple=True,
    metavar="LAYER:phi=1",
    callback=lambda context, option, texts: _pins(texts),
    help="Keep φ or ρ of a layer; repeat it. `spikefront profile` lists the layers.",
)
@limit_options(
    "Most energy of a point of the front", "Most accuracy it may lose (0.01 is one point)."
)
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
    energy_model: str,
    trials: int,
    sampler: str,
    workers: int,
    dask: str | None,
    timeout: float | None,
    timesteps: tuple[int, ...],
    neurons: tuple[str, ...],
    calibrations: tuple[str, ...],
    phi_max: int,
    rho_max: float,
    pins: dict[str, Any],
    max_energy: EnergyLimit | None,
    max_accuracy_drop: float | None,
    paper: bool,
    **task: Any,
) -> None:
    """Search the trade-off. Ctrl-C stops cleanly; the same command goes on where it stopped.

    Uniform settings and those of the paper's search are measured first, as baselines. Then the
    sampler chooses φ and ρ for every layer, T, the calibration and the early exit. Ends with a
    table of the front and a report of the search split in OUT.
    """
    import optuna

    import search as rooms
    from spaces import LayerSpace

    optuna.logging.set_verbosity(optuna.logging.WARNING)

    spec = _spec(task)
    name = study_name or _study_name(spec)
    limits: dict[str, Any] = {
        "phi_max": phi_max,
        "rho_max": rho_max,
        "timesteps": timesteps,
        "neurons": neurons,
        "calibrations": calibrations,
        "pins": pins,
    }
    place = storage or out / rooms.JOURNAL_NAME
    energy = max_energy or EnergyLimit()
    budget = rooms.Budget(max_energy=energy.share, max_accuracy_drop=max_accuracy_drop)
    settings = {"energy_model": energy_model, "task": spec, **limits}
    if energy.picojoules is None:  # else what share that is shows when the network is loaded
        _check_place(out, place, name, budget=budget, **settings)
    make = functools.partial(make_evaluator, spec, device, energy_model, batch_size)
    with _working(f"loading {spec.task} and profiling its network"):
        evaluator = make()
        space = LayerSpace(layers=evaluator.layers, **limits)
    if energy.picojoules is not None:
        budget = replace(budget, max_energy=energy.over(evaluator.ann_energy_pj))
        _check_place(out, place, name, budget=budget, **settings)
    budget.check(evaluator)
    _warn_of_a_useless_ann(evaluator)
    setup = rooms.StudySetup.of(evaluator, space, spec, budget)
    study = rooms.open_study(rooms.open_storage(place), name, setup)
    rooms.set_plan(study, rooms.Plan(trials=trials, sampler=sampler, timeout=timeout))
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
    resumed = len(rooms.passes(study))
    if resumed >= trials:
        click.echo(f"the study has run {resumed} trials already: nothing to run", err=True)
    baselines = _paper_baselines(evaluator, space) if paper and resumed < trials else []
    with _trial_progress(evaluator, trials, resumed) as on_trial:
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
        )
    again = f" --task {task['task']}" if spec.names_user_code and task["task"] else ""
    if workers == 0 and dask is None:
        shown = rooms.without_password(str(place))
        click.echo(
            f"the study {name!r} is ready. On every machine:\n"
            f"spikefront worker --storage {shown} --study {name}{again}"
        )
        return
    _report_search(study, evaluator, spec, out)
    click.echo(
        f"Next:   spikefront report --out {out}{again}    (measures the front on the test split)"
    )


@cli.command()
@click.option(
    "--storage",
    envvar="SPIKEFRONT_STORAGE",
    required=True,
    help="Where the study is: an Optuna URL, or a journal; or $SPIKEFRONT_STORAGE.",
)
@click.option("--study", "study_name", help="Its name. Default: the only one there.")
@task_options
@run_options
@click.option("--trials", type=click.IntRange(1), help="Default: as many as the search said.")
@click.option(
    "--threads", type=click.IntRange(1), help="CPU threads. Default: torch's, all cores as a rule."
)
@timeout_option
def worker(
    storage: str,
    study_name: str | None,
    device: str,
    batch_size: int | None,
    trials: int | None,
    threads: int | None,
    timeout: float | None,
    **task: Any,
) -> None:
    """Take part in a study, from any machine that reaches its storage, until it is done.

    `spikefront search --storage URL` makes the study (with --workers 0 it does no more than that).
    What to load, the sampler and the number of trials are in the study. --data and --weights say
    where they are on this machine, if elsewhere; another model or other data is refused. Workers
    may come, go and be killed at any time: the trial of one that is lost runs again.
    """
    import torch

    import search as rooms

    if threads is not None:
        torch.set_num_threads(threads)
    study, spec = _open_existing(Path(), storage, study_name, task)
    setup, plan = rooms.study_setup(study), rooms.plan_of(study)
    evaluator = _evaluator_of(study, spec, device, batch_size, version=True)

    def sampler(number: int) -> Any:
        return rooms.make_sampler(
            plan.sampler,
            seed=setup.seed + number,
            profile=evaluator.profile,
            space=setup.space,
            energy=evaluator.energy,
            budget=setup.budget,
        )

    own = 0
    with _trial_progress(evaluator, trials or plan.trials, len(rooms.passes(study))) as on_trial:

        def counted(study: Any, count: int, reason: str | None) -> None:
            nonlocal own
            own += 1
            on_trial(study, count, reason)

        rooms.run_worker(
            study,
            setup.space,
            evaluator,
            trials=trials,
            sampler=sampler,
            ann_accuracy=evaluator.ann("search").accuracy.value,
            timeout=timeout or plan.timeout,
            on_trial=counted,
        )
    click.echo(f"{own} trials by this worker; the study has run {len(rooms.passes(study))}")


@cli.command()
@study_options
@click.option("--watch", is_flag=True, help="Look again every few seconds, until it is done.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def status(
    out: Path, storage: str | None, study_name: str | None, watch: bool, as_json: bool
) -> None:
    """Tell how a study is getting on: trials, workers, rate, time left, its front so far.

    It looks into the storage only, and may run anywhere at any time.
    """
    import time

    from rich.live import Live

    import search as rooms
    from reports import front_so_far, status_table

    study = _open_study(out, storage, study_name)
    if as_json:
        click.echo(json.dumps(asdict(rooms.study_status(study))))
        return

    def view() -> Table:
        front = front_so_far(study)  # before the counts, which may then be newer, but never older
        return status_table(rooms.study_status(study), front)

    if not watch:
        _print_table(view())
        return
    with Live(view(), console=Console(), auto_refresh=False, vertical_overflow="visible") as live:
        while not rooms.study_status(study).is_done:
            time.sleep(2)
            live.update(view(), refresh=True)
        live.update(view(), refresh=True)


@cli.group("storage")
def storage_group() -> None:
    """Where studies live."""


@storage_group.command("serve")
@click.option(
    "--storage",
    envvar="SPIKEFRONT_STORAGE",
    required=True,
    help="The database to stand before, an Optuna URL; or $SPIKEFRONT_STORAGE.",
)
@click.option("--host", default="localhost", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(1, 65535), default=13000, show_default=True)
@click.option(
    "--threads", type=click.IntRange(1), default=10, show_default=True, help="Requests at a time."
)
def serve(storage: str, host: str, port: int, threads: int) -> None:
    """Stand between many workers and a database: they use --storage grpc://HOST:PORT.

    Optuna's gRPC proxy: it caches what the workers read, so that the database has one client. No
    password and no encryption: listen only where everyone may change the study.
    """
    from search import serve_storage

    ready = f"serving on grpc://{host}:{port}; Ctrl-C or SIGTERM ends it"
    serve_storage(storage, host, port, threads, on_start=lambda: click.echo(ready, err=True))


def _check_place(out: Path, place: Any, name: str, **settings: Any) -> None:
    """Refuse what cannot go on there, before anything is loaded."""
    import search as rooms

    if out.exists():
        rooms.hold(out).release()  # fails while another search holds it
    if isinstance(place, str) or place.exists():
        rooms.check_settings(rooms.open_storage(place), name, **settings)
    rooms.check_writable(out)


_PAPER_POINTS = 8


def _paper_baselines(evaluator: Any, space: Any) -> list[dict[str, Any]]:
    """Parameters of the paper's search, as far as the space offers them."""
    from conversion import ConversionError
    from search import PHIS, RHOS, ParetoSearch

    phis = sorted({*(phi for phi in PHIS if phi < space.phi_max), space.phi_max})
    rhos = [rho for rho in RHOS if rho in space.rhos()]
    uniform = space.uniform(phi=1, rho=1.0, alpha=0.6)
    try:
        found = _sensitivity(evaluator, uniform["calibration/timesteps"], phis, rhos)
    except ConversionError as error:  # a baseline less is better than no search
        LOG.warning("no baselines of the paper's search: %s", error)
        return []
    front = ParetoSearch(found, step=None).front(_PAPER_POINTS)
    return [{**uniform, **choice.params(), **space.pins} for choice in front]


def _sensitivity(evaluator: Any, timesteps: int, phis: Any, rhos: Any) -> Any:
    from search import sensitivity

    with _progress() as progress:
        bar = progress.add_task("sensitivity of each layer", total=None, front="")
        return sensitivity(
            evaluator.profile,
            evaluator.energy,
            timesteps=timesteps,
            phis=tuple(phis),
            rhos=tuple(rhos),
            on_branch=lambda done, total: progress.update(bar, completed=done, total=total),
        )


_UNITS = {"pJ": 1.0, "nJ": 1e3, "uJ": 1e6, "µJ": 1e6, "mJ": 1e9}


def _energy_limit(text: str | None) -> EnergyLimit | None:
    if text is None:
        return None
    unit = _UNITS.get(text.strip()[-2:])
    try:
        number = float(text.strip()[:-2] if unit else text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise click.BadParameter(f"give a share like 0.08 or an energy like 350nJ, got {text!r}")
    return EnergyLimit(picojoules=number * unit) if unit else EnergyLimit(share=number)


def _pins(texts: tuple[str, ...]) -> dict[str, Any]:
    pins = [_pin(text) for text in texts]
    names = [name for name, _ in pins]
    if len(set(names)) < len(names):
        raise click.BadParameter("the same φ or ρ is pinned twice")
    return dict(pins)


def _pin(text: str) -> tuple[str, Any]:
    layer, _, setting = text.rpartition(":")
    kind, _, value = setting.partition("=")
    try:
        if layer and kind == "phi":
            return f"phi/{layer}", int(value)
        if layer and kind == "rho":
            return f"rho/{layer}", float(value)
    except ValueError:
        pass
    raise click.BadParameter(f"give LAYER:phi=1 or LAYER:rho=1.5, got {text!r}")


def _report_search(study: Any, evaluator: Any, spec: Any, out: Path) -> None:
    from reports import front_table, measure_front, write_report

    front = measure_front(study, evaluator, test=False)
    costs = evaluator.profile.costs
    write_report(front, out, costs=costs, provenance=_provenance(study, evaluator, spec))
    _print_table(front_table(front))
    click.echo(f"\nReport: {out / 'report.html'}")


@cli.command()
@study_options
@task_options
@run_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--no-test", is_flag=True, help="Leave the test split alone.")
def report(
    out: Path,
    storage: str | None,
    study_name: str | None,
    device: str,
    batch_size: int | None,
    as_json: bool,
    no_test: bool,
    **task: Any,
) -> None:
    """Write front.csv, trials.csv, figures and report.html; re-measure the front on test.

    Each point is measured on the test split once; the study keeps the result.
    """
    from reports import front_table, measure_front, summary, write_report

    study, spec = _open_existing(out, storage, study_name, task)
    evaluator = _evaluator_of(study, spec, device, batch_size)
    with _progress() as progress:
        bar = progress.add_task("measuring the front on the test split", total=None, front="")
        front = measure_front(
            study,
            evaluator,
            test=not no_test,
            on_point=lambda done, total: progress.update(bar, completed=done, total=total),
        )
    costs = evaluator.profile.costs
    files = write_report(front, out, costs=costs, provenance=_provenance(study, evaluator, spec))
    if as_json:
        click.echo(json.dumps(summary(front), allow_nan=False))
        return
    _print_table(front_table(front))
    click.echo(f"\n{len(files)} files in {out}; open {files[-1]}")


@cli.command()
@study_options
@task_options
@run_options
@click.option("--trial", type=click.IntRange(0), help="This trial.")
@limit_options(
    "The most accurate point up to this energy",
    "The cheapest point that loses at most this much (0.01 is one point).",
)
@click.option("--to", type=click.Path(path_type=Path), help="Default: OUT/trial-N.json.")
def export(
    out: Path,
    storage: str | None,
    study_name: str | None,
    device: str,
    batch_size: int | None,
    trial: int | None,
    max_energy: EnergyLimit | None,
    max_accuracy_drop: float | None,
    to: Path | None,
    **task: Any,
) -> None:
    """Write one point of the front as a config that deploys: JSON and safetensors.

    Without a choice it takes the knee of the front.
    """
    from conversion import save
    from reports import measure_front, measurement_table, select
    from search import study_setup

    if trial is not None and (max_energy is not None or max_accuracy_drop is not None):
        raise click.UsageError("give either --trial or limits, not both")
    study, spec = _open_existing(out, storage, study_name, task)
    evaluator = _evaluator_of(study, spec, device, batch_size)
    front = measure_front(study, evaluator, test=False)
    share = max_energy.over(evaluator.ann_energy_pj) if max_energy else None
    point = select(front, trial=trial, max_energy=share, max_accuracy_drop=max_accuracy_drop)
    model = evaluator.convert(study_setup(study).space.choice(point.params))
    measurement = evaluator.record(model, "search").measure(model.exit)
    target = to or out / f"trial-{point.trial}.json"
    config = save(
        model,
        target,
        energy_model=asdict(evaluator.energy),
        measurement=measurement.to_dict(),
        provenance={
            **_provenance(study, evaluator, spec),
            "trial": point.trial,
            "params": dict(point.params),
            "task": spec.to_dict(),
        },
    )
    _print_table(measurement_table(measurement, evaluator.ann(measurement.split)))
    click.echo(f"\nTrial {point.trial} is in {target} and {target.parent / config.tensors}")


@cli.command()
@click.argument("config", type=click.Path(path_type=Path))
@task_options
@run_options
@click.option(
    "--logits",
    type=click.Path(path_type=Path),
    help="Write the logits and exit steps of a split here (safetensors).",
)
@split_option
def convert(
    config: Path, device: str, batch_size: int | None, logits: Path | None, split: str, **task: Any
) -> None:
    """Rebuild the spiking model of an exported CONFIG and say what it is."""
    import safetensors.torch
    import torch

    from conversion import DeployConfig, load, write_file
    from evaluators import load_task
    from reports import model_table

    deployed = DeployConfig.read(config)
    loaded = load_task(_spec_of(deployed.provenance.get("task"), task))
    model = load(config, loaded.model, device=device)
    if logits is not None:
        answers = [
            model.infer(x.to(device)) for x, _ in loaded.split(split).batches(batch_size or 32)
        ]
        write_file(
            logits,
            safetensors.torch.save(
                {
                    "logits": torch.cat([a.logits for a in answers]).cpu(),
                    "timesteps": torch.cat([a.timesteps for a in answers]).cpu(),
                }
            ),
        )
    _print_table(model_table(model))
    click.echo(f"Every hash of {config} is right; {logits or 'the model'} is ready.")


@cli.command()
@click.argument("config", type=click.Path(path_type=Path))
@task_options
@click.option("--device", help="Default: the one that it was measured on.")
@click.option(
    "--tolerance",
    type=click.FloatRange(0),
    default=0.0,
    show_default=True,
    help="Largest relative difference of accuracy, energy and KL. 0: the same bits.",
)
def verify(config: Path, device: str | None, tolerance: float, **task: Any) -> None:
    """Measure an exported CONFIG again; fail if the numbers differ."""
    from conversion import DeployConfig, DeployError, EnergyModel, load
    from evaluators import Evaluator, Measurement, load_task
    from reports import measurement_table

    deployed = DeployConfig.read(config)
    spec = _spec_of(deployed.provenance.get("task"), task)
    loaded = load_task(spec)
    recorded = deployed.provenance
    try:
        expected = Measurement.from_dict(deployed.measurement)
        energy = EnergyModel(**deployed.energy_model)
    except (KeyError, TypeError) as error:
        raise DeployError(f"{config} holds no measurement to verify: {error}") from error
    evaluator = Evaluator(
        loaded,
        device=device or recorded.get("device", "cpu"),
        energy=energy,
        batch_size=recorded.get("batch_size"),
        seed=expected.seed,
    )
    model = load(config, loaded.model, device=evaluator.device)
    found = evaluator.record(model, expected.split).measure(model.exit)
    _print_table(measurement_table(found, evaluator.ann(found.split)))
    _compare(config, expected, found, tolerance, recorded)


@cli.command()
@task_options
@run_options
@energy_option
@choice_options
@click.option(
    "--alpha",
    type=click.FloatRange(0, 1),
    default=0.6,
    show_default=True,
    help="Exit above this confidence; 1 never exits.",
)
@click.option(
    "--beta",
    type=click.FloatRange(0, 1),
    default=0.0,
    show_default=True,
    help="Part of the exit threshold that follows the calibration entropy.",
)
@split_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def evaluate(
    device: str,
    batch_size: int | None,
    energy_model: str,
    alpha: float,
    beta: float,
    split: str,
    as_json: bool,
    **options: Any,
) -> None:
    """Measure one uniform choice, without a study."""
    from conversion import Choice, ExitPolicy
    from reports import measurement_table

    choice, task = _parted(options)
    _check_learning(choice)
    spec = _spec(task)
    with _working(f"loading {spec.task} and profiling its network"):
        evaluator = make_evaluator(spec, device, energy_model, batch_size)
    conversion = _uniform(evaluator.layers, choice)
    policy = ExitPolicy(alpha=alpha, beta=beta)
    with _learning(conversion) as on_iteration:
        given = Choice(conversion=conversion, exit=policy)
        model = evaluator.convert(given, on_iteration=on_iteration)
    measurement = evaluator.record(model, split).measure(model.exit)
    if as_json:
        click.echo(json.dumps({**measurement.to_dict(), "ann": asdict(evaluator.ann(split))}))
        return
    _print_table(measurement_table(measurement, evaluator.ann(measurement.split)))


@cli.command()
@task_options
@run_options
@choice_options
@split_option
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    help="Look into this exported config instead of a uniform choice.",
)
@click.option("--samples", type=click.IntRange(1), default=64, show_default=True)
@click.option("--figure", type=click.Path(path_type=Path), help="Draw it, as .png or .svg.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def diagnose(
    device: str,
    batch_size: int | None,
    split: str,
    config: Path | None,
    samples: int,
    figure: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Tell which layer to mend: how much of its error is clipping, rounding, uneven input.

    The figure shows the same. Inherited is what came with the input, from the layers before.
    """
    from conversion import DeployConfig, load
    from conversion import convert as make_spiking
    from conversion import diagnose as find_errors
    from reports import diagnosis_figure, diagnosis_table, write_figure

    choice, task = _parted(options)
    if config is not None and (given := _given(*_CHOICE)):
        raise click.UsageError(f"give either --config or --{given[0].replace('_', '-')}, not both")
    _check_learning(choice)
    deployed = DeployConfig.read(config) if config else None
    spec = _spec_of(deployed.provenance.get("task"), task) if deployed else _spec(task)
    with _working(f"loading {spec.task} and profiling its network"):
        evaluator = make_evaluator(spec, device, "horowitz45", batch_size)
    if config:
        model = load(config, evaluator.task.model, device=device)
    else:
        conversion = _uniform(evaluator.layers, choice)
        with _learning(conversion) as on_iteration:
            model = make_spiking(evaluator.profile, conversion, on_iteration=on_iteration)
    inputs, _ = next(evaluator.task.split(split).batches(samples))
    found = find_errors(model, inputs.to(evaluator.device))
    if figure is not None:
        write_figure(diagnosis_figure(found), figure)
    if as_json:
        click.echo(
            json.dumps({"split": split, "n": len(inputs), "layers": list(map(asdict, found))})
        )
        return
    _print_table(diagnosis_table(found))


@cli.command()
@task_options
@run_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def profile(device: str, batch_size: int | None, as_json: bool, **task: Any) -> None:
    """Print the spiking layers and what the calibration data shows of them."""
    from reports import layer_rows, profile_table

    spec = _spec(task)
    with _working(f"loading {spec.task} and profiling its network"):
        evaluator = make_evaluator(spec, device, "horowitz45", batch_size)
    found = evaluator.profile
    if as_json:
        costs = {name: value for name, value in vars(found.costs).items() if name != "fan_out"}
        nodes = {"analog_nodes": found.network.analog_nodes}
        click.echo(json.dumps({"layers": layer_rows(found), **costs, **nodes}))
        return
    _print_table(profile_table(found))


def sweep_options(command: Command) -> Command:
    """Options of a sensitivity profile."""
    options: list[Command] = [
        _at_least_one("--timesteps", 2, "T of calibration and measurement."),
        click.option(
            "--phi",
            default="1,2,3,4,6,8",
            show_default=True,
            callback=lambda context, option, text: sorted(_whole_numbers(text)),
            help="Values of φ to try; the others keep the largest.",
        ),
        click.option(
            "--rho",
            default="1,1.25,1.5,2,2.5,3",
            show_default=True,
            callback=lambda context, option, text: _factors(text),
            help="Values of ρ to try.",
        ),
    ]
    return _apply(options, command)


@cli.command()
@task_options
@run_options
@energy_option
@sweep_options
@click.option("--figure", type=click.Path(path_type=Path), help="Draw it, as .png or .svg.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def sensitivity(
    device: str,
    batch_size: int | None,
    energy_model: str,
    timesteps: int,
    phi: list[int],
    rho: list[float],
    figure: Path | None,
    as_json: bool,
    **task: Any,
) -> None:
    """Tell how much each layer's φ and ρ matter: divergence and energy when it alone changes.

    On the calibration inputs, without labels; everything is calibrated anew for each change. Kept
    on disk, so that a second time costs nothing.
    """
    from reports import sensitivity_figure, sensitivity_table, write_figure

    spec = _spec(task)
    with _working(f"loading {spec.task} and profiling its network"):
        evaluator = make_evaluator(spec, device, energy_model, batch_size)
    found = _sensitivity(evaluator, timesteps, phi, rho)
    if figure is not None:
        write_figure(sensitivity_figure(found), figure)
    if as_json:
        click.echo(json.dumps(found.to_dict()))
        return
    _print_table(sensitivity_table(found))


@cli.command("pareto-dp")
@task_options
@run_options
@energy_option
@sweep_options
@click.option("--points", type=click.IntRange(2), default=12, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def pareto_dp(
    device: str,
    batch_size: int | None,
    energy_model: str,
    timesteps: int,
    phi: list[int],
    rho: list[float],
    points: int,
    as_json: bool,
    **task: Any,
) -> None:
    """The paper's search: φ, then ρ, by sensitivities that add up; each point measured.

    Wang et al.'s dynamic programme for a range of budgets, on one sensitivity profile. Every step
    runs, without early exit; `spikefront search` measures such points among its baselines.
    """
    from conversion import Choice, ConversionConfig, ExitPolicy, LayerConfig
    from reports import paper_rows, paper_table
    from search import ParetoSearch

    spec = _spec(task)
    with _working(f"loading {spec.task} and profiling its network"):
        evaluator = make_evaluator(spec, device, energy_model, batch_size)
    front = ParetoSearch(_sensitivity(evaluator, timesteps, phi, rho)).front(points)
    measured = []
    for choice in front:
        layers = {n: LayerConfig(phi=choice.phi[n], rho=choice.rho[n]) for n in choice.phi}
        config = ConversionConfig(timesteps=timesteps, layers=layers)
        measured.append(evaluator.measure(Choice(conversion=config, exit=ExitPolicy())))
    ann = evaluator.ann("search")
    if as_json:
        rows = paper_rows(front, measured)
        click.echo(json.dumps({"timesteps": timesteps, "ann": asdict(ann), "points": rows}))
        return
    _print_table(paper_table(front, measured, ann))


def make_evaluator(spec: Any, device: str, energy: str, batch_size: int | None) -> Any:
    """The evaluator of a task by reference; worker processes call it too."""
    from evaluators import Evaluator, load_task

    evaluator = Evaluator(
        load_task(spec), device=device, energy=energy, batch_size=batch_size, seed=spec.seed
    )
    _ = evaluator.profile
    return evaluator


def checked_evaluator(make: Callable[[], Any], name: str, setup: Any) -> Any:
    """The evaluator of a process elsewhere, where model or data may be others."""
    from search import check_setup

    evaluator = make()
    check_setup(name, setup, evaluator)
    return evaluator


def _warn_of_a_useless_ann(evaluator: Any) -> None:
    right, classes = evaluator.ann("search").accuracy.value, evaluator.profile.logits.shape[-1]
    if right <= 1 / classes:
        LOG.warning(
            "the ANN scores %.1f %% on the search split, no better than chance for %d outputs:"
            " are weights, labels and preprocessing the right ones?",
            100 * right,
            classes,
        )


def _parted(options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Options of a uniform choice, and the others."""
    choice = {name: options.pop(name) for name in _CHOICE}
    return choice, options


def _check_learning(choice: dict[str, Any]) -> None:
    """Refuse options of learning where nothing learns."""
    for option, kinds in (("iterations", ("tuned", "learned")), ("energy_weight", ("learned",))):
        if _given(option) and choice["calibration"] not in kinds:
            raise click.UsageError(
                f"--{option.replace('_', '-')} needs --calibration {' or '.join(kinds)}"
            )


def _given(*names: str) -> list[str]:
    """Those of a command's options that were named on the command line."""
    source = click.get_current_context().get_parameter_source
    return [name for name in names if source(name) is click.core.ParameterSource.COMMANDLINE]


def _uniform(layers: Any, choice: dict[str, Any]) -> Any:
    from conversion import ConversionConfig

    return ConversionConfig.uniform(layers, **choice)


def _spec(given: dict[str, Any]) -> Any:
    from evaluators import TaskSpec

    values = {key: value for key, value in given.items() if value is not None}
    for key in ("data", "weights"):
        if key in values:
            values[key] = str(Path(values[key]).expanduser().resolve())
    path, colon, function = values.get("task", "").partition(".py:")
    if colon:
        values["task"] = f"{Path(path + '.py').expanduser().resolve()}:{function}"
    return TaskSpec(**values)


def _spec_of(recorded: dict[str, Any] | None, given: dict[str, Any]) -> Any:
    """The recorded task with what the command names laid over it.

    Code that only a file names is never imported: the user names it on the command line.
    """
    from evaluators import TaskError, TaskSpec

    named = _spec(given)
    spec = TaskSpec.from_dict(recorded) if recorded else named
    changes = {
        f.name: getattr(named, f.name) for f in fields(named) if given.get(f.name) is not None
    }
    spec = replace(spec, **changes)
    if spec.names_user_code:
        for option, value in (("task", spec.task), ("model", spec.model)):
            if value and ":" in value and given.get(option) is None:
                raise TaskError(
                    f"it was made with --{option} {value}; name it again, so that"
                    " spikefront may import it"
                )
    return spec


def _study_name(spec: Any) -> str:
    return Path(spec.task.partition(":")[0]).stem if ":" in spec.task else str(spec.task)


def _open_existing(
    out: Path, storage: str | None, name: str | None, task: dict[str, Any]
) -> tuple[Any, Any]:
    import search as rooms

    study = _open_study(out, storage, name)
    recorded = rooms.study_setup(study).task
    return study, _spec_of(recorded.to_dict() if recorded else None, task)


def _open_study(out: Path, storage: str | None, name: str | None) -> Any:
    import optuna

    import search as rooms

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    journal = out / rooms.JOURNAL_NAME
    if storage is None and not journal.exists():
        raise rooms.StudyError(
            f"there is no study in {out}; run `spikefront search --out {out}`"
            " first, or name its --storage"
        )
    store = rooms.open_storage(storage or journal, create=False)
    if name is None:
        names = [summary.study_name for summary in optuna.get_all_study_summaries(store)]
        if not names:
            raise rooms.StudyError(
                "there is no study in this storage; `spikefront search` makes one"
            )
        if len(names) > 1:
            raise rooms.StudyError(f"name the --study; there are: {', '.join(names)}")
        name = names[0]
    return rooms.load_study(store, name)


def _evaluator_of(
    study: Any, spec: Any, device: str, batch_size: int | None, *, version: bool = False
) -> Any:
    import search as rooms

    setup = rooms.study_setup(study)
    with _working(f"loading {spec.task} and profiling its network"):
        evaluator = make_evaluator(spec, device, setup.energy_model, batch_size)
    rooms.check_evaluator(study, evaluator, version=version)
    return evaluator


def _provenance(study: Any, evaluator: Any, spec: Any) -> dict[str, Any]:
    import optuna
    import torch

    return {
        "study": study.study_name,
        "task": spec.task,
        "seed": evaluator.seed,
        "model_fingerprint": evaluator.profile.network.fingerprint,
        "calibration_data_fingerprint": evaluator.profile.data_fingerprint,
        "device": str(evaluator.device),
        "batch_size": evaluator.batch_size,
        "threads": torch.get_num_threads(),
        "spikefront": _version(),
        "torch": torch.__version__,
        "optuna": optuna.__version__,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
    }


def _compare(config: Path, expected: Any, found: Any, tolerance: float, recorded: Any) -> None:
    import torch

    from conversion import DeployError

    same_bits = found.logits_sha256 == expected.logits_sha256
    here = f"torch {torch.__version__}, {torch.get_num_threads()} threads"
    there = f"torch {recorded.get('torch')}, {recorded.get('threads')} threads"
    worst = 0.0
    for name in ("accuracy", "energy_pj", "kl", "timesteps"):
        was, now = getattr(expected, name).value, getattr(found, name).value
        worst = max(worst, abs(now - was) / max(abs(was), 1e-12))
    if same_bits and worst == 0:
        click.echo(f"\n{config}: the same logits, bit for bit (n = {found.n}).")
        return
    if worst <= tolerance and tolerance > 0:
        click.echo(f"\n{config}: other bits, but within {worst:.2g} (relative).")
        return
    raise DeployError(
        f"{config} does not verify: {'the same' if same_bits else 'other'} logits, accuracy"
        f" {expected.accuracy.value:.4f} -> {found.accuracy.value:.4f}, energy"
        f" {expected.energy_pj.value:.6g} -> {found.energy_pj.value:.6g} pJ, largest relative"
        f" difference {worst:.2g}; measured with {there}, here {here}. --tolerance allows for"
        " another machine"
    )


def _whole_numbers(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    numbers = tuple(int(part) for part in parts if part.isdecimal() and int(part) > 0)
    if len(set(numbers)) != len(parts):
        raise click.BadParameter(f"give different whole numbers like 1,2,4, got {text!r}")
    return numbers


def _factors(text: str) -> list[float]:
    try:
        factors = sorted({float(part) for part in text.split(",")})
    except ValueError:
        factors = []
    if not factors or factors[0] != 1 or not factors[-1] < float("inf"):
        raise click.BadParameter(f"give factors from 1 on, like 1,1.5,2, got {text!r}")
    return factors


@contextmanager
def _working(what: str) -> Iterator[None]:
    if not STDERR.is_terminal:
        yield
        return
    with STDERR.status(what):
        yield


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[front]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=STDERR,
        disable=not STDERR.is_terminal,
        transient=True,
    )


@contextmanager
def _learning(conversion: Any) -> Iterator[Any]:
    """A bar over the gradient steps of a conversion that learns."""
    if conversion.calibration not in ("tuned", "learned"):
        yield None
        return
    with _progress() as progress:
        bar = progress.add_task("learning", total=conversion.iterations, front="")
        yield lambda done, loss: progress.update(bar, completed=done, front=f"loss {loss:.3g}")


@contextmanager
def _trial_progress(evaluator: Any, trials: int, resumed: int) -> Iterator[Any]:
    from reports import front_so_far

    ann = evaluator.ann("search").accuracy.value
    with _progress() as progress:
        bar = progress.add_task("trials", total=trials, completed=resumed, front="")

        def on_trial(study: Any, count: int, reason: str | None) -> None:
            if reason is not None:
                LOG.warning("a trial failed: %s", reason)
            if not STDERR.is_terminal and count % 10:
                return
            front = [point.search for point in front_so_far(study)]
            within = [m.energy_ratio for m in front if m.accuracy.value >= ann - 0.01]
            best = f"; ≤ 1 point lost at {min(within):.1%}" if within else ""
            shown = f"front {len(front)} points{best}"
            progress.update(bar, completed=count, front=shown)
            if not STDERR.is_terminal:
                LOG.info("%d of %d trials, %s", count, trials, shown)

        yield on_trial


def _print_table(table: Table) -> None:
    console = Console()
    Console(width=console.width if console.is_terminal else 160).print(table)


def main() -> None:
    """Run the command line: one clear line for what went wrong, never a traceback."""
    os.environ.setdefault("PYTHONWARNINGS", "ignore")  # worker processes too
    # Threads that wait spin briefly, then sleep: on a shared machine spinning costs five times and
    # more, and sleeping at once costs half again on small networks (measured on digits).
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    debug = "--debug" in sys.argv
    try:
        cli(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        resumes = "search" in sys.argv or "worker" in sys.argv
        again = "; the same command goes on where it stopped" if resumes else ""
        click.echo(f"stopped{again}", err=True)
        sys.exit(130)
    except Exception as error:
        if debug:
            raise
        click.echo(f"error: {_one_line(error)}", err=True)
        sys.exit(1)


def _one_line(error: Exception) -> str:
    from conversion import SpikefrontError

    text = " ".join(str(error).split())
    if isinstance(error, SpikefrontError):
        return text
    return f"{type(error).__name__}: {text} (spikefront --debug shows where)"


if __name__ == "__main__":
    main()

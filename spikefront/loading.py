"""What commands load: plugins, tasks, networks, studies."""

from __future__ import annotations

import os
import platform
import re
import shlex
from collections.abc import Callable, Iterable
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click

from spikefront.output import LOG, installed_version, progress_bar, working
from spikefront.settings import as_toml, named_options

if TYPE_CHECKING:
    import optuna

    from conversion import ConversionConfig, DeployConfig, EnergyModel, SpikingModel
    from evaluators import Evaluator, Task, TaskSpec
    from reports import Findings
    from search import ArtifactStates, Sensitivity, StudySetup

_PLUGINS = "SPIKEFRONT_PLUGINS"


def load_plugins(named: tuple[str, ...] = ()) -> None:
    """Import the user's plugins: those named here, and those of the environment.

    Worker processes inherit the environment, and so import the same ones.
    """
    given = [str(Path(p).resolve()) if p.endswith(".py") else p for p in named]
    inherited = os.environ.get(_PLUGINS, "").split(os.pathsep)
    sources = list(dict.fromkeys([*filter(None, inherited), *given]))
    if not sources:
        return
    from evaluators import import_source

    os.environ[_PLUGINS] = os.pathsep.join(sources)
    for source in sources:
        import_source(source)


def make_evaluator(
    spec: TaskSpec,
    device: str,
    energy: EnergyModel | str,
    batch_size: int | None,
    artifacts: str | None = None,
) -> Evaluator:
    """The evaluator of a task by reference; worker processes call it too."""
    from evaluators import Evaluator, load_task

    load_plugins()
    evaluator = Evaluator(
        load_task(spec),
        device=device,
        energy=energy,
        batch_size=batch_size,
        seed=spec.seed,
        states=states_in(artifacts),
    )
    _ = evaluator.profile
    return evaluator


def states_in(artifacts: str | None) -> ArtifactStates | None:
    """The learned states in a place, or None without one."""
    if artifacts is None:
        return None
    from search import open_states

    return open_states(artifacts)


def artifacts_of(
    study: optuna.Study, named: str | None = None, out: Path | None = None
) -> str | None:
    """Where a study keeps what it learns: as the command names it, else as its search did.

    A folder that was moved together with OUT is found there.
    """
    from search import ARTIFACTS_NAME, StudyError, plan_of

    try:
        place = named or plan_of(study).artifacts
    except StudyError:
        return None
    beside = out / ARTIFACTS_NAME if out is not None else None
    if place and beside and beside.is_dir() and "://" not in place and not Path(place).exists():
        return str(beside)
    return place


def loaded(
    task: dict[str, Any],
    device: str,
    batch_size: int | None,
    energy: EnergyModel | str = "horowitz45",
) -> tuple[Evaluator, TaskSpec]:
    """The evaluator of the task that a command names, and the task."""
    spec = named_task(task)
    with working(f"loading {spec.task} and profiling its network"):
        return make_evaluator(spec, device, energy, batch_size), spec


def loaded_config(
    config: Path, task: dict[str, Any], device: str = "cpu"
) -> tuple[DeployConfig, Task, SpikingModel]:
    """An exported config, its task with what the command names laid over it, and its model."""
    from conversion import DeployConfig, load
    from evaluators import load_task

    deployed = DeployConfig.read(config)
    spec = recorded_task(deployed.provenance.get("task"), task)
    with working(f"loading {spec.task}"):
        found = load_task(spec)
        return deployed, found, load(config, found.model, device=device)


def checked_evaluator(make: Callable[[], Evaluator], name: str, setup: StudySetup) -> Evaluator:
    """The evaluator of a process elsewhere, where model or data may be others."""
    from search import check_setup

    evaluator = make()
    check_setup(name, setup, evaluator)
    return evaluator


def named_task(given: dict[str, Any]) -> TaskSpec:
    """The task that the options of a command name."""
    from evaluators import TaskSpec

    values = {key: value for key, value in given.items() if value is not None}
    for key in ("data", "weights"):
        if key in values:
            values[key] = str(Path(values[key]).expanduser().resolve())
    path, colon, function = values.get("task", "").partition(".py:")
    if colon:
        values["task"] = f"{Path(path + '.py').expanduser().resolve()}:{function}"
    return TaskSpec(**values)


def recorded_task(recorded: dict[str, Any] | None, given: dict[str, Any]) -> TaskSpec:
    """The recorded task with what the command names laid over it.

    Code that only a file names is never imported: the user names it on the command line.
    """
    from evaluators import TaskError, TaskSpec

    named = named_task(given)
    spec = TaskSpec.from_dict(recorded).effective() if recorded else named
    changes = {
        f.name: getattr(named, f.name) for f in fields(named) if given.get(f.name) is not None
    }
    spec = replace(spec, **changes)
    if spec.names_user_code:
        for option, value in (("task", spec.task), ("model", spec.model)):
            if value and ":" in value and given.get(option) is None:
                raise TaskError(
                    f"it was made with code of your own: add --{option} {value};"
                    " a file is imported only if the command names it"
                )
    return spec


def named_again(task: dict[str, Any]) -> str:
    """The options that a next command must repeat, since they name the user's code."""
    words = [
        f"--{name} {shlex.quote(task[name])}"
        for name in ("task", "model")
        if ":" in (task[name] or "")
    ]
    return "".join(f" {word}" for word in words)


def open_existing(
    out: Path, storage: str | None, name: str | None, task: dict[str, Any]
) -> tuple[optuna.Study, TaskSpec]:
    """A study that is there, and its task with what the command names laid over it."""
    import search as rooms

    study = open_study(out, storage, name)
    recorded = rooms.study_setup(study).task
    return study, recorded_task(recorded.to_dict() if recorded else None, task)


def open_study(
    out: Path, storage: str | None, name: str | None, how: str = "choose one with --study"
) -> optuna.Study:
    """Open an existing study; ``how`` tells how to choose one of several."""
    if storage is None and not any(out.glob("*.journal")):  # before the rooms are imported
        raise click.UsageError(
            f"there is no study in {out}; `spikefront search --out {out}` makes one, or name the"
            " --storage of one"
        )
    import optuna

    import search as rooms

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    store = rooms.open_storage(storage or out / rooms.JOURNAL_NAME, create=False)
    return rooms.load_study(store, name or _only_study(store, how))


def _only_study(store: optuna.storages.BaseStorage, how: str) -> str:
    """The study of a storage; of several, the only one that has a trial."""
    import optuna

    from search import StudyError

    summaries = optuna.get_all_study_summaries(store)
    begun = [summary for summary in summaries if summary.n_trials]
    names = [summary.study_name for summary in begun or summaries]
    if not names:
        raise StudyError("there is no study in this storage; `spikefront search` makes one")
    if len(names) > 1:
        raise StudyError(f"there are several studies, {how}: {', '.join(names)}")
    return names[0]


def evaluator_of(
    study: optuna.Study,
    spec: TaskSpec,
    device: str,
    batch_size: int | None,
    *,
    version: bool = False,
    artifacts: str | None = None,
    out: Path | None = None,
) -> Evaluator:
    """The evaluator of a study, on this machine.

    Raises:
        StudyError: Model, data or energies are others than the study's.
    """
    import search as rooms

    setup = rooms.study_setup(study)
    with working(f"loading {spec.task} and profiling its network"):
        place = artifacts_of(study, artifacts, out)
        evaluator = make_evaluator(spec, device, setup.energy_model, batch_size, place)
    rooms.check_evaluator(study, evaluator, version=version)
    return evaluator


def write_files(
    study: optuna.Study,
    found: Findings,
    out: Path,
    storage: str | None,
    provenance: dict[str, Any],
    again: str,
    **options: Any,
) -> list[Path]:
    """Write the report of a study, and the file of options that makes it again.

    Into OUT, or into a folder in it where OUT holds the report of another study.
    """
    from conversion import write_file
    from reports import report_folder, write_report
    from search import StudyError, plan_of, study_setup

    settings = ""
    try:
        plan = plan_of(study)
        if plan.options is not None:
            plugins = os.environ.get(_PLUGINS, "").split(os.pathsep)
            needed = "".join(f"# needs: spikefront --plugin {p} search …\n" for p in plugins if p)
            settings = needed + as_toml("search", {**plan.options, "trials": plan.trials})
    except StudyError:
        pass
    folder = report_folder(out, study.study_name)
    if found.front.energy_model != study_setup(study).energy_model:
        folder /= f"energy-{re.sub('[^a-zA-Z0-9_-]', '-', found.front.energy_model.name)}"
    elif folder != out:
        LOG.warning("%s holds the report of another study: this one goes to %s", out, folder)
    files = [write_file(folder / "search.toml", settings)] if settings else []
    return files + write_report(
        found, folder, provenance=provenance, settings=settings, again=again,
        study_options=study_named(study, out, storage), **options,
    )  # fmt: skip


def study_named(study: optuna.Study, out: Path, storage: str | None) -> str:
    """The options by which the next commands find a study; no password is among them."""
    import optuna

    from search import without_password

    words = ["--out", str(out)]
    if storage is not None and "SPIKEFRONT_STORAGE" not in os.environ:
        words += ["--storage", without_password(storage)]
    if len(optuna.get_all_study_names(storage=study._storage)) > 1:
        words += ["--study", study.study_name]
    return " " + shlex.join(words)


def provenance_of(study: optuna.Study, evaluator: Evaluator, spec: TaskSpec) -> dict[str, Any]:
    """Where numbers come from, as JSON-able values."""
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
        "spikefront": installed_version(),
        "torch": torch.__version__,
        "optuna": optuna.__version__,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
    }


_LEARNING = ("iterations", "energy_weight", "label_weight")


def uniform_config(layers: Iterable[str], choice: dict[str, Any]) -> ConversionConfig:
    """The config of one uniform choice."""
    from conversion import CALIBRATIONS, ConversionConfig, make_calibration

    options = {name: choice[name] for name in _LEARNING}
    known = CALIBRATIONS[choice["calibration"]].options()
    calibration = make_calibration(
        choice["calibration"], **{name: v for name, v in options.items() if name in known}
    )
    others = {name: value for name, value in choice.items() if name not in _LEARNING}
    return ConversionConfig.uniform(layers, **{**others, "calibration": calibration})


def of_recordings(choice: dict[str, Any], evaluator: Evaluator) -> dict[str, Any]:
    """Steps that were not named, as inputs over time allow: T up to all, calibration by all."""
    length = evaluator.profile.length
    if length is None:
        return choice
    usual = {"timesteps": min(choice["timesteps"], length), "calibration_timesteps": length}
    return {**choice, **{k: v for k, v in usual.items() if k in choice and not named_options(k)}}


def steps_of_sweep(timesteps: int, evaluator: Evaluator) -> int:
    """T of a sensitivity profile: of inputs over time all, unless it was named."""
    length = evaluator.profile.length
    return timesteps if length is None or named_options("timesteps") else length


def check_learning(choice: dict[str, Any]) -> None:
    """Refuse options of learning where nothing learns."""
    from conversion import CALIBRATIONS

    for option in named_options(*_LEARNING):
        kinds = [name for name, kind in CALIBRATIONS.items() if option in kind.options()]
        if choice["calibration"] not in kinds:
            raise click.UsageError(
                f"--{option.replace('_', '-')} needs --calibration {' or '.join(kinds)}"
            )


def measured_sensitivity(
    evaluator: Evaluator, timesteps: int, phis: Iterable[int], rhos: Iterable[float]
) -> Sensitivity:
    """The sensitivity profile of a network, with a bar where it takes a while."""
    from search import sensitivity

    with progress_bar() as progress:
        bar = progress.add_task("sensitivity of each layer", total=None, front="")
        return sensitivity(
            evaluator.profile,
            evaluator.energy,
            timesteps=timesteps,
            phis=tuple(phis),
            rhos=tuple(rhos),
            on_branch=lambda done, total: progress.update(bar, completed=done, total=total),
        )

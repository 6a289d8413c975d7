"""``spikefront export``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click

from spikefront.loading import evaluator_of, open_existing, provenance_of
from spikefront.options import (
    FORMAT,
    LIMITS,
    OUTPUT,
    READER,
    SETTING,
    TARGET,
    EnergyLimit,
    artifacts_option,
    command,
    confidence_option,
    limit_options,
    option,
    run_options,
    study_options,
    task_options,
)
from spikefront.output import LOG, print_table

if TYPE_CHECKING:
    import optuna

    from conversion import SpikingModel
    from conversion.targets import Target
    from evaluators import Evaluator, Measurement, TaskSpec
    from reports import FrontPoint


@command()
@study_options
@option(LIMITS, "--trial", type=click.IntRange(0), metavar="N", help="Export this trial.")
@limit_options(
    "The most accurate point up to this energy",
    "The cheapest trial that loses at most this much, with confidence: 0.01 is one point.",
)
@confidence_option
@option(
    OUTPUT,
    "--to",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Default: OUT/trial-N.json.",
)
@option(
    OUTPUT,
    "--format",
    "kind",
    type=FORMAT,
    help="Also write it for other programs; npz needs NumPy alone. One of:",
)
@option(OUTPUT, "--reader", type=READER, help="nir: the program that will read it, one of:")
@option(
    OUTPUT,
    "--approximate",
    is_flag=True,
    help="Write it even if it will run differently: a"
    " NIR reader's neurons, or floats for integers.",
)
@option(
    OUTPUT,
    "--unrolled",
    is_flag=True,
    help="onnx, torch: all T steps in one graph, instead of one step.",
)
@option(
    SETTING,
    "--target",
    type=TARGET,
    help="Also list what does not fit this chip, as `spikefront check` does. Built in:",
)
@task_options
@run_options
@artifacts_option
def export(
    out: Path,
    storage: str | None,
    study_name: str | None,
    device: str,
    batch_size: int | None,
    artifacts: str | None,
    trial: int | None,
    max_energy: EnergyLimit | None,
    max_accuracy_drop: float | None,
    confidence: float | None,
    kind: str | None,
    reader: str | None,
    approximate: bool,
    unrolled: bool,
    target: str | None,
    to: Path | None,
    **task: Any,
) -> None:
    """Write one trial as a config that deploys: JSON and safetensors.

    Without --trial or a limit it takes the knee of the front: the point farthest from the line
    between the cheapest and the most accurate one.

    \b
    spikefront export --max-energy 0.08
    spikefront export --max-accuracy-drop 0.01 --confidence 0.95
    spikefront export --trial 17 --format nir --reader sinabs
    """  # noqa: D301 - click wants the control character
    from reports import ann_on_test, measure_front, measurement_table, select, tested
    from search import study_setup

    if trial is not None and (max_energy is not None or max_accuracy_drop is not None):
        raise click.UsageError("give either --trial or limits, not both")
    _check_format(kind, reader=reader, approximate=approximate, unrolled=unrolled)
    study, spec = open_existing(out, storage, study_name, task)
    evaluator = evaluator_of(study, spec, device, batch_size, artifacts=artifacts, out=out)
    front = measure_front(study, evaluator, test=False, confidence=confidence)
    share = max_energy.over(evaluator.ann_energy_pj) if max_energy else None
    point = select(front, trial=trial, max_energy=share, max_accuracy_drop=max_accuracy_drop)
    chip = _target(target) if target is not None else None
    test, path = tested(study, point.trial), to or _path_of(study, point, out)
    model = evaluator.convert(study_setup(study).space.choice(point.params, point.lineage))
    measurement = evaluator.record(model, "search").measure(model.exit)
    options = {"reader": reader, "approximate": approximate, "unrolled": unrolled}
    # First, so that a network that the format refuses leaves no file behind.
    written = _write_format(kind, evaluator, model, path, options) if kind is not None else []
    tensors = _save(study, spec, evaluator, model, measurement, point, test, path)
    print_table(measurement_table(measurement, evaluator.ann(measurement.split)))
    if test is not None:
        print_table(measurement_table(test, ann_on_test(study)))
    _warn_of_a_broken_promise(test, max_accuracy_drop)
    click.echo(f"\nTrial {point.trial} is in {path} and {tensors}")
    if point.trial not in {p.trial for p in front.points}:
        why = (
            "" if trial is not None else ", but it is the cheapest trial promised to keep the limit"
        )
        click.echo(f"It is not on the measured front{why}.")
    for line in written:
        click.echo(line)
    if chip is not None:
        _print_fit(model, chip)


def _path_of(study: optuna.Study, point: FrontPoint, out: Path) -> Path:
    from reports import report_folder

    return report_folder(out, study.study_name) / f"trial-{point.trial}.json"


def _save(
    study: optuna.Study,
    spec: TaskSpec,
    evaluator: Evaluator,
    model: SpikingModel,
    measurement: Measurement,
    point: FrontPoint,
    test: Measurement | None,
    path: Path,
) -> Path:
    """Write the config of a point; the file of its tensors."""
    from conversion import save

    provenance = {
        **provenance_of(study, evaluator, spec),
        "trial": point.trial,
        "params": dict(point.params),
        "lineage": list(point.lineage),
        "task": spec.to_dict(),
        "test": test.to_dict() if test else None,
    }
    config = save(
        model, path, energy_model=evaluator.energy.to_dict(), measurement=measurement.to_dict(),
        provenance=provenance,
    )  # fmt: skip
    return path.parent / config.tensors


_COMPARED = 256
"""Samples of the search split on which a reader of NIR is compared."""

_OF_FORMATS = {
    "reader": ("nir",),
    "approximate": ("nir", "onnx", "torch", "sinabs"),
    "unrolled": ("onnx", "torch"),
}


def _target(name: str) -> Target:
    from conversion.targets import target

    return target(name)


def _print_fit(model: SpikingModel, chip: Target) -> None:
    from conversion.export import program_of
    from conversion.targets import check
    from reports import violations_table

    found = check(program_of(model), chip)
    if found:
        print_table(violations_table(found, chip.title))
    else:
        click.echo(f"It fits {chip.title}.")


def _check_format(kind: str | None, **options: Any) -> None:
    for name, formats in _OF_FORMATS.items():
        if options[name] and kind not in formats:
            raise click.UsageError(f"--{name} needs --format {' or '.join(formats)}")
    if kind == "nir" and options["reader"] is None:
        raise click.UsageError("--format nir needs --reader: NIR's readers differ")


def _write_format(
    kind: str, evaluator: Evaluator, model: SpikingModel, config: Path, options: dict[str, Any]
) -> list[str]:
    """Write the network in a format; what to say of it."""
    from conversion import Inputs
    from conversion.export import FORMATS, Options

    x, _ = next(evaluator.task.search.batches(_COMPARED))
    (first, *_others) = Inputs.of(x).to(evaluator.device).tensors
    special = options["reader"] or ("unrolled" if options["unrolled"] else None)
    kept = f".{special}" if special else ""
    path = config.with_name(f"{config.stem}{kept}{FORMATS[kind].suffix}")
    files, note = FORMATS[kind].save(model, path, Options(x=first, **options))
    return [f"As {kind}: {', '.join(str(file) for file in files)}", *([note] if note else [])]


def _warn_of_a_broken_promise(test: Measurement | None, limit: float | None) -> None:
    drop = test.drop if test else None
    if drop is not None and limit is not None and drop.mean > limit:
        LOG.warning(
            "promised to lose at most %.3g points, it lost %.3g on the test split",
            100 * limit,
            100 * drop.mean,
        )

"""Options that several commands share, and how their texts are read."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    pass


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


def confidence_option(command: Command) -> Command:
    """How sure a promise of lost accuracy is."""
    option = click.option(
        "--confidence",
        type=click.FloatRange(0, 1, min_open=True, max_open=True),
        help="Of the promise that no more is lost. Default: 0.9, or what the search was told.",
    )
    return _apply([option], command)


def task_options(command: Command) -> Command:
    """Options that say what to load."""
    options: list[Command] = [
        click.option(
            "--task",
            help="digits (default), cifar10, cifar100, imagefolder, segmentation, detection,"
            " events, voxels, pointcloud, parts, or path/to/file.py:function.",
        ),
        click.option("--data", type=click.Path(), help="Folder of the data set."),
        click.option(
            "--model",
            help="resnet20, unet, yolonet, eventnet, voxelnet, pointnet, pointnet-parts, a"
            " torchvision model, or module:function.",
        ),
        click.option(
            "--weights",
            type=click.Path(),
            help="Trained state dict: .safetensors, or .pt (loaded without unpickling).",
        ),
        click.option("--calibration-samples", type=click.IntRange(1), help="Default 256."),
        click.option("--search-samples", type=click.IntRange(1), help="Default 1000."),
        click.option("--test-samples", type=click.IntRange(1), help="Default: all that are left."),
        click.option(
            "--image-size",
            type=click.IntRange(1),
            help="In pixels. imagefolder: side of the crop (default 224); segmentation, detection:"
            " shorter side (default: as the images are; 320).",
        ),
        click.option(
            "--classes",
            type=click.IntRange(2),
            help="segmentation: number of classes. Default: as the training masks have them.",
        ),
        click.option("--ignore-label", type=int, help="segmentation: no class. Default 255."),
        click.option("--frames", type=click.IntRange(1), help="events: per recording. Default 8."),
        click.option(
            "--frames-by",
            type=click.Choice(["time", "count"]),
            help="events: frames of equal time (default), or of equal numbers of events.",
        ),
        click.option("--points", type=click.IntRange(1), help="pointcloud, parts: default 1024."),
        click.option("--seed", type=int, help="Seed of the splits and the sampler. Default 0."),
    ]
    return _apply(options, command)


def run_options(command: Command) -> Command:
    """Options that say where and how to measure."""
    options: list[Command] = [
        click.option("--device", default="cpu", show_default=True, help="A torch device."),
        click.option(
            "--batch-size",
            type=click.IntRange(1),
            help="Default: 256; on cpu what fits its caches, 256 at most.",
        ),
    ]
    return _apply(options, command)


def artifacts_option(command: Command) -> Command:
    """Where learned states are kept."""
    option = click.option(
        "--artifacts",
        metavar="PLACE",
        envvar="SPIKEFRONT_ARTIFACTS",
        help="Where learned states are kept: a folder that all workers share, s3://bucket/prefix or"
        " gs://bucket/prefix; or $SPIKEFRONT_ARTIFACTS. Default: OUT/artifacts.",
    )
    return _apply([option], command)


def timeout_option(command: Command) -> Command:
    """How long a trial may take."""
    limit = click.option(
        "--timeout",
        type=click.FloatRange(0, min_open=True),
        metavar="SECONDS",
        help="Longest time of a trial. Default: an hour, or ten times the longest so far.",
    )
    return _apply([limit], command)


def energy_option(
    default: str | None, meaning: str = "What operations cost"
) -> Callable[[Command], Command]:
    """The energy model: a name or a file."""
    option = click.option(
        "--energy-model",
        "prices",
        type=ENERGY_MODEL,
        default=default,
        show_default=default is not None,
        help=f"{meaning}: a model, or a file of prices (.toml).",
    )
    return functools.partial(_apply, [option])


class Registered(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.2 on
    """A name in a registry of the rooms, where a plugin may have put its own.

    Args:
        room: The package that has the registry.
        registry: Its name there.
        files: Whether a path of a TOML file does as well.
    """

    def __init__(self, room: str, registry: str, *, files: bool = False) -> None:
        self.name = registry.lower()
        self._files = files
        self._place = (room, registry)

    def _known(self) -> list[str]:
        room, registry = self._place
        return list(getattr(importlib.import_module(room), registry))

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        """The names there are, for ``--help``."""
        known = [*self._known(), *(["FILE.toml"] if self._files else [])]
        return f"[{'|'.join(known)}]"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The name, if it is known."""
        if self._files and value.endswith(".toml"):
            return value
        if value not in self._known():
            self.fail(f"{value!r} is not one of {', '.join(self._known())}", param, ctx)
        return value


NEURON = Registered("conversion", "NEURONS")
CALIBRATION = Registered("conversion", "CALIBRATIONS")
ENERGY_MODEL = Registered("conversion", "ENERGY_MODELS", files=True)
SAMPLER = Registered("search", "SAMPLER_NAMES")
TARGET = Registered("conversion.targets", "TARGETS", files=True)
FORMAT = Registered("conversion.export", "FORMATS")
READER = Registered("conversion.export", "READERS")


def plugin_option(command: Command) -> Command:
    """Code of the user's that registers neurons, calibrations or energy models."""
    option = click.option(
        "--plugin",
        "plugins",
        multiple=True,
        metavar="FILE.py",
        help="Import this file or module first: it may register neurons, calibrations, energy"
        " models. Repeat it; or $SPIKEFRONT_PLUGINS.",
    )
    return _apply([option], command)


def _registered(
    name: str, kind: Registered, default: str, meaning: str, variable: str | None = None
) -> Command:
    names = (name, variable) if variable else (name,)
    return click.option(*names, type=kind, default=default, show_default=True, help=meaning)


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
        _registered(
            "--neuron", NEURON, "adafire", "dual-threshold takes back what it fired too much."
        ),
        _one_of("--thresholds", ("mmse", "max", "percentile"), "Rule of the thresholds."),
        _one_of("--granularity", ("channel", "layer"), "One threshold per channel or per layer."),
        _at_least_one("--timesteps", 8, "T."),
        _at_least_one("--calibration-timesteps", 2, "T of thresholds and calibration."),
        _registered(
            "--calibration",
            CALIBRATION,
            "light",
            "light corrects biases, advanced also the initial potentials, tuned also the weights;"
            " learned learns thresholds, biases and potentials by gradient, learned-weights the"
            " weights too.",
        ),
        _at_least_one("--iterations", 100, "Gradient steps of what learns."),
        click.option(
            "--label-weight",
            type=click.FloatRange(0),
            default=0.0,
            show_default=True,
            help="What learned weighs the labels of the training data with; 0 needs none.",
        ),
        click.option(
            "--energy-weight",
            type=click.FloatRange(0),
            default=0.0,
            show_default=True,
            help="What learned weighs synaptic operations with; 0.1 to 1 saves energy.",
        ),
    ]
    return _apply(options, command)


CHOICE = (
    "phi", "rho", "neuron", "timesteps", "thresholds", "granularity", "calibration",
    "calibration_timesteps", "iterations", "energy_weight", "label_weight",
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


def sweep_options(command: Command) -> Command:
    """Options of a sensitivity profile."""
    options: list[Command] = [
        _at_least_one("--timesteps", 2, "T of calibration and measurement."),
        click.option(
            "--phi",
            default="1,2,3,4,6,8",
            show_default=True,
            callback=lambda context, option, text: sorted(read_whole_numbers(text)),
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


def read_pins(texts: tuple[str, ...]) -> dict[str, Any]:
    """Pins of a space, from texts such as ``relu:phi=2``."""
    pins = [_pin(text) for text in texts]
    names = [name for name, _ in pins]
    if len(set(names)) < len(names):
        raise click.BadParameter("the same φ or ρ is pinned twice")
    return dict(pins)


def _pin(text: str) -> tuple[str, Any]:
    from spaces import names

    layer, _, setting = text.rpartition(":")
    kind, _, value = setting.partition("=")
    try:
        if layer and kind == "phi":
            return names.phi(layer), int(value)
        if layer and kind == "rho":
            return names.rho(layer), float(value)
    except ValueError:
        pass
    raise click.BadParameter(f"give LAYER:phi=1 or LAYER:rho=1.5, got {text!r}")


def read_whole_numbers(text: str) -> tuple[int, ...]:
    """Numbers from a text such as ``1,2,4``."""
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


def part_options(options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Options of a uniform choice, and the others."""
    choice = {name: options.pop(name) for name in CHOICE}
    return choice, options


def named_options(*names: str) -> list[str]:
    """Those of a command's options that were named on the command line."""
    source = click.get_current_context().get_parameter_source
    return [name for name in names if source(name) is click.core.ParameterSource.COMMANDLINE]

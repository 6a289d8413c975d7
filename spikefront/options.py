"""Options that several commands share, and how their texts are read."""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rich_click as click

from spikefront.settings import config_option, record_given

Command = Callable[..., Any]

# Headings under which --help lists options.
TASK, SOME_TASKS, STUDY, MACHINE = "Task", "Some tasks only", "Study", "Machine"
SETTING, LIMITS, OUTPUT = "Setting", "Limits", "Output"


class _Command(click.RichCommand):
    """A command that knows which options were named, and can take them from a file."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse, and remember the options as they were typed."""
        record_given(ctx, self.make_parser(ctx).parse_args(list(args))[0])
        return super().parse_args(ctx, args)


def command(name: str | None = None) -> Callable[[Command], click.Command]:
    """A command of ``spikefront``, whose options may come from ``--config FILE.toml``."""

    def decorated(function: Command) -> click.Command:
        made = click.command(name, cls=_Command)(config_option(function))
        return made

    return decorated


class _Option(click.RichOption):
    """An option whose help lists the names that it takes, those of plugins included."""

    @property
    def help(self) -> str | None:
        """What ``--help`` shows."""
        names = f" {', '.join(self.type.offered())}." if isinstance(self.type, Named) else ""
        return self._help and self._help + names

    @help.setter
    def help(self, text: str | None) -> None:
        self._help = text


def option(panel: str, *names: str, **settings: Any) -> Command:
    """An option under a heading."""
    return click.option(*names, panel=panel, cls=_Option, **settings)


def figure_endings(text: str) -> tuple[str, ...]:
    """File types of figures, from a text such as ``svg,pdf``."""
    kinds = tuple(dict.fromkeys(word.strip() for word in text.split(",")))
    if not set(kinds) <= {"svg", "png", "pdf"}:
        raise click.BadParameter(f"give any of svg,png,pdf, got {text!r}")
    return kinds


def whole_numbers(text: str | None) -> tuple[int, ...]:
    """Different whole numbers from 1 on, from a text such as ``1,2,4``; of None none."""
    if text is None:
        return ()
    parts = [part.strip() for part in text.split(",")]
    numbers = tuple(int(part) for part in parts if part.isdecimal() and int(part) > 0)
    if len(set(numbers)) != len(parts):
        raise click.BadParameter(f"give different whole numbers like 1,2,4, got {text!r}")
    return numbers


def read_by(reader: Callable[[Any], Any]) -> Callable[..., Any]:
    """A callback that reads an option's text."""
    return lambda context, parameter, text: reader(text)


def _factors(text: str) -> list[float]:
    try:
        factors = sorted({float(part) for part in text.split(",")})
    except ValueError:
        factors = []
    if not factors or factors[0] != 1 or not factors[-1] < float("inf"):
        raise click.BadParameter(f"give factors from 1 on, like 1,1.5,2, got {text!r}")
    return factors


class Named(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.2 on
    """A name in a registry of the rooms, where a plugin may have put its own.

    The rooms import torch, so ``--help`` and a mistyped name do not ask them; a test compares.

    Args:
        room: The package that has the registry.
        registry: Its name there.
        known: What it holds without plugins.
        also: What else does: a file's ending, or ``":"`` for ``file.py:function``.
    """

    def __init__(self, room: str, registry: str, *known: str, also: str = "") -> None:
        self.name = registry.lower()
        self.room, self.registry, self.known = room, registry, known
        self._also = also

    def offered(self) -> list[str]:
        """The names that may be given."""
        if self.room in sys.modules:
            return list(getattr(importlib.import_module(self.room), self.registry))
        return list(self.known)

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        """For ``--help``."""
        other = {"": "", ":": "|FILE.py:FUNCTION"}.get(self._also, f"|FILE{self._also}")
        return f"NAME{other}"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The name, if it is known."""
        if self._also and self._also in value:
            return value
        if self._also == ":" and value.endswith(".py"):
            self.fail(f"name a function of the file, such as {value}:make_task", param, ctx)
        if value not in self.offered():
            self.fail(f"{value!r} is not one of {', '.join(self.offered())}", param, ctx)
        return value

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[Any]:
        """The names that begin so."""
        from click.shell_completion import CompletionItem

        return [CompletionItem(n) for n in self.offered() if n.startswith(incomplete)]


TASK_NAME = Named(
    "evaluators", "BUILT_IN_TASKS", "digits", "cifar10", "cifar100", "imagefolder", "segmentation",
    "detection", "events", "voxels", "pointcloud", "parts", also=":",
)  # fmt: skip
NEURON = Named("conversion", "NEURONS", "adafire", "dual-threshold")
CALIBRATION = Named(
    "conversion", "CALIBRATIONS", "light", "advanced", "none", "tuned", "learned",
    "learned-weights",
)  # fmt: skip
ENERGY_MODEL = Named(
    "conversion", "ENERGY_MODELS", "horowitz45", "horowitz45-int8", "horowitz45-graded", "lemaire",
    "lemaire-int8", "lemaire-graded", "lemaire-blocks", "loihi", "spinnaker", "spinnaker2",
    "truenorth", also=".toml",
)  # fmt: skip
SAMPLER = Named(
    "search", "SAMPLER_NAMES", "additive", "nsga2", "nsga3", "tpe", "tpe-multivariate", "gp",
    "random",
)  # fmt: skip
TARGET = Named(
    "conversion.targets", "TARGETS", "digital", "loihi2", "speck", "spinnaker2", "xylo",
    also=".toml",
)  # fmt: skip
FORMAT = Named("conversion.export", "FORMATS", "npz", "onnx", "torch", "nir", "sinabs")
READER = Named("conversion.export", "READERS", "sinabs", "spikingjelly", "snntorch")


@dataclass(frozen=True)
class EnergyLimit:
    """A limit as a share of the ANN's energy, or in picojoules: one of the two."""

    share: float | None = None
    picojoules: float | None = None

    def over(self, ann_pj: float) -> float:
        """As a share of an ANN's energy, pJ."""
        return self.share or (self.picojoules or 0.0) / ann_pj


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


def _all(*options: Command) -> Callable[[Command], Command]:
    """Options as one decorator, in this order."""
    return lambda function: functools.reduce(lambda f, one: one(f), reversed(options), function)


def _at_least_one(name: str, default: float, meaning: str) -> Command:
    kind = click.IntRange(1) if isinstance(default, int) else click.FloatRange(1)
    return option(SETTING, name, type=kind, default=default, show_default=True, help=meaning)


def _one_of(panel: str, name: str, known: Sequence[str], meaning: str) -> Command:
    """An option with a few known values, the first of them by default."""
    return option(
        panel, name, type=click.Choice(known), default=known[0], show_default=True, help=meaning
    )


def limit_options(energy: str, drop: str) -> Callable[[Command], Command]:
    """Limits on energy and on lost accuracy, with what they do."""
    units = ": 0.08 (of the ANN's), or 350nJ (pJ, nJ, uJ, mJ)."
    return _all(
        option(LIMITS, "--max-energy", metavar="LIMIT", callback=read_by(_energy_limit),
               help=energy + units),
        option(LIMITS, "--max-accuracy-drop", type=click.FloatRange(0, 1), metavar="FRACTION",
               help=drop),
    )  # fmt: skip


confidence_option = option(
    LIMITS,
    "--confidence",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    metavar="FRACTION",
    help="Confidence that the loss stays within the limit. Default: the study's, or 0.9.",
)

task_options = _all(
    option(TASK, "--task", type=TASK_NAME, help="Model and data. Default: digits, which needs no"
           " download. Built in:"),
    option(TASK, "--data", type=click.Path(), metavar="FOLDER", help="The data set."),
    option(TASK, "--model", metavar="NAME|MODULE:FUNCTION", help="resnet20, unet, yolonet,"
           " eventnet, voxelnet, pointnet, pointnet-parts, a torchvision model, or your own."),
    option(TASK, "--weights", type=click.Path(), metavar="FILE", help="Trained state dict:"
           " .safetensors, or .pt (loaded without unpickling)."),
    option(TASK, "--calibration-samples", type=click.IntRange(1), metavar="N",
           help="Default: 256; digits and your own tasks have fixed splits."),
    option(TASK, "--search-samples", type=click.IntRange(1), metavar="N", help="Default: 1000."),
    option(TASK, "--test-samples", type=click.IntRange(1), metavar="N",
           help="Default: all that are left."),
    option(TASK, "--seed", type=int, help="Seed of the splits and the sampler. Default: 0."),
    option(SOME_TASKS, "--image-size", type=click.IntRange(1), metavar="PIXELS", help="imagefolder:"
           " side of the crop (default 224). segmentation, detection: shorter side (default: as"
           " the images are; 320)."),
    option(SOME_TASKS, "--classes", type=click.IntRange(2), metavar="N", help="segmentation: number"
           " of classes. Default: as many as the training masks have."),
    option(SOME_TASKS, "--ignore-label", type=int, help="segmentation: the label that does not"
           " count. Default: 255."),
    option(SOME_TASKS, "--frames", type=click.IntRange(1), metavar="N", help="events: frames per"
           " recording. Default: 8."),
    option(SOME_TASKS, "--frames-by", type=click.Choice(["time", "count"]), help="events: frames of"
           " equal time (default), or of equal numbers of events."),
    option(SOME_TASKS, "--points", type=click.IntRange(1), metavar="N", help="pointcloud, parts:"
           " points per cloud. Default: 1024."),
)  # fmt: skip

run_options = _all(
    option(MACHINE, "--device", default="cpu", show_default=True, help="A torch device."),
    option(MACHINE, "--batch-size", type=click.IntRange(1), metavar="N", help="Default: 256; on cpu"
           " what fits the caches, up to 256."),
)  # fmt: skip

artifacts_option = option(
    MACHINE,
    "--artifacts",
    metavar="PLACE",
    envvar="SPIKEFRONT_ARTIFACTS",
    help="Where learned weights and thresholds are kept: a folder that all workers share,"
    " s3://bucket/prefix or gs://bucket/prefix; or $SPIKEFRONT_ARTIFACTS. Default: OUT/artifacts.",
)

timeout_option = option(
    MACHINE,
    "--timeout",
    type=click.FloatRange(0, min_open=True),
    metavar="SECONDS",
    help="Time limit of a trial. Default: an hour, or ten times the longest so far if longer.",
)

log_option = option(
    OUTPUT,
    "--log-every",
    type=click.IntRange(0),
    default=1,
    show_default=True,
    metavar="N",
    help="Log every Nth trial where there is no terminal for a progress bar; 0: none.",
)

json_option = option(OUTPUT, "--json", "as_json", is_flag=True, help="Print one JSON object.")

TABLE = "table"
"""For reading in a terminal."""

table_option = option(
    OUTPUT,
    "--table",
    type=click.Choice([TABLE, "csv", "markdown", "latex", "json"]),
    default=TABLE,
    show_default=True,
    help="How to print it; latex uses booktabs.",
)

figure_option = option(
    OUTPUT,
    "--figure",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Draw it: .png, .svg or .pdf.",
)


def energy_option(
    default: str | None, meaning: str = "What operations cost"
) -> Callable[[Command], Command]:
    """The energy model: a name or a file."""
    return option(
        SETTING,
        "--energy-model",
        "prices",
        type=ENERGY_MODEL,
        default=default,
        show_default=default is not None,
        help=f"{meaning}; built in:",
    )


plugin_option = click.option(
    "--plugin",
    "plugins",
    multiple=True,
    metavar="FILE.py",
    help="Import this file or module first; it may register neurons, calibrations and energy"
    " models. Repeatable; or $SPIKEFRONT_PLUGINS.",
)


choice_options = _all(
    _at_least_one("--phi", 4, "φ of all layers: most spikes per step."),
    _at_least_one("--rho", 1.0, "ρ of all layers: factor on the threshold."),
    option(SETTING, "--neuron", type=NEURON, default="adafire", show_default=True,
           help="dual-threshold also fires negative spikes, which take back what it overfired."
           " One of:"),
    _one_of(SETTING, "--thresholds", ("mmse", "max", "percentile"), "How thresholds are set."),
    _one_of(SETTING, "--granularity", ("channel", "layer"), "One threshold per channel or layer."),
    _at_least_one("--timesteps", 8, "T, the most steps of an inference."),
    _at_least_one("--calibration-timesteps", 2, "T that thresholds and calibration assume."),
    option(SETTING, "--calibration", type=CALIBRATION, default="light", show_default=True,
           help="light corrects biases; advanced also the initial potentials; tuned also the"
           " weights. learned learns thresholds, biases and potentials by gradient;"
           " learned-weights the weights too. One of:"),
    _at_least_one("--iterations", 100, "Gradient steps of tuned, learned, learned-weights."),
    option(SETTING, "--label-weight", type=click.FloatRange(0), default=0.0, show_default=True,
           help="learned: weight of the training labels in the loss; 0 needs no labels."),
    option(SETTING, "--energy-weight", type=click.FloatRange(0), default=0.0, show_default=True,
           help="learned: weight of synaptic operations in the loss; 0.1 to 1 saves energy."),
)  # fmt: skip

CHOICE = (
    "phi", "rho", "neuron", "timesteps", "thresholds", "granularity", "calibration",
    "calibration_timesteps", "iterations", "energy_weight", "label_weight",
)  # fmt: skip

split_option = _one_of(SETTING, "--split", ("search", "test"), "Samples to run.")

study_options = _all(
    option(STUDY, "--out", type=click.Path(path_type=Path), default=Path("spikefront-out"),
           show_default=True, metavar="FOLDER", help="The study and its report."),
    option(STUDY, "--storage", envvar="SPIKEFRONT_STORAGE", metavar="URL", help="An Optuna storage,"
           " or $SPIKEFRONT_STORAGE. Default: OUT/study.journal."),
    option(STUDY, "--study", "study_name", metavar="NAME", help="Default: the task's or its file's"
           " name, or the only study there."),
)  # fmt: skip

sweep_options = _all(
    _at_least_one("--timesteps", 2, "T of calibration and measurement."),
    option(SETTING, "--phi", default="1,2,3,4,6,8", show_default=True, metavar="N,N,…",
           callback=read_by(lambda text: sorted(whole_numbers(text))),
           help="Values of φ to try; the other layers keep the largest."),
    option(SETTING, "--rho", default="1,1.25,1.5,2,2.5,3", show_default=True, metavar="X,X,…",
           callback=read_by(_factors), help="Values of ρ to try."),
)  # fmt: skip


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


def part_options(options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Options of a uniform choice, and the others."""
    choice = {name: options.pop(name) for name in CHOICE}
    return choice, options

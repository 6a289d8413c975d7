"""The formats by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from conversion.export._nir import save_nir
from conversion.export._npz import Integers, save_npz
from conversion.export._program import ExportError, Program, program_of
from conversion.export._run import run_program
from conversion.export._sinabs import save_sinabs
from conversion.export._step import save_onnx, save_torch
from conversion.simulation import SpikingModel


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of an export.

    Attributes:
        reader: For NIR: the program that will read it.
        approximate: Whether to write a network that will behave differently: for NIR one that the
            reader cannot run exactly, for integers their floating-point origin.
        unrolled: For ONNX and torch: all steps in one graph instead of one step.
        x: Inputs for golden vectors, ``(N, ...)``.
    """

    reader: str | None = None
    approximate: bool = False
    unrolled: bool = False
    x: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class Format:
    """One format.

    Attributes:
        suffix: Suffix of its file.
        save: Writes a model to a path; returns the files and a note about them.
    """

    suffix: str
    save: Callable[[SpikingModel, Path, Options], tuple[list[Path], str]]


def _floating(model: SpikingModel, options: Options) -> Program:
    """The program in floating point, also of a model in integers if that is allowed."""
    if model.config.bits is not None and not options.approximate:
        raise ExportError(
            f"the config has weights of {model.config.bits} bits: only npz holds integers;"
            " --approximate writes the floating-point network that they were rounded from"
        )
    return program_of(model)


def _npz(model: SpikingModel, path: Path, options: Options) -> tuple[list[Path], str]:
    fixed = getattr(model, "fixed", None)  # of a model in integers
    if fixed is None:
        return save_npz(program_of(model), path, exit=model.exit), ""
    integers = Integers(
        weight_bits=fixed.weight_bits,
        state_bits=fixed.state_bits,
        output_scale=fixed.output_scale,
    )
    program = replace(fixed.program, timesteps=model.config.timesteps)
    return save_npz(program, path, exit=model.exit, integers=integers), ""


def _onnx(model: SpikingModel, path: Path, options: Options) -> tuple[list[Path], str]:
    program, unrolled = _floating(model, options), options.unrolled
    return save_onnx(program, path, exit=model.exit, unrolled=unrolled), ""


def _torch(model: SpikingModel, path: Path, options: Options) -> tuple[list[Path], str]:
    program, unrolled = _floating(model, options), options.unrolled
    return save_torch(program, path, exit=model.exit, unrolled=unrolled), ""


def _sinabs(model: SpikingModel, path: Path, options: Options) -> tuple[list[Path], str]:
    program = _floating(model, options)
    if model.config.bits is not None:
        note = f"in floating point, where the config has weights of {model.config.bits} bits"
    else:
        note = "" if options.x is None else _agreement(model, program, options.x)
    return save_sinabs(program, path, exit=model.exit), note


_BATCH = 32


def _agreement(model: SpikingModel, program: Program, x: Tensor) -> str:
    """On how many samples a program in float32 gives the outputs of a model, in words."""
    model, same = model.running(program.timesteps), 0
    for part in x.split(_BATCH):
        expected = model.simulate(part).logits[-1].cpu()
        found, _ = run_program(program, part.float().cpu())
        differences = (found[-1] - expected).abs().flatten(1).amax(1)
        same += int((differences <= 1e-3 * expected.abs().max()).sum())
    if same == len(x):
        return f"the layers give the same outputs on all {same} samples"
    return (
        f"the layers give the same outputs on {same} of {len(x)} samples; in the others a potential"
        " meets its threshold within rounding, and may fall either way"
    )


def _nir(model: SpikingModel, path: Path, options: Options) -> tuple[list[Path], str]:
    if options.reader is None or options.x is None:
        raise ExportError("NIR is written for a particular reader: choose it with --reader")
    _floating(model, options)
    found, files = save_nir(
        model, path, reader=options.reader, x=options.x, approximate=options.approximate
    )
    if found.exact:
        return files, (
            f"{options.reader} runs the same spikes on {found.samples} samples, from the potentials"
            " in the .nir.npz file"
        )
    return files, (
        f"{options.reader} runs another network: of {found.samples} samples"
        f" {found.differing:.2%} of the spike counts differ,"
        f" outputs by up to {found.output:.1%}; {found.decisions:.0%} of the decisions stay"
    )


FORMATS = {
    "npz": Format(suffix=".npz", save=_npz),
    "onnx": Format(suffix=".onnx", save=_onnx),
    "torch": Format(suffix=".pt2", save=_torch),
    "nir": Format(suffix=".nir", save=_nir),
    "sinabs": Format(suffix=".sinabs.npz", save=_sinabs),
}
"""Formats by name."""

"""Exports for other programs: NIR, ONNX, torch.export, NumPy."""

from conversion.export._formats import FORMATS, Format, Options
from conversion.export._nir import nir_graph, save_nir
from conversion.export._npz import save_npz
from conversion.export._program import ExportError, Layer, Neuron, Program, program_of
from conversion.export._run import RunState, binary_trains, run_program, run_step
from conversion.export._semantics import READERS, Agreement, Reader, compare
from conversion.export._sinabs import save_sinabs
from conversion.export._step import StepModule, UnrolledModule, exported, save_onnx, save_torch

__all__ = [
    "FORMATS",
    "READERS",
    "Agreement",
    "ExportError",
    "Format",
    "Layer",
    "Neuron",
    "Options",
    "Program",
    "Reader",
    "RunState",
    "StepModule",
    "UnrolledModule",
    "binary_trains",
    "compare",
    "exported",
    "nir_graph",
    "program_of",
    "run_program",
    "run_step",
    "save_nir",
    "save_npz",
    "save_onnx",
    "save_sinabs",
    "save_torch",
]

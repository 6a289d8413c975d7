"""One step as a graph of its own: the state goes in and comes out, the loop stays with the host."""

from __future__ import annotations

import io
import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from conversion._exits import ExitRule
from conversion._files import write_file
from conversion.export._nir import _package
from conversion.export._program import ExportError, Program
from conversion.export._run import RunState, run_step

_MEMBRANE, _EMITTED, _ARRIVED, _PASSED = "membrane", "emitted", "arrived", "passed"


class StepModule(nn.Module):
    """``(x, *state) -> (output, *state)``: one step of a program, in float32.

    What the output gives is what the host adds up; its mean over the steps is the answer. The state
    is a tensor ``(N, ...)`` for each name in :attr:`names`; before the first step it is
    :meth:`initial`.
    """

    def __init__(self, program: Program) -> None:
        super().__init__()
        self.program = program = in_float32(program)
        self._shapes = dict(_state_shapes(program))
        self._starts: dict[str, Tensor] = {}
        for layer in program.fires:
            assert layer.neuron is not None
            self._starts[f"{_MEMBRANE} {layer.name}"] = layer.neuron.v_init.float()

    @property
    def names(self) -> tuple[str, ...]:
        """Of the state's tensors."""
        return tuple(self._shapes)

    def initial(self, samples: int) -> tuple[Tensor, ...]:
        """The state before the first step."""
        return tuple(
            self._starts.get(name, torch.zeros(shape)).expand(samples, *shape).clone()
            for name, shape in self._shapes.items()
        )

    def forward(self, x: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """One step."""
        given = dict(zip(self._shapes, state, strict=True))
        run = RunState(step=1)  # a neuron that fired nothing yet takes nothing back
        for name, value in given.items():
            kind, _, layer = name.partition(" ")
            if kind == _MEMBRANE:
                run.membrane[layer] = value
                run.emitted[layer] = given.get(f"{_EMITTED} {layer}", torch.zeros_like(value))
            elif kind == _ARRIVED:
                run.arrived[layer] = (value, given[f"{_PASSED} {layer}"])
        output = run_step(self.program, x, run)
        after = {
            **{f"{_MEMBRANE} {name}": value for name, value in run.membrane.items()},
            **{f"{_EMITTED} {name}": value for name, value in run.emitted.items()},
            **{f"{_ARRIVED} {name}": pair[0] for name, pair in run.arrived.items()},
            **{f"{_PASSED} {name}": pair[1] for name, pair in run.arrived.items()},
        }
        return (output, *(after[name] for name in self._shapes))


class UnrolledModule(nn.Module):
    """``x -> (T, N, ...)``: mean outputs of all T steps so far, in one graph without a loop."""

    def __init__(self, program: Program) -> None:
        super().__init__()
        self.program = in_float32(program)

    def forward(self, x: Tensor) -> Tensor:
        """All steps; an input over time is ``(N, T, ...)``."""
        state, total, means = RunState(), None, []
        for step in range(self.program.timesteps):
            output = run_step(self.program, x[:, step] if self.program.over_time else x, state)
            total = output if total is None else total + output
            means.append(total / (step + 1))
        return torch.stack(means)


def in_float32(program: Program) -> Program:
    """The same program with weights and neurons in single precision."""

    def single(value: Any) -> Any:
        return value.float() if isinstance(value, Tensor) else value

    layers = {}
    for name, layer in program.layers.items():
        neuron = layer.neuron and replace(
            layer.neuron, **{key: single(value) for key, value in vars(layer.neuron).items()}
        )
        layers[name] = replace(
            layer, weight=single(layer.weight), bias=single(layer.bias), neuron=neuron
        )
    return replace(program, layers=layers)


def _state_shapes(program: Program) -> list[tuple[str, tuple[int, ...]]]:
    found = []
    for layer in program.layers.values():
        neuron = layer.neuron
        if neuron is not None:
            if neuron.ceiling is not None:
                raise ExportError(
                    f"{layer.name!r} has a ceiling (ReLU6), which counts steps: export it unrolled"
                )
            found.append((f"{_MEMBRANE} {layer.name}", layer.shape))
            found += [(f"{_EMITTED} {layer.name}", layer.shape)] if neuron.signed else []
        elif layer.kind == "largest":
            before = program.layers[layer.inputs[0]].shape
            found += [
                (f"{_ARRIVED} {layer.name}", before),
                (f"{_PASSED} {layer.name}", layer.shape),
            ]
    return found


def exported(program: Program, *, unrolled: bool = False) -> torch.export.ExportedProgram:
    """The step, or all steps, as ``torch.export`` has it; the number of samples is open."""
    module = UnrolledModule(program) if unrolled else StepModule(program)
    shape = program.input.shape
    x = torch.zeros(2, *((program.timesteps,) if program.over_time and unrolled else ()), *shape)
    state = () if isinstance(module, UnrolledModule) else module.initial(2)
    batch = torch.export.Dim("batch", min=1)
    sizes: tuple[Any, ...] = ({0: batch},)
    if not isinstance(module, UnrolledModule):
        sizes = ({0: batch}, tuple({0: batch} for _ in state))
    with torch.no_grad():
        return torch.export.export(module.eval(), (x, *state), dynamic_shapes=sizes, strict=False)


def save_torch(
    program: Program, path: Path, *, exit: ExitRule | None = None, unrolled: bool = False
) -> list[Path]:
    """Write the step as a ``torch.export`` archive, with what a host needs beside it."""
    buffer = io.BytesIO()
    torch.export.save(exported(program, unrolled=unrolled), buffer)
    return [write_file(path, buffer.getvalue()), *_host(program, path, exit, unrolled, "torch")]


def save_onnx(
    program: Program, path: Path, *, exit: ExitRule | None = None, unrolled: bool = False
) -> list[Path]:
    """Write the step as ONNX, with the host's loop and early exit beside it.

    Raises:
        ExportError: The packages ``onnx`` and ``onnxscript`` are missing.
        FileError: The file cannot be written.
    """
    for package in ("onnx", "onnxscript"):
        _package(package)
    module = None if unrolled else StepModule(program)
    names = [] if module is None else _plain_names(module)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = torch.onnx.export(
            exported(program, unrolled=unrolled),
            dynamo=True,
            verbose=False,
            input_names=["x", *names],
            output_names=["output", *[f"{name}_after" for name in names]],
        )
    assert found is not None
    data = cast(Any, found).model_proto.SerializeToString()
    return [write_file(path, data), *_host(program, path, exit, unrolled, "onnx")]


def _plain_names(module: StepModule) -> list[str]:
    """Names of the state for ONNX: no dots, and each once."""
    found: list[str] = []
    for name in module.names:
        plain = "".join(letter if letter.isalnum() else "_" for letter in name)
        found.append(plain if plain not in found else f"{plain}_{len(found)}")
    return found


def _host(
    program: Program, path: Path, exit: ExitRule | None, unrolled: bool, kind: str
) -> list[Path]:
    """What the loop needs: T, thresholds of the exit, and the state before the first step."""
    outputs = program.output.shape
    if exit is not None and not unrolled and (len(outputs) != 1 or outputs[0] < 2):
        raise ExportError(
            f"the host loop supports early exit only for classes, not for outputs {outputs};"
            " export it --unrolled"
        )
    about: dict[str, Any] = {
        "timesteps": program.timesteps,
        "input_over_time": program.over_time,
        "exit": {"score": exit.score, "thresholds": list(exit.thresholds)} if exit else None,
        "unrolled": unrolled,
    }
    files = []
    if not unrolled:
        module = StepModule(program)
        arrays = dict(zip(module.names, module.initial(1), strict=True))
        buffer = io.BytesIO()
        np.savez(buffer, *[value[0].numpy() for value in arrays.values()])
        about["state"] = _plain_names(module)
        files = [
            write_file(_beside(path, "state.npz"), buffer.getvalue()),
            write_file(_beside(path, "host.py"), _host_code(path.name, kind)),
        ]
    return [*files, write_file(_beside(path, "host.json"), json.dumps(about, indent=2) + "\n")]


_HOSTS = {
    "onnx": (
        "import onnxruntime",
        "session = onnxruntime.InferenceSession(HERE / NAME)",
        "output, *state = session.run(None, dict(zip(about['state'], state), x=frame))",
    ),
    "torch": (
        "import torch",
        "step = torch.export.load(HERE / NAME).module()",
        "output, *state = [v.numpy() for v in step(*map(torch.from_numpy, [frame, *state]))]",
    ),
}

_HOST = '''"""Run NAME with early exit: answers of a batch, and the steps that each sample ran."""

import json
from pathlib import Path

import numpy as np
IMPORT

HERE, NAME = Path(__file__).parent, "FILE"


def confidence(mean, score):
    p = np.exp(mean - mean.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    if score == "entropy":  # 1 - H / ln(C)
        return 1 + (p * np.log(p + 1e-30)).sum(1) / np.log(p.shape[1])
    best = np.sort(p, 1)
    return best[:, -1] if score == "top1" else best[:, -1] - best[:, -2]


def run(x):
    """x: (N, ...) float32, or (N, T, ...) of an input over time."""
    about = json.loads((HERE / f"{NAME}.host.json").read_text())
    start = np.load(HERE / f"{NAME}.state.npz")
    LOAD
    state = [np.repeat(start[f"arr_{i}"][None], len(x), 0) for i in range(len(about["state"]))]
    rule, answers, total = about["exit"], None, 0.0
    left, steps = np.arange(len(x)), np.zeros(len(x), int)
    for t in range(about["timesteps"]):
        frame = x[left, t] if about["input_over_time"] else x[left]
        CALL
        total = total + output
        mean = total / (t + 1)
        answers = np.zeros((len(x), *mean.shape[1:]), mean.dtype) if answers is None else answers
        answers[left], steps[left] = mean, t + 1
        if rule is not None:
            stay = confidence(mean, rule["score"]) <= rule["thresholds"][t]
            left, total, state = left[stay], total[stay], [s[stay] for s in state]
        if not len(left):
            break
    return answers, steps
'''


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(f"{path.name}.{suffix}")


def _host_code(name: str, kind: str) -> str:
    found = _HOST.replace("FILE", name).replace("Run NAME", f"Run {name}")
    for place, line in zip(("IMPORT", "LOAD", "CALL"), _HOSTS[kind], strict=True):
        found = found.replace(place, line)
    return found

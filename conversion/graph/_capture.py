"""From a model to its operations: ``torch.export``, with the size of the batch left open."""

from __future__ import annotations

import contextlib
import io
import logging
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram, ShapesCollection
from torch.export.graph_signature import InputKind, OutputKind
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode
from torch.utils import _pytree as pytree

from conversion._errors import ConversionError
from conversion.graph._functional import is_functional, make_functional, mutates
from conversion.graph._inputs import Inputs

Model = nn.Module | ExportedProgram

_HERE = str(Path(__file__).parent.parent)
_TORCH = str(Path(torch.__file__).parent)


@dataclass(frozen=True, kw_only=True)
class Captured:
    """The operations of a model.

    Attributes:
        graph: Nodes with ``placeholder`` for each input tensor, ``get_attr`` for what is constant,
            ATen operations, and one ``output`` of a flat tuple.
        constants: Parameters, buffers and other tensors, by the names of the ``get_attr`` nodes.
        outputs: Structure of the outputs.
        modules: The module that each operation stands in, by node: its first path and its class.
    """

    graph: fx.Graph
    constants: dict[str, Tensor]
    outputs: pytree.TreeSpec
    modules: dict[fx.Node, tuple[str, str]]


def capture(model: Model, inputs: Inputs) -> Captured:
    """Capture a model in evaluation mode; it is neither copied nor changed.

    Args:
        model: A module, or a program that ``torch.export`` made with an open batch size.
        inputs: At least two samples.

    Raises:
        ConversionError: It cannot be captured; the message names the user's own line.
    """
    program = model if isinstance(model, ExportedProgram) else _export(model, inputs)
    found = _without_signature(program, inputs)
    if not is_functional(found.graph):
        with torch.no_grad(), _quiet():
            program = program.run_decompositions({})
        found = _without_signature(program, inputs)
    make_functional(found.graph)
    first = {} if isinstance(model, ExportedProgram) else _first_paths(model)
    return replace(found, modules={n: _module_of(n, first) for n in found.graph.nodes})


def _first_paths(model: nn.Module) -> dict[str, str]:
    """The path under which ``named_modules`` lists a module, for each path that leads to it."""
    names: dict[int, str] = {}
    return {
        path: names.setdefault(id(module), path)
        for path, module in model.named_modules(remove_duplicate=False)
    }


def _module_of(node: fx.Node, first: dict[str, str]) -> tuple[str, str]:
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    if not stack:
        return "", ""
    path, kind = stack[-1]
    path = str(path).partition("@")[0]
    name = kind if isinstance(kind, str) else f"{kind.__module__}.{kind.__qualname__}"
    return first.get(path, path), name


@torch.no_grad()
def run(model: Model, inputs: Inputs) -> Any:
    """What the model itself answers, in whatever structure.

    Raises:
        ConversionError: It does not run on these inputs.
    """
    called = model.module() if isinstance(model, ExportedProgram) else model
    try:
        # An operation may write into its input: the caller's samples stay what they are.
        own = inputs.with_tensors([x.clone() for x in inputs.tensors])
        return called(*own.args, **own.kwargs)
    except Exception as error:
        line = _line_of(error)
        raise ConversionError(
            f"the model does not run on inputs of the shape {inputs.describe()}: {_brief(error)}"
            f"{line and f' (at {line})'}"
        ) from error


def twin(model: nn.Module) -> nn.Module:
    """The model in evaluation mode: the same parameters, in modules of its own.

    Locks, open files and whatever else hangs on a module are shared and not copied. Wrappers
    that only run another module are taken off.

    Raises:
        ConversionError: A part is TorchScript.
    """
    return _twin(model, "", {})


def _twin(module: nn.Module, path: str, done: dict[int, nn.Module]) -> nn.Module:
    module = _unwrapped(module)
    if isinstance(module, torch.jit.ScriptModule):
        where = f"module {path!r}" if path else "the model"
        raise ConversionError(
            f"{where} is TorchScript, whose operations cannot be captured; give the nn.Module that"
            " it was scripted or traced from"
        )
    if id(module) in done:
        return done[id(module)]
    made = object.__new__(type(module))
    done[id(module)] = made
    made.__dict__.update(module.__dict__)
    made.__dict__["training"] = False
    made.__dict__["_parameters"] = dict(module._parameters)
    made.__dict__["_buffers"] = {
        name: None if buffer is None else buffer.clone() for name, buffer in module._buffers.items()
    }
    made.__dict__["_modules"] = {
        name: None if child is None else _twin(child, f"{path}.{name}".lstrip("."), done)
        for name, child in module._modules.items()
    }
    return made


def _unwrapped(module: nn.Module) -> nn.Module:
    while not isinstance(module, torch.jit.ScriptModule):
        if isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            module = module.module
        elif isinstance(inner := module.__dict__.get("_modules", {}).get("_orig_mod"), nn.Module):
            module = inner  # of torch.compile
        else:
            break
    return module


def _export(model: nn.Module, inputs: Inputs) -> ExportedProgram:
    try:
        return _exported(model, inputs, strict=False)
    except Exception as error:
        if not _is_fixed(error):
            raise ConversionError(_refusal(error)) from error
    # len(x) and its like give plain numbers; the slower way reads them from the source.
    try:
        return _exported(model, inputs, strict=True)
    except Exception as error:
        raise ConversionError(_refusal(error)) from error


def _exported(model: nn.Module, inputs: Inputs, *, strict: bool) -> ExportedProgram:
    shapes = ShapesCollection()
    for x in inputs.tensors:
        shapes[x] = {0: Dim.DYNAMIC}
    with torch.no_grad(), _quiet(), _whole_attention():
        return torch.export.export(
            model, inputs.args, dict(inputs.kwargs), dynamic_shapes=shapes, strict=strict
        )


def _is_fixed(error: Exception) -> bool:
    """Whether the size of the batch became a plain number on the way."""
    return "specialized it to be a constant" in str(error) or "Constraints violated" in str(error)


def _refusal(error: Exception) -> str:
    text = str(error)
    line = _line_of(error) or _last_user_line(text.splitlines())
    at = f" at {line}" if line else ""
    if isinstance(error, GuardOnDataDependentSymNode) or "data-dependent" in text:
        return (
            f"the model decides by the values of a tensor{at}; use tensor operations such as"
            " torch.where instead of if, while or .item()"
        )
    if _is_fixed(error):
        where = f" in {at.removeprefix(' at ')}" if at else ""
        return (
            f"the model works for one size of the batch only{where}; use x.shape[0] instead of a"
            " fixed batch size"
        )
    if ".numpy()" in text:
        return f"the model leaves PyTorch for NumPy{at}; use tensor operations"
    return f"torch.export cannot capture the model{at}: {_brief(error)}"


def _brief(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0].strip()}" if lines else type(error).__name__


def _line_of(error: BaseException) -> str:
    """The innermost line of the user's own code in an error's traceback."""
    found = ""
    seen: set[int] = set()
    chain: BaseException | None = error
    while chain is not None and id(chain) not in seen:
        seen.add(id(chain))
        for frame in traceback.extract_tb(chain.__traceback__):
            if not frame.filename.startswith((_TORCH, _HERE, "<")):
                found = f"{Path(frame.filename).name}:{frame.lineno}: {frame.line}"
        chain = chain.__cause__
    return found


def user_line(node: fx.Node) -> str:
    """The user's own line that a node comes from: ``file.py:12: y = x.flip(0)``; else ''."""
    return _last_user_line(str(node.meta.get("stack_trace") or "").splitlines())


def _last_user_line(stack: list[str]) -> str:
    lines = [line.strip() for line in stack]
    frames = [pair for pair in pairwise(lines) if pair[0].startswith("File ")]
    for header, code in reversed(frames):
        file, _, rest = header.removeprefix('File "').partition('", line ')
        if not file.startswith((_TORCH, _HERE, "<")) and "/torch/" not in file:
            return f"{Path(file).name}:{rest.partition(',')[0]}: {code}"
    return ""


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings of torch.export, and without what it prints and logs of a failure."""
    loggers = [logging.getLogger(name) for name in ("torch", "torch.fx", "torch.export")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


@contextlib.contextmanager
def _whole_attention() -> Iterator[None]:
    """Transformer layers as operations: their fast path is one opaque kernel.

    A mask is what it is: whether it happens to be causal, torch finds out by its values.
    """
    layers: Any = nn.modules.transformer
    before, detect = torch.backends.mha.get_fastpath_enabled(), layers._detect_is_causal_mask
    torch.backends.mha.set_fastpath_enabled(False)
    layers._detect_is_causal_mask = lambda mask, is_causal=None, size=None: bool(is_causal)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
        layers._detect_is_causal_mask = detect


def _without_signature(program: ExportedProgram, inputs: Inputs) -> Captured:
    """The graph of a program with its lifted tensors as ``get_attr`` nodes again."""
    lifted = {
        spec.arg.name: spec
        for spec in program.graph_signature.input_specs
        if spec.kind is not InputKind.USER_INPUT
    }
    graph = fx.Graph()
    constants: dict[str, Tensor] = {}
    made: dict[fx.Node, fx.Node] = {}
    placeholders = []
    for node in program.graph.nodes:
        if node in made:
            continue  # the result of a block
        spec = lifted.get(node.name) if node.op == "placeholder" else None
        if spec is not None:
            name = str(spec.target or node.name)
            made[node] = graph.get_attr(name)
            made[node].meta = dict(node.meta)
            constants[name] = _lifted(program, spec)
        elif node.op == "placeholder":
            if isinstance(node.meta.get("val"), Tensor):
                made[node] = graph.node_copy(node)
                placeholders.append(made[node])
        elif node.op == "output":
            kept = [
                argument
                for argument, spec in zip(
                    node.args[0], program.graph_signature.output_specs, strict=True
                )
                if spec.kind is OutputKind.USER_OUTPUT
            ]
            graph.output(tuple(fx.node.map_arg(kept, made.__getitem__)))
        else:
            _copy_node(graph, node, made, program.graph_module)
    _check_inputs(placeholders, inputs)
    _check_state(program, graph)
    return Captured(
        graph=graph, constants=constants, outputs=program.call_spec.out_spec, modules={}
    )


def _lifted(program: ExportedProgram, spec: Any) -> Tensor:
    if spec.kind in (InputKind.PARAMETER, InputKind.BUFFER) and spec.target in program.state_dict:
        value = program.state_dict[spec.target]
    else:
        value = program.constants[spec.target]
    if not isinstance(value, Tensor):
        raise ConversionError(
            f"the model uses {spec.target!r}, a {type(value).__name__}, which is not a tensor"
        )
    return value.detach()


def _copy_node(
    graph: fx.Graph, node: fx.Node, made: dict[fx.Node, fx.Node], owner: fx.GraphModule
) -> None:
    """Copy a node; blocks under autocast or no_grad are put in their place."""
    if node.op == "get_attr":
        return  # a block, taken up where it is called
    if not isinstance(node.target, torch._ops.HigherOrderOperator):
        made[node] = graph.node_copy(node, made.__getitem__)
        return
    blocks = [
        argument
        for argument in node.args
        if isinstance(argument, fx.Node) and argument.op == "get_attr"
    ]
    name = node.target.name()
    if not name.startswith("wrap") or len(blocks) != 1:
        line = user_line(node)
        raise ConversionError(
            f"the model uses {name}{f' at {line}' if line else ''}, control flow that has no"
            " spiking form; write it as plain tensor operations"
        )
    block: Any = owner.get_submodule(str(blocks[0].target))
    operands = node.args[node.args.index(blocks[0]) + 1 :]
    inner: dict[fx.Node, fx.Node] = {}
    given: Iterator[Any] = iter(operands)
    for part in block.graph.nodes:
        if part.op == "placeholder":
            inner[part] = made[next(given)]
        elif part in inner:
            continue
        elif part.op == "output":
            results: Any = fx.node.map_arg(part.args[0], inner.__getitem__)
            for user in list(node.users):  # each picks one result
                place: Any = user.args[1]
                made[user] = results[place] if isinstance(results, (tuple, list)) else results
        else:
            _copy_node(graph, part, inner, block)


def _check_state(program: ExportedProgram, graph: fx.Graph) -> None:
    changed = [
        spec.target
        for spec in program.graph_signature.output_specs
        if spec.kind is OutputKind.BUFFER_MUTATION
    ]
    changed += [
        str(node.args[0].target)
        for node in graph.nodes
        if mutates(node) and isinstance(node.args[0], fx.Node) and node.args[0].op == "get_attr"
    ]
    if changed:
        raise ConversionError(
            f"the model changes its own tensor {changed[0]!r} whenever it runs, so that its answers"
            " depend on what ran before; leave that out in evaluation mode"
        )


def _check_inputs(placeholders: list[fx.Node], inputs: Inputs) -> None:
    if len(placeholders) != len(inputs.tensors):
        raise ConversionError(
            f"the exported program takes {len(placeholders)} tensors, and the data gives"
            f" {len(inputs.tensors)}"
        )
    for node, x in zip(placeholders, inputs.tensors, strict=True):
        sizes = node.meta["val"].shape
        if not sizes or not isinstance(sizes[0], torch.SymInt):
            raise ConversionError(
                f"the input {node.name!r} has a fixed batch size, {tuple(sizes)}; export it with"
                f" dynamic_shapes that make dimension 0 of every input dynamic"
            )
        if any(isinstance(size, torch.SymInt) for size in sizes[1:]):
            raise ConversionError(
                f"the input {node.name!r} has more than one dynamic size, {tuple(sizes)}; only the"
                " batch may vary"
            )
        if tuple(sizes[1:]) != tuple(x.shape[1:]):
            raise ConversionError(
                f"the exported program takes {tuple(sizes)} and the data gives {tuple(x.shape)}"
            )

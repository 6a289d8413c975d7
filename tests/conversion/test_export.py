"""Exports against the engine, and against the programs that read them."""

from __future__ import annotations

import json
import runpy
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from conversion import AdaFire, ConversionConfig, ExitRule, SpikingModel, convert, profile
from conversion.export import (
    READERS,
    ExportError,
    Program,
    StepModule,
    UnrolledModule,
    binary_trains,
    compare,
    exported,
    nir_graph,
    program_of,
    run_program,
    run_step,
    save_nir,
    save_npz,
    save_onnx,
    save_sinabs,
    save_torch,
)
from conversion.export._nir import missed_sums
from conversion.export._run import RunState

T = 5


class Residual(nn.Module):
    """conv, pool, a shortcut, a branch with a layer of its own, linear."""

    def __init__(self, *, branch: bool = False, largest: bool = False) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, padding=1)
        self.first = nn.ReLU()
        self.inner = nn.Conv2d(4, 4, 3, padding=1, groups=2)
        self.side = nn.Conv2d(4, 4, 1) if branch else nn.Identity()
        self.second = nn.ReLU()
        self.pool = nn.MaxPool2d(2) if largest else nn.AvgPool2d(2)
        self.hidden = nn.Linear(4 * 9, 8)
        self.third = nn.ReLU()
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(self.stem(x))
        y = self.pool(self.second(self.inner(y) + self.side(y)))
        return self.head(self.third(self.hidden(y.flatten(1))))


def images(samples: int = 96) -> Tensor:
    return torch.rand(samples, 2, 6, 6, generator=torch.Generator().manual_seed(0))


def spiking(net: nn.Module | None = None, x: Tensor | None = None, **options) -> SpikingModel:
    torch.manual_seed(0)
    x = images() if x is None else x
    found = profile(net or Residual(), x, feed=options.pop("feed", "static"))
    settings = {"timesteps": T, "phi": 3, "calibration_timesteps": 2, **options}
    return convert(found, ConversionConfig.uniform(found.layers, **settings))


def same_as_the_engine(model: SpikingModel, program: Program, x: Tensor) -> None:
    kept: dict[str, list[Tensor]] = {}
    means, _ = run_program(
        program, x.double(), lambda name, spikes: kept.setdefault(name, []).append(spikes)
    )
    expected = model.simulate(x)
    torch.testing.assert_close(means.float(), expected.logits, atol=1e-5, rtol=1e-4)
    for row, name in enumerate(expected.counts.sources):
        found = torch.stack(kept[name]).abs().flatten(2).sum(2)
        torch.testing.assert_close(found, expected.counts.spikes[row], atol=1e-3, rtol=0, msg=name)
        assert found.sum() > 0


class Six(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act = nn.Conv2d(2, 3, 3, stride=2, dilation=2), nn.ReLU6()
        self.pool, self.head = nn.AdaptiveAvgPool2d(1), nn.Linear(3, 3)
        self.conv.weight.data *= 30

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pool(self.act(self.conv(x))).flatten(1))


@pytest.mark.parametrize("neuron", ["adafire", "dual-threshold"])
@pytest.mark.parametrize("calibration", ["light", "advanced"])
@pytest.mark.parametrize("plain", [False, True])
def test_a_program_is_the_engine_spike_for_spike(neuron: str, calibration: str, plain) -> None:
    model = spiking(neuron=neuron, calibration=calibration)
    program = program_of(model, plain_shortcuts=plain)
    same_as_the_engine(model, program, images()[:16])
    scales = [layer.name for layer in program.layers.values() if layer.kind == "scale"]
    assert scales == ([] if plain else ["first to add"])


@pytest.mark.parametrize("net", [Residual(branch=True), Residual(largest=True), Six()])
def test_programs_of_other_forms(net: nn.Module) -> None:
    model = spiking(net)
    same_as_the_engine(model, program_of(model), images()[:16])


def test_a_program_of_signals_and_of_events() -> None:
    line = nn.Sequential(
        nn.Conv1d(2, 4, 3, padding="same"), nn.ReLU(), nn.AvgPool1d(2), nn.Flatten(),
        nn.Linear(16, 3),
    )  # fmt: skip
    x = torch.rand(64, 2, 8, generator=torch.Generator().manual_seed(1))
    model = spiking(line, x)
    same_as_the_engine(model, program_of(model), x[:8])
    frames = torch.poisson(torch.rand(64, T, 2, 6, 6, generator=torch.Generator().manual_seed(2)))
    model = spiking(Residual(), frames, feed="events", calibration_timesteps=T)
    program = program_of(model)
    means, _ = run_program(program, frames[:8].double())
    expected = model.simulate(frames[:8]).logits
    torch.testing.assert_close(means.float(), expected, atol=1e-5, rtol=1e-4)


class Odd(nn.Module):
    """With an operation that no format knows."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu, self.head = nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Linear(48, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.sigmoid(self.relu(self.conv(x))).flatten(1))


def test_what_no_format_knows_is_named() -> None:
    with pytest.raises(ExportError, match="'sigmoid' is sigmoid, which these formats do not know"):
        program_of(spiking(Odd()))


def test_a_neuron_of_its_own_is_no_adafire() -> None:
    model = spiking()

    class Silent(AdaFire):
        def fire(self, currents: Tensor, state, steps: int) -> Tensor:
            return torch.zeros_like(super().fire(currents, state, steps))

    model.neurons["first"].__class__ = Silent
    with pytest.raises(ExportError, match="Silent is a custom neuron"):
        program_of(model)


def test_the_host_knows_exits_of_classes_alone(tmp_path: Path) -> None:
    dense = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 1))
    rule = ExitRule(score="entropy", thresholds=(0.5,) * T)
    program = program_of(spiking(dense))
    with pytest.raises(ExportError, match="early exit only for classes"):
        save_torch(program, tmp_path / "m.pt2", exit=rule)
    save_torch(program, tmp_path / "m.pt2")


@pytest.mark.parametrize("phi", [1, 3, 7])
def test_bursts_as_single_spikes(phi: int) -> None:
    """A network of binary neurons whose layers take turns sends the same spikes, one at a time."""
    model, x = spiking(phi=phi), images()[:8].double()
    program = program_of(model)
    bursts: dict[str, list[Tensor]] = {}
    means, _ = run_program(program, x, lambda n, s: bursts.setdefault(n, []).append(s))
    singles: dict[str, list[Tensor]] = {}

    def one_at_a_time(layer, current: Tensor, state: RunState) -> Tensor:
        if layer.name not in state.membrane:
            state.membrane[layer.name] = layer.neuron.v_init.expand_as(current)
        state.membrane[layer.name] = state.membrane[layer.name] + current
        sent = torch.zeros_like(current)
        for _ in range(phi):  # nothing arrives in between: the layer before has had its turn
            fires = (state.membrane[layer.name] >= 1).double()
            state.membrane[layer.name] = state.membrane[layer.name] - fires
            singles.setdefault(layer.name, []).append(fires)
            sent = sent + fires
        return sent

    state, total = RunState(), torch.zeros(())
    for _ in range(T):
        total = total + run_step(program, x, state, fire=one_at_a_time)
    torch.testing.assert_close(total / T, means[-1])
    for name, counts in bursts.items():
        trains = binary_trains(torch.stack(counts), phi)
        assert torch.equal(trains, torch.stack(singles[name])), name
        assert set(trains.unique().tolist()) <= {0.0, 1.0}
        assert trains.sum() == torch.stack(counts).sum() > 0
    signed = torch.tensor([[2.0, -1.0, 0.0]])
    assert binary_trains(signed, 2).tolist() == [[1, -1, 0], [1, 0, 0]]


# --- onnx and torch -----------------------------------------------------------------------------


def sessions(path: Path):
    onnxruntime = pytest.importorskip("onnxruntime")
    return onnxruntime.InferenceSession(path)


@pytest.mark.parametrize("neuron", ["adafire", "dual-threshold"])
@pytest.mark.parametrize("largest", [False, True])
def test_onnx_at_any_state(tmp_path: Path, neuron: str, largest: bool) -> None:
    """Outputs within rounding, spikes by potentials, at the first step's state and at a random."""
    pytest.importorskip("onnxscript")
    model = spiking(Residual(largest=largest), neuron=neuron)
    program = program_of(model)
    save_onnx(program, tmp_path / "m.onnx")
    session, module = sessions(tmp_path / "m.onnx"), StepModule(program)
    x = images()[:7]
    generator = torch.Generator().manual_seed(5)
    for _ in range(2):
        first = module.initial(7)
        noise = [
            torch.rand(s.shape, generator=generator) if "membrane" in name
            else torch.randint(0, 3, s.shape, generator=generator).float()
            for name, s in zip(module.names, first, strict=True)
        ]  # fmt: skip
        for state in (first, tuple(noise)):
            names = [entry.name for entry in session.get_inputs()]
            feed = dict(zip(names, [x.numpy(), *[s.numpy() for s in state]], strict=True))
            found = session.run(None, feed)
            with torch.inference_mode():
                expected = module(x, *state)
            assert len(found) == len(expected) == 1 + len(module.names)
            for value, wanted in zip(found, expected, strict=True):
                np.testing.assert_allclose(value, wanted.numpy(), atol=2e-5)


@pytest.mark.parametrize("kind", ["onnx", "torch"])
def test_the_host_leaves_early_as_the_model_does(tmp_path: Path, kind: str) -> None:
    if kind == "onnx":
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")
    x = images()
    for score in ("entropy", "top1", "margin"):
        model = spiking(neuron="dual-threshold")
        certain = model.outputs.confidence(model.simulate(x).at(1), score)  # type: ignore[arg-type]
        limit = float(certain.median())
        model.exit = ExitRule(score=score, thresholds=(limit,) * T)  # type: ignore[arg-type]
        save = save_onnx if kind == "onnx" else save_torch
        save(program_of(model), tmp_path / "m.pt2", exit=model.exit)
        answers, steps = runpy.run_path(str(tmp_path / "m.pt2.host.py"))["run"](x.numpy())
        expected = model.infer(x)
        assert 1 < steps.mean() < T
        assert (steps != expected.timesteps.numpy()).mean() < 0.02, "but for ties"
        same = steps == expected.timesteps.numpy()
        np.testing.assert_allclose(answers[same], expected.logits.numpy()[same], atol=1e-5)


def test_all_steps_in_one_graph(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    model = spiking(Six())
    program = program_of(model)
    with pytest.raises(ExportError, match="ceiling"):
        StepModule(program)
    save_onnx(program, tmp_path / "u.onnx", unrolled=True)
    x = images()[:5]
    (found,) = sessions(tmp_path / "u.onnx").run(None, {"x": x.numpy()})
    np.testing.assert_allclose(found, model.simulate(x).logits.numpy(), atol=1e-5)
    with torch.inference_mode():
        torch.testing.assert_close(
            exported(program, unrolled=True).module()(x), UnrolledModule(program)(x)
        )


# --- NIR ----------------------------------------------------------------------------------------


def emulated(program: Program, reader: str, x: Tensor) -> dict[str, Tensor]:
    """Spikes of each layer as our description of a reader has them, ``(N, T, ...)``."""
    kept: dict[str, list[Tensor]] = {}
    state = RunState()

    def fire(layer, current: Tensor, state: RunState) -> Tensor:
        if layer.name not in state.membrane:
            state.membrane[layer.name] = layer.neuron.v_init.to(current).expand_as(current)
        size = layer.neuron.threshold.to(current).view(-1, *[1] * (current.dim() - 2))
        fired, state.membrane[layer.name] = READERS[reader].step(
            current, state.membrane[layer.name], size
        )
        return fired

    for _ in range(program.timesteps):
        run_step(program, x, state, lambda n, s: kept.setdefault(n, []).append(s), fire=fire)
    return {name: torch.stack(found, 1) for name, found in kept.items()}


@pytest.mark.parametrize("phi", [3, 30])
def test_sinabs_runs_what_we_say_it_runs(tmp_path: Path, phi: int) -> None:
    """conv, pool, shortcut, linear: its own spikes, against ours and against our description."""
    nir = pytest.importorskip("nir")
    sinabs_nir = pytest.importorskip("sinabs.nir")
    layers = pytest.importorskip("sinabs.layers")
    net = Residual()
    for layer in (net.inner, net.hidden):
        layer.weight.data.abs_()  # no potential falls to where sinabs stops it
    model = spiking(net, phi=phi, calibration="none")
    x = images()[:6]
    agreement, files = save_nir(
        model, tmp_path / "m.nir", reader="sinabs", x=images(), approximate=True
    )
    assert [f.name for f in files] == ["m.nir", "m.nir.json", "m.nir.npz"]
    side = np.load(tmp_path / "m.nir.npz")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network = sinabs_nir.from_nir(nir.read(tmp_path / "m.nir"), batch_size=len(x))
    seen: dict[str, Tensor] = {}
    for name, layer in network.named_modules():
        if isinstance(layer, layers.IAFSqueeze):
            start = torch.tensor(side[f"v_init/{name}"])
            layer.v_mem = start.expand(len(x), *start.shape).clone()
            layer.register_forward_hook(
                lambda m, i, out, name=name: seen.__setitem__(name, out.detach())
            )
    with torch.no_grad():
        network(x.repeat_interleave(T, 0))
    program = program_of(model, plain_shortcuts=True)
    described = emulated(program, "sinabs", x.double())
    for name, spikes in described.items():
        foreign = seen[name].unflatten(0, (len(x), T))
        assert torch.equal(foreign.double(), spikes), name
        assert spikes.sum() > 0
    golden = all(
        bool((seen[n].unflatten(0, (6, T)).transpose(0, 1) == torch.tensor(
            side[f"spikes/{n}"][:, :6]).float()).all())
        for n in described
    )  # fmt: skip
    assert golden or not agreement.exact
    assert (phi == 30) == agreement.exact, "a largest φ of 3 is met, one of 30 is not"


@pytest.mark.parametrize(
    ("net", "options"),
    [
        ({}, {}),
        ({"branch": True}, {"phi": 1}),
        ({"largest": True}, {"calibration": "advanced"}),
        ({"branch": True, "largest": True}, {"feed": "frames"}),
    ],
)
def test_the_sinabs_file_fires_the_same_spikes(
    tmp_path: Path, net: dict[str, bool], options: dict[str, Any]
) -> None:
    """Shortcuts with layers of their own, max pooling, φ and initial potentials included."""
    pytest.importorskip("sinabs")
    x = images()
    if "feed" in options:
        x = torch.stack([x * (t + 1) / 3 for t in range(T)], 1)
    model = spiking(Residual(**net), x, **options)
    program = program_of(model)
    files = save_sinabs(program, tmp_path / "m.sinabs.npz")
    assert [f.name for f in files] == ["m.sinabs.npz", "m.sinabs.py"]
    network = runpy.run_path(str(files[1]))["network"](batch_size=6)
    seen: dict[str, list[Tensor]] = {}
    for key, name, _ in network.wiring:
        network.modules_of[key].register_forward_hook(
            lambda _, __, out, name=name: seen.setdefault(name, []).append(
                out.unflatten(0, (6, -1))
            )
        )
    kept: dict[str, list[Tensor]] = {}
    means, _ = run_program(
        program, x[:6].double(), lambda name, spikes: kept.setdefault(name, []).append(spikes)
    )
    steps = (x[:6] if "feed" in options else x[:6, None].expand(-1, T, *x.shape[1:])).contiguous()
    torch.testing.assert_close(network.answers(x[:6]), means[-1].float(), atol=1e-5, rtol=1e-4)
    with pytest.raises(ValueError, match="takes 6 samples, got 4"):
        network.answers(x[:4])
    for parts in ((T,), (2, 3)):  # a second batch; the second time in two parts
        for noted in seen.values():
            noted.clear()
        network.reset()
        outputs = [network(part.flatten(0, 1)) for part in steps.split(parts, 1)]
        found = torch.cat([out.unflatten(0, (6, -1)) for out in outputs], 1)
        torch.testing.assert_close(found.mean(1), means[-1].float(), atol=1e-5, rtol=1e-4)
        for name, spikes in kept.items():
            assert torch.equal(torch.cat(seen[name], 1).double(), torch.stack(spikes, 1)), name
            assert torch.stack(spikes).sum() > 0


class Named(nn.Module):
    """A sum of a value with itself, and names that Python's own containers have."""

    def __init__(self) -> None:
        super().__init__()
        self.add_module("keys", nn.Conv2d(2, 3, 3))
        self.add_module("items", nn.ReLU())
        self.head = nn.Linear(48, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = getattr(self, "items")(getattr(self, "keys")(x))  # noqa: B009 - no method is meant
        return self.head((y + y).flatten(1))


def test_the_sinabs_file_of_an_odd_network(tmp_path: Path) -> None:
    pytest.importorskip("sinabs")
    program = program_of(spiking(Named()))
    _, builder = save_sinabs(program, tmp_path / "m.sinabs.npz")
    found = runpy.run_path(str(builder))["network"](batch_size=4).answers(images()[:4])
    means, _ = run_program(program, images()[:4].double())
    torch.testing.assert_close(found, means[-1].float(), atol=1e-5, rtol=1e-4)


def test_sinabs_has_no_negative_spikes_and_no_ceiling(tmp_path: Path) -> None:
    plain = program_of(spiking(), plain_shortcuts=True)
    with pytest.raises(ExportError, match="'second' needs a threshold of 1; see program_of"):
        save_sinabs(plain, tmp_path / "c.npz")
    signed = program_of(spiking(neuron="dual-threshold"))
    with pytest.raises(ExportError, match="'first' fires negative spikes, which sinabs does not"):
        save_sinabs(signed, tmp_path / "a.npz")
    clipped = program_of(spiking(nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU6(), nn.Flatten())))
    with pytest.raises(ExportError, match=r"has a ceiling \(ReLU6\), which sinabs does not"):
        save_sinabs(clipped, tmp_path / "b.npz")
    assert list(tmp_path.iterdir()) == []


def test_spikingjelly_and_snntorch_run_what_we_say(tmp_path: Path) -> None:
    pytest.importorskip("nir")
    exchange = pytest.importorskip("spikingjelly.activation_based.nir_exchange")
    snntorch = pytest.importorskip("snntorch.import_nir")
    line = nn.Sequential(nn.Linear(72, 10), nn.ReLU(), nn.Linear(10, 3))
    model = spiking(line, images().flatten(1), phi=1)
    program = program_of(model)
    x = images()[:6].flatten(1)
    graph = nir_graph(program)
    for name in ("spikingjelly", "snntorch"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if name == "spikingjelly":
                network = exchange.import_from_nir(graph, dt=1.0)
            else:
                network = snntorch.import_from_nir(nir_graph(program))
                for module in network.modules():
                    if hasattr(module, "init_hidden"):
                        module.init_hidden = True  # as read, its neurons hand on a pair
        found, state = [], None
        with torch.no_grad():
            for _ in range(T):
                given = (x,) if state is None else (x, state)
                out = network(*given)
                value, state = out if isinstance(out, tuple) else (out, None)
                found.append(value)
        kept = emulated(started_at_zero(program), name, x.double())
        expected = torch.nn.functional.linear(
            kept["1"], program.layers["2"].weight, program.layers["2"].bias
        )
        torch.testing.assert_close(torch.stack(found, 1).double(), expected, atol=1e-4, rtol=1e-4)


def started_at_zero(program: Program) -> Program:
    from dataclasses import replace

    layers = {
        name: replace(layer, neuron=replace(layer.neuron, v_init=layer.neuron.v_init * 0))
        if layer.neuron
        else layer
        for name, layer in program.layers.items()
    }
    return replace(program, layers=layers)


def test_a_network_that_a_reader_runs_otherwise_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("nir")
    path, x = tmp_path / "m.nir", images()
    with pytest.raises(ExportError, match=r"snntorch would run another network: .* it leaks"):
        save_nir(spiking(), path, reader="snntorch", x=x)
    with pytest.raises(ExportError, match="dual-threshold neurons fire negative spikes"):
        save_nir(spiking(neuron="dual-threshold"), path, reader="sinabs", x=x)
    with pytest.raises(ExportError, match="would miss a branch of the sums at second"):
        save_nir(spiking(Residual(branch=True)), path, reader="sinabs", x=x, approximate=True)
    with pytest.raises(ExportError, match="NIR has no node for 'pool'"):
        save_nir(spiking(Residual(largest=True)), path, reader="sinabs", x=x)
    with pytest.raises(ExportError, match="reader 'brian' is unknown; known: sinabs"):
        save_nir(spiking(), path, reader="brian", x=x)
    assert not list(tmp_path.iterdir())
    agreement, _ = save_nir(spiking(), path, reader="snntorch", x=x, approximate=True)
    about = json.loads((tmp_path / "m.nir.json").read_text())
    assert about["agreement"]["differing"] == agreement.differing > 0.01
    assert about["layers"]["first"] == {"phi": 3, "signed": False}


def test_depth_first_runs_miss_a_branch() -> None:
    chain = [("in", "a"), ("a", "b"), ("b", "out")]
    assert missed_sums(chain) == []
    assert missed_sums([*chain, ("a", "out")]) == []
    assert missed_sums([("in", "a"), ("a", "b"), ("a", "c"), ("b", "d"), ("c", "d")]) == ["d"]


def test_our_own_neuron_as_a_reader_agrees() -> None:
    """A reader without limits is the neuron of a φ that is never met."""
    from dataclasses import replace

    model = spiking(phi=60, rho=1.0)
    free = replace(READERS["sinabs"], floor=None)
    found = compare(program_of(model), free, images()[:8])
    assert found.exact
    assert found.output == 0
    assert found.decisions == 1


# --- npz ----------------------------------------------------------------------------------------


def test_npz_holds_no_code(tmp_path: Path) -> None:
    model = spiking()
    save_npz(program_of(model), tmp_path / "m.npz", exit=None)
    data = np.load(tmp_path / "m.npz", allow_pickle=False)
    about = json.loads(str(data["program"]))
    assert about["schema"] == "spikefront/npz"
    assert [layer["kind"] for layer in about["layers"]][:3] == ["input", "conv", "fire"]

from __future__ import annotations

import copy
import threading
import warnings
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.utils import parametrizations

from conversion import (
    Classes,
    ConfigError,
    ConversionConfig,
    ConversionError,
    DeployError,
    Inputs,
    convert,
    load,
    profile,
)
from conversion.graph import Network, Role, Timing, build_network
from conversion.graph._operations import name_of
from conversion.simulation import ann_answers
from tests.conftest import Form, settle


def operations(network: Network) -> list[str]:
    return [name_of(node) for node in network.graph.nodes if node.op == "call_function"]


def test_names_and_shapes_of_spiking_layers(small_net: nn.Module, small_inputs: Tensor) -> None:
    network = build_network(small_net, small_inputs)
    assert list(network.sites) == ["relu", "relu_1", "relu_2"]
    assert [site.shape for site in network.sites.values()] == [(4, 10, 10), (4, 5, 5), (6, 2, 2)]
    assert network.analog_nodes == []


def test_the_caller_s_model_is_untouched(small_net: nn.Module, small_inputs: Tensor) -> None:
    small_net.train()
    before = copy.deepcopy(small_net.state_dict())
    build_network(small_net, small_inputs)
    assert small_net.training
    assert small_net.relu.inplace
    assert all(torch.equal(value, before[key]) for key, value in small_net.state_dict().items())


@pytest.mark.parametrize(
    ("layer", "norm", "shape"),
    [
        (nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4), (5, 3, 9)),
        (nn.Conv2d(4, 6, 3, stride=2, groups=2), nn.BatchNorm2d(6), (5, 4, 9, 9)),
        (nn.Conv3d(2, 4, 2, bias=False), nn.BatchNorm3d(4), (5, 2, 4, 4, 4)),
        (nn.ConvTranspose2d(3, 4, 3, stride=2), nn.BatchNorm2d(4), (5, 3, 5, 5)),
        (nn.Linear(7, 4), nn.BatchNorm1d(4), (5, 7)),
    ],
)
def test_batch_norm_is_folded(layer: nn.Module, norm: nn.Module, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    x = torch.randn(shape)
    model = settle(nn.Sequential(layer, norm, nn.ReLU()), x)
    network = build_network(model, x)
    assert "batch_norm" not in operations(network)
    with torch.no_grad():
        torch.testing.assert_close(
            ann_answers(network, x)["output"], model(x), rtol=1e-4, atol=1e-5
        )


def test_batch_norm_before_relu_stays() -> None:
    x = torch.randn(8, 3, 6, 6)
    model = settle(nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 2, 3)), x)
    network = build_network(model, x)
    assert "batch_norm" in operations(network)


def test_a_convolution_with_two_users_keeps_its_norm() -> None:
    x = torch.randn(8, 3, 6, 6)
    model = Form(
        lambda m, v: F.relu(m.norm(m.conv(v))) + m.conv(v),
        conv=nn.Conv2d(3, 3, 1),
        norm=nn.BatchNorm2d(3),
    )
    settle(model, x)
    network = build_network(model, x)
    with torch.no_grad():
        torch.testing.assert_close(
            ann_answers(network, x)["output"], model(x), rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize(
    ("function", "ceiling"),
    [
        (lambda m, v: F.relu6(v), 6.0),
        (lambda m, v: F.hardtanh(v, 0.0, 2.5), 2.5),
        (lambda m, v: v.relu_(), None),
        (lambda m, v: F.relu(v, inplace=True), None),
    ],
)
def test_functional_activations_spike(function, ceiling: float | None) -> None:
    network = build_network(
        Form(lambda m, v: function(m, m.conv(v)), conv=nn.Conv2d(1, 2, 3)),
        torch.randn(2, 1, 5, 5),
    )
    (site,) = network.sites.values()
    assert site.ceiling == ceiling


def test_a_static_stem_is_told_from_what_changes(
    small_net: nn.Module, small_inputs: Tensor
) -> None:
    network = build_network(small_net, small_inputs)
    assert network.timing["conv1"] is Timing.STATIC
    assert network.timing["conv2"] is Timing.TEMPORAL
    assert network.roles["pool"] is Role.GATE


def test_the_fingerprint_is_of_weights_and_operations(
    small_net: nn.Module, small_inputs: Tensor
) -> None:
    before = build_network(small_net, small_inputs).fingerprint
    assert build_network(copy.deepcopy(small_net), small_inputs).fingerprint == before
    with torch.no_grad():
        small_net.fc.bias[0] += 1e-6
    assert build_network(small_net, small_inputs).fingerprint != before
    relu, relu6 = (nn.Sequential(nn.Flatten(), act) for act in (nn.ReLU(), nn.ReLU6()))
    x = torch.rand(2, 3)
    assert build_network(relu, x).fingerprint != build_network(relu6, x).fingerprint
    two, three = (Form(lambda _, v, k=k: F.relu(v * k)) for k in (2, 3))
    assert build_network(two, x).fingerprint != build_network(three, x).fingerprint


def branching(m: Form, v: Tensor) -> Tensor:
    y = m.conv(v)
    if y.sum() > 0:  # decided here
        return y
    return -y


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (branching, r"decides by the values of a tensor at test_graph.py:\d+: if y.sum\(\) > 0"),
        (lambda m, v: torch.roll(F.relu(m.conv(v)), 1, 0), "'roll'.* mixes the samples"),
        (lambda m, v: v - v.mean(0), "'mean'.* mixes the samples of a batch: it gives"),
        (lambda m, v: F.relu(m.conv(v.softmax(0))), "'softmax' .* mixes the samples of a batch"),
        (lambda m, v: F.relu(m.conv(v)).cumsum(0), "'cumsum' .* mixes the samples"),
        (lambda m, v: F.relu(m.conv(v)).sort(0).values, "'sort' .* mixes the samples"),
        (lambda m, v: F.relu(m.conv(v)) / v.shape[0], "'div' .* mixes the samples"),
        (lambda m, v: m.conv(v) if v.shape[0] > 2 else -m.conv(v), "for 2 samples.*number of sam"),
        (lambda m, v: F.relu(m.conv(v)).reshape(2, -1, 18), "moves values from sample to sample"),
        (
            lambda m, v: F.relu(m.conv(v)).view(3, -1),
            r"works for one size of the batch only in test_graph.py:\d+: .*view\(3, -1\)",
        ),
        (lambda m, v: F.relu(m.conv(v)).mean(), r"'mean' .* it gives \(\) for N samples"),
        (lambda m, v: F.relu(m.conv(v[:, :1])), "does not run on inputs of the shape"),
        (lambda m, v: F.relu(m.conv(v)).chunk(2)[0] + 1, "samples"),
        (lambda m, v: m.norm(F.relu(m.conv(v))), "by the statistics of each batch"),
        (lambda m, v: F.relu(m.conv(v)) + torch.rand(1), "'rand' .* draws random numbers"),
        (lambda m, v: F.dropout(m.conv(v)), "draws random .* pass training=self.training"),
        (lambda m, v: m.conv(v)[v[:, :, 1:-1, 1:-1] > 0], "'index'.* as other values decide"),
        (lambda m, v: torch.from_numpy(m.conv(v).numpy()), "leaves PyTorch for NumPy at test_gra"),
        (lambda m, v: m.count.add_(1) * m.conv(v), "changes its own tensor 'count'"),
    ],
)
def test_errors_name_what_is_wrong(function, message: str) -> None:
    """The operation, the user's own line, and what to change."""
    norm = nn.BatchNorm2d(2, track_running_stats=False)
    model = Form(function, conv=nn.Conv2d(2, 2, 3), norm=norm)
    model.register_buffer("count", torch.zeros(()))
    with pytest.raises(ConversionError, match=message):
        build_network(model, torch.randn(3, 2, 5, 5))


def test_scripted_modules_are_refused_in_one_sentence() -> None:
    scripted = torch.jit.script(nn.Sequential(nn.Linear(3, 4), nn.ReLU()))
    x = torch.randn(2, 3)
    with pytest.raises(ConversionError, match="the model is TorchScript, whose operations cannot"):
        build_network(scripted, x)
    with pytest.raises(ConversionError, match="module '0' is TorchScript"):
        build_network(nn.Sequential(scripted, nn.Linear(4, 2)), x)


def test_parameters_that_are_no_numbers_are_named() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    with torch.no_grad():
        model[2].bias[0] = torch.nan
    with pytest.raises(ConversionError, match=r"the parameter '2\.bias' of the model contains NaN"):
        build_network(model, torch.randn(2, 3))
    with torch.no_grad():
        model[2].bias[0] = torch.inf
    with pytest.raises(ConversionError, match=r"'2\.bias' of the model contains infinity"):
        build_network(model, torch.randn(2, 3))


class Several(nn.Module):
    """Two inputs, one of them a keyword that may be missing, and a dict of outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor, *, y: Tensor | None = None, scale: float = 1.0) -> dict:
        z = F.relu(self.a(x)) * scale
        z = z if y is None else z + F.relu(self.a(y))
        return {"answers": (self.b(z), z.argmax(1)), "size": x.shape[0], "logits": self.b(2 * z)}


def test_several_inputs_and_outputs_keep_their_structure() -> None:
    torch.manual_seed(0)
    net, x = Several(), torch.randn(40, 3)
    inputs = Inputs((x,), {"y": torch.randn(40, 3), "scale": 2.0})
    found = profile(net, inputs)
    assert list(found.layers) == ["relu", "relu_1"]
    model = convert(found, ConversionConfig.uniform(found.layers, timesteps=64, phi=4))
    with torch.no_grad():
        expected = net(*inputs.args, **inputs.kwargs)
    for given in (inputs, [inputs], [(inputs, None)]):
        assert profile(net, given).data_fingerprint == found.data_fingerprint
    run = model.simulate(inputs)
    assert run.logits is run.outputs["logits"] or torch.equal(run.logits, run.outputs["logits"])
    answer = model(x, y=inputs.kwargs["y"], scale=2.0)
    for outputs in (answer, {k: run.outputs[k] for k in ("answers", "logits")}):
        last = outputs if outputs is answer else {
            "answers": tuple(o[-1] for o in outputs["answers"]), "logits": outputs["logits"][-1]
        }  # fmt: skip
        torch.testing.assert_close(last["logits"], expected["logits"], rtol=0.05, atol=0.05)
        torch.testing.assert_close(last["answers"][0], expected["answers"][0], rtol=0.05, atol=0.05)
        assert last["answers"][1].dtype == torch.int64
        same = last["answers"][1] == expected["answers"][1]
        assert float(same.double().mean()) > 0.9
    with pytest.raises(ConversionError, match="the structure that the network was profiled with"):
        model.simulate(Inputs((x,), {"y": x, "scale": 3.0}))
    with pytest.raises(ConversionError, match="inputs must have the shape"):
        model.simulate(x)


def test_the_caller_says_which_output_holds_the_logits() -> None:
    net = Form(lambda m, v: (m.a(v), F.relu(m.b(v))), a=nn.Linear(3, 4), b=nn.Linear(3, 2))
    x = torch.randn(4, 3)
    with pytest.raises(ConversionError, match=r"several tensors: 0, 1; say which holds the logits"):
        profile(net, x)
    assert profile(net, x, outputs=1).outputs == Classes(output="1")
    with pytest.raises(ConversionError, match="the model has no output 'c'; it returns 0, 1"):
        profile(net, x, outputs="c")


def test_an_exported_program_is_a_model_too(small_net: nn.Module, small_inputs: Tensor) -> None:
    dim = {"x": {0: torch.export.Dim("batch")}}
    program = torch.export.export(small_net, (small_inputs,), dynamic_shapes=dim)
    direct, found = profile(small_net, small_inputs), profile(program, small_inputs)
    assert found.network.fingerprint == direct.network.fingerprint
    torch.testing.assert_close(found.expected["output"], direct.expected["output"])
    fixed = torch.export.export(small_net, (small_inputs,))
    with pytest.raises(ConversionError, match="has a fixed batch size"):
        profile(fixed, small_inputs)


def test_wrappers_are_taken_off(small_net: nn.Module, small_inputs: Tensor) -> None:
    plain = build_network(small_net, small_inputs)
    for wrapped in (
        nn.DataParallel(small_net),
        torch.compile(small_net),
        fx.symbolic_trace(small_net),
    ):
        network = build_network(wrapped, small_inputs)
        assert network.fingerprint == plain.fingerprint
        assert list(network.sites) == list(plain.sites)


def test_models_are_never_copied(small_inputs: Tensor) -> None:
    """A lock and an open file hang on it, and old-style weight norm holds a graph tensor."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net = nn.Sequential(
            torch.nn.utils.weight_norm(nn.Conv2d(2, 3, 3)), nn.ReLU(), nn.Flatten(),
            torch.nn.utils.spectral_norm(nn.Linear(192, 3)),
        )  # fmt: skip
    net.lock, net.file = threading.Lock(), Path(__file__).open()  # noqa: SIM115
    net(small_inputs).sum().backward()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    network = build_network(net, small_inputs)
    assert net.training
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    net.file.close()
    with torch.no_grad():
        expected = net.eval()(small_inputs)
        torch.testing.assert_close(ann_answers(network, small_inputs)["output"], expected)


@pytest.mark.parametrize("norm", [parametrizations.weight_norm, parametrizations.spectral_norm])
def test_parametrised_weights_are_those_of_evaluation(norm, small_inputs: Tensor) -> None:
    """A model left in training mode: its spectral norm would take another step."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), norm(nn.Linear(200, 20)), nn.ReLU(), norm(nn.Linear(20, 4)))
    for parameter in net.parameters():
        nn.init.normal_(parameter)
    network = build_network(net.train(), small_inputs)
    assert net.training
    with torch.no_grad():
        torch.testing.assert_close(
            ann_answers(network, small_inputs)["output"], net.eval()(small_inputs)
        )


def changed(name: str) -> tuple[nn.Module, nn.Module, Tensor]:
    """Two models that differ in one thing that no parameter shows, and inputs for both."""
    x = torch.rand(4, 2, 6, 6)

    def form(function, **modules: nn.Module) -> nn.Module:
        return Form(function, **modules)

    def attribute(value: float) -> nn.Module:
        net = Form(lambda m, v: F.relu(v) * m.scale)
        net.scale = torch.full((1,), value)
        return net

    def buffer(value: float) -> nn.Module:
        net = Form(lambda m, v: F.relu(v) * m.scale)
        net.register_buffer("scale", torch.full((1,), value), persistent=False)
        return net

    def up(corners: bool) -> nn.Module:
        return nn.Sequential(nn.ReLU(), nn.Upsample(9, mode="bilinear", align_corners=corners))

    def attention(heads: int) -> nn.Module:
        torch.manual_seed(0)
        inner = nn.MultiheadAttention(4, heads, batch_first=True)
        return Form(lambda m, v: m.a(t := F.relu(v).reshape(len(v), -1, 4), t, t)[0], a=inner)

    def layer(first: bool) -> nn.Module:
        torch.manual_seed(0)
        inner = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True, norm_first=first)
        return Form(lambda m, v: m.a(v.reshape(len(v), -1, 4)), a=inner)

    pairs = {
        "attribute": (attribute(1.0), attribute(2.0)),
        "buffer": (buffer(1.0), buffer(2.0)),
        "literal": (form(lambda m, v: F.relu(v) * 2.0), form(lambda m, v: F.relu(v) * 3.0)),
        "count_include_pad": tuple(
            nn.Sequential(nn.ReLU(), nn.AvgPool2d(3, 1, 1, count_include_pad=c))
            for c in (True, False)
        ),
        "divisor_override": tuple(
            nn.Sequential(nn.ReLU(), nn.AvgPool2d(3, divisor_override=d)) for d in (5, 9)
        ),
        "align_corners": (up(True), up(False)),
        "heads": (attention(1), attention(2)),
        "norm_first": (layer(True), layer(False)),
        "negative_slope": tuple(nn.Sequential(nn.ReLU(), nn.LeakyReLU(s)) for s in (0.1, 0.2)),
        "eps": tuple(nn.Sequential(nn.ReLU(), nn.LayerNorm(6, eps=e)) for e in (1e-5, 1e-2)),
        "stride": tuple(nn.Sequential(nn.ReLU(), nn.MaxPool2d(2, s)) for s in (1, 2)),
        "which": (form(lambda m, v: v.relu().max(1).values), form(lambda m, v: v.relu().min(1)[0])),
        "result": (form(lambda m, v: v.relu().max(1)[0]), form(lambda m, v: v.relu().max(1)[1])),
    }
    return (*pairs[name], x)


@pytest.mark.parametrize(
    "name",
    ["attribute", "buffer", "literal", "count_include_pad", "divisor_override", "align_corners",
     "heads", "norm_first", "negative_slope", "eps", "stride", "which", "result"],
)  # fmt: skip
def test_the_fingerprint_tells_models_apart_that_have_the_same_parameters(name: str) -> None:
    first, second, x = changed(name)
    one, two = (build_network(net, x).fingerprint for net in (first, second))
    assert one != two
    assert build_network(first, x[:3]).fingerprint == one, "another batch, the same model"


def test_what_is_no_model_is_said(tmp_path: Path) -> None:
    x, net = torch.randn(8, 10), nn.Sequential(nn.Linear(10, 4), nn.ReLU())
    for model, kind in (
        (net.state_dict(), "a OrderedDict"),
        (nn.Linear, "a class"),
        (len, "a buil"),
    ):
        with pytest.raises(ConversionError, match=f"a model is an nn.Module or .*, got {kind}"):
            profile(model, x)
    found = profile(net, x)
    assert repr(found) == "Profile(1 spiking layers, 8 samples of (N, 10))"
    config = ConversionConfig.uniform(found.layers, timesteps=2)
    assert "T = 2, 1 spiking layers (adafire), light calibration" in repr(convert(found, config))
    for arguments in ((net, config), (found, {"timesteps": 2})):
        with pytest.raises(
            ConfigError, match=r"convert takes the result of profile\(model, data\)"
        ):
            convert(*arguments)
    with pytest.raises(ConfigError, match="layers must map layer names to LayerConfig, got Linear"):
        ConversionConfig.uniform(net, timesteps=2)
    with pytest.raises(DeployError, match="load takes the path of the JSON file first"):
        load(net, tmp_path / "a.json")
    with pytest.raises(ConfigError, match="the device 'quantum' is not available"):
        profile(net, x, device="quantum")


def test_a_fixed_batch_that_fits_the_data_is_said() -> None:
    net = Form(lambda m, v: F.relu(m.a(v)).view(8, 16) + 0, a=nn.Linear(10, 16))
    with pytest.raises(ConversionError, match="for batches of 8 samples and not of 3"):
        profile(net, torch.randn(8, 10))


def test_modules_give_their_names_to_what_they_are_there_for() -> None:
    """And not to the zeros that a recurrent module begins with."""
    net = Form(lambda m, v: m.out(m.rnn(F.relu(m.a(v)))[0][:, -1]), a=nn.Linear(8, 6),
               rnn=nn.GRU(6, 5, batch_first=True), out=nn.Linear(5, 2))  # fmt: skip
    assert build_network(net, torch.randn(3, 4, 8)).analog_nodes == ["rnn"]

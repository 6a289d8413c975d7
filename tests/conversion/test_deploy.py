from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from conversion import (
    ConfigError,
    ConversionConfig,
    DeployConfig,
    DeployError,
    ExitRule,
    FileError,
    Learned,
    SpikefrontError,
    SpikingModel,
    _deploy,
    convert,
    load,
    profile,
    save,
    sha256,
    write_file,
)


@pytest.fixture
def model(small_net: nn.Module, small_inputs: Tensor) -> SpikingModel:
    found = profile(small_net, small_inputs)
    made = convert(found, ConversionConfig.uniform(found.layers, timesteps=4, phi=2, rho=1.5))
    made.exit = ExitRule(score="entropy", thresholds=(0.1, 0.2, 0.3, 0.4))
    return made


def edit(path: Path, change) -> None:
    """Change the JSON and repair its checksum, as a careful tamperer would."""
    body = json.loads(path.read_text())
    body.pop("checksum")
    change(body)
    text = json.dumps(body, sort_keys=True, separators=(",", ":"))
    path.write_text(json.dumps({**body, "checksum": sha256(text.encode())}))


def test_a_saved_model_comes_back_bit_for_bit(
    model: SpikingModel, small_net: nn.Module, small_inputs: Tensor, tmp_path: Path
) -> None:
    written = save(model, tmp_path / "a.json", provenance={"trial": 3})
    assert DeployConfig.read(tmp_path / "a.json") == written
    again = load(tmp_path / "a.json", small_net)
    assert torch.equal(again.simulate(small_inputs).logits, model.simulate(small_inputs).logits)
    assert torch.equal(again.infer(small_inputs).timesteps, model.infer(small_inputs).timesteps)


def test_only_two_files_are_left(model: SpikingModel, tmp_path: Path) -> None:
    config = save(model, tmp_path / "a.json")
    save(model, tmp_path / "a.json")
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["a.json", config.tensors])


def test_another_model_is_refused(
    model: SpikingModel, small_net: nn.Module, tmp_path: Path
) -> None:
    save(model, tmp_path / "a.json")
    with torch.no_grad():
        small_net.fc.weight.mul_(2)
    with pytest.raises(DeployError, match="belongs to another model"):
        load(tmp_path / "a.json", small_net)


def test_tampered_tensors_are_refused(
    model: SpikingModel, small_net: nn.Module, tmp_path: Path
) -> None:
    config = save(model, tmp_path / "a.json")
    file = tmp_path / config.tensors
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))
    with pytest.raises(DeployError, match=r"\.safetensors was altered"):
        load(tmp_path / "a.json", small_net)
    file.unlink()
    with pytest.raises(FileError, match="cannot read"):
        load(tmp_path / "a.json", small_net)


def test_altered_json_is_refused(model: SpikingModel, small_net: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    save(model, path)
    path.write_text(path.read_text().replace('"phi": 2', '"phi": 3', 1))
    with pytest.raises(DeployError, match="its checksum differs"):
        load(path, small_net)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: b.update(version=99), "has version 99 of spikefront/deploy"),
        (lambda b: b.update(schema="else"), "is not a spikefront/deploy file"),
        (lambda b: b["conversion"]["layers"].pop("relu"), "no entry for layer 'relu'"),
        (
            lambda b: b["conversion"]["layers"].update(nose={"phi": 1, "rho": 1.0}),
            "unknown layer 'nose'",
        ),
        (lambda b: b.update(tensors="../x.safetensors"), "must be next to the JSON"),
        (lambda b: b.pop("exit"), "is malformed"),
        (lambda b: b["conversion"].update(timesteps=0), "is malformed.*timesteps"),
    ],
)
def test_wrong_configs_are_named(
    model: SpikingModel, small_net: nn.Module, tmp_path: Path, change, message: str
) -> None:
    path = tmp_path / "a.json"
    save(model, path)
    edit(path, change)
    with pytest.raises(ValueError, match=message):
        load(path, small_net)


def test_a_missing_tensor_is_named(
    model: SpikingModel, small_net: nn.Module, tmp_path: Path
) -> None:
    path = tmp_path / "a.json"
    config = save(model, path)
    tensors = safetensors.torch.load_file(tmp_path / config.tensors)
    tensors.pop("bias/relu_1")
    data = safetensors.torch.save(tensors)
    (tmp_path / config.tensors).write_bytes(data)
    edit(path, lambda b: b.update(tensors_sha256=sha256(data)))
    with pytest.raises(DeployError, match="has no bias/relu_1"):
        load(path, small_net)
    (tmp_path / config.tensors).write_bytes(b"nonsense")
    edit(path, lambda b: b.update(tensors_sha256=sha256(b"nonsense")))
    with pytest.raises(DeployError, match="is not safetensors"):
        load(path, small_net)


def test_what_is_not_json_is_refused(small_net: nn.Module, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(DeployError, match="is not JSON"):
        load(tmp_path / "a.json", small_net)
    with pytest.raises(FileError, match="cannot read"):
        load(tmp_path / "b.json", small_net)


def test_write_file_leaves_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    path = write_file(tmp_path / "sub" / "a.txt", "old")
    assert path.read_text() == "old"
    write_file(path, b"new")
    assert path.read_text() == "new"
    assert [p.name for p in path.parent.iterdir()] == ["a.txt"]
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(FileError, match="cannot write"):
        write_file(blocked / "a.txt", "x")


def test_a_deployed_model_needs_neither_optuna_nor_matplotlib() -> None:
    code = (
        "import sys, conversion, evaluators;"
        "bad = {'optuna', 'matplotlib', 'pandas', 'joblib'} & set(sys.modules);"
        "print(bad or 'none')"
    )
    only_conversion = code.replace(", evaluators", "")
    for source in (only_conversion, code.replace(", 'joblib'", "").replace(", 'pandas'", "")):
        result = subprocess.run(
            [sys.executable, "-c", source], capture_output=True, text=True, check=True
        )
        assert result.stdout.strip() == "none"


def test_an_unknown_type_of_inputs_is_refused(
    model: SpikingModel, small_net: nn.Module, tmp_path: Path
) -> None:
    save(model, tmp_path / "a.json")
    tensor = {"tensor": {"shape": [2, 10, 10], "dtype": "colour"}}
    edit(tmp_path / "a.json", lambda body: body["inputs"].update(args=[tensor]))
    with pytest.raises(DeployError, match=r"inputs' structure has no tensor .*colour"):
        load(tmp_path / "a.json", small_net)


def leaves(value, path=()):
    """Every place in a JSON value, containers among them."""
    yield path
    if isinstance(value, (dict, list)):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from leaves(value[key], (*path, key))


def at(body, path):
    for key in path:
        body = body[key]
    return body


OTHERS = (None, True, -1, 0, 10**30, 1e308, 0.5, "a", "", [], [1], {}, {"a": 1})


def test_any_field_may_be_damaged(
    model: SpikingModel, small_net: nn.Module, small_inputs: Tensor, tmp_path: Path, monkeypatch
) -> None:
    """With the checksum made right again: one of our errors, or a model that runs."""
    path = tmp_path / "a.json"
    save(model, path, provenance={"trial": 3, "where": ["x"]})
    whole = path.read_text()
    network = model.network
    monkeypatch.setattr(_deploy, "build_network", lambda *_, **__: network)  # each time the same
    tried = 0
    for place in leaves(json.loads(whole)):
        if not place or place[0] in ("checksum", "provenance"):
            continue
        for other in (*OTHERS, "deleted"):

            def change(body, place=place, other=other) -> None:
                inside = at(body, place[:-1])
                if other == "deleted":
                    del inside[place[-1]]
                else:
                    inside[place[-1]] = other

            path.write_text(whole)
            edit(path, change)
            tried += 1
            with contextlib.suppress(SpikefrontError):
                load(path, small_net).simulate(small_inputs[:2])
    assert tried > 500


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("theta/relu", torch.ones(3), r"'theta/relu' must be floating-point of the shape \(4,\)"),
        ("theta/relu", torch.ones(4, dtype=torch.int64), "must be floating-point"),
        ("theta/relu", -torch.ones(4), "'theta/relu' must be finite and above zero"),
        ("theta/relu", torch.full((4,), torch.nan), "'theta/relu' must be finite"),
        ("bias/relu", torch.zeros(0), r"'bias/relu' must be .* of the shape \(4,\)"),
        ("bias/relu", torch.full((4,), torch.inf), "'bias/relu' must be finite"),
        ("v_init/relu", torch.zeros(4), r"'v_init/relu' must be .* \(4, 10, 10\), got"),
        ("nose", torch.zeros(4), "has 'nose', which the network does not have"),
        ("weight/nose", torch.zeros(4), "has 'weight/nose', which the network does not have"),
        ("weight/fc.weight", torch.zeros(4), "'weight/fc.weight' must be floating-point of"),
    ],
)
def test_damaged_tensors_are_named(
    model: SpikingModel, small_net: nn.Module, tmp_path: Path, name: str, tensor: Tensor,
    message: str,
) -> None:  # fmt: skip
    config = save(model, tmp_path / "a.json")
    tensors = safetensors.torch.load_file(tmp_path / config.tensors)
    data = safetensors.torch.save({**tensors, name: tensor})
    (tmp_path / config.tensors).write_bytes(data)
    edit(tmp_path / "a.json", lambda b: b.update(tensors_sha256=sha256(data)))
    with pytest.raises(DeployError, match=message):
        load(tmp_path / "a.json", small_net)


def test_files_that_are_no_files(model: SpikingModel, small_net: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    config = save(model, path)
    tensors = tmp_path / config.tensors
    elsewhere = tmp_path / "sub" / config.tensors
    elsewhere.parent.mkdir()
    tensors.rename(elsewhere)
    tensors.symlink_to(elsewhere)
    with pytest.raises(DeployError, match="links to another folder"):
        load(path, small_net)
    tensors.unlink()
    os.mkfifo(tensors)
    with pytest.raises(FileError, match="is not a regular file"):
        load(path, small_net)
    path.write_text("[" * 100_000)
    with pytest.raises(DeployError, match="is not JSON"):
        load(path, small_net)
    path.write_text('{"schema": NaN}')
    with pytest.raises(DeployError, match="NaN is not a valid JSON number"):
        load(path, small_net)


def test_what_json_does_not_have(model: SpikingModel, tmp_path: Path) -> None:
    given = {1: 2, "where": tmp_path, "mean": np.float32(0.5), "all": np.arange(2), "t": (1, 2)}
    save(model, tmp_path / "a.json", provenance=given)
    read = DeployConfig.read(tmp_path / "a.json").provenance
    assert read == {"1": 2, "where": str(tmp_path), "mean": 0.5, "all": [0, 1], "t": [1, 2]}
    for bad, message in (
        ({"loss": float("nan")}, "provenance.loss is nan, which JSON cannot represent"),
        ({"a": [1, {"b": np.inf}]}, r"provenance.a\[1\].b is inf"),
        ({"model": model}, "provenance.model is a SpikingModel, which JSON cannot represent"),
    ):
        with pytest.raises(DeployError, match=message):
            save(model, tmp_path / "b.json", provenance=bad)
        assert not (tmp_path / "b.json").exists()


def test_version_1_is_read_with_a_warning(
    small_net: nn.Module, small_inputs: Tensor, caplog: pytest.LogCaptureFixture
) -> None:
    """A file of the time before ``torch.export``; its fingerprint can no longer be checked."""
    old = Path(__file__).parent / "golden" / "version1.json"
    model = load(old, small_net)
    assert "has version 1 of the format" in caplog.text
    assert model.config.calibration == Learned(iterations=5, energy_weight=0.25)
    assert model.exit == ExitRule(score="entropy", thresholds=(0.5, 0.5, 0.5))
    assert sorted(model.thetas) == ["relu", "relu_1", "relu_2"]
    assert model.simulate(small_inputs).logits.shape == (3, 24, 3)
    other = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU())
    with pytest.raises(ConfigError, match="unknown layer 'relu' in the config"):
        load(old, other)


@pytest.mark.parametrize("version", [2, 3])
def test_earlier_versions_are_read(
    version: int, small_net: nn.Module, small_inputs: Tensor, tmp_path: Path
) -> None:
    """Files as that version wrote them; another PyTorch may capture the model otherwise."""
    golden = Path(__file__).parent / "golden"
    for file in golden.glob(f"version{version}*"):
        shutil.copy(file, tmp_path)
    path = tmp_path / f"version{version}.json"
    found = profile(small_net, small_inputs)
    edit(path, lambda body: body.update(model_fingerprint=found.network.fingerprint))
    model = load(path, small_net)
    assert model.exit == ExitRule(score="entropy", thresholds=(0.1, 0.2, 0.3, 0.4))
    assert {layer.phi for layer in model.config.layers.values()} == {2}
    assert model.config.bits is None
    expected = torch.tensor(DeployConfig.read(path).provenance["logits"])
    torch.testing.assert_close(
        model.simulate(small_inputs).logits[-1, :2], expected, atol=1e-4, rtol=1e-4
    )


def test_what_is_written_keeps_the_published_schema(model: SpikingModel, tmp_path: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads(Path(_deploy.__file__).with_name("deploy.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    save(model, tmp_path / "a.json", provenance={"trial": 3})
    save(model.with_bits(8), tmp_path / "b.json")
    for name in ("a.json", "b.json"):
        body = json.loads((tmp_path / name).read_text())
        validator.validate(body)
        for key in schema["required"]:
            without = {k: v for k, v in body.items() if k != key}
            assert list(validator.iter_errors(without)), key
    body["conversion"]["bits"] = 99
    assert list(validator.iter_errors(body))
    assert schema["properties"]["version"]["const"] == _deploy.VERSION


_LOADS = """
import torch
from torch import nn
from conversion import load
from conversion.export import program_of, save_npz

torch.manual_seed(0)
net = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
for name in ("float.json", "bits.json"):
    model = load(name, net)
    print(model(torch.ones(2, 4)).shape)
    save_npz(program_of(model), "m.npz")
"""


def environment(folder: Path, *packages: str) -> None:
    """A folder of these packages and what they require, like the site-packages of a fresh one."""
    waiting, done = list(packages), set()
    while waiting:
        name = waiting.pop()
        try:
            found = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # an extra
        done.add(name)
        for file in found.files or []:
            top = file.parts[0]
            if top not in ("..", "__pycache__") and not (folder / top).exists():
                (folder / top).symlink_to(Path(str(found.locate_file(top))).resolve())
        for requirement in found.requires or []:
            needed = re.split(r"[^A-Za-z0-9_.-]", requirement)[0]
            if "extra ==" not in requirement and needed not in done:
                waiting.append(needed)


def test_a_model_loads_with_torch_numpy_and_safetensors_alone(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
    found = profile(net, torch.randn(64, 4))
    made = convert(found, ConversionConfig.uniform(found.layers, timesteps=2, phi=2))
    save(made, tmp_path / "float.json")
    save(made.with_bits(6), tmp_path / "bits.json")
    site = tmp_path / "site"
    site.mkdir()
    environment(site, "torch", "numpy", "safetensors")
    (site / "conversion").symlink_to(Path(_deploy.__file__).parent)
    absent = {"optuna", "scipy", "pandas", "matplotlib", "torchvision", "click"}
    assert not absent & {one.name for one in site.iterdir()}
    result = subprocess.run(
        [sys.executable, "-S", "-c", _LOADS],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.stdout.splitlines() == ["torch.Size([2, 3])"] * 2, result.stderr

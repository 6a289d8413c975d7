from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from conversion import (
    ConversionConfig,
    DeployConfig,
    DeployError,
    ExitRule,
    FileError,
    SpikingModel,
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
        (lambda b: b.update(tensors="../x.safetensors"), "must lie beside the JSON"),
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

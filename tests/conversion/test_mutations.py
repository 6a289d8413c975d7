"""Ten thousand damaged files with checksums made right again: the same network, or our error."""

from __future__ import annotations

import contextlib
import json
import os
import random
import resource
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from conversion import (
    ConversionConfig,
    ExitRule,
    SpikefrontError,
    SpikingModel,
    _deploy,
    convert,
    energy_model,
    load,
    profile,
    save,
    sha256,
)
from conversion.targets import check, target
from tests.conversion.test_export import program_of, spiking

VALUES = (
    None, True, False, -1, 0, 1, 2, 7, 2**31, 10**30, -(10**30), 1e308, 1e-320, 0.5, "", "a",
    "adafire", "../x", "\u0000", "a" * 10_000, [], [1], [[]], {}, {"a": 1}, {"name": "light"},
)  # fmt: skip


@pytest.fixture(scope="module")
def model() -> SpikingModel:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
    found = profile(net, torch.randn(64, 4))
    made = convert(found, ConversionConfig.uniform(found.layers, timesteps=2, phi=2))
    made.exit = ExitRule(score="entropy", thresholds=(0.2, 0.4))
    return made


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inside: list[tuple[Any, ...]] = []
    if isinstance(value, dict):
        inside = [place for key in value for place in places(value[key], (*path, key))]
    elif isinstance(value, list):
        inside = [place for i, one in enumerate(value) for place in places(one, (*path, i))]
    return [path, *inside] if path else inside


def mutate(body: dict[str, Any], draw: random.Random) -> None:
    """One change to a JSON value: another one, none, one more, or two changed over."""
    path = draw.choice(places(body))
    holder: Any = body
    for key in path[:-1]:
        holder = holder[key]
    kind = draw.randrange(4)
    if kind == 0:
        holder[path[-1]] = draw.choice(VALUES)
    elif kind == 1:
        del holder[path[-1]]
    elif kind == 2 and isinstance(holder, dict):
        holder[draw.choice(("more", "", "a/b", "timesteps", "0"))] = draw.choice(VALUES)
    else:
        other = draw.choice(places(body))
        source: Any = body
        with contextlib.suppress(KeyError, IndexError, TypeError):
            for key in other:
                source = source[key]
            holder[path[-1]] = json.loads(json.dumps(source))


def sealed(body: dict[str, Any]) -> str:
    body.pop("checksum", None)
    text = json.dumps(body, sort_keys=True, separators=(",", ":"))
    return json.dumps({**body, "checksum": sha256(text.encode())})


def test_damaged_configs(model: SpikingModel, tmp_path: Path, monkeypatch) -> None:
    path, draw, x = tmp_path / "m.json", random.Random(0), torch.randn(3, 4)
    save(model, path, provenance={"trial": 3})
    whole, expected = json.loads(path.read_text()), model.simulate(x).logits
    network = model.network
    monkeypatch.setattr(_deploy, "build_network", lambda *_, **__: network)
    before = memory()
    refused = same = 0
    for _ in range(6000):
        body = json.loads(json.dumps(whole))
        for _ in range(draw.choice((1, 1, 1, 2, 5))):
            mutate(body, draw)
        path.write_text(sealed(body))
        try:
            again = load(path, nn.Identity())
        except SpikefrontError:
            refused += 1
            continue
        if again.config == model.config:
            assert torch.equal(again.simulate(x).logits, expected)
            same += 1
    assert refused > 3000
    assert same > 200
    assert memory() - before < 200 * 2**20


def memory() -> int:
    """Bytes that this process has held at most."""
    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


def test_damaged_tensors(model: SpikingModel, tmp_path: Path, monkeypatch) -> None:
    path, draw, x = tmp_path / "m.json", random.Random(1), torch.randn(3, 4)
    config = save(model, path)
    body, data = json.loads(path.read_text()), (tmp_path / config.tensors).read_bytes()
    network = model.network
    monkeypatch.setattr(_deploy, "build_network", lambda *_, **__: network)
    refused = 0
    for _ in range(2000):
        damaged = bytearray(data)
        for _ in range(draw.choice((1, 1, 2, 8))):
            kind, at = draw.randrange(4), draw.randrange(len(damaged) or 1)
            if kind == 0 and damaged:
                damaged[at] = draw.randrange(256)
            elif kind == 1:
                del damaged[at:]
            elif kind == 2:
                damaged[at:at] = os.urandom(draw.randrange(1, 9))
            elif len(damaged) > 8:  # the header's length, or what it says
                damaged[draw.randrange(8)] = draw.randrange(256)
        (tmp_path / config.tensors).write_bytes(damaged)
        path.write_text(sealed({**body, "tensors_sha256": sha256(bytes(damaged))}))
        try:
            again = load(path, nn.Identity())
        except SpikefrontError:
            refused += 1
            continue
        assert again.simulate(x).logits.shape == (2, 3, 3)
    assert refused > 1000


WORDS = (
    "=", '"', "1e999", "1e300", "nan", "-1", "true", "[1]", "{a=1}", "\n", "[x]", "", "inf",
)  # fmt: skip


@pytest.mark.parametrize("kind", ["energy", "chip"])
def test_damaged_files_of_prices_and_limits(kind: str, tmp_path: Path, model: SpikingModel) -> None:
    folder = Path(_deploy.__file__).parent / (
        "energy/models" if kind == "energy" else "targets/data"
    )
    texts = [file.read_text("utf-8") for file in sorted(folder.glob("*.toml"))]
    if kind == "energy":
        texts = [text.split("\n\n", 2)[1].split("\n", 1)[1] for text in texts]
    program, draw, path = program_of(spiking()), random.Random(2), tmp_path / "x.toml"
    refused = 0
    for _ in range(1000):
        text = draw.choice(texts)
        for _ in range(draw.choice((1, 1, 2, 4))):
            at = draw.randrange(len(text))
            length = draw.choice((0, 1, 5, 20))
            text = text[:at] + draw.choice(WORDS) + text[at + length :]
        path.write_text(text or " ", "utf-8")
        try:
            if kind == "energy":
                priced(energy_model(path), model)
            else:
                check(program, target(path))
        except SpikefrontError:
            refused += 1
    assert refused > 300


def priced(energy, model: SpikingModel) -> None:
    """A model of prices that was read gives finite energies."""
    counts = model.simulate(torch.randn(2, 4)).counts
    runs: Tensor = energy.prices_of(model.costs, counts).run_pj(counts)
    assert bool(torch.isfinite(runs).all())
    assert energy.ann_pj(model.costs) > 0


def test_links_and_pipes_are_refused_at_once(tmp_path: Path) -> None:
    for name, read in (("a.toml", energy_model), ("b.toml", target)):
        os.mkfifo(tmp_path / name)
        with pytest.raises(SpikefrontError, match="not a regular file"):
            read(tmp_path / name)
        with pytest.raises(SpikefrontError, match="cannot read"):
            read(tmp_path / f"none-{name}")

"""Code that the documentation shows does what it says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from conversion.export import FORMATS, Options, program_of, save_npz
from tests.conftest import ROOT, CommandLine
from tests.conversion.test_export import Residual, Six, images, spiking


def blocks(page: str, language: str) -> list[str]:
    text = (ROOT / "docs" / page).read_text("utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def test_a_sixth_task_in_under_60_lines(spikefront: CommandLine, tmp_path: Path) -> None:
    (source,) = [b for b in blocks("tasks.md", "python") if b.startswith("# tags.py")]
    assert len(source.splitlines()) < 60
    (tmp_path / "tags.py").write_text(source)
    (command,) = [b for b in blocks("tasks.md", "sh") if "tags.py" in b]
    words = command.split()
    assert words[0] == "spikefront"
    more = ["--trials", "12", "--calibration", "light", "--timesteps", "1,2,4", "--no-paper"]
    found = spikefront(*words[1:], *more)
    assert "all right" in found.stdout or "all_right" in found.stdout
    task = ["--task", "tags.py:make_task", "--out", "tags"]
    report = spikefront("report", *task, "--json")
    assert '"metric": "all right"' in report.stdout
    evaluated = spikefront("evaluate", "--task", "tags.py:make_task", "--alpha", 0.4, "--json")
    assert '"metric": "all right"' in evaluated.stdout
    spikefront("export", *task, "--max-energy", "10", "--to", "a.json")
    verified = spikefront("verify", "a.json", "--task", "tags.py:make_task")
    assert "the same outputs, bit for bit" in verified.stdout


def test_the_numpy_simulator_is_the_engine(tmp_path: Path) -> None:
    """The whole of docs/export.md's simulator, on a network with every layer that it knows."""
    (source,) = [b for b in blocks("export.md", "python") if "def simulate" in b]
    assert len([line for line in source.splitlines() if line.strip()]) <= 90
    found: dict[str, Any] = {}
    exec(compile(source, "export.md", "exec"), found)
    x = images()[:8]
    for net in (Residual(), Residual(branch=True), Six()):
        for neuron in ("adafire", "dual-threshold"):
            model = spiking(net, neuron=neuron)
            save_npz(program_of(model), tmp_path / "m.npz")
            means = found["simulate"](tmp_path / "m.npz", x.numpy())
            expected = model.simulate(x).logits.numpy()
            np.testing.assert_allclose(means, expected, atol=1e-4)
    for neuron in ("adafire", "dual-threshold"):
        model = spiking(Residual(branch=True), neuron=neuron, bits=4)
        FORMATS["npz"].save(model, tmp_path / "i.npz", Options())
        assert np.load(tmp_path / "i.npz")["inner/weight"].dtype == np.int32
        means = found["simulate"](tmp_path / "i.npz", x.numpy())
        np.testing.assert_allclose(means, model.simulate(x).logits.numpy(), atol=1e-5)

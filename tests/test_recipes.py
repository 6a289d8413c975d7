"""The recipes in docs/recipes: valid by their own tools, and every command in them is one."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest
import yaml
from click.testing import CliRunner

from spikefront.__main__ import cli
from tests.conftest import ROOT

RECIPES = ROOT / "docs" / "recipes"
TOOLS = Path(sys.executable).parent

Answer = Callable[[list[str]], str]


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch) -> Answer:
    """What the command line says to arguments, without doing it; nothing if they are right."""
    monkeypatch.setenv("SPIKEFRONT_STORAGE", "grpc://host:13000")

    def disarm(group: click.Group) -> None:
        for command in group.commands.values():
            monkeypatch.setattr(command, "callback", lambda **options: None)
            if isinstance(command, click.Group):
                disarm(command)

    disarm(cli)
    return lambda arguments: CliRunner().invoke(cli, arguments).output


def test_slurm(answer: Answer) -> None:
    script = RECIPES / "slurm.sh"
    subprocess.run([TOOLS / "shellcheck", script], check=True)
    commands = re.findall(r"^  spikefront (.*) \"\$@\"", script.read_text(), re.MULTILINE)
    assert commands
    for command in commands:
        assert answer(shlex.split(command.replace("$SLURM_CPUS_PER_TASK", "4"))) == ""


def test_kubernetes(answer: Answer) -> None:
    manifest = RECIPES / "kubernetes.yaml"
    subprocess.run([TOOLS / "kubernetes-validate", "--strict", manifest], check=True)
    jobs = list(yaml.safe_load_all(manifest.read_text()))
    assert len(jobs) == 2
    for job in jobs:
        for container in job["spec"]["template"]["spec"]["containers"]:
            assert answer(container["args"]) == ""


def test_compose(answer: Answer) -> None:
    services = yaml.safe_load((RECIPES / "compose.yaml").read_text())["services"]
    ours = [s for s in services.values() if s["image"] == "spikefront" and "entrypoint" not in s]
    assert len(ours) == 3
    for service in ours:
        assert answer(service["command"]) == ""
    for service in services.values():
        assert set(service.get("depends_on", {})) <= set(services)


def test_a_mistake_in_a_recipe_would_be_seen(answer: Answer) -> None:
    assert "Invalid value for '--threads'" in answer(["worker", "--threads", "0"])
    assert "No such option '--prot'" in answer(
        ["storage", "serve", "--storage", "x", "--prot", "1"]
    )

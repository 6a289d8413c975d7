"""What the command line says and reads before it loads anything."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import spikefront
from spikefront import options
from spikefront.__main__ import cli
from tests.conftest import ROOT, CommandLine

NAMED = [value for value in vars(options).values() if isinstance(value, options.Named)]


@pytest.mark.parametrize("kind", NAMED, ids=lambda kind: kind.name)
def test_help_knows_the_names_of_every_registry(kind: options.Named) -> None:
    """The list that needs no torch is the one that the rooms have."""
    registry = getattr(importlib.import_module(kind.room), kind.registry)
    assert set(kind.known) == set(registry)


@pytest.mark.parametrize(
    "words",
    ["--help", "search --help", "search --no-such", "search --task nope", "status",
     "export --format nir --reader none", "evaluate --phi x"],
)  # fmt: skip
def test_torch_is_not_imported_where_it_is_not_needed(words: str, tmp_path: Path) -> None:
    code = (
        "import sys\nfrom spikefront.__main__ import main\n"
        f"sys.argv = ['spikefront', *{words.split()!r}]\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "sys.exit('torch' in sys.modules)"
    )
    command = [sys.executable, "-c", code]
    found = subprocess.run(command, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, check=False)
    assert found.returncode == 0


def invoke(*words: object) -> Result:
    return CliRunner().invoke(cli, [str(word) for word in words])


def test_every_command_shows_an_example_and_options_under_headings() -> None:
    for name in sorted(cli.commands):
        shown = invoke(name, "--help").output
        assert "Usage" in shown
        if name != "storage":
            assert f"spikefront {name}" in shown.split("╭")[0].split("[OPTIONS]")[1], name
    assert all(f"─ {title} ─" in invoke("search", "--help").output for title in ("Task", "Limits"))
    listed = invoke("--help").output
    assert all(f"│ {name} " in listed for name in cli.commands)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("trials = ", "is not TOML"),
        ("trails = 3", "no command has an option 'trails'"),
        ("[serch]\ntrials = 3", "there is no command [serch]"),
        ("[search]\nformat = 'nir'", "[search] has no option 'format'"),
        ("[search]\ntrials = 0", "0 is not in the range"),
        ("[search]\npin = ['relu=2']", "got 'relu=2'"),
    ],
)
def test_a_wrong_file_of_options_is_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    path.write_text(text)
    found = invoke("search", "--config", path)
    assert found.exit_code != 0
    assert message in " ".join(found.output.replace("│", " ").split())


def test_a_module_of_the_user_s_in_place_of_ours_is_named(tmp_path: Path) -> None:
    (tmp_path / "search.py").write_text("print('mine')")
    command = [sys.executable, "-m", "spikefront", "status"]
    found = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, env={"PYTHONPATH": str(ROOT)},
        check=False,
    )  # fmt: skip
    assert found.returncode == 1
    assert found.stdout == ""
    assert "search.py where spikefront's package 'search' should be: rename it" in found.stderr


def test_one_name_has_the_public_surface() -> None:
    from conversion import convert
    from search import open_study

    assert spikefront.convert is convert
    assert spikefront.open_study is open_study
    assert {"LayerSpace", "Evaluator", "pareto_front"} <= set(dir(spikefront))
    with pytest.raises(AttributeError, match="spikefront has no 'nonsense'"):
        _ = spikefront.nonsense


def test_a_study_is_made_again_from_its_file(spikefront: CommandLine, tmp_path: Path) -> None:
    """What a search was told comes back as a file, which makes the same study."""
    (tmp_path / "a.toml").write_text(
        'task = "digits"\n[search]\ntrials = 1\ntimesteps = [1, 2]\nneuron = "adafire"\n'
        'calibration = ["light", "none"]\npin = ["relu:phi=2"]\npaper = false\n'
    )
    spikefront("search", "--config", "a.toml", "--seed", 3, "--out", "a")
    again = tmp_path / "a" / "search.toml"
    assert "paper = false" in again.read_text()
    assert "seed = " in again.read_text()
    spikefront("search", "--config", again, "--out", "b")
    assert (tmp_path / "b" / "trials.csv").read_text() == (
        tmp_path / "a" / "trials.csv"
    ).read_text()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("spikefront se", {"search", "sensitivity"}),
        ("spikefront search --neuron a", {"adafire"}),
        ("spikefront check a.json --target x", {"xylo"}),
    ],
)
def test_the_shell_completes(words: str, expected: set[str]) -> None:
    environment = {
        "PYTHONPATH": str(ROOT), "COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1),
        "_SPIKEFRONT_COMPLETE": "bash_complete",
    }  # fmt: skip
    code = "import sys; sys.argv = ['spikefront']; from spikefront.__main__ import cli; cli()"
    command = [sys.executable, "-c", code]
    found = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert {line.partition(",")[2] for line in found.stdout.splitlines()} == expected

"""Code that the documentation shows does what it says, and the built site can be read."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conversion import EnergyModel
from conversion.export import FORMATS, Options, program_of, save_npz
from conversion.targets import target
from search import finished, load_study, open_storage
from tests import command_line
from tests.conftest import ROOT, CommandLine
from tests.conversion.test_export import Residual, Six, images, spiking
from tests.test_recipes import Answer, answer  # noqa: F401 - a fixture

PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path | str, language: str) -> list[str]:
    path = page if isinstance(page, Path) else ROOT / "docs" / page
    return re.findall(rf"```{language}\n(.*?)```", path.read_text("utf-8"), flags=re.DOTALL)


def test_a_sixth_task_in_under_60_lines(spikefront: CommandLine, tmp_path: Path) -> None:
    (source,) = [b for b in blocks("guides/tasks.md", "python") if b.startswith("# tags.py")]
    assert len(source.splitlines()) < 60
    (tmp_path / "tags.py").write_text(source)
    (command,) = [b for b in blocks("guides/tasks.md", "sh") if "tags.py" in b]
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
    """The whole simulator of the page on exports, on a network with every layer that it knows."""
    (source,) = [b for b in blocks("guides/export.md", "python") if "def simulate" in b]
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


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_that_is_shown_is_one(page: Path, answer: Answer) -> None:  # noqa: F811
    for block in [*blocks(page, "sh"), *blocks(page, "console")]:
        for line in block.splitlines():
            words = shlex.split(line.removeprefix("$ "), comments=True)
            if words[:1] == ["spikefront"]:
                if "--plugin" in words:  # it would be imported
                    words = ["spikefront", words[3]]
                if "--config" in words:
                    words = [w for w in words if w != "--config" and not w.endswith(".toml")]
                assert answer(words[1:]) == "", line


def test_every_file_that_is_shown_is_read(tmp_path: Path, answer: Answer) -> None:  # noqa: F811
    shown = [(page, block) for page in PAGES for block in blocks(page, "toml")]
    assert len(shown) >= 4
    for page, block in shown:
        content = tomllib.loads(block)
        path = tmp_path / "shown.toml"
        path.write_text(block)
        if "kind" in content:
            assert EnergyModel.from_dict(content).name == content["name"]
        elif "title" in content:
            assert target(str(path)).name == content["name"]
        else:
            assert answer(["search", "--config", str(path)]) == "", page


ODD = (
    "learns? on from", "learned on from", "what both cause", "no unit to be whole in",
    "is not to be had", "readers make different networks", "further exits", "so much, (?:you|as)",
    "takes back what", "are told\\b", "said at once", "the dearest", "dearer", "may be trusted",
    "as it came",
)  # fmt: skip
"""Turns of phrase that stood in these pages, and that no native engineer writes."""


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_pages_are_in_plain_english(page: Path) -> None:
    text = re.sub(r"```.*?```|\$\$.*?\$\$", "", page.read_text("utf-8"), flags=re.DOTALL)
    flat = " ".join(text.split())
    assert [phrase for phrase in ODD if re.search(phrase, flat)] == []
    units = re.split(r"\n\s*\n|\n(?=\s*[-#*>|\d])", text)
    sentences = [s for unit in units for s in re.split(r"(?<=[.!?:;])\s+", unit) if "|" not in s]
    longest = max(sentences, key=lambda sentence: len(sentence.split()))
    assert len(longest.split()) <= 50, longest


# ---- the tutorial, and the pages that go on from it ----


def told(line: str) -> list[str]:
    """The words of a line, numbers and hashes set aside: they differ between machines."""
    line = re.sub(r"\b[0-9a-f]{12}\b", "#", line)
    return re.sub(r"[−-]?\d[\d.,]*", "#", line).split()


@pytest.fixture(scope="module")
def tutorial(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which every command of the tutorial was run; what it shows was printed."""
    folder = tmp_path_factory.mktemp("tutorial") / "work"
    folder.mkdir()
    for block in blocks("tutorial.md", "console"):
        for part in block.split("$ ")[1:]:
            command, *expected = part.strip().splitlines()
            words = shlex.split(command)
            result = command_line.run(words[1:], folder, 900)
            assert result.returncode == 0, (command, result.stderr)
            printed = [told(line) for line in (result.stderr + result.stdout).splitlines()]
            for line in expected:
                if line != "…":
                    assert told(line) in printed, (line, result.stdout)
    return folder


@pytest.mark.slow
def test_the_tutorial_leads_to_a_deployed_point(tutorial: Path) -> None:
    assert (tutorial / "errors.png").read_bytes().startswith(b"\x89PNG")
    assert (tutorial / "first" / "report.html").exists()
    shutil.copytree(tutorial / "first", tutorial / "spikefront-out")


PRELUDES = {
    "docs/guides/deploy.md": "from evaluators import digits\n"
    "task = digits()\nmodel, images = task.model, task.test.dataset.tensors[0]\n",
    "docs/guides/export.md": "import torch\nfrom evaluators import digits\n"
    "from conversion import load\ntask = digits()\nimages = task.test.dataset.tensors[0][:16]\n"
    'model = load("trial-59.json", task.model)\n',
}
WITH_CODE = [page for page in PAGES if blocks(page, "python")]


@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_CODE, ids=name_of)
def test_python_that_is_shown_runs(page: Path, tutorial: Path) -> None:
    """All of a page in one process, in the tutorial's folder; a block of a file is written."""
    script = [PRELUDES.get(name_of(page), "")]
    for block in blocks(page, "python"):
        if named := re.match(r"# (\w+\.py)\n", block):
            (tutorial / named[1]).write_text(block)
        else:
            script.append(block)
    if name_of(page) == "docs/guides/export.md":
        study = load_study(open_storage(tutorial / "first" / "study.journal"), "digits")
        plain = next(t for t in finished(study) if t.params["neuron"] == "adafire")
        has_sinabs = importlib.util.find_spec("sinabs") is not None
        script = [part for part in script if has_sinabs or "sinabs" not in part]
        for format in ("onnx", "sinabs"):
            words = ["export", "--out", "first", "--to", "trial-59.json", "--format", format]
            found = command_line.run([*words, "--trial", str(plain.number)], tutorial, 300)
            assert found.returncode == 0, found.stderr
    out = tutorial / "spikefront-out"
    if not out.exists():
        out.symlink_to(tutorial / "first")
    (tutorial / "shown.py").write_text("\n".join(script))
    found = subprocess.run(
        [sys.executable, "shown.py"], cwd=tutorial, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), "MPLBACKEND": "agg"}, timeout=600,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr


# ---- the site ----


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-q", "-b", "html", str(ROOT / "docs"), str(folder)]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    return folder


@pytest.fixture(scope="module")
def pages(site: Path) -> Iterator[Any]:
    """Open pages of the site in a browser without a network."""
    playwright = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("there is no chromium")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser.new_context(offline=True, viewport={"width": 390, "height": 844})
        browser.close()


@pytest.mark.slow
def test_the_site_is_read_without_a_network(site: Path, pages: Any) -> None:
    page = pages.new_page()
    strangers: list[str] = []
    page.on("request", lambda r: strangers.append(r.url) if not r.url.startswith("file:") else None)
    page.goto((site / "explanation" / "conversion.html").as_uri())
    page.wait_for_selector("mjx-container")
    drawn = page.eval_on_selector_all("mjx-container", "found => found.length")
    assert drawn == page.eval_on_selector_all("span.math, div.math", "found => found.length")
    assert "\\varphi" not in page.inner_text("article"), "no raw LaTeX"
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert strangers == []


@pytest.mark.slow
def test_every_link_of_the_navigation_leads_to_its_page(site: Path, pages: Any) -> None:
    page = pages.new_page()
    page.goto((site / "index.html").as_uri())
    links = page.eval_on_selector_all(
        ".sidebar-tree a.reference", "found => found.map(a => [a.textContent, a.href])"
    )
    assert len(links) > 20
    for text, address in links:
        page.goto(address)
        heading = page.text_content("article h1").removesuffix("#").removesuffix("¶").strip()
        assert heading == text.strip()
    names = {p.stem for p in (ROOT / "docs").glob("*.md")}
    assert not names & {"search", "genindex", "py-modindex"}, "the theme has pages of that name"

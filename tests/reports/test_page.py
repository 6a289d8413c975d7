"""The page of a report in a real browser: driven, on a phone, in the dark, without JavaScript."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from conversion import energy_model
from reports import (
    Findings,
    findings,
    front_of,
    measure_front,
    report_folder,
    repriced,
    write_comparison,
    write_report,
)
from search import Budget

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium")


@pytest.fixture(scope="module")
def found(studied) -> Findings:
    study, evaluator = studied
    return findings(study, evaluator, measure_front(study, evaluator, rivals=True))


@pytest.fixture(scope="module")
def report(found: Findings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    return write_report(found, folder, study_options=" --out here", settings="trials = 30")[-1]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@dataclass
class Opened:
    """A page, and what it should not do."""

    page: Any
    complaints: list[str] = field(default_factory=list)

    def points(self, name: str) -> list[list[float]]:
        """Of a trace: energies and losses."""
        return self.page.evaluate(
            """name => { const t = document.getElementById("plot").data.find(t => t.name === name);
            return t ? t.x.map((x, i) => [x, t.y[i]]) : null; }""",
            name,
        )

    def place(self, name: str, i: int) -> tuple[float, float]:
        """Where a point is on the screen."""
        return tuple(
            self.page.evaluate(
                """([name, i]) => { const p = document.getElementById("plot");
                const t = p.data.find(t => t.name === name), l = p._fullLayout;
                const box = p.getBoundingClientRect();
                return [box.left + l.xaxis._offset + l.xaxis.d2p(t.x[i]),
                        box.top + l.yaxis._offset + l.yaxis.d2p(t.y[i])]; }""",
                [name, i],
            )
        )


@pytest.fixture
def opened(browser: Any) -> Iterator[Any]:
    contexts = []

    def open_page(path: Path, **options: Any) -> Opened:
        options.setdefault("viewport", {"width": 1280, "height": 900})
        context = browser.new_context(**options)
        contexts.append(context)
        found = Opened(context.new_page())
        found.page.on("console", lambda message: found.complaints.append(message.text))
        found.page.on("pageerror", lambda error: found.complaints.append(str(error)))
        found.page.on(
            "request",
            lambda r: (
                None if r.url.startswith(("file:", "data:")) else found.complaints.append(r.url)
            ),
        )
        found.page.goto(path.as_uri())
        return found

    yield open_page
    for context in contexts:
        context.close()


def test_it_draws_the_front_that_python_found(opened: Any, report: Path, found: Findings) -> None:
    shown = opened(report)
    front = shown.points("front")
    assert [x for x, _ in front] == pytest.approx(
        [100 * p.search.energy_ratio for p in found.front.points], rel=1e-5
    )
    assert [y for _, y in front] == pytest.approx(
        [100 * p.search.drop.mean for p in found.front.points], abs=1e-4
    )
    for under in found.under:
        shown.page.select_option("#model", under.energy.name)
        assert [x for x, _ in shown.points("front")] == pytest.approx(
            [100 * p.search.energy_ratio for p in under.front.points], rel=1e-5
        )
    shown.page.select_option("#model", found.front.energy_model.name)
    shown.page.select_option("#split", "test")
    assert [y for _, y in shown.points("front")] == pytest.approx(
        [100 * p.test.drop.mean for p in found.front.points], abs=1e-4
    )
    assert shown.page.evaluate("plot.layout.xaxis.type") == "log"
    shown.page.select_option("#scale", "linear")
    assert shown.page.evaluate("plot.layout.xaxis.type") == "linear"
    assert shown.complaints == []


def test_it_knows_chance_and_other_objectives(opened: Any, found: Findings, tmp_path: Path) -> None:
    """The front that the page finds is Python's, where that is more than accuracy and energy."""
    trials = found.front.trials
    scores = sorted(p.search.accuracy.low for p in trials)
    chance = replace(found.front.ann["search"], chance=scores[len(scores) // 2])
    for changes in (
        {"ann": {"search": chance}},
        {"objectives": ("energy", "latency")},
        {"within": trials[::2], "budget": Budget(max_energy=9.0)},
    ):
        front = replace(found.front, **{"ann": {"search": found.front.ann["search"]}, **changes})
        points = front_of(front.candidates, front.objectives)
        front = replace(front, points=tuple(points))
        shown = opened(write_report(Findings(front=front), tmp_path, figure_kinds=())[-1])
        assert [x for x, _ in shown.points("front")] == pytest.approx(
            [100 * p.search.energy_ratio for p in points], rel=1e-5
        )
        assert shown.complaints == []


def test_a_point_is_hovered_clicked_and_copied(opened: Any, report: Path, found: Findings) -> None:
    shown = opened(report, permissions=["clipboard-read", "clipboard-write"])
    last = len(found.front.points) - 1
    point = found.front.points[last]
    x, y = shown.place("front", last)
    shown.page.mouse.move(x, y)
    label = shown.page.wait_for_selector(".hoverlayer .hovertext").text_content()
    assert f"trial {point.trial}" in label
    assert "points lost" in label
    shown.page.mouse.click(x, y)
    details = shown.page.wait_for_selector("#details:not([hidden])")
    text = details.inner_text()
    assert f"trial {point.trial}" in text
    low, high = point.search.drop.interval()
    assert f"{100 * low:.2f} to {100 * high:.2f}" in text
    for layer in ("relu", "relu_1"):
        assert layer in text
    command = f"spikefront export --out here --trial {point.trial}"
    assert command in text
    details.query_selector("text=Copy").click()
    shown.page.wait_for_selector("text=Copied")
    assert shown.page.evaluate("navigator.clipboard.readText()") == command
    assert shown.complaints == []


def test_points_are_filtered_brushed_and_limited(opened: Any, report: Path) -> None:
    shown = opened(report)
    page = shown.page
    before = shown.points("trials")
    page.uncheck("#neuron input[value=adafire]")
    after = shown.points("trials") or []
    assert len(after) < len(before)
    page.check("#neuron input[value=adafire]")
    assert shown.points("trials") == before

    box = page.query_selector("#plot .nsewdrag").bounding_box()
    page.mouse.move(box["x"] + 3, box["y"] + 3)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] - 3, box["y"] + box["height"] - 3, steps=5)
    page.mouse.up()
    page.wait_for_selector("#brushed tbody tr")
    assert "selected" in page.inner_text("#brushed")
    page.click("#brushed tbody tr")
    page.wait_for_selector("#details:not([hidden])")

    page.fill("#max-lost", "100")
    page.fill("#max-energy", "0.0001")
    assert "No trial keeps this" in page.inner_text("#verdict")
    page.fill("#max-energy", "")
    assert "the cheapest is trial" in page.inner_text("#verdict")
    low, high = sorted(page.evaluate("plot._fullLayout.yaxis.range"))
    middle = round((low + high) / 2, 2)
    page.fill("#max-lost", str(middle))
    page.evaluate("document.getElementById('plot').scrollIntoView({block: 'center'})")
    box = page.query_selector("#plot .nsewdrag").bounding_box()
    line = page.query_selector("#plot .shapelayer path").bounding_box()
    y = line["y"] + line["height"] / 2
    page.mouse.move(box["x"] + box["width"] / 2, y)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2, y - 40, steps=4)
    page.mouse.up()
    assert low < float(page.input_value("#max-lost")) < middle, "less is allowed further up"
    assert shown.complaints == []


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [390, 1280])
def test_it_fits_a_phone_and_the_dark(opened: Any, report: Path, width: int, dark: bool) -> None:
    shown = opened(
        report, viewport={"width": width, "height": 844},
        color_scheme="dark" if dark else "light",
    )  # fmt: skip
    page = shown.page
    page.wait_for_selector("#plot .main-svg")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    color = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (color == "rgb(255, 255, 255)") != dark
    assert page.is_visible("text=Swipe the table") == (width < 900)
    assert shown.complaints == []


def test_in_the_dark_lines_turn_and_values_keep_their_colours(opened: Any, report: Path) -> None:
    """A heat map whose colours were inverted would show large values as small ones."""
    page = opened(report, color_scheme="dark").page
    turned = page.evaluate(
        "Object.fromEntries([...document.querySelectorAll('figure:not(.static) img')]"
        ".map((img) => [img.alt, getComputedStyle(img).filter !== 'none']))"
    )
    assert turned["Early exits"]
    assert not turned["φ, ρ and thresholds along the front"]
    assert not turned["ANN and spiking network by class, at the knee"]
    assert not turned["Samples that run longest"]


def test_no_button_sends_the_chart_anywhere(opened: Any, report: Path) -> None:
    page = opened(report).page
    page.wait_for_selector("#plot .modebar-btn", state="attached")
    buttons = page.eval_on_selector_all(
        "#plot .modebar-btn", "all => all.map((b) => b.getAttribute('data-title'))"
    )
    assert any("Download" in title for title in buttons)
    assert not [title for title in buttons if "Share" in title or "Plotly" in title]


def test_without_javascript_everything_is_there(opened: Any, report: Path) -> None:
    shown = opened(report, java_script_enabled=False)
    assert not shown.page.is_visible("#explore")
    assert shown.page.is_visible("figure.static img")
    assert shown.page.is_visible("text=Where a spiking network pays")
    assert shown.page.is_visible("text=trials = 30")
    assert shown.complaints == []


def test_two_studies_lie_over_each_other(opened: Any, found: Findings, tmp_path: Path) -> None:
    other = replace(found, front=replace(found.front, study="other"))
    pair = [
        (found, "spikefront export --trial"),
        (other, "spikefront export --study other --trial"),
    ]
    shown = opened(write_comparison(pair, tmp_path / "compare.html"))
    assert shown.points("small") == shown.points("other")
    rows = shown.page.query_selector_all("table tbody tr")
    assert len(rows) == 2
    assert "other" in rows[1].inner_text()
    assert shown.complaints == []


def test_studies_of_different_energy_models_and_odd_names(
    opened: Any, found: Findings, tmp_path: Path
) -> None:
    repriced_ = repriced(found.front, energy_model("loihi"), found.known_costs)
    odd = replace(repriced_, study="<b>odd</b> %{x}")
    pair = [(Findings(front=front), "spikefront export --trial") for front in (found.front, odd)]
    shown = opened(write_comparison(pair, tmp_path / "o.html"))
    assert all(x is not None for x, _ in shown.points("small")), "no model is common"
    assert "each study's own model" in shown.page.text_content("#plot")
    assert "<b>odd</b>" in shown.page.text_content("#plot .legend")
    assert shown.complaints == []


def test_a_report_does_not_overwrite_that_of_another_study(report: Path, tmp_path: Path) -> None:
    out = report.parent
    assert report_folder(out, "small") == out
    assert report_folder(out, "other") == out / "other"
    assert report_folder(out, "an/other").parent == out
    assert report_folder(out, "an/other") != report_folder(out, "an-other")
    assert report_folder(out, "..").parent == out
    page = tmp_path / "report.html"
    page.write_text('<meta name="spikefront-study" content="a&amp;b">')
    assert report_folder(tmp_path, "a&b") == tmp_path
    page.unlink()
    assert report_folder(tmp_path, "other") == tmp_path

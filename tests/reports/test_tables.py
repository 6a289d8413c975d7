"""Tables for other programs, and two configs side by side."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import optuna
import pandas as pd
import pytest
import torch

from conversion import ConfigError, ConversionConfig, DeployConfig, ExitRule, FileError, LayerConfig
from reports import (
    ParetoFront,
    comparison_frame,
    config_diff_frame,
    config_diff_notes,
    config_diff_table,
    kept_front,
    measure_front,
    points_frame,
    select,
    table_text,
    with_thresholds,
)
from search import note_ann


@pytest.fixture(scope="module")
def front(studied) -> ParetoFront:
    return measure_front(*studied)


def test_every_kind_of_table_holds_the_same(front: ParetoFront) -> None:
    frame = points_frame(front)
    csv = pd.read_csv(io.StringIO(table_text(frame, "csv")))
    rows = json.loads(table_text(frame, "json"))
    assert csv["trial"].tolist() == [r["trial"] for r in rows] == [p.trial for p in front.points]
    assert csv["accuracy, test (%)"].tolist() == pytest.approx(
        [100 * p.test.accuracy.value for p in front.points], abs=0.005
    )
    latex = table_text(frame, "latex")
    assert latex.startswith("\\begin{tabular}")
    assert "\\toprule" in latex
    assert "(\\%)" in latex, "escaped"
    body = [line for line in latex.splitlines() if line.endswith("\\\\")]
    assert len(body) == 1 + len(front.points)
    markdown = table_text(frame, "markdown").splitlines()
    assert len(markdown) == 2 + len(front.points)
    assert all(line.count("|") == len(frame.columns) + 1 for line in markdown)
    with pytest.raises(ConfigError, match="csv, markdown, latex, json, got 'html'"):
        table_text(frame, "html")  # type: ignore[arg-type]


def test_a_study_is_read_without_its_model(studied, front: ParetoFront) -> None:
    study, evaluator = studied
    with pytest.raises(ConfigError, match="does not contain the ANN's score"):
        kept_front(study)
    note_ann(study, evaluator.ann("search"))
    kept = kept_front(study)
    assert kept.points == front.points
    assert set(kept.ann) == {"search", "test"}
    frame = comparison_frame([kept, replace(kept, study="again")])
    assert frame["study"].tolist() == ["small", "again"]
    assert frame.drop(columns="study").nunique().max() == 1
    sure = replace(kept, confidence=0.05)  # with so little, points of the front can be promised
    chosen = select(sure, max_accuracy_drop=0.02)
    tested = next(p.test for p in kept.points if p.trial == chosen.trial)
    assert tested is not None
    assert tested.drop is not None
    assert comparison_frame([sure])["its loss on test"][0] == round(100 * tested.drop.mean, 2)


def test_a_study_that_cannot_be_written_is_measured_all_the_same(
    studied, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As someone else's journal: what it gives is the same, and nothing is stored."""
    study, evaluator = studied
    expected = measure_front(study, evaluator, rivals=True)
    shown = optuna.create_study(directions=study.directions, study_name="copy")
    for name, value in study.user_attrs.items():
        if not name.startswith(("test/", "quantised/", "thresholds/")):
            shown.set_user_attr(name, value)
    shown.add_trials(study.get_trials())

    def refuse(*_: object) -> None:
        raise FileError("cannot write the study's journal: it is read-only here")

    monkeypatch.setattr(shown, "set_user_attr", refuse)
    found = with_thresholds(shown, evaluator, measure_front(shown, evaluator, rivals=True))
    assert [p.test for p in found.points] == [p.test for p in expected.points]
    assert found.rivals == expected.rivals
    assert any(p.thresholds for p in found.points)
    assert not any(name.startswith("test/") for name in shown.user_attrs)
    assert caplog.text.count("the study is read-only") == 1


def test_notebooks_show_tables(studied, front: ParetoFront) -> None:
    _, evaluator = studied
    point = front.points[0]
    assert f"<td>{point.trial}</td>" in front._repr_html_()
    assert f"{point.search.energy_ratio:.2%}" in point.search._repr_html_()
    assert "<td>relu_1</td>" in evaluator.profile._repr_html_()
    assert "points of 30 trials" in repr(front)
    assert "steps)" in repr(point.search)


def config(phi: int, threshold: float, name: str = "a") -> DeployConfig:
    layers = {"one": LayerConfig(phi=phi), "two": LayerConfig(phi=2)}
    return DeployConfig(
        model_fingerprint="0" * 64, inputs={}, outputs={}, feed="static",
        conversion=ConversionConfig(timesteps=2, layers=layers),
        exit=ExitRule(score="entropy", thresholds=(threshold, threshold)),
        tensors=f"{name}.safetensors", tensors_sha256="0" * 64,
        measurement={"accuracy": {"value": 0.9}, "energy_ratio": 0.05, "split": "search"},
    )  # fmt: skip


def test_two_configs_by_hand() -> None:
    tensors = {"theta/one": torch.tensor([1.0, 3.0]), "bias/one": torch.zeros(2)}
    others = {
        "theta/one": torch.tensor([1.0, 5.0]), "bias/one": torch.zeros(2),
        "weight/fc.weight": torch.ones(2, 2),
    }  # fmt: skip
    first, second = (config(1, 0.5), tensors), (config(4, 0.75), others)
    found = config_diff_frame(first, second)
    rows = [tuple(row) for row in found.itertuples(index=False)]
    assert rows == [
        (
            "network",
            "exit",
            "confidence (entropy) above 0.5",
            "confidence (entropy) above 0.75",
            "",
        ),
        ("one", "φ", 1, 4, ""),
        ("one", "θ", "2", "3", "2"),
        ("weight/fc.weight", "weight", "none", "1", ""),
    ]
    assert config_diff_frame(first, first).empty
    others["theta/one"] = torch.ones(3)
    found = config_diff_frame(first, second)
    assert config_diff_notes(found) == [
        "exit: confidence (entropy) above 0.5 → confidence (entropy) above 0.75",
        "one: θ, shape: (2,) → (3,)",
        "1 weight tensors differ",
    ]
    assert config_diff_table(found).row_count == 1
    assert config_diff_table(found[found["where"] == "network"]) is None
    stranger = replace(first[0], model_fingerprint="1" * 64), first[1]
    assert "different models" in config_diff_notes(config_diff_frame(first, stranger))[0]

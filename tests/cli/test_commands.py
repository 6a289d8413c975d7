"""Each command, from a study to a verified config."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import safetensors.torch

from search import finished, load_study, open_storage
from tests.cli.conftest import PLAIN, SMALL
from tests.conftest import CommandLine


def test_the_road_from_study_to_a_verified_config(
    spikefront: CommandLine, searched: str, tmp_path: Path
) -> None:
    out = tmp_path / "spikefront-out"
    assert (out / "report.html").exists(), "search ends with a report of the search split"
    report = json.loads(spikefront("report", "--task", searched, "--json").stdout)
    assert {row["split"] for row in report["front"]} == {"search", "test"}
    assert "made with code of your own: add --task" in spikefront("report", check=False).stderr

    promised = spikefront(
        "export", "--task", searched, "--max-accuracy-drop", 0.2, "--to", "p.json"
    )
    assert "points lost" in promised.stdout
    row = [r for r in report["front"] if r["split"] == "search"][-1]
    assert row["drop_low"] <= row["drop"] <= row["drop_high"]
    spikefront("export", "--task", searched, "--trial", row["trial"], "--to", "best.json")
    config = json.loads((tmp_path / "best.json").read_text())
    assert config["provenance"]["test"]["split"] == "test", "what the report measured there"
    assert config["measurement"]["accuracy"]["value"] == row["accuracy"]
    assert config["measurement"]["energy_pj"]["value"] == pytest.approx(row["energy_pj"])

    verified = spikefront("verify", "best.json", "--task", searched)
    assert "the same outputs, bit for bit (n = 60)" in verified.stdout
    spikefront("convert", "best.json", "--task", searched, "--logits", "logits.safetensors")
    answer = safetensors.torch.load_file(tmp_path / "logits.safetensors")
    assert answer["logits"].shape == (60, 4)
    assert answer["timesteps"].double().mean() == pytest.approx(row["timesteps_mean"])

    row_of_another = next(r["trial"] for r in report["front"] if r["trial"] != row["trial"])
    spikefront("export", "--task", searched, "--trial", row_of_another, "--to", "other.json")
    assert "→" in spikefront("diff", "best.json", "other.json").stdout
    assert spikefront("diff", "best.json", "best.json").stdout == "The two configs do not differ.\n"
    beside = spikefront("compare", out, f"{out}#small", "--to", "c.html", "--table", "csv").stdout
    rows = [line.split(",")[1:] for line in beside.splitlines()[1:]]
    assert rows[0] == rows[1], "but for their names"
    assert (tmp_path / "c.html").exists()
    latex = spikefront("report", "--task", searched, "--table", "latex").stdout
    assert latex.count(r"\\") == 1 + len(report["front"]) // 2

    again = spikefront("search", "--task", searched, "--trials", 24, "--timesteps", "1,4")
    assert "points on the front of 24 trials" in again.stdout
    assert "the study has run 24 trials: nothing to run" in again.stderr
    assert ",test," in (out / "front.csv").read_text(), "what a report measured stays in the files"
    changed = spikefront("search", "--task", searched, "--phi-max", 3, check=False)
    assert changed.returncode == 1
    assert "another search space (phi_max): 8 there, 3 here" in changed.stderr
    other = spikefront("search", "--task", searched, "--seed", 1, check=False)
    assert "another seed: 0 there, 1 here" in other.stderr
    nothing = spikefront("export", "--task", searched, "--max-energy", 1e-6, check=False)
    assert "no point of the front has an energy" in nothing.stderr
    nothing = spikefront("export", "--task", searched, "--max-energy", "1pJ", check=False)
    assert "no point of the front has an energy" in nothing.stderr

    body = config["measurement"]
    tampered = tmp_path / config["tensors"]
    data = bytearray(tampered.read_bytes())
    data[-1] ^= 1
    tampered.write_bytes(bytes(data))
    refused = spikefront("verify", "best.json", "--task", searched, check=False)
    assert refused.returncode == 1
    assert "was altered: its SHA-256 differs" in refused.stderr
    assert body["n"] == 60


@pytest.mark.parametrize("other_bits", [True, False])
def test_verify_fails_when_the_numbers_differ(
    spikefront: CommandLine, small: str, tmp_path: Path, other_bits: bool
) -> None:
    from conversion import DeployConfig, sha256

    spikefront("search", "--task", small, "--trials", 1, "--timesteps", 1)
    spikefront("export", "--task", small, "--trial", 0, "--to", "a.json")
    body = json.loads((tmp_path / "a.json").read_text())
    body.pop("checksum")
    body["measurement"]["accuracy"]["value"] = 0.123
    body["measurement"]["logits_sha256"] = (
        "steps:0" if other_bits else body["measurement"]["logits_sha256"]
    )
    text = json.dumps(body, sort_keys=True, separators=(",", ":"))
    (tmp_path / "a.json").write_text(json.dumps({**body, "checksum": sha256(text.encode())}))
    DeployConfig.read(tmp_path / "a.json")
    refused = spikefront("verify", "a.json", "--task", small, check=False)
    assert refused.returncode == 1
    outputs = "other" if other_bits else "the same"
    assert f"does not verify: {outputs} outputs, accuracy 0.1230 ->" in refused.stderr


def test_evaluate_profile_and_diagnose(spikefront: CommandLine, small: str, tmp_path: Path) -> None:
    result = spikefront("evaluate", "--task", small, "--phi", 4, "--rho", 2, "--json").stdout
    assert 0 <= json.loads(result)["accuracy"]["value"] <= 1
    assert "energy / int8 ANN" in spikefront("evaluate", "--task", small).stdout
    table = spikefront("diagnose", "--task", small, "--figure", "why.png").stdout
    assert "unevenness" in table
    assert (tmp_path / "why.png").read_bytes().startswith(b"\x89PNG")
    spikefront("search", "--task", small, "--trials", 1, "--timesteps", 2)
    spikefront("export", "--task", small, "--to", "a.json")
    exported = spikefront("diagnose", "--task", small, "a.json", "--json").stdout
    assert [layer["layer"] for layer in json.loads(exported)["layers"]] == ["1", "3"]
    found = json.loads(spikefront("profile", "--task", small, "--json").stdout)
    assert [layer["layer"] for layer in found["layers"]] == ["1", "3"]
    assert found["stem_macs"] == 6 * 36 * 9


def test_two_studies_of_one_folder_keep_their_reports(
    spikefront: CommandLine, small: str, tmp_path: Path
) -> None:
    spikefront("search", "--task", small, *PLAIN)
    first = (tmp_path / "spikefront-out" / "report.html").read_text()
    second = spikefront("search", "--task", small, *PLAIN, "--study", "b", "--seed", 1)
    assert "holds the report of another study" in " ".join(second.stderr.split())
    assert (tmp_path / "spikefront-out" / "report.html").read_text() == first
    assert (tmp_path / "spikefront-out" / "b" / "report.html").exists()
    following = next(line for line in second.stdout.splitlines() if line.startswith("Next:"))
    words = following.split("(")[0].split()[2:]
    assert "--study" in words
    spikefront(*words)
    assert "choose one with --study: small, b" in spikefront("status", check=False).stderr


def test_a_study_moves_with_its_task(spikefront: CommandLine, small: str, tmp_path: Path) -> None:
    spikefront("search", "--task", small, *PLAIN, "--out", "here/out")
    (tmp_path / "moved").mkdir()
    (tmp_path / small.split(":", maxsplit=1)[0]).rename(tmp_path / "moved" / "small.py")
    task = ("--task", "moved/small.py:make_task")
    again = spikefront("search", *task, *PLAIN, "--out", "here/out")
    assert "nothing to run" in again.stderr
    other = SMALL.replace("manual_seed(0)", "manual_seed(1)")
    (tmp_path / "moved" / "small.py").write_text(other)
    refused = spikefront("search", *task, *PLAIN, "--out", "here/out", check=False)
    assert "was made with another model" in refused.stderr


def test_a_failed_search_leaves_nothing_behind(
    spikefront: CommandLine, small: str, tmp_path: Path
) -> None:
    assert spikefront("search", "--task", "small.py:untraceable", check=False).returncode == 1
    assert not (tmp_path / "spikefront-out").exists()


def test_an_ann_no_better_than_chance_is_remarked(
    spikefront: CommandLine, small: str, tmp_path: Path
) -> None:
    wrong = SMALL.replace("argmax(1)", "argmin(1)")
    (tmp_path / "wrong.py").write_text(wrong)
    found = spikefront("search", "--task", "wrong.py:make_task", "--trials", 1, "--timesteps", 1)
    assert "no better than the same answer every time" in " ".join(found.stderr.split())
    assert "no better" not in spikefront("evaluate", "--task", small).stderr


def test_help_keeps_its_lines(spikefront: CommandLine) -> None:
    lines = spikefront("--help").stdout.splitlines()
    assert any(line.strip().startswith("spikefront report") for line in lines)
    assert "\\b" not in "".join(lines)


def test_learned_thresholds_from_the_command_line(spikefront: CommandLine) -> None:
    """On digits, one spike in one step."""
    few = ("evaluate", "--phi", 1, "--timesteps", 1, "--alpha", 1, "--json")
    light, learned = (
        json.loads(spikefront(*few, *options).stdout)["accuracy"]["value"]
        for options in ((), ("--calibration", "learned", "--iterations", 30))
    )
    assert learned > light + 0.03


PLUGIN = """
from conversion import (
    CALIBRATIONS, ENERGY_MODELS, NEURONS, AdaFire, Calibration, Operations, register_calibration,
)


class Lazy(AdaFire):
    def _step(self, state, fired):
        super()._step(state, fired)


@register_calibration
class Nothing(Calibration):
    name = "nothing"
    summary = "as none"


NEURONS["lazy"] = Lazy
ENERGY_MODELS["mine"] = Operations(name="mine", mac_pj=1.0, ac_pj=0.5, ann_mac_pj=1.0)
"""


def test_plugins_are_offered_and_searched(
    spikefront: CommandLine, small: str, tmp_path: Path
) -> None:
    """A neuron, a calibration and an energy model of the user's own: one file, no other change."""
    (tmp_path / "mine.py").write_text(PLUGIN)
    plugin = ("--plugin", "mine.py")
    shown = spikefront(*plugin, "search", "--help").stdout
    assert "lazy" in shown
    assert "nothing" in shown
    assert "mine" in shown
    task = ("--task", small)
    spikefront(
        *plugin, "search", *task, "--trials", 8, "--energy-model", "mine", "--neuron", "lazy",
        "--calibration", "nothing", "--no-paper", "--workers", 2,
    )  # fmt: skip
    found = json.loads(spikefront(*plugin, "report", *task, "--json").stdout)
    assert found["energy_model"] == "mine"
    assert "1 pJ per MAC on analog values, 0.5 pJ per accumulate" in (
        tmp_path / "spikefront-out" / "report.html"
    ).read_text().replace("\n", " ")
    spikefront(*plugin, "export", *task, "--to", "a.json")
    spikefront(*plugin, "verify", "a.json", *task)
    failed = spikefront("report", *task, check=False)
    assert "neurons must be out of adafire, dual-threshold, got ('lazy',)" in failed.stderr
    failed = spikefront("--plugin", "none.py", "search", check=False)
    assert "there is no file" in failed.stderr


CHIP = """
name = "ours"
kind = "chip"
synop_pj = 2.0
update_pj = 1.0
source = "a test"
"""


def test_a_study_under_another_energy_model(
    spikefront: CommandLine, plainly_searched: str, tmp_path: Path
) -> None:
    (tmp_path / "ours.toml").write_text(CHIP)
    task = ("--task", plainly_searched)
    plain = json.loads(spikefront("report", *task, "--json").stdout)
    other = json.loads(spikefront("report", *task, "--json", "--energy-model", "ours.toml").stdout)
    assert (plain["energy_model"], other["energy_model"]) == ("horowitz45", "ours")
    energies = {
        row["trial"]: row["energy_pj"] for row in plain["front"] if row["split"] == "search"
    }
    again = {row["trial"]: row["energy_pj"] for row in other["front"] if row["split"] == "search"}
    shared = energies.keys() & again.keys()
    assert shared
    assert all(energies[trial] != again[trial] for trial in shared)
    out = tmp_path / "spikefront-out"
    table = (out / "energy-ours" / "energy_models.csv").read_text()
    assert (out / "energy_models.csv").exists(), "the study's own report stays"
    assert table.splitlines()[1].startswith("ours,")
    assert "lemaire" in table


def test_a_point_goes_to_other_programs(
    spikefront: CommandLine, plainly_searched: str, tmp_path: Path
) -> None:
    task = ("--task", plainly_searched, "--to", "m.json")
    found = spikefront("export", *task, "--format", "npz")
    assert "As npz: m.npz" in found.stdout
    assert (tmp_path / "m.npz").exists()
    spikefront("export", *task, "--format", "torch")
    assert (tmp_path / "m.pt2.host.py").exists()
    found = spikefront("export", *task, "--format", "sinabs")
    agree = re.search(r"the same outputs on (?:all )?(\d+)", found.stdout)
    assert agree is not None
    assert int(agree[1]) >= 57, "of 60"
    assert {path.name for path in tmp_path.glob("m.sinabs.*")} == {"m.sinabs.npz", "m.sinabs.py"}
    refused = spikefront("export", *task, "--format", "nir", "--reader", "snntorch", check=False)
    assert refused.returncode == 1
    assert "snntorch would run another network" in refused.stderr
    assert not (tmp_path / "m.snntorch.nir").exists()
    before = (tmp_path / "m.json").read_bytes()
    off = ["export", *task[:-1], "n.json", "--format", "nir", "--reader", "snntorch"]
    assert spikefront(*off, check=False).returncode == 1
    assert not (tmp_path / "n.json").exists(), "a command that fails leaves nothing behind"
    assert (tmp_path / "m.json").read_bytes() == before
    written = spikefront(
        "export", *task, "--format", "nir", "--reader", "snntorch", "--approximate"
    )
    assert "snntorch runs another network" in written.stdout


def test_a_search_for_a_chip_fits_it(spikefront: CommandLine, small: str, tmp_path: Path) -> None:
    """Kept within its limits; a config of another search is told what does not fit."""
    task = ("--task", small)
    search = ("search", *task, *PLAIN)
    found = spikefront(*search, "--target", "digital", "--phi-max", 40, "--out", "chip")
    assert "adafire" in found.stdout
    assert "dual-threshold" not in found.stdout
    exported = spikefront(
        "export", *task, "--out", "chip", "--to", "fits.json", "--target", "digital"
    )
    assert "It fits a plain digital core" in exported.stdout
    fits = spikefront("check", "fits.json", *task, "--target", "digital")
    assert "fits a plain digital core" in fits.stdout
    assert "8 bits" in fits.stdout
    spikefront(*search, "--neuron", "dual-threshold", "--phi-max", 1, "--out", "free")
    spikefront("export", *task, "--out", "free", "--to", "free.json")
    failed = spikefront(
        "check", "free.json", *task, "--target", "digital", "--bits", "8,4", "--json", check=False
    )
    assert failed.returncode == 1
    told = json.loads(failed.stdout)
    assert told["fits"] is False
    assert {one["rule"] for one in told["violations"]} == {"negative spikes"}
    assert [row["bits"] for row in told["measured"]] == [None, 8, 4]


def test_bits_and_latency_are_searched(spikefront: CommandLine, small: str, tmp_path: Path) -> None:
    task = ("--task", small)
    spikefront(
        "search", *task, *PLAIN, "--trials", 14, "--bits", "8,3",
        "--objective", "energy,latency", "--max-steps", 3.5, "--sampler", "nsga2",
    )  # fmt: skip
    study = load_study(open_storage(tmp_path / "spikefront-out" / "study.journal"), "small")
    assert study.metric_names == ["accuracy", "energy_pj", "timesteps"]
    assert {trial.params["bits"] for trial in finished(study)} == {8, 3}
    for trial in finished(study):
        assert trial.values[2] == trial.user_attrs["measurement"]["timesteps"]["value"]
        assert trial.user_attrs["measurement"]["counts"]["weight_bits"] == trial.params["bits"]
    within = [t for t in finished(study) if all(v <= 0 for v in t.constraints.values())]
    assert within
    assert all(t.values[2] <= 3.5 for t in within)
    spikefront("export", *task, "--to", "m.json")
    verified = spikefront("verify", "m.json", *task)
    assert "the same outputs, bit for bit" in verified.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["search", "--task", "no.py:f"], "there is no file"),
        (
            ["search", "--task", "small.py:untraceable"],
            "decides by the values of a tensor at sm",
        ),
        (["search", "--task", "small.py:make_task", "--out", "/proc/nowhere"], "cannot write"),
        (["search", "--task", "small.py:make_task", "--sampler", "luck"], "'luck' is not one of"),
        (["search", "--task", "small.py:make_task", "--timesteps", "4,x"], "whole numbers"),
        (["search", "--task", "small.py:make_task", "--timesteps", "0,2"], "whole numbers"),
        (
            ["search", "--task", "small.py:make_task", "--device", "quantum"],
            "'quantum' is not av",
        ),
        (["search", "--pin", "relu=2"], "give LAYER:phi=1 or LAYER:rho=1.5, got 'relu=2'"),
        (["search", "--task", "small.py:make_task", "--pin", "no:phi=1"], "there is no layer 'no'"),
        (["search", "--task", "small.py:make_task", "--pin", "1:phi=9"], "cannot be pinned to 9"),
        (["search", "--max-energy", "much"], "give a share like 0.08 or an energy like 350nJ"),
        (["search", "--task", "small.py:make_task", "--max-energy", "1pJ"], "no choice keeps"),
        (["sensitivity", "--rho", "2,3"], "give factors from 1 on"),
        (["pareto-dp", "--phi", "0"], "whole numbers"),
        (["search", "--trials", "0"], "0 is not in the range x>=1"),
        (
            ["report", "--out", "empty"],
            "no study in empty; `spikefront search --out empty` makes one",
        ),
        (["verify", "no.json"], "cannot read no.json"),
        (["evaluate", "--task", "small.py:make_task", "--split", "train"], "'train' is not one of"),
        (["evaluate", "--task", "small.py:make_task", "--alpha", "7"], "7.0 is not in the range"),
        (["evaluate", "--energy-weight", "1"], "--energy-weight needs --calibration learned"),
        (["diagnose", "--iterations", "9"], "--iterations needs --calibration tuned or learned"),
        (["export", "--trial", "3", "--max-energy", "0.1"], "either --trial or limits"),
        (
            ["diagnose", "--task", "small.py:make_task", "--figure", "a.txt"],
            "in .png, .svg or .pdf",
        ),
        (["diagnose", "a.json", "--phi", "3"], "either CONFIG or --phi"),
        (["search", "--energy-model", "watt"], "'watt' is not one of horowitz45"),
        (["search", "--energy-model", "none.toml"], "cannot read none.toml"),
        (["search", "--target", "brain"], "'brain' is not one of digital"),
        (["search", "--bits", "8,99", "--task", "small.py:make_task"], "bits must be different"),
        (["search", "--objective", "joy"], "objective 'joy' is unknown; known: energy, latency"),
        (["search", "--objective", "energy,memory"], "memory differs with --bits alone"),
        (["search", "--objective", "latency"], "objectives must be distinct and include energy"),
        (
            ["search", "--target", "xylo", "--neuron", "dual-threshold"],
            "has no negative spikes: search with --neuron adafire",
        ),
        (["check", "no.json", "--target", "speck"], "cannot read no.json"),
        (["check", "no.json"], "Missing option '--target'"),
        (["export", "--format", "nir"], "--format nir needs --reader"),
        (["export", "--format", "npz", "--unrolled"], "--unrolled needs --format onnx or torch"),
        (["export", "--reader", "sinabs"], "--reader needs --format nir"),
        (["explode"], "No such command 'explode'"),
    ],
)
def test_errors_are_one_clear_line(
    spikefront: CommandLine, small: str, arguments: list[str], message: str
) -> None:
    result = spikefront(*arguments, check=False)
    assert result.returncode != 0
    assert message in result.stderr
    assert len([line for line in result.stderr.splitlines() if "error" in line.lower()]) == 1


def test_pins_and_budgets_hold(spikefront: CommandLine, small: str, tmp_path: Path) -> None:
    arguments = ["search", "--task", small, "--trials", 40, "--timesteps", "1,4",
                 "--pin", "1:phi=2",
                 "--max-accuracy-drop", 0.02, "--calibration", "light"]  # fmt: skip
    spikefront(*arguments, "--max-energy", 0.6)
    report = json.loads(spikefront("report", "--task", small, "--json", "--no-test").stdout)
    study = load_study(open_storage(tmp_path / "spikefront-out" / "study.journal"), "small")
    kinds = [t.user_attrs.get("baseline") for t in finished(study)]
    assert {"uniform", "pareto_dp", None} == set(kinds)
    assert {t.params["phi/1"] for t in study.trials} == {2}
    assert any(max(t.constraints.values()) > 0 for t in finished(study))
    page = (tmp_path / "spikefront-out" / "report.html").read_text()
    assert "within the budget: at most 60 % of" in page
    for row in report["front"]:
        assert row["energy_ratio"] <= 0.6
        assert row["accuracy"] >= report["ann_accuracy"]["search"] - 0.02 - 1e-9
    other = spikefront(*arguments, "--max-energy", 0.5, check=False)
    assert "another budget (max_energy): 0.6 there, 0.5 here" in other.stderr
    assert "another budget (max_energy): 0.6 there, None here" in (
        spikefront(*arguments, check=False).stderr
    )


def test_sensitivity_and_the_paper_s_search(
    spikefront: CommandLine, small: str, tmp_path: Path
) -> None:
    found = json.loads(
        spikefront(
            "sensitivity", "--task", small, "--phi", "1,4", "--rho", "1,2", "--figure", "s.png",
            "--json",
        ).stdout
    )  # fmt: skip
    assert found["layers"] == ["1", "3"]
    assert (tmp_path / "s.png").stat().st_size > 10_000
    printed = spikefront("sensitivity", "--task", small, "--phi", "1,4", "--rho", "1,2").stdout
    assert f"{1e3 * found['phi_divergence'][1][0][-1]:.2f}" in printed
    paper = json.loads(spikefront("pareto-dp", "--task", small, "--configs", 5, "--json").stdout)
    ratios = [row["energy_ratio"] for row in paper["points"]]
    assert len(ratios) >= 2
    assert ratios == sorted(ratios)
    for row in paper["points"]:
        assert row["predicted_energy_ratio"] == pytest.approx(row["energy_ratio"], rel=0.25)
        assert set(row["phi"]) == {"1", "3"}
    assert "predicted" in spikefront("pareto-dp", "--task", small, "--configs", 3).stdout

"""What every task keeps: the built-in ones on small data of their layout, and toys."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import safetensors.torch
import torch
from PIL import Image
from torch import nn
from torch.utils.data import Dataset

from conversion import (
    Choice,
    ConversionConfig,
    ExitPolicy,
    Inputs,
    LearnedWeights,
    Values,
    load,
    save,
)
from evaluators import UNTRAINED, Evaluator, Measurement, Split, Task, TaskSpec, digits, load_task
from reports import findings, measure_front, write_report
from search import StudySetup, make_sampler, note_ann, open_study, run_study
from spaces import LayerSpace
from tests.conftest import made_small_task, settle

RANDOM = np.random.default_rng(0)


def picture(path: Path, size: tuple[int, int] = (32, 24)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = RANDOM.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def masks(root: Path) -> TaskSpec:
    for split in ("train", "val"):
        for i in range(10):
            picture(root / split / f"{i}.png")
            mask = RANDOM.integers(0, 4, (24, 32), dtype=np.uint8)
            (root / f"{split}annot").mkdir(exist_ok=True)
            Image.fromarray(mask).save(root / f"{split}annot" / f"{i}.png")
    return TaskSpec(task="segmentation", data=str(root), ignore_label=3)


_XML = """<annotation><object><name>{name}</name><bndbox><xmin>{0}</xmin><ymin>{1}</ymin>
<xmax>{2}</xmax><ymax>{3}</ymax></bndbox></object></annotation>"""


def voc(root: Path) -> TaskSpec:
    lists = root / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (root / "Annotations").mkdir()
    for split in ("train", "val"):
        (lists / f"{split}.txt").write_text("\n".join(f"{split}{i}" for i in range(10)))
        for i in range(10):
            picture(root / "JPEGImages" / f"{split}{i}.jpg", (96, 64))
            x, y = RANDOM.integers(0, 40, 2)
            text = _XML.format(x, y, x + 20, y + 24, name="ab"[i % 2])
            (root / "Annotations" / f"{split}{i}.xml").write_text(text)
    return TaskSpec(task="detection", data=str(root), image_size=64)


def coco(root: Path) -> TaskSpec:
    (root / "annotations").mkdir()
    for split in ("train2017", "val2017"):
        images, annotations = [], []
        for i in range(10):
            picture(root / split / f"{i}.jpg", (96, 64))
            images.append({"id": i, "file_name": f"{i}.jpg", "width": 96, "height": 64})
            box = [5 * (i % 3), 7, 20, 24]
            annotations.append({"image_id": i, "category_id": 3 + 4 * (i % 2), "bbox": box})
        categories = [{"id": 7, "name": "b"}, {"id": 3, "name": "a"}]
        body = {"images": images, "annotations": annotations, "categories": categories}
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(body))
    return TaskSpec(task="detection", data=str(root), image_size=64)


def recordings(root: Path) -> TaskSpec:
    for split in ("Train", "Test"):
        for label in range(3):
            (root / split / str(label)).mkdir(parents=True)
            for i in range(8):
                rows = RANDOM.integers(0, 20, (60, 5)).astype(np.uint8)
                rows[:, 2] = rows[:, 2] % 2 * 128
                rows[:, 3] = np.sort(RANDOM.integers(0, 250, 60))
                (root / split / str(label) / f"{i}.bin").write_bytes(rows.tobytes())
    return TaskSpec(task="events", data=str(root), frames=4)


def grids(root: Path) -> Path:
    for name in ("ball", "box"):
        cells = RANDOM.random((20, 16, 16, 16)) < 0.2
        np.savez(root / f"{name}.npz", packed=np.packbits(cells, axis=-1))
    return root


def regression(_: Path) -> Task:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 1))
    x = torch.randn(90, 4)
    with torch.no_grad():
        y = net(x) + 0.01 * torch.randn(90, 1)
    parts: dict[str, Any] = {
        name: (x[i : i + 30], y[i : i + 30])
        for name, i in (("calibration", 0), ("search", 30), ("test", 60))
    }
    return Task(name="regression", model=net, outputs=Values(), metric=None, **parts)


def clouds(root: Path) -> TaskSpec:
    for split in ("train", "test"):
        (root / split).mkdir()
        for i in range(12):
            points = RANDOM.normal(size=(80, 3))
            parts = (points[:, 2] > 0).astype(np.int64) + (points[:, 0] > 1)
            np.savez(root / split / f"{i}.npz", points=points, parts=parts)
    return TaskSpec(task="parts", data=str(root), points=48)


class Named(nn.Module):
    """Takes a dict of keyword arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = nn.Linear(4, 24), nn.Linear(3, 24), nn.Linear(24, 5)

    def forward(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        return self.three(torch.relu(self.one(left) + self.two(right)))


class Rows(Dataset):
    def __init__(self, begin: int) -> None:
        self.begin = begin

    def __len__(self) -> int:
        return 30

    def __getitem__(self, place: int) -> tuple[dict[str, torch.Tensor], int]:
        draw = torch.Generator().manual_seed(self.begin + place)
        left, right = torch.randn(4, generator=draw), torch.randn(3, generator=draw)
        return {"left": left, "right": right}, place % 5


def keywords(_: Path) -> Task:
    torch.manual_seed(0)
    parts = {name: Rows(100 * i) for i, name in enumerate(("calibration", "search", "test"))}
    return Task(name="keywords", model=Named().eval(), **parts)


MAKE: dict[str, Callable[[Path], TaskSpec | Task]] = {
    "small": lambda root: made_small_task(),
    "digits": lambda root: digits(),
    "regression": regression,
    "keywords": keywords,
    "segmentation": masks,
    "detection, VOC": voc,
    "detection, COCO": coco,
    "events": recordings,
    "voxels": lambda root: TaskSpec(task="voxels", data=str(grids(root))),
    "pointcloud": lambda root: TaskSpec(task="pointcloud", data=str(grids(root)), points=64),
    "parts": clouds,
}


def trained(made: TaskSpec | Task, folder: Path) -> tuple[Task, TaskSpec | None]:
    """The task with settled weights, loaded from a file where it is a built-in one."""
    if isinstance(made, Task):
        return made, None
    torch.manual_seed(0)
    task = load_task(replace(made, weights=UNTRAINED))
    assert isinstance(task.train, Split)
    x = Inputs.of(next(task.train.batches(8))[0])
    floats = x.with_tensors([t.float().mean(1) if task.feed != "static" else t for t in x.tensors])
    weights = folder / "weights.safetensors"
    state = settle(task.model, floats).state_dict()
    safetensors.torch.save_file({k: v.contiguous() for k, v in state.items()}, weights)
    spec = replace(made, weights=str(weights))
    return load_task(spec), spec


@pytest.fixture(scope="module", params=list(MAKE))
def evaluator(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Evaluator]:
    folder = tmp_path_factory.mktemp("task")
    (folder / "data").mkdir()
    task, _ = trained(MAKE[request.param](folder / "data"), folder)
    return Evaluator(task, batch_size=7)


def choice(evaluator: Evaluator, steps: int = 4, alpha: float = 1.0, **options: Any) -> Choice:
    length = evaluator.profile.length or steps
    settings = {"timesteps": min(steps, length), "calibration_timesteps": min(steps, length)}
    config = ConversionConfig.uniform(evaluator.layers, phi=8, **settings, **options)
    exits = ExitPolicy(alpha=alpha) if evaluator.profile.outputs.scores else ExitPolicy()
    return Choice(conversion=config, exit=exits)


def test_the_ann_is_measured_as_the_model_answers(evaluator: Evaluator) -> None:
    task, found = evaluator.task, evaluator.ann("search")
    statistics, n = [], 0
    outputs = evaluator.profile.outputs
    for x, y in task.search.batches(5):
        given = Inputs.of(x)
        floats = given.with_tensors([t.float() for t in given.tensors])
        still = floats if task.feed == "static" else floats.with_tensors(
            [t.mean(1) for t in floats.tensors]
        )  # fmt: skip
        with torch.no_grad():
            answer = task.model.eval()(*still.args, **still.kwargs)
        named = answer if isinstance(answer, dict) else {str(outputs.output): answer}
        statistics.append(task.metric.statistics(outputs.answer(named), y))
        n += len(y)
    assert found.n == n
    assert found.accuracy.value == pytest.approx(task.metric.value(torch.cat(statistics)), abs=0.02)
    assert 0 <= found.accuracy.value <= 1


def test_a_measurement_is_whole(evaluator: Evaluator) -> None:
    found = evaluator.measure(choice(evaluator))
    ann = evaluator.ann("search")
    assert found.metric == evaluator.task.metric.name
    assert found.drop is not None
    assert found.drop.mean == pytest.approx(ann.accuracy.value - found.accuracy.value, abs=1e-9)
    assert found.energy_pj.value > 0
    assert sum(found.layer_energy_pj.values()) == pytest.approx(found.energy_pj.value)
    assert found.kl.value >= 0
    last = [row for row in found.exit_curve if row[1] == 1.0][-1]
    assert last[2] == pytest.approx(found.accuracy.value)
    assert last[3] == pytest.approx(found.energy_ratio)
    assert Measurement.from_dict(json.loads(json.dumps(found.to_dict()))) == found


def test_batches_play_no_part(evaluator: Evaluator) -> None:
    found = evaluator.measure(choice(evaluator, alpha=0.5))
    other = Evaluator(evaluator.task, batch_size=4)
    again = other.measure(choice(other, alpha=0.5))
    assert again.accuracy.value == pytest.approx(found.accuracy.value, abs=0.02)
    assert again.kl.value == pytest.approx(found.kl.value, rel=1e-3, abs=1e-4)
    assert again.energy_pj.value == pytest.approx(found.energy_pj.value, rel=1e-3)
    assert other.search_fingerprint == evaluator.search_fingerprint


def test_a_recording_holds_no_outputs(evaluator: Evaluator) -> None:
    picked = choice(evaluator)
    recording = evaluator.record(evaluator.convert(picked), "search")
    steps, n = recording.divergences.shape
    per_sample = recording.statistics[0, 0].numel()
    assert recording.statistics.shape[:2] == (steps, n)
    assert per_sample <= 600
    assert recording.first(1).measure().accuracy == recording.metric.estimate(
        recording.statistics[0]
    )
    model = evaluator.convert(picked)
    assert recording.measure().same_outputs(evaluator.record(model, "search").measure())


def test_deployed_it_leaves_where_the_recording_says(evaluator: Evaluator, tmp_path: Path) -> None:
    scores = evaluator.profile.outputs.scores
    model = evaluator.convert(choice(evaluator))
    recording = evaluator.record(model, "search")
    if scores:
        middle = float(recording.confidences[scores[0]].median())
        picked = choice(evaluator, alpha=min(max(middle, 0.0), 1.0))
        model = evaluator.convert(picked)
    save(model, tmp_path / "a.json")
    again = load(tmp_path / "a.json", evaluator.task.model)
    exits, start = recording.exits(model.exit), 0
    for x, y in evaluator.task.search.batches(7):
        steps = again.infer(x).timesteps
        assert (steps - 1 == exits[start : start + len(y)]).double().mean() > 0.99
        start += len(y)


def test_more_steps_come_nearer(evaluator: Evaluator) -> None:
    if evaluator.task.feed != "static":
        pytest.skip("more steps than were recorded there are not")
    few, many = (evaluator.measure(choice(evaluator, steps=s)).kl.value for s in (1, 32))
    assert many < few or few < 1e-3


def test_it_is_searched_and_reported(evaluator: Evaluator, tmp_path: Path) -> None:
    space = LayerSpace(
        layers=evaluator.layers,
        timesteps=(1, 2),
        calibrations=("light",),
        exits=bool(evaluator.profile.outputs.scores),
        length=evaluator.profile.length,
    )
    storage = optuna.storages.InMemoryStorage()
    study = open_study(storage, "contract", StudySetup.of(evaluator, space))
    note_ann(study, evaluator.ann("search"))
    study.sampler = make_sampler("random", seed=0, profile=evaluator.profile, space=space,
                                 energy=evaluator.energy)  # fmt: skip
    run_study(study, space, lambda: evaluator, trials=9, folder=tmp_path)
    assert study.metric_names == [evaluator.task.metric.name, "energy_pj"]
    front = measure_front(study, evaluator)
    assert front.metric == evaluator.task.metric.name
    found = findings(study, evaluator, front)
    comparison = found.known_comparison
    assert comparison.n == len(evaluator.task.test)
    assert sum(comparison.exits) == pytest.approx(1)
    assert comparison.ann_score == pytest.approx(front.ann["test"].accuracy.value, abs=1e-6)
    files = write_report(found, tmp_path, figure_kinds=("svg",))
    page = files[-1].read_text("utf-8")
    assert front.metric in page
    assert ("non-maximum suppression" in page) == evaluator.task.name.startswith("detection")
    drawn = {path.stem for path in files}
    assert ("samples" in drawn) == (evaluator.task.name not in ("regression", "keywords"))
    assert ("classes" in drawn) == (evaluator.task.name != "regression")
    divergences = [pair.divergence for pair in comparison.pairs]
    assert divergences == sorted(divergences, reverse=True)
    if len(comparison.confusion):
        positions = comparison.pairs[0].target.numel()
        assert int(comparison.confusion.sum()) == comparison.n * positions


def test_learning_runs_and_does_no_harm(evaluator: Evaluator) -> None:
    calibration = LearnedWeights(iterations=12, energy_weight=0.0)
    before = evaluator.measure(choice(evaluator, steps=2, neuron="dual-threshold"), "calibration")
    learned = choice(evaluator, steps=2, neuron="dual-threshold", calibration=calibration)
    found = evaluator.measure(learned, "calibration")
    assert found.kl.value != before.kl.value
    assert found.kl.value < 2 * before.kl.value + 5e-3


def test_learning_sees_the_training_samples_and_no_others() -> None:
    seen: list[torch.Tensor] = []

    class Watched:
        def __iter__(self) -> Any:
            torch.manual_seed(3)
            while True:
                seen.append(torch.rand(6, 2, 10, 10))
                yield seen[-1]

    task = made_small_task()
    evaluator = Evaluator(replace(task, train=Watched()))
    calibration = LearnedWeights(iterations=4, energy_weight=0.1)
    with_train = evaluator.measure(choice(evaluator, steps=2, calibration=calibration))
    assert len(seen) >= 4
    other = Evaluator(task)
    without = other.measure(choice(other, steps=2, calibration=calibration))
    assert with_train.kl.value != without.kl.value


def test_targets_of_boxes_are_scaled_and_mirrored(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    spec = voc(tmp_path / "data")
    task = load_task(replace(spec, weights=UNTRAINED, image_size=32))
    assert isinstance(task.train, Split)
    dataset: Any = task.train.dataset
    sample = dataset._annotated[0]
    x1, y1, x2, y2, label = sample.objects[0]
    seen = set()
    for seed in range(20):
        torch.manual_seed(seed)
        x, rows = dataset[0]
        assert x.shape == (3, 32, 48)
        if bool(torch.allclose(rows[0], torch.tensor([x1, y1, x2, y2, 2.0 * label]) / 2)):
            seen.add("as it is")
        else:
            mirrored = torch.tensor([96 - x2, y1, 96 - x1, y2, 2.0 * label]) / 2
            torch.testing.assert_close(rows[0], mirrored)
            seen.add("mirrored")
    assert seen == {"as it is", "mirrored"}

"""The files that people have: what is read from them, and what is told of when they do not fit."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import torchvision
from PIL import Image
from torch.utils.data import DataLoader

from evaluators import (
    UNTRAINED,
    Split,
    Task,
    TaskError,
    TaskSpec,
    TorchvisionDetector,
    load_model,
    load_task,
)
from evaluators._checks import checked_targets
from evaluators.tasks._divide import thirds
from evaluators.tasks._events import Events, frames_of, read_events
from evaluators.tasks._shapes import gridded, in_unit_ball, on_surface, read_off

TIMES = [0, 10, 1000, 70_000, 299_999]


def untrained(task: str, root: Path, **options: Any) -> Task:
    return load_task(TaskSpec(task=task, data=str(root), weights=UNTRAINED, **options))


def test_recordings_in_every_format_are_the_same(tmp_path: Path) -> None:
    x, y, p = [3, 33, 0, 7, 7], [0, 1, 33, 2, 2], [1, 0, 1, 1, 0]
    rows = b"".join(
        struct.pack(">BBI", a, b, c << 23 | t)[:2] + struct.pack(">I", c << 23 | t)[1:]
        for a, b, c, t in zip(x, y, p, TIMES, strict=True)
    )
    (tmp_path / "a.bin").write_bytes(rows)
    (tmp_path / "a.bs2").write_bytes(rows)
    fields = np.array(
        list(zip(x, y, TIMES, p, strict=True)),
        dtype=[("x", "<i2"), ("y", "<i2"), ("t", "<i8"), ("p", "?")],
    )
    np.save(tmp_path / "a.npy", fields)
    np.savez(tmp_path / "a.npz", x=x, y=y, t=TIMES, p=p)
    for name in ("a.bin", "a.bs2", "a.npy", "a.npz"):
        found = read_events(tmp_path / name)
        assert [part.tolist() for part in found] == [x, y, TIMES, p], name


def test_rows_that_count_time_on_are_no_events(tmp_path: Path) -> None:
    rows = [(3, 4, 100), (0, 240, 0), (5, 6, 50), (1, 240, 0), (7, 7, 60)]
    data = b"".join(struct.pack(">BB", x, y) + struct.pack(">I", t)[1:] for x, y, t in rows)
    (tmp_path / "a.bin").write_bytes(data)
    found = read_events(tmp_path / "a.bin")
    assert found.y.tolist() == [4, 6, 7]
    assert found.t.tolist() == [100, 50 + 2**13, 60 + 2**14]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"t": [0.1, 0.9]}, "times are fractions"),
        ({"p": [1, 2]}, "not 0 and 1, or -1 and 1"),
        ({"x": [-1, 2]}, "a coordinate is below zero"),
        ({"y": [1]}, "differ in their length"),
    ],
)
def test_events_that_are_none(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    fields = {"x": [0, 1], "y": [0, 1], "t": [0, 10], "p": [0, 1]}
    np.savez(tmp_path / "a.npz", **{**fields, **changed})
    with pytest.raises(TaskError, match=message):
        read_events(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", **{**fields, "p": [-1, 1], "t": [0.0, 10.0]})
    assert read_events(tmp_path / "b.npz").p.tolist() == [0, 1]


def test_frames_by_time_and_by_count_by_hand() -> None:
    zeros = np.zeros(5, dtype=np.int64)
    events = Events(np.array([0, 1, 1, 0, 0]), zeros, np.array(TIMES), np.array([1, 0, 1, 1, 0]))
    by_time = frames_of(events, 2, (1, 2), "time")
    assert by_time.tolist() == [[[[0, 1]], [[2, 1]]], [[[1, 0]], [[0, 0]]]]
    by_count = frames_of(events, 5, (1, 2), "count")
    assert by_count.sum((1, 2, 3)).tolist() == [1, 1, 1, 1, 1]
    assert by_count[1].tolist() == [[[0, 1]], [[0, 0]]]
    many = Events(*(np.zeros(300, dtype=np.int64) for _ in range(4)))
    assert int(frames_of(many, 1, (1, 1), "count").max()) == 255
    none = Events(*(np.zeros(0, dtype=np.int64) for _ in range(4)))
    assert int(frames_of(none, 3, (2, 2), "time").sum()) == 0


def test_listed_recordings_are_divided_by_class(tmp_path: Path) -> None:
    lines = []
    for i in range(20):
        rows = np.full((6, 5), i, dtype=np.uint8)
        (tmp_path / f"{i}.bs2").write_bytes(rows.tobytes())
        lines.append(f"{i}\t{i % 2}")
    (tmp_path / "train.txt").write_text("\n".join(lines))
    task = untrained("events", tmp_path, frames=3)
    assert isinstance(task.train, Split)
    assert (len(task.train), len(task.search), len(task.test)) == (12, 4, 4)
    x, y = next(task.search.batches(4))
    assert x.shape == (4, 3, 2, 20, 20)
    assert sorted(y.tolist()) == [0, 0, 1, 1]
    assert task.feed == "events"


def recordings(root: Path, names: list[str]) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(bytes([1, 2, 128, 0, 5] * 4))


def test_lists_for_train_and_test_are_kept_apart(tmp_path: Path) -> None:
    recordings(tmp_path, [f"{i}.bs2" for i in range(12)])
    for name, places in (("train1K", range(8)), ("test100", range(8, 12))):
        lines = "\n".join(f"{i}\t{i % 2}" for i in places)
        (tmp_path / f"{name}.txt").write_text(lines)
    task = untrained("events", tmp_path)
    assert isinstance(task.train, Split)
    assert (len(task.train), len(task.search), len(task.test)) == (8, 2, 2)
    (tmp_path / "more.txt").write_text("0 1")
    with pytest.raises(TaskError, match=r"several lists, more\.txt, test, train: call them"):
        untrained("events", tmp_path)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["train/a/0.bin"], "neither a val nor a test folder"),
        (["train/a/0.bin", "val/a/no.txt", "test/a/0.bin"], "val has no recordings"),
        (["train/a/0.bin", "test/a/0.bin", "test/b/0.bin"], "not have the same classes: .*'b'"),
    ],
)
def test_folders_of_recordings_that_do_not_fit(
    tmp_path: Path, files: list[str], message: str
) -> None:
    recordings(tmp_path, files)
    with pytest.raises(TaskError, match=message):
        untrained("events", tmp_path)


def test_shapes_have_the_same_classes_in_every_split(tmp_path: Path) -> None:
    for name in ("train/a", "train/b", "test/b"):
        (tmp_path / name).mkdir(parents=True)
        np.save(tmp_path / name / "0.npy", np.ones((4, 4, 4), dtype=bool))
    with pytest.raises(TaskError, match="do not have the same classes: only one has 'a'"):
        untrained("voxels", tmp_path)


def test_thirds_do_not_depend_on_a_seed_and_do_not_overlap() -> None:
    labels = [0, 1, 2] * 40
    parts = thirds(labels)
    assert [len(part) for part in parts] == [72, 24, 24]
    assert sorted(place for part in parts for place in part) == list(range(120))
    assert parts == thirds(labels)
    assert all([labels[i] for i in part].count(1) == len(part) // 3 for part in parts)


_OFF = "OFF\n4 2 0\n0 0 0\n2 0 0\n2 1 0\n0 1 0\n3 0 1 2\n3 0 2 3\n"


@pytest.mark.parametrize(
    "text",
    [
        _OFF,
        _OFF.replace("OFF\n", "OFF"),
        _OFF.replace("4 2 0", "4 1 0").replace("3 0 1 2\n3 0 2 3", "4 0 1 2 3"),
    ],
)
def test_off_files_with_glued_headers_and_polygons(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.off").write_text(text)
    points, triangles = read_off(tmp_path / "a.off")
    assert points.shape == (4, 3)
    assert triangles[0].tolist() == [0, 1, 2]
    drawn = on_surface(points, triangles, 4000, seed=0)
    assert drawn[:, 2].tolist() == [0.0] * 4000
    # Evenly over a rectangle of 2 by 1.
    assert drawn.mean(0)[:2] == pytest.approx([1.0, 0.5], abs=0.03)
    assert drawn.std(0)[:2] == pytest.approx([2 / 12**0.5, 1 / 12**0.5], abs=0.02)


def test_a_grid_and_a_ball_by_hand() -> None:
    grid = gridded(np.array([[0.0, 0.0, 0.0], [1.0, 0.5, 0.0]]), 4)
    assert np.argwhere(grid).tolist() == [[0, 0, 0], [3, 2, 0]]
    ball = in_unit_ball(np.array([[1.0, 1, 1], [3.0, 1, 1]]))
    assert ball.tolist() == [[-1, 0, 0], [1, 0, 0]]


def test_shapes_from_off_become_grids_and_points(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for label in ("a", "b"):
            place = tmp_path / label / split
            place.mkdir(parents=True)
            for i in range(4):
                (place / f"{i}.off").write_text(_OFF)
    grids = untrained("voxels", tmp_path)
    assert next(grids.search.batches(1))[0].shape == (1, 1, 32, 32, 32)
    clouds = untrained("pointcloud", tmp_path, points=50)
    x, _ = next(clouds.search.batches(1))
    assert x.shape == (1, 3, 50)
    assert float(x.norm(dim=1).max()) == pytest.approx(1.0, abs=1e-5)


def picture(path: Path, size: tuple[int, int] = (8, 6), mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, 1 if mode == "L" else (200, 30, 5)).save(path)


@pytest.mark.parametrize(
    ("images", "masks", "names"),
    [
        ("{}", "{}annot", ("train", "val")),
        ("images/{}", "masks/{}", ("train", "val")),
        ("images/{}", "annotations/{}", ("training", "validation")),
    ],
)
def test_masks_in_their_layouts(
    tmp_path: Path, images: str, masks: str, names: tuple[str, str]
) -> None:
    for name in names:
        for i in range(4):
            picture(tmp_path / images.format(name) / f"{i}.jpg")
            picture(tmp_path / masks.format(name) / f"{i}.png", mode="L")
    task = untrained("segmentation", tmp_path)
    x, y = next(task.search.batches(2))
    assert x.shape == (2, 3, 6, 8)
    assert y.tolist() == [[[1] * 8] * 6] * 2
    resized = untrained("segmentation", tmp_path, image_size=12)
    assert next(resized.search.batches(1))[1].shape == (1, 12, 16)
    assert next(resized.search.batches(1))[1].unique().tolist() == [1]
    assert untrained("segmentation", tmp_path, classes=7).model(x).shape[1] == 7


def test_voc_s_masks(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for i in range(3):
            picture(tmp_path / "JPEGImages" / f"{split}{i}.jpg")
            picture(tmp_path / "SegmentationClass" / f"{split}{i}.png", mode="L")
        lists = tmp_path / "ImageSets" / "Segmentation"
        lists.mkdir(parents=True, exist_ok=True)
        (lists / f"{split}.txt").write_text("\n".join(f"{split}{i}" for i in range(3)))
    task = untrained("segmentation", tmp_path)
    assert isinstance(task.train, Split)
    assert len(task.train) == 3


def spoiled(task: str, root: Path) -> None:
    """Nearly right data, with one thing wrong."""
    if task == "events":
        (root / "train" / "a").mkdir(parents=True)
        (root / "test" / "a").mkdir(parents=True)
        for split in ("train", "test"):
            for i in range(3):
                (root / split / "a" / f"{i}.bin").write_bytes(b"123456789")
    elif task == "detection":
        (root / "ImageSets" / "Main").mkdir(parents=True)
        (root / "Annotations").mkdir()
        for split in ("train", "val"):
            (root / "ImageSets" / "Main" / f"{split}.txt").write_text("one")
        (root / "Annotations" / "one.xml").write_text("<annotation><object>")
    elif task == "segmentation":
        for split in ("train", "val"):
            picture(root / split / "a.jpg")
            picture(root / f"{split}annot" / "b.png", mode="L")
    else:
        np.savez(root / "a.npz", other=np.zeros(3))


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("events", r"0.bin is not a recording of events: 9 bytes are not a multiple of 5"),
        ("detection", r"one.xml holds no boxes"),
        ("segmentation", r"the image .*a.jpg has no mask a.png in"),
        ("voxels", r"a.npz holds no grids, voxels or packed"),
    ],
)
def test_files_that_are_not_what_they_should_be(tmp_path: Path, task: str, message: str) -> None:
    spoiled(task, tmp_path)
    with pytest.raises(TaskError, match=message):
        untrained(task, tmp_path)


@pytest.mark.parametrize("task", ["events", "detection", "segmentation", "voxels", "pointcloud"])
def test_an_empty_folder_is_told_what_it_should_hold(tmp_path: Path, task: str) -> None:
    with pytest.raises(TaskError, match=r"has no .*: give a folder"):
        untrained(task, tmp_path)


def test_masks_of_nothing_but_background_are_told_of(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for i in range(2):
            picture(tmp_path / split / f"{i}.jpg")
            mask = np.zeros((6, 8), dtype=np.uint8)
            mask[2:4] = 255
            (tmp_path / f"{split}annot").mkdir(exist_ok=True)
            Image.fromarray(mask).save(tmp_path / f"{split}annot" / f"{i}.png")
    with pytest.raises(TaskError, match=r"labels \[0, 255\], and 255 is ignored: there is nothing"):
        untrained("segmentation", tmp_path)
    picture(tmp_path / "valannot" / "0.png", (8, 5), mode="L")
    task = untrained("segmentation", tmp_path, ignore_label=7)
    with pytest.raises(TaskError, match=r"valannot/0.png has 8x5 pixels, its image 8x6"):
        [None for split in (task.search, task.test) for _ in split.batches(1)]


def test_a_split_is_a_dataset_too(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", voxels=np.ones((10, 4, 4, 4), dtype=bool))
    np.savez(tmp_path / "b.npz", voxels=np.ones((10, 4, 4, 4), dtype=bool))
    task = untrained("voxels", tmp_path)
    assert isinstance(task.train, Split)
    loader: Any = DataLoader(task.train, batch_size=4)  # type: ignore[arg-type]
    assert [len(y) for _, y in loader] == [4, 4, 4]


def test_images_of_several_sizes_need_one(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for i in range(3):
            picture(tmp_path / split / f"{i}.jpg", (8 + i, 6))
            picture(tmp_path / f"{split}annot" / f"{i}.png", (8 + i, 6), mode="L")
    with pytest.raises(TaskError, match=r"3 different sizes, .*: give --image-size"):
        untrained("segmentation", tmp_path)
    untrained("segmentation", tmp_path, image_size=6)


def test_detectors_of_two_stages_are_refused() -> None:
    with pytest.raises(TaskError, match="has two stages; one-stage detectors convert: RetinaNet"):
        TorchvisionDetector("fasterrcnn_mobilenet_v3_large_320_fpn", 2)


def one_image(root: Path, difficult: int = 0) -> None:
    (root / "ImageSets" / "Main").mkdir(parents=True)
    (root / "Annotations").mkdir()
    for split in ("train", "val"):
        names = [f"{split}{i}" for i in range(2)]
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(names))
        for i, name in enumerate(names):
            picture(root / "JPEGImages" / f"{name}.jpg", (64, 64))
            item = (
                "<object><name>a</name><difficult>{}</difficult><bndbox><xmin>1</xmin>"
                "<ymin>2</ymin><xmax>30</xmax><ymax>40</ymax></bndbox></object>"
            )
            text = item.format(0) + item.format(difficult) if i else ""
            (root / "Annotations" / f"{name}.xml").write_text(f"<a>{text}</a>")


def test_images_without_objects_and_difficult_ones(tmp_path: Path) -> None:
    one_image(tmp_path, difficult=1)
    task = untrained("detection", tmp_path, image_size=64)
    rows = torch.cat([y for _, y in task.search.batches(4)] + [y for _, y in task.test.batches(4)])
    assert sorted((rows[..., 4] >= 0).sum(1).tolist()) == [0, 1]


def test_a_model_that_does_not_decode_is_no_detector(tmp_path: Path) -> None:
    one_image(tmp_path)
    with pytest.raises(TaskError, match="the model resnet20 detects nothing: it needs"):
        untrained("detection", tmp_path, model="resnet20")


def test_targets_that_are_dicts_or_differ_are_told_of() -> None:
    images = [torch.rand(3, 8, 8) for _ in range(3)]
    rows = [(x, {"boxes": torch.rand(2, 4)}) for x in images]
    split = Split(
        rows, "search", collate=lambda b: (torch.stack([x for x, _ in b]), [y for _, y in b])
    )
    with pytest.raises(TaskError, match=r"are no tensor, but a list: give .* \(G, 5\)"):
        next(split.batches(2))
    other = Split([(x, torch.zeros(i, 5)) for i, x in enumerate(images)], "search")
    with pytest.raises(TaskError, match=r"sample 1 of the search split has a target of another"):
        checked_targets(other, size=1)


def test_weights_of_torchvision_s_with_and_without_their_training_heads(tmp_path: Path) -> None:
    detector = TorchvisionDetector("ssdlite320_mobilenet_v3_large", 2)
    detector.load_state_dict(detector.state_dict())
    detector.load_state_dict(detector.model.state_dict())
    detector.prepare((320, 320))
    before = {k: v.clone() for k, v in detector.state_dict().items()}
    assert detector.training
    x = torch.rand(2, 3, 320, 320)
    detector.decode(detector.eval()(x))
    detector.train()
    detector.decode({k: v.detach() for k, v in detector.eval()(x).items()})
    assert all(torch.equal(v, before[k]) for k, v in detector.state_dict().items())
    with_head = torchvision.models.segmentation.lraspp_mobilenet_v3_large(
        num_classes=3, weights_backbone=None
    ).state_dict()
    with_head["aux_classifier.0.weight"] = torch.zeros(2)
    safetensors.torch.save_file(with_head, tmp_path / "w.safetensors")
    spec = TaskSpec(
        task="segmentation",
        model="lraspp_mobilenet_v3_large",
        weights=str(tmp_path / "w.safetensors"),
    )
    load_model(spec, 3)


def test_torchvision_s_boxes_are_decoded_as_torchvision_does() -> None:
    torch.manual_seed(0)
    detector = TorchvisionDetector("ssdlite320_mobilenet_v3_large", 4).eval()
    detector.prepare((320, 320))
    detector.model.score_thresh = 0.0
    images = torch.rand(2, 3, 320, 320)
    mean, spread = (torch.tensor(s).view(3, 1, 1) for s in detector.statistics)
    with torch.no_grad():
        mine = detector.decode(detector((images - mean) / spread))
        foreign = detector.model(list(images))
    for one, other in zip(mine, foreign, strict=True):
        kept = other["labels"] > 0
        assert len(one["scores"]) == int(kept.sum()) > 50
        torch.testing.assert_close(
            one["scores"].sort().values, other["scores"][kept].sort().values, atol=1e-4, rtol=1e-3
        )
        assert one["labels"].sort().values.tolist() == sorted((other["labels"][kept] - 1).tolist())


def test_empty_grids_are_left_out_and_told_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    grids = np.ones((10, 4, 4, 4), dtype=bool)
    grids[3] = False
    np.savez(tmp_path / "a.npz", voxels=grids)
    np.savez(tmp_path / "b.npz", packed=np.packbits(grids, axis=-1)[..., :1])
    with caplog.at_level("WARNING", "spikefront"):
        task = untrained("pointcloud", tmp_path, points=16)
    assert "1 of 10 shapes are empty and were skipped" in caplog.text
    assert isinstance(task.train, Split)
    assert len(task.train) + len(task.search) + len(task.test) == 18

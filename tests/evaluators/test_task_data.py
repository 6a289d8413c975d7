"""The files that people have: what is read from them, and what is told of when they do not fit."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from evaluators import UNTRAINED, Split, Task, TaskError, TaskSpec, TorchvisionDetector, load_task
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
    ("images", "masks"),
    [
        ("{}/", "{}annot/"),
        ("images/{}/", "masks/{}/"),
        ("images/{}ing/", "annotations/{}ing/"),
    ],
)
def test_masks_in_their_layouts(tmp_path: Path, images: str, masks: str) -> None:
    for split in ("train", "val"):
        for i in range(4):
            name = split if "ing" not in images or split == "train" else "validation"[:-3] + "ion"
            here = images.replace("{}ing", "{}") if name == "validation" else images
            there = masks.replace("{}ing", "{}") if name == "validation" else masks
            picture(tmp_path / here.format(name) / f"{i}.jpg")
            picture(tmp_path / there.format(name) / f"{i}.png", mode="L")
    task = untrained("segmentation", tmp_path)
    x, y = next(task.search.batches(2))
    assert x.shape == (2, 3, 6, 8)
    assert y.tolist() == [[[1] * 8] * 6] * 2
    resized = untrained("segmentation", tmp_path, image_size=12)
    assert next(resized.search.batches(1))[1].shape == (1, 12, 16)
    assert next(resized.search.batches(1))[1].unique().tolist() == [1]


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
        ("events", r"0.bin is no recording of events: 9 bytes are no multiple of 5"),
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


def test_images_of_several_sizes_need_one(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for i in range(3):
            picture(tmp_path / split / f"{i}.jpg", (8 + i, 6))
            picture(tmp_path / f"{split}annot" / f"{i}.png", (8 + i, 6), mode="L")
    with pytest.raises(TaskError, match=r"3 different sizes, .*: give --image-size"):
        untrained("segmentation", tmp_path)
    untrained("segmentation", tmp_path, image_size=6)


def test_a_detector_is_one_that_decodes(tmp_path: Path) -> None:
    (tmp_path / "annotations").mkdir()
    with pytest.raises(TaskError, match="has two stages; one-stage detectors convert: RetinaNet"):
        TorchvisionDetector("fasterrcnn_mobilenet_v3_large_320_fpn", 2)


def test_torchvision_s_boxes_are_decoded_as_torchvision_does() -> None:
    torch.manual_seed(0)
    detector = TorchvisionDetector("ssdlite320_mobilenet_v3_large", 4).eval()
    detector.prepare((320, 320))
    detector.model.score_thresh = 0.0
    images = torch.rand(2, 3, 320, 320)
    mean, spread = (torch.tensor(s).view(3, 1, 1) for s in detector.statistics)
    with torch.no_grad():
        mine = detector.decode(detector((images - mean) / spread))
        theirs = detector.model(list(images))
    for one, other in zip(mine, theirs, strict=True):
        kept = other["labels"] > 0
        assert len(one["scores"]) == int(kept.sum()) > 50
        torch.testing.assert_close(
            one["scores"].sort().values, other["scores"][kept].sort().values, atol=1e-4, rtol=1e-3
        )
        assert one["labels"].sort().values.tolist() == sorted((other["labels"][kept] - 1).tolist())

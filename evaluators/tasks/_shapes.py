"""Three-dimensional shapes: occupancy grids and point clouds from the files that people have."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset

from evaluators._split import TaskError
from evaluators.tasks._divide import Counts, Splits, check_same_classes, divide, thirds

_LOG = logging.getLogger("spikefront")

Kind = Literal["voxels", "pointcloud"]

_GRID = 32
_DENSE = 20_000
"""Points of a surface that is made into a grid."""

Read = Callable[[], np.ndarray]
"""Gives a grid ``(D, H, W)`` of booleans, or points ``(P, 3)``."""


def read_off(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Vertices ``(V, 3)`` and triangles ``(F, 3)`` of an ``.off`` file; polygons become fans.

    Raises:
        TaskError: It is none.
    """
    try:
        words = path.read_text("utf-8").split()
        first = words[0].upper()
        if not first.startswith("OFF"):
            raise ValueError("it does not start with OFF")
        words = [first[3:], *words[1:]] if len(first) > 3 else words[1:]  # as ModelNet glues them
        vertices, faces = int(words[0]), int(words[1])
        points = np.array(words[3 : 3 + 3 * vertices], dtype=np.float64).reshape(-1, 3)
        at, triangles = 3 + 3 * vertices, []
        for _ in range(faces):
            corners = int(words[at])
            ring = [int(word) for word in words[at + 1 : at + 1 + corners]]
            triangles += [(ring[0], ring[i], ring[i + 1]) for i in range(1, corners - 1)]
            at += 1 + corners
        return points, np.array(triangles, dtype=np.int64).reshape(-1, 3)
    except (OSError, ValueError, IndexError) as error:
        raise TaskError(f"{path} is not an OFF file: {error}") from error


def on_surface(points: np.ndarray, triangles: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Points drawn evenly from a surface, ``(count, 3)``."""
    draw = np.random.default_rng(seed)
    a, b, c = (points[triangles[:, i]] for i in range(3))
    areas = np.linalg.norm(np.cross(b - a, c - a), axis=1)
    chosen = draw.choice(len(triangles), size=count, p=areas / areas.sum())
    u, v = draw.random((2, count, 1))
    folded = u + v > 1
    u, v = np.where(folded, 1 - u, u), np.where(folded, 1 - v, v)
    found: np.ndarray = a[chosen] + u * (b - a)[chosen] + v * (c - a)[chosen]
    return found


def gridded(points: np.ndarray, size: int = _GRID) -> np.ndarray:
    """The cells of a grid with a point in them, ``(size,) * 3``, the longest side filling it."""
    low = points.min(0)
    scale = max(float((points.max(0) - low).max()), 1e-12)
    cells = np.minimum(((points - low) / scale * size).astype(np.int64), size - 1)
    grid = np.zeros((size,) * 3, dtype=bool)
    grid[tuple(cells.T)] = True
    return grid


def in_unit_ball(points: np.ndarray) -> np.ndarray:
    """Centred, the farthest point at distance 1."""
    centred = points - points.mean(0)
    scaled: np.ndarray = centred / max(float(np.linalg.norm(centred, axis=1).max()), 1e-12)
    return scaled


class Shapes(Dataset[tuple[Tensor, int]]):
    """Shapes with their classes: grids ``(1, D, H, W)``, or points ``(3, P)`` in the unit ball.

    Args:
        samples: What each is read by, and its class.
        kind: What they become.
        points: P; drawn from what there is, always the same ones for a sample.
    """

    def __init__(self, samples: Sequence[tuple[Read, int]], kind: Kind, points: int) -> None:
        self._samples = list(samples)
        self._kind, self._points = kind, points

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, place: int) -> tuple[Tensor, int]:
        read, label = self._samples[place]
        found = read()
        if self._kind == "voxels":
            grid = found if found.ndim == 3 else gridded(found)
            return torch.from_numpy(grid.astype(np.float32))[None], label
        cloud = np.argwhere(found).astype(np.float64) if found.ndim == 3 else found
        if not len(cloud):
            raise TaskError(f"shape {place} has no points")
        draw = np.random.default_rng(place)
        chosen = draw.choice(len(cloud), size=self._points, replace=len(cloud) < self._points)
        return torch.from_numpy(in_unit_ball(cloud[chosen]).T.astype(np.float32)), label


class Parts(Dataset[tuple[Tensor, Tensor]]):
    """Point clouds ``(3, P)`` in the unit ball, and the part that each point belongs to, ``(P,)``.

    Args:
        paths: ``.npz`` files with ``points`` ``(Q, 3)`` and ``parts`` ``(Q,)``.
        points: P; drawn from what there is, always the same ones for a sample.
    """

    def __init__(self, paths: Sequence[Path], points: int) -> None:
        self.samples = [(path, None) for path in paths]
        self._points = points

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, place: int) -> tuple[Tensor, Tensor]:
        cloud, parts = _parts_of(self.samples[place][0])
        draw = np.random.default_rng(place)
        chosen = draw.choice(len(cloud), size=self._points, replace=len(cloud) < self._points)
        points = torch.from_numpy(in_unit_ball(cloud[chosen]).T.astype(np.float32))
        return points, torch.from_numpy(parts[chosen].astype(np.int64))


def part_splits(root: Path, points: int, counts: Counts, seed: int) -> tuple[Splits, int]:
    """The splits of a folder of point clouds with parts, and the number of parts.

    Args:
        root: ``train/`` and ``test/`` with ``.npz`` files at any depth, each with ``points`` and
            ``parts``.
        points: Points of each cloud.
        counts: Samples asked for.
        seed: Of the draw.

    Raises:
        TaskError: There are no such files.
    """
    train, test = (sorted((root / name).rglob("*.npz")) for name in ("train", "test"))
    if not train or not test:
        raise TaskError(
            f"{root} has no clouds with parts: give a folder with train/ and test/ of .npz files"
            " that hold points (P, 3) and parts (P,)"
        )
    one, other = Parts(train, points), Parts(test, points)
    most = max(int(_parts_of(path)[1].max()) for path in train)
    return divide(one, other, None, one, counts, seed), 1 + most


def _parts_of(path: Path) -> tuple[np.ndarray, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as found:
            cloud, parts = np.asarray(found["points"]), np.asarray(found["parts"])
    except (OSError, ValueError, KeyError) as error:
        raise TaskError(f"{path} holds no points with parts: {error}") from error
    if cloud.ndim != 2 or cloud.shape[1] < 3 or parts.shape != cloud.shape[:1]:
        raise TaskError(
            f"{path} must hold points (P, 3) and parts (P,), got {cloud.shape} and {parts.shape}"
        )
    return cloud[:, :3].astype(np.float64), parts


def shape_splits(
    root: Path, kind: Kind, points: int, counts: Counts, seed: int
) -> tuple[Splits, int]:
    """The splits of a folder of shapes, and its number of classes.

    Args:
        root: ``train/<class>/`` and ``test/<class>/``, or ``<class>/train/`` and ``<class>/test/``
            as ModelNet has it, of ``.off``, ``.npy`` or ``.npz``; or ``<class>.npz`` with many
            grids in one array, ``voxels``, or ``packed`` along its last axis by ``np.packbits``.
        kind: Grids or points.
        points: Points of each cloud.
        counts: Samples asked for.
        seed: Of the draw.

    Raises:
        TaskError: There are no shapes in one of these layouts.
    """
    packed = sorted(root.glob("*.npz"))
    if packed:
        samples = [
            (_row(grids, i), label)
            for label, path in enumerate(packed)
            for grids in [_grids(path)]
            for i in range(len(grids))
        ]
        whole = Shapes(samples, kind, points)
        train_, held, rest = (Subset(whole, p) for p in thirds([label for _, label in samples]))
        return divide(train_, held, rest, train_, counts, seed), len(packed)
    names = {split: _class_folders(root, split) for split in ("train", "test")}
    if not names["train"] or not names["test"]:
        raise TaskError(
            f"{root} has no shapes: give a folder with train/<class>/ and test/<class>/ of .off,"
            " .npy or .npz, or with <class>.npz files"
        )
    check_same_classes(root, {split: set(found) for split, found in names.items()})
    train, test = (_files(names[split], points) for split in ("train", "test"))
    one, other = Shapes(train, kind, points), Shapes(test, kind, points)
    return divide(one, other, None, one, counts, seed), len(names["train"])


def _class_folders(root: Path, split: str) -> dict[str, list[Path]]:
    """The files of each class that has some, by its name."""
    first = root / split
    entries = sorted((first if first.is_dir() else root).iterdir())
    folders = {d.name: d if first.is_dir() else d / split for d in entries if d.is_dir()}
    found = {
        name: [path for path in sorted(folder.glob("*")) if path.suffix in _ENDINGS]
        for name, folder in folders.items()
    }
    return {name: paths for name, paths in found.items() if paths}


_ENDINGS = (".off", ".npy", ".npz")


def _files(classes: dict[str, list[Path]], points: int) -> list[tuple[Read, int]]:
    return [
        (_reader(path, points), label)
        for label, paths in enumerate(classes.values())
        for path in paths
    ]


def _reader(path: Path, points: int) -> Read:
    def read() -> np.ndarray:
        if path.suffix == ".off":
            return on_surface(*read_off(path), max(points, _DENSE), seed=0)
        return _array(path)

    return read


def _array(path: Path) -> np.ndarray:
    try:
        found: Any = np.load(path, allow_pickle=False)
        if path.suffix == ".npz":
            name = next(name for name in ("points", "voxels") if name in found)
            found = found[name]
    except (OSError, ValueError, StopIteration) as error:
        raise TaskError(f"{path} holds neither points nor voxels: {error}") from error
    whole = found.ndim == 3 or (found.ndim == 2 and found.shape[1] >= 3)
    if not whole:
        raise TaskError(f"{path} must hold points (P, 3) or a grid (D, H, W), got {found.shape}")
    made: np.ndarray = found.astype(bool) if found.ndim == 3 else found[:, :3].astype(np.float64)
    return made


def _grids(path: Path) -> np.ndarray:
    try:
        with np.load(path, allow_pickle=False) as found:
            packed = "packed" in found
            grids = np.unpackbits(found["packed"], axis=-1) if packed else found["voxels"]
            grids = np.asarray(grids).astype(bool)
    except (OSError, ValueError, KeyError) as error:
        raise TaskError(f"{path} holds no grids, voxels or packed: {error}") from error
    whole = grids.reshape(len(grids), -1).any(1)
    if not whole.all():
        _LOG.warning(
            "%s: %d of %d shapes are empty and were skipped", path, (~whole).sum(), len(grids)
        )
    kept: np.ndarray = grids[whole]
    return kept


def _row(grids: np.ndarray, place: int) -> Read:
    return lambda: grids[place]

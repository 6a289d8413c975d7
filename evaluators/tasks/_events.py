"""Recordings of event cameras: files that people have, made into frames of counts."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset

from evaluators._split import TaskError
from evaluators.tasks._divide import Counts, Splits, check_same_classes, divide, thirds

FramesBy = Literal["time", "count"]
FRAMES_BY: tuple[FramesBy, ...] = get_args(FramesBy)

_ENDINGS = (".bin", ".bs2", ".npy", ".npz")


class Events(NamedTuple):
    """A recording: place, time in µs and polarity of each event, ``(E,)``."""

    x: np.ndarray
    y: np.ndarray
    t: np.ndarray
    p: np.ndarray


def read_events(path: Path) -> Events:
    """A recording from a file.

    Args:
        path: ``.bin`` or ``.bs2`` of 5 bytes an event, big-endian, as N-MNIST and N-Caltech101 have
            them (Orchard et al., Front. Neurosci. 2015): x, y, then polarity in the top bit and
            the time in µs in the other 23, where y = 240 says that 2^13 µs more went by; ``.npy``
            of a structured array with the fields x, y, t, p, as tonic gives them; ``.npz`` with
            four such arrays. Polarities are 0 and 1, or −1 and 1; times whole numbers.

    Raises:
        TaskError: The file cannot be read, or is not such a recording.
    """
    try:
        if path.suffix in (".bin", ".bs2"):
            return _five_bytes(path.read_bytes())
        found = np.load(path, allow_pickle=False)
        return _checked(*(np.asarray(found[name]) for name in Events._fields))
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise TaskError(f"{path} is not a recording of events: {error}") from error


def _checked(x: np.ndarray, y: np.ndarray, t: np.ndarray, p: np.ndarray) -> Events:
    if not len(x) == len(y) == len(t) == len(p):
        raise ValueError("x, y, t and p differ in their length")
    if t.dtype.kind == "f" and not np.array_equal(t, np.round(t)):
        raise ValueError("times are fractions; use whole microseconds")
    if not set(np.unique(p).tolist()) <= {-1, 0, 1}:
        raise ValueError(f"polarities are {np.unique(p)[:4].tolist()}, not 0 and 1, or -1 and 1")
    if len(x) and min(x.min(), y.min()) < 0:
        raise ValueError("a coordinate is below zero")
    x, y, t = (np.asarray(values, dtype=np.int64) for values in (x, y, t))
    return Events(x, y, t, (p > 0).astype(np.int64))


_OVERFLOW = 240
_MORE = 2**13


def _five_bytes(data: bytes) -> Events:
    if len(data) % 5:
        raise ValueError(f"{len(data)} bytes are not a multiple of 5")
    rows = np.frombuffer(data, dtype=np.uint8).reshape(-1, 5).astype(np.int64)
    time = (rows[:, 2] & 0x7F) << 16 | rows[:, 3] << 8 | rows[:, 4]
    later = rows[:, 1] == _OVERFLOW
    time = time + _MORE * later.cumsum()
    kept = ~later
    return Events(rows[kept, 0], rows[kept, 1], time[kept], rows[kept, 2] >> 7)


def frames_of(events: Events, frames: int, size: tuple[int, int], by: FramesBy) -> Tensor:
    """Counts of events, ``(frames, 2, H, W)``, in uint8; what exceeds that is clipped.

    Args:
        events: A recording.
        frames: How many.
        size: H and W.
        by: ``"time"``: each takes as long; ``"count"``: each has as many events.
    """
    total = len(events.t)
    if by == "count":
        place = np.arange(total) * frames // max(total, 1)
    else:
        begin, end = (events.t.min(), events.t.max() + 1) if total else (0, 1)
        place = (events.t - begin) * frames // (end - begin)
    height, width = size
    index = ((place * 2 + events.p) * height + events.y) * width + events.x
    counts = np.bincount(index, minlength=frames * 2 * height * width)
    found = torch.from_numpy(counts.clip(max=255).astype(np.uint8))
    return found.view(frames, 2, height, width)


class EventFrames(Dataset[tuple[Tensor, int]]):
    """Recordings as frames ``(T, 2, H, W)``, with their classes.

    Args:
        samples: Files and classes.
        frames: T.
        by: As of :func:`frames_of`.
        size: H and W of the sensor.
    """

    def __init__(
        self,
        samples: Sequence[tuple[Path, int]],
        *,
        frames: int,
        by: FramesBy,
        size: tuple[int, int],
    ) -> None:
        self.samples = list(samples)
        self._made = {"frames": frames, "by": by, "size": size}

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, place: int) -> tuple[Tensor, int]:
        path, label = self.samples[place]
        return frames_of(read_events(path), **self._made), label  # type: ignore[arg-type]


def event_splits(
    root: Path, frames: int, by: FramesBy, counts: Counts, seed: int
) -> tuple[Splits, int]:
    """The splits of a folder of recordings, and its number of classes.

    Args:
        root: ``train/<class>/`` and ``test/<class>/`` (or ``val``), in either case; or files beside
            a list, a ``.txt`` of lines ``id class``, or a ``train….txt`` and a ``test….txt``.
        frames: T.
        by: As of :func:`frames_of`.
        counts: Samples asked for.
        seed: Of the draw.

    Raises:
        TaskError: There are no recordings in one of these layouts.
    """
    parts = _foldered(root) or _listed(root)
    every = [sample for part in parts.values() for sample in part]
    classes = 1 + max(label for _, label in every)
    size = _sensor(tuple(path for path, _ in every))
    made: dict[str, Any] = {"frames": frames, "by": by, "size": size}
    if len(parts) == 1:
        whole = EventFrames(every, **made)
        train, held, rest = (Subset(whole, part) for part in thirds([label for _, label in every]))
        return divide(train, held, rest, train, counts, seed), classes
    sets = {name: EventFrames(part, **made) for name, part in parts.items()}
    held_out = sets["val" if "val" in sets else "test"]
    test = sets.get("test") if "val" in sets else None
    return divide(sets["train"], held_out, test, sets["train"], counts, seed), classes


Parts = dict[str, list[tuple[Path, int]]]


def _foldered(root: Path) -> Parts | None:
    """Recordings in folders of splits and classes; None where there is no ``train``."""
    folders = {entry.name.lower(): entry for entry in root.iterdir() if entry.is_dir()}
    folders = {name: folder for name, folder in folders.items() if name in _SPLITS}
    if "train" not in folders:
        return None
    names = sorted(entry.name for entry in folders["train"].iterdir() if entry.is_dir())
    if len(folders) == 1:
        raise TaskError(f"{root} has recordings to train, but neither a val nor a test folder")
    parts = {name: _in_folders(folder, names) for name, folder in folders.items()}
    for name, part in parts.items():
        if not part:
            raise TaskError(f"{folders[name]} has no recordings ({', '.join(_ENDINGS)})")
    there = {n: {e.name for e in folder.iterdir() if e.is_dir()} for n, folder in folders.items()}
    check_same_classes(root, there)
    return parts


_SPLITS = ("train", "val", "test")


def _in_folders(folder: Path, names: Sequence[str]) -> list[tuple[Path, int]]:
    return [
        (path, label)
        for label, name in enumerate(names)
        for path in sorted((folder / name).glob("*"))
        if path.suffix in _ENDINGS
    ]


def _listed(root: Path) -> Parts:
    """Recordings beside lists of ``id class``: one for all, or one each for train, val and test."""
    files = {path.stem: path for path in sorted(root.iterdir()) if path.suffix in _ENDINGS}
    found: Parts = {}
    for listing in sorted(root.glob("*.txt")):
        rows = [line.split() for line in listing.read_text("utf-8").splitlines()]
        rows = [row for row in rows if len(row) == 2 and all(cell.isdigit() for cell in row)]
        samples = [(files[name], int(label)) for name, label in rows if name in files]
        if samples:
            split = next((s for s in _SPLITS if s in listing.name.lower()), listing.name)
            found.setdefault(split, []).extend(samples)
    if not found:
        raise TaskError(
            f"{root} has no recordings of events: give a folder with train/<class>/ and"
            " test/<class>/, or with files and a .txt of lines `id class` (.bin, .bs2, .npy, .npz)"
        )
    if len(found) > 1 and not {"train"} < set(found) <= set(_SPLITS):
        raise TaskError(
            f"{root} has several lists, {', '.join(sorted(found))}: call them train.txt, test.txt"
            " and maybe val.txt, or leave one"
        )
    return found


@lru_cache(maxsize=4)
def _sensor(paths: tuple[Path, ...]) -> tuple[int, int]:
    """H and W that hold every event of some recordings."""
    ends = [(int(e.y.max()), int(e.x.max())) for e in map(read_events, paths) if len(e.t)]
    if not ends:
        raise TaskError("the recordings hold no events")
    return 1 + max(y for y, _ in ends), 1 + max(x for _, x in ends)

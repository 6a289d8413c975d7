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
from evaluators.tasks._divide import Counts, Splits, divide, thirds

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
            the time in µs in the other 23; ``.npy`` of a structured array with the fields x, y, t,
            p, as tonic gives them; ``.npz`` with four such arrays.

    Raises:
        TaskError: It is none of these.
    """
    try:
        if path.suffix in (".bin", ".bs2"):
            return _five_bytes(path.read_bytes())
        found = np.load(path, allow_pickle=False)
        return Events(*(np.asarray(found[name], dtype=np.int64) for name in Events._fields))
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise TaskError(f"{path} is no recording of events: {error}") from error


def _five_bytes(data: bytes) -> Events:
    if len(data) % 5:
        raise ValueError(f"{len(data)} bytes are no multiple of 5")
    rows = np.frombuffer(data, dtype=np.uint8).reshape(-1, 5).astype(np.int64)
    time = (rows[:, 2] & 0x7F) << 16 | rows[:, 3] << 8 | rows[:, 4]
    return Events(rows[:, 0], rows[:, 1], time, rows[:, 2] >> 7)


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
            a list, a ``.txt`` of lines ``id class``.
        frames: T.
        by: As of :func:`frames_of`.
        counts: Samples asked for.
        seed: Of the draw.

    Raises:
        TaskError: There are no recordings in one of these layouts.
    """
    folders = {entry.name.lower(): entry for entry in root.iterdir() if entry.is_dir()}
    if "train" in folders:
        names = sorted(entry.name for entry in folders["train"].iterdir() if entry.is_dir())
        parts = {k: _in_folders(folder, names) for k, folder in folders.items()
                 if k in ("train", "val", "test")}  # fmt: skip
        every = [sample for part in parts.values() for sample in part]
    else:
        every = _listed(root)
        names = sorted({str(label) for _, label in every})
    made: dict[str, Any] = {"frames": frames, "by": by, "size": _sensor(tuple(p for p, _ in every))}
    if "train" in folders:
        sets = {name: EventFrames(part, **made) for name, part in parts.items()}
        held_out = sets.get("val") or sets.get("test")
        if held_out is None:
            raise TaskError(f"{root} has recordings to train, but neither a val nor a test folder")
        test = sets.get("test") if "val" in sets else None
        return divide(sets["train"], held_out, test, sets["train"], counts, seed), len(names)
    whole = EventFrames(every, **made)
    train, held, rest = (Subset(whole, part) for part in thirds([label for _, label in every]))
    return divide(train, held, rest, train, counts, seed), 1 + max(label for _, label in every)


def _in_folders(folder: Path, names: Sequence[str]) -> list[tuple[Path, int]]:
    return [
        (path, label)
        for label, name in enumerate(names)
        for path in sorted((folder / name).glob("*"))
        if path.suffix in _ENDINGS
    ]


def _listed(root: Path) -> list[tuple[Path, int]]:
    files = {path.stem: path for path in sorted(root.iterdir()) if path.suffix in _ENDINGS}
    for listing in sorted(root.glob("*.txt")):
        rows = [line.split() for line in listing.read_text("utf-8").splitlines()]
        rows = [row for row in rows if len(row) == 2 and all(cell.isdigit() for cell in row)]
        found = [(files[name], int(label)) for name, label in rows if name in files]
        if found:
            return found
    raise TaskError(
        f"{root} has no recordings of events: give a folder with train/<class>/ and test/<class>/,"
        " or with files and a .txt of lines `id class` (.bin, .bs2, .npy, .npz)"
    )


@lru_cache(maxsize=4)
def _sensor(paths: tuple[Path, ...]) -> tuple[int, int]:
    """H and W that hold every event of some recordings."""
    ends = [(int(e.y.max()), int(e.x.max())) for e in map(read_events, paths) if len(e.t)]
    if not ends:
        raise TaskError("the recordings hold no events")
    return 1 + max(y for y, _ in ends), 1 + max(x for _, x in ends)

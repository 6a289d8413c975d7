"""Measuring one trial, in any process: with a time limit and a GPU of its own."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout

from conversion import Segment, SpikefrontError
from evaluators import Evaluator, Measurement
from search._errors import TrialTimeoutError
from search._exits import MeasuredExits, measured_exits
from spaces import LayerSpace

_LOG = logging.getLogger("spikefront")

MakeEvaluator = Callable[[], Evaluator]

_WEDGED = 15.0
"""Seconds after its time limit within which a measurement must have ended."""


@dataclass(frozen=True)
class Asked:
    """A trial to measure, with all that a measuring process needs."""

    number: int
    params: Mapping[str, Any]
    space: LayerSpace
    known: np.ndarray
    dearest: float
    least_accuracy: float
    seconds: float
    suspect: bool = False
    lineage: Sequence[Segment] = ()


@dataclass(frozen=True)
class Outcome:
    """The result of measuring a trial.

    Attributes:
        number: Number of the trial.
        measurement: The measurement; None if the trial failed.
        exits: Additional exits of the same pass.
        reason: Reason of its failure.
        seconds: Duration.
        state: Name of the learned state that may have been stored, even if the trial failed.
    """

    number: int
    measurement: Measurement | None
    exits: MeasuredExits
    reason: str | None
    seconds: float
    state: str | None = None


@dataclass(frozen=True)
class Gpus:
    """The GPUs that worker processes share, each held by a lock that is freed with its process."""

    names: tuple[str, ...]
    workers: int
    folder: Path

    @classmethod
    def of(cls, device: str, workers: int, folder: Path) -> Gpus | None:
        """The visible GPUs; None unless ``device`` is ``"cuda"`` and there are several workers."""
        if device != "cuda" or workers < 2:
            return None
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        found = visible.split(",") if visible else map(str, range(torch.cuda.device_count()))
        return cls(tuple(found), workers, folder)

    def take(self) -> FileLock | None:
        """Restrict this process to one GPU; call it before the process uses any."""
        for slot in range(self.workers):
            lock = FileLock(self.folder / f".gpu-{slot}.lock", timeout=0)
            try:
                lock.acquire()
            except Timeout:
                continue
            os.environ["CUDA_VISIBLE_DEVICES"] = self.names[slot % len(self.names)]
            return lock
        return None


def measure(evaluator: Evaluator, asked: Asked) -> Outcome:
    """Measure a trial and additional exits of its pass; errors are returned, not raised."""
    start = time.perf_counter()
    measurement, reason, exits = None, None, []
    space = asked.space

    def measured(params: Mapping[str, Any]) -> Measurement:
        return evaluator.measure(space.choice(params, asked.lineage))

    try:
        with time_limit(asked.seconds):
            measurement = measured(asked.params)
            exits = _exits(asked, measurement, measured)
    except TrialTimeoutError:
        reason = f"took longer than {asked.seconds:g} s; --timeout allows more"
    except SpikefrontError as error:
        reason = str(error)
    except Exception as error:  # one bad trial must not end the study; its reason is recorded
        _LOG.debug("trial %d failed", asked.number, exc_info=True)
        reason = f"{type(error).__name__}: {error}"
    if measurement is not None:
        reason = None  # the limit may cut off its additional exits
    seconds = time.perf_counter() - start
    return Outcome(asked.number, measurement, exits, reason, seconds, _state(evaluator, asked))


def _state(evaluator: Evaluator, asked: Asked) -> str | None:
    """The name of the learned state."""
    if evaluator.states is None:
        return None
    try:
        config = asked.space.choice(asked.params, asked.lineage).conversion
        return evaluator.state_key(config) if config.calibration.learns else None
    except Exception:  # the trial failed for the same reason before it learned anything
        return None


def _exits(
    asked: Asked, measurement: Measurement, measured: Callable[[Mapping[str, Any]], Measurement]
) -> MeasuredExits:
    try:
        return measured_exits(
            asked.params,
            measurement,
            measured,
            asked.space,
            known=asked.known,
            dearest=asked.dearest,
            least_accuracy=asked.least_accuracy,
        )
    except Exception as error:  # the trial itself is complete
        _LOG.warning("no additional exits of trial %d: %s", asked.number, error)
        return []


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise :class:`TrialTimeoutError` in the block once its time is up.

    If the block does not react even to that, its process ends: the coordinator then brings the
    trial back, as for any worker that died.
    """
    watchdog = threading.Timer(seconds + _WEDGED, _end_process, (seconds,))
    watchdog.daemon = True
    watchdog.start()
    in_main = threading.current_thread() is threading.main_thread()
    try:
        with _alarm(seconds) if in_main and hasattr(signal, "setitimer") else _knock(seconds):
            yield
    finally:
        watchdog.cancel()


@contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    """By a signal, which also interrupts blocking calls."""

    def ring(number: int, frame: FrameType | None) -> None:
        raise TrialTimeoutError

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def _knock(seconds: float) -> Iterator[None]:
    """For a thread, which receives no signals: raised at its next Python instruction."""
    thread = ctypes.c_ulong(threading.get_ident())
    set_error = ctypes.pythonapi.PyThreadState_SetAsyncExc
    timer = threading.Timer(seconds, set_error, (thread, ctypes.py_object(TrialTimeoutError)))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
        set_error(thread, None)  # it may have arrived too late


def _end_process(seconds: float) -> None:
    _LOG.error(
        "a measurement hangs, %g s after its limit of %g s: this process ends; its trial will run"
        " again",
        _WEDGED,
        seconds,
    )
    logging.shutdown()
    os._exit(1)


_HERE = threading.local()  # a Dask worker may measure in several threads


def measure_in_worker(token: str, make: MakeEvaluator, gpus: Gpus | None, asked: Asked) -> Outcome:
    """Measure in a worker process, which creates its evaluator once per run."""
    if getattr(_HERE, "token", None) != token:
        if gpus is not None and not hasattr(_HERE, "gpu"):
            _HERE.gpu = gpus.take()
        _HERE.evaluator = make()
        _HERE.token = token
    return measure(_HERE.evaluator, asked)


def auto_timeout(seconds: Sequence[float]) -> float:
    """The default time limit of a trial: a generous multiple of what finished trials took."""
    return max(3600.0, 10 * max(seconds, default=0.0))

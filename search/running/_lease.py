"""Signs of life, which tell which running trials of a shared study have lost their worker."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import optuna
from optuna.trial import FrozenTrial

from search._trial import TrialRecord
from search.storage import impatient, is_away, note_trouble

_LOG = logging.getLogger("spikefront")


class Leases:
    """Finds trials whose worker no longer sends signs of life.

    A worker keeps writing the time into an attribute of its running trial. A trial whose attribute
    has not changed for ``grace`` seconds is lost. This process measures those seconds itself:
    clocks of different machines are never compared.

    While the storage is unreachable no worker can send signs, so the seconds count from when it
    answers again.

    Args:
        grace: Seconds without a sign of life after which a trial is lost.
        last_trouble: Returns when the storage last failed to answer, by :func:`time.monotonic`.
    """

    def __init__(
        self, grace: float, last_trouble: Callable[[], float] = lambda: float("-inf")
    ) -> None:
        self._grace = grace
        self._last_trouble = last_trouble
        self._seen: dict[int, tuple[float, float]] = {}

    def lost(self, running: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        """The lost trials among the running ones; call this regularly."""
        now = time.monotonic()
        beats = {trial.number: TrialRecord.of(trial).beats for trial in running}
        self._seen = {
            number: self._seen[number]
            if number in self._seen and self._seen[number][0] == beat
            else (beat, now)
            for number, beat in beats.items()
        }
        since = self._last_trouble()
        return [t for t in running if now - max(since, self._seen[t.number][1]) > self._grace]


@contextmanager
def beating(
    study: optuna.Study, running: Mapping[int, optuna.Trial], every: float
) -> Iterator[None]:
    """Send signs of life for the running trials, every ``every`` seconds, while the block runs."""
    ended = threading.Event()
    storage = impatient(study._storage)

    def beat() -> None:
        while not ended.wait(every):
            for trial in list(running.values()):
                try:
                    storage.set_trial_user_attr(trial._trial_id, "beats", round(time.time(), 1))
                except Exception as error:  # it has just finished, or the storage is unreachable
                    if is_away(error):
                        note_trouble(study._storage)
                    _LOG.debug("no sign of life of trial %d: %s", trial.number, error)

    thread = threading.Thread(target=beat, name="signs of life", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()

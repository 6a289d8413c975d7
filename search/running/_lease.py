"""Signs of life: which running trials of a shared study still have somebody who runs them."""

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
    """Finds trials whose worker gives no more signs of life.

    A worker writes the time into an attribute of its running trial, again and again. A trial whose
    attribute stood still for ``grace`` seconds is lost. The seconds are this process's own: no
    clock is compared with another machine's.

    While the storage is away no worker can give signs: the seconds begin when it answers again.

    Args:
        grace: Seconds without a sign after which a trial is lost.
        last_trouble: When the storage last did not answer, by :func:`time.monotonic`.
    """

    def __init__(
        self, grace: float, last_trouble: Callable[[], float] = lambda: float("-inf")
    ) -> None:
        self._grace = grace
        self._last_trouble = last_trouble
        self._seen: dict[int, tuple[float, float]] = {}

    def lost(self, running: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        """Those of the running trials that are lost; to be asked every now and then."""
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
    """Give signs of life of the trials that run, every so many seconds, while the block runs."""
    ended = threading.Event()
    storage = impatient(study._storage)

    def beat() -> None:
        while not ended.wait(every):
            for trial in list(running.values()):
                try:
                    storage.set_trial_user_attr(trial._trial_id, "beats", round(time.time(), 1))
                except Exception as error:  # it has just finished; or the storage is away
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

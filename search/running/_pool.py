"""Processes that measure: joblib's on this machine, or the workers of a Dask cluster."""

from __future__ import annotations

import contextlib
import socket
import urllib.parse
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import joblib
from joblib.externals.loky.process_executor import TerminatedWorkerError

from conversion import ConfigError
from search._errors import StudyError
from search.running._measure import Asked, Gpus, MakeEvaluator, Outcome, measure_in_worker

_SECONDS_TO_ANSWER = 20


class DeadWorkerError(Exception):
    """A measuring process died, and the running measurements were lost."""


class Processes:
    """Worker processes on this machine.

    Attributes:
        slots: Number of trials that can run at once.

    Args:
        make: Makes the evaluator; called once in each process.
        workers: Number of processes.
        gpus: The GPUs to share.
    """

    def __init__(self, make: MakeEvaluator, workers: int, gpus: Gpus | None = None) -> None:
        self._token = uuid.uuid4().hex
        self._make, self._gpus = make, gpus
        self.slots = workers

    def run(self, trials: Iterable[Asked]) -> Iterator[Outcome]:
        """Measure trials as processes become free; outcomes come in any order.

        Raises:
            DeadWorkerError: A process died; the running trials are lost.
        """
        jobs = (
            joblib.delayed(measure_in_worker)(self._token, self._make, self._gpus, asked)
            for asked in trials
        )
        with joblib.parallel_config("loky"):
            # One job per batch: joblib loses, and waits for, a batch as a whole.
            parallel = joblib.Parallel(
                n_jobs=self.slots,
                return_as="generator_unordered",
                pre_dispatch=self.slots,
                batch_size=1,
            )
            try:
                yield from parallel(jobs)
            except TerminatedWorkerError as error:
                raise DeadWorkerError(str(error).split("\n")[0]) from error

    def close(self) -> None:
        """Do nothing: joblib keeps its processes for the next run."""


class DaskCluster:
    """The workers of any Dask cluster; they may come and go.

    This does not use joblib's Dask backend, which never reports a task that killed its workers, so
    a search would wait for ever (joblib 1.6).

    Attributes:
        slots: Number of trials that could run at once when last checked.

    Args:
        make: Makes the evaluator; called once in each thread of a worker.
        address: Address of the scheduler, or its scheduler file.

    Raises:
        ConfigError: Dask is not installed.
        StudyError: The scheduler does not answer, or has no workers.
    """

    def __init__(self, make: MakeEvaluator, address: str) -> None:
        self._token = uuid.uuid4().hex
        self._make = make
        self._client = _dask_client(address)
        self.slots = self._count()

    def _count(self) -> int:
        cores: dict[str, int] = self._client.ncores()
        return max(1, sum(cores.values()))

    def run(self, trials: Iterable[Asked]) -> Iterator[Outcome]:
        """Measure as many trials at once as there are threads; outcomes come in any order.

        Dask itself retries trials of workers that died; after four such deaths a trial fails.
        """
        from distributed import as_completed

        asking, running = iter(trials), as_completed(loop=self._client.loop)
        asked: dict[str, Asked] = {}
        while True:
            while len(asked) < self.slots and (trial := next(asking, None)) is not None:
                job = (self._token, self._make, None, trial)
                future = self._client.submit(measure_in_worker, *job, pure=False)
                asked[future.key] = trial
                running.add(future)
            if not asked:
                return
            future = next(running)
            yield self._outcome(future, asked.pop(future.key))
            self.slots = self._count()

    def _outcome(self, future: Any, trial: Asked) -> Outcome:
        from distributed import KilledWorker

        try:
            outcome: Outcome = future.result()
        except KilledWorker as error:
            return Outcome(trial.number, None, [], f"its workers died: {error}", 0.0)
        return outcome

    def close(self) -> None:
        """Disconnect from the cluster; its workers stay."""
        self._client.close()


def _knock_at(address: str) -> None:
    """Raise OSError at once; Dask would retry for a while and then leave a traceback."""
    url = urllib.parse.urlsplit(address)
    if url.scheme == "tcp":
        place = (url.hostname or "", url.port or 8786)
        socket.create_connection(place, timeout=_SECONDS_TO_ANSWER).close()


def _dask_client(address: str) -> Any:
    try:
        import distributed
    except ImportError as error:
        raise ConfigError('--dask needs: pip install "spikefront[cluster]"') from error
    is_file = "://" not in address and ":" not in address
    if is_file and not Path(address).is_file():
        raise StudyError(
            f"there is no scheduler file {address}; give another, or an address such as"
            " tcp://host:8786"
        )
    place = {"scheduler_file" if is_file else "address": address}
    try:
        _knock_at(address)
        client = distributed.Client(**place, timeout=_SECONDS_TO_ANSWER, set_as_default=False)
        with contextlib.suppress(TimeoutError):
            client.wait_for_workers(1, timeout=60)
    except (OSError, ValueError) as error:
        raise StudyError(f"no Dask scheduler answers at {address}: {error}") from error
    if not client.ncores():
        client.close()
        raise StudyError(f"the Dask cluster at {address} has had no worker for 60 s")
    return client

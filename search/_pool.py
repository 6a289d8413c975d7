"""Processes that measure: joblib's on this machine, or those of a Dask cluster."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import joblib
from joblib.externals.loky.process_executor import TerminatedWorkerError

from conversion import ConfigError
from search._measure import Asked, Gpus, MakeEvaluator, Outcome, measure_in_worker
from search._storage import StudyError

_SECONDS_TO_ANSWER = 20


class DeadWorkerError(Exception):
    """A process that measured is gone, and what it measured with it."""


class Pool:
    """Worker processes.

    Attributes:
        slots: How many trials can run at once, when last looked at.

    Args:
        make: Called once in each process.
        workers: Processes on this machine.
        dask: Address of a Dask scheduler, or its scheduler file, whose workers to use instead.
        gpus: GPUs for the processes of this machine.

    Raises:
        ConfigError: Dask is not installed.
        StudyError: The scheduler does not answer, or has no workers.
    """

    def __init__(
        self, make: MakeEvaluator, workers: int, dask: str | None = None, gpus: Gpus | None = None
    ) -> None:
        self._token = uuid.uuid4().hex
        self._make, self._workers, self._gpus = make, workers, gpus
        self._client = _dask_client(dask) if dask else None
        self._died: tuple[type[Exception], ...] = (TerminatedWorkerError,)
        if self._client is not None:
            from distributed.scheduler import KilledWorker

            self._died = (KilledWorker,)
        self.slots = self._count()

    def _count(self) -> int:
        if self._client is None:
            return self._workers
        cores: dict[str, int] = self._client.ncores()
        return max(1, sum(cores.values()))

    def run(self, trials: Iterable[Asked]) -> Iterator[Outcome]:
        """Measure trials, each as soon as it has its turn; outcomes in any order.

        Raises:
            DeadWorkerError: What was running is lost.
        """
        jobs = (
            joblib.delayed(measure_in_worker)(self._token, self._make, self._gpus, asked)
            for asked in trials
        )
        self.slots = self._count()
        with self._backend():
            # One job a batch: a batch would be lost, and be waited for, as a whole.
            parallel = joblib.Parallel(
                n_jobs=self.slots,
                return_as="generator_unordered",
                pre_dispatch=self.slots,
                batch_size=1,
            )
            try:
                for outcome in parallel(jobs):
                    yield outcome
                    self.slots = self._count()
            except self._died as error:
                raise DeadWorkerError(str(error).split("\n")[0]) from error

    def _backend(self) -> AbstractContextManager[object]:
        given = {"pure": False, "client": self._client} if self._client else {}
        found: AbstractContextManager[object] = joblib.parallel_config(
            "dask" if self._client else "loky", **given
        )
        return found

    def close(self) -> None:
        """Let go of the cluster; its workers stay."""
        if self._client is not None:
            self._client.close()


def _dask_client(address: str) -> Any:
    try:
        import distributed
    except ImportError as error:
        raise ConfigError('--dask needs: pip install "spikefront[cluster]"') from error
    place = {"scheduler_file": address} if Path(address).is_file() else {"address": address}
    try:
        client = distributed.Client(**place, timeout=_SECONDS_TO_ANSWER, set_as_default=False)
        with contextlib.suppress(TimeoutError):
            client.wait_for_workers(1, timeout=60)
    except (OSError, ValueError) as error:
        raise StudyError(f"no Dask scheduler answers at {address}: {error}") from error
    if not client.ncores():
        client.close()
        raise StudyError(f"the Dask cluster at {address} has had no worker for 60 s")
    return client

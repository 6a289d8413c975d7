"""Running a study: ask, measure, tell, in this process, in several, on other machines."""

from search.running._coordinator import OnTrial
from search.running._measure import MakeEvaluator
from search.running._queue import enqueue
from search.running._run import run_study, run_worker

__all__ = ["MakeEvaluator", "OnTrial", "enqueue", "run_study", "run_worker"]

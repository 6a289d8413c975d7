"""Everything that a report shows about one study."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from conversion import ConfigError, Costs, LayerDiagnosis
from evaluators import Comparison, Task
from reports._front import ParetoFront
from reports._models import UnderModel, under_models
from search import Sensitivity


@dataclass(frozen=True, kw_only=True)
class Findings:
    """The front of a study and further results, which may be None or empty.

    Attributes:
        front: Front of the study.
        costs: Costs of the network.
        task: The task, for drawing its samples.
        comparison: Comparison of the knee with the ANN.
        diagnosis: Diagnosis of the knee.
        sensitivity: Sensitivity profile of the network.
    """

    front: ParetoFront
    costs: Costs | None = None
    task: Task | None = None
    comparison: Comparison | None = None
    diagnosis: Sequence[LayerDiagnosis] = ()
    sensitivity: Sensitivity | None = None

    @cached_property
    def under(self) -> list[UnderModel]:
        """The front under several energy models; empty without counts or costs."""
        return [] if self.costs is None else under_models(self.front, self.costs)

    @property
    def known_costs(self) -> Costs:
        """The costs; raises if there are none."""
        if self.costs is None:
            raise ConfigError("this needs the costs of the network")
        return self.costs

    @property
    def known_comparison(self) -> Comparison:
        """The comparison; raises if there is none."""
        if self.comparison is None:
            raise ConfigError("this needs the comparison of the knee")
        return self.comparison

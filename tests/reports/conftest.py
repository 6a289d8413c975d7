from __future__ import annotations

import optuna
import pytest
import torch

from conversion import ConfigError
from evaluators import Evaluator, Split, Task
from reports import pareto_front
from search import StudySetup, make_sampler, open_storage, open_study, run_study
from spaces import LayerSpace
from tests.conftest import SmallNet, settle


@pytest.fixture(scope="module")
def studied(tmp_path_factory: pytest.TempPathFactory) -> tuple[optuna.Study, Evaluator]:
    torch.manual_seed(1)
    net = settle(SmallNet(), torch.randn(16, 2, 10, 10))
    x = torch.randn(96, 2, 10, 10)
    with torch.no_grad():
        y = net(x).argmax(1)
    parts = [Split.of(x[i : i + 32], y[i : i + 32]) for i in (0, 32, 64)]
    task = Task(name="small", model=net, calibration=parts[0], search=parts[1], test=parts[2])
    evaluator = Evaluator(task)
    folder = tmp_path_factory.mktemp("study")
    space = LayerSpace(
        layers=evaluator.layers,
        timesteps=(1, 4),
        calibrations=("light", "advanced", "learned-weights"),
        iterations=(3, 6),
    )
    sampler = make_sampler("additive", seed=0, profile=evaluator.profile, space=space)
    setup = StudySetup.of(evaluator, space)
    study = open_study(open_storage(folder / "study.journal"), "small", setup, sampler)
    with pytest.raises(ConfigError, match="'small' has no finished trial yet"):
        pareto_front(study, {})
    run_study(study, space, lambda: evaluator, trials=30, folder=folder)
    return study, evaluator

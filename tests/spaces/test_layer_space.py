from __future__ import annotations

import json

import optuna
import pytest

from conversion import ConfigError, ExitPolicy, Learned, Light
from spaces import LayerSpace


@pytest.fixture
def space() -> LayerSpace:
    return LayerSpace(layers=("a", "b"))


def test_names_are_static(space: LayerSpace) -> None:
    assert list(space.distributions()) == [
        "phi/a",
        "phi/b",
        "rho/a",
        "rho/b",
        "timesteps",
        "neuron",
        "calibration",
        "calibration/timesteps",
        "iat/alpha",
        "iat/beta",
    ]


def test_learning_brings_its_weight_of_energy() -> None:
    space = LayerSpace(layers=("a",), calibrations=("light", "learned"), iterations=(7, 9))
    assert "learning/energy_weight" in space.distributions()
    params = {
        **space.uniform(phi=1, rho=1.0, alpha=1.0),
        "learning/energy_weight": 0.5,
        "learning/iterations": 7,
    }
    plain = space.choice(params).conversion
    learned = space.choice({**params, "calibration": "learned"}).conversion
    assert plain.calibration == Light()
    assert learned.calibration == Learned(iterations=7, energy_weight=0.5)
    goes_on = space.choice({**params, "calibration": "learned"}, [vars(learned.segment())])
    assert goes_on.conversion.lineage == (learned.segment(),)
    prices = [p["learning/energy_weight"] for p in space.learned_baselines()]
    assert prices == [0.1, 0.5, 2.0, 8.0]
    assert not LayerSpace(layers=("a",)).learned_baselines()
    for settings, message in (
        ({"iterations": (0,)}, "iterations must be different whole numbers >= 1"),
        ({"energy_weight_max": -1}, "energy_weight_max must be finite and > 0.01, got -1"),
        ({"label_weight": -1}, "label_weight must be finite and >= 0, got -1"),
    ):
        with pytest.raises(ConfigError, match=message):
            LayerSpace(layers=("a",), **settings)


def test_suggest_gives_the_choice_of_the_trial_s_parameters(space: LayerSpace) -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    for _ in range(30):
        trial = study.ask()
        found = space.suggest(trial)
        assert found == space.choice(trial.params)
        assert trial.distributions == space.distributions()
        for layer in "ab":
            assert found.conversion.layers[layer].phi == trial.params[f"phi/{layer}"]
            assert found.conversion.layers[layer].rho == trial.params[f"rho/{layer}"]
        assert found.conversion.timesteps == trial.params["timesteps"]
        assert found.exit.alpha == trial.params["iat/alpha"]


def test_baselines_lie_within_the_space(space: LayerSpace) -> None:
    for settings in (
        {},
        {"phi_max": 3},
        {"rho_max": 1.5},
        {"timesteps": (3,)},
        {"calibration_timesteps": (2,)},
    ):
        small = LayerSpace(layers=("a", "b"), **settings)
        baselines = small.baselines()
        assert baselines
        for params in baselines:
            small.choice(params)
            for name, distribution in small.distributions().items():
                internal = distribution.to_internal_repr(params[name])
                assert distribution._contains(internal), (settings, name)
    uniform = {(p["phi/a"], p["rho/b"]) for p in space.baselines()}
    assert {(phi, 1.0) for phi in (1, 2, 4, 8)} <= uniform


def test_spaces_round_trip(space: LayerSpace) -> None:
    assert LayerSpace.from_dict(space.to_dict()) == space
    with pytest.raises(ConfigError, match="unknown space setting 'psi'"):
        LayerSpace.from_dict({**space.to_dict(), "psi": 1})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layers": ()}, "needs at least one spiking layer"),
        ({"phi_max": 0}, "phi_max must be a whole number >= 1, got 0"),
        ({"rho_max": 0.5}, "rho_max must be >= 1"),
        ({"rho_step": 0}, "rho_step > 0"),
        ({"timesteps": ()}, "timesteps must be different whole numbers"),
        ({"timesteps": (2, 2)}, "timesteps must be different whole numbers"),
        ({"calibration_timesteps": (0,)}, "calibration_timesteps must be"),
        ({"beta_max": 2}, "beta_max must be within 0..1, got 2"),
        ({"score": "hope"}, "score must be one of"),
    ],
)
def test_spaces_are_checked_at_construction(settings: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LayerSpace(**{"layers": ("a",), **settings})


def test_parameters_are_checked(space: LayerSpace) -> None:
    params = space.baselines()[0]
    with pytest.raises(ConfigError, match="parameter 'phi/b' is missing"):
        space.choice({k: v for k, v in params.items() if k != "phi/b"})
    with pytest.raises(ConfigError, match="unknown parameter 'phi/c'"):
        space.choice({**params, "phi/c": 1})
    for name, value in (("phi/b", 99), ("timesteps", 77), ("rho/b", 1.1), ("iat/alpha", 2.0)):
        with pytest.raises(ConfigError, match=f"{name} = {value} is outside"):
            space.choice({**params, name: value})


def test_pins(space: LayerSpace) -> None:
    pinned = LayerSpace(layers=("a", "b"), pins={"phi/a": 2, "rho/b": 1.5, "iat/alpha": 1.0})
    assert list(pinned.distributions()) == list(space.distributions())
    single = [name for name, d in pinned.distributions().items() if d.single()]
    assert single == ["phi/a", "rho/b", "iat/alpha"]
    assert all(p["phi/a"] == 2 and p["iat/alpha"] == 1.0 for p in pinned.baselines())
    assert len(pinned.baselines()) == 8
    both = LayerSpace(layers=("a",), pins={"phi/a": 2, "rho/a": 1.5})
    assert len(both.baselines()) == 1, "those that pins make the same stand once"
    for pins, message in (
        ({"phi/a": 99}, "phi/a cannot be pinned to 99, only to 1 to 8"),
        ({"rho/a": 1.3}, r"cannot be pinned to 1.3, only to 1 to 3 in steps of 0.25"),
        ({"timesteps": 3}, "only to 1, 2, 4, 8"),
    ):
        with pytest.raises(ConfigError, match=message):
            LayerSpace(layers=("a", "b"), pins=pins)
    assert LayerSpace.from_dict(json.loads(json.dumps(pinned.to_dict()))) == pinned
    for pins, message in (
        ({"phi/c": 1}, r"'phi/c' cannot be pinned: there is no layer 'c'; the network has: a, b"),
        ({"speed": 1}, r"'speed' cannot be pinned: there is no such parameter"),
        ({"phi/a": 9}, r"phi/a cannot be pinned to 9"),
        ({"rho/a": 1.1}, r"rho/a cannot be pinned to 1.1"),
    ):
        with pytest.raises(ConfigError, match=message):
            LayerSpace(layers=("a", "b"), pins=pins)


def test_outputs_without_a_confidence_never_exit() -> None:
    space = LayerSpace(layers=("a",), exits=False)
    assert space.pins == {"iat/alpha": 1.0, "iat/beta": 0.0}
    assert all(params["iat/alpha"] == 1.0 for params in space.baselines())
    assert space.choice(space.baselines()[0]).exit == ExitPolicy(alpha=1.0)
    assert LayerSpace.from_dict(space.to_dict()) == space


@pytest.mark.parametrize(
    ("length", "timesteps"), [(6, (1, 2, 4, 6)), (8, (1, 2, 4, 8)), (1, (1,)), (3, (1, 2, 3))]
)
def test_t_is_at_most_the_length_of_a_recording(length: int, timesteps: tuple[int, ...]) -> None:
    space = LayerSpace(layers=("a",), length=length)
    assert space.timesteps == timesteps
    assert space.calibration_timesteps == (length,)
    uniform = space.uniform(phi=1, rho=1.0, alpha=0.6)
    assert (uniform["timesteps"], uniform["calibration/timesteps"]) == (length, length)
    assert LayerSpace.from_dict(space.to_dict()) == space
    named = LayerSpace(layers=("a",), timesteps=(1,), length=length)
    assert named.timesteps == (1,)
    with pytest.raises(ConfigError, match=f"timesteps must be at most {length}, the steps of the"):
        LayerSpace(layers=("a",), timesteps=(1, 16), length=length)

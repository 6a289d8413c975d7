"""How outputs are read: literal versions, bounds, and round trips."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from conversion import (
    OUTPUTS,
    Boxes,
    Classes,
    ConfigError,
    ConversionConfig,
    ConversionError,
    ExitRule,
    LearnedWeights,
    Values,
    convert,
    load,
    outputs_of,
    profile,
    save,
)
from conversion.outputs import outputs_from_dict
from tests.conftest import Form


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def heads(seed: int = 0, spread: float = 1.0) -> dict[str, Tensor]:
    return {
        "cls_logits": 3 * spread * drawn(3, 40, 4, seed=seed),
        "bbox_regression": spread * drawn(3, 40, 4, seed=seed + 1),
    }


KINDS = [
    (Classes(output="a"), lambda s: {"a": drawn(3, 5, seed=s)}),
    (Classes(output="a"), lambda s: {"a": drawn(3, 5, 6, 2, seed=s)}),
    (Values(output="a", scale=2.0), lambda s: {"a": drawn(3, 1, seed=s)}),
    (Boxes(), heads),
    (Boxes(activation="softmax"), heads),
]


@pytest.mark.parametrize(("outputs", "make"), KINDS)
def test_a_divergence_is_zero_for_the_same_and_positive_for_others(outputs, make) -> None:
    one, other = make(0), make(7)
    assert outputs.divergence(one, one).tolist() == pytest.approx([0, 0, 0], abs=1e-9)
    assert bool((outputs.divergence(one, other) > 0).all())
    assert outputs.divergence(one, other).shape == (3,)
    assert float(outputs.loss(one, one)) == pytest.approx(0, abs=1e-6)
    assert float(outputs.loss(one, other)) > 0
    assert outputs.agreement(one, one).tolist() == [1, 1, 1]
    for sample in range(3):  # a sample does not depend on the others
        alone = [{k: v[sample : sample + 1] for k, v in x.items()} for x in (one, other)]
        torch.testing.assert_close(
            outputs.divergence(*alone), outputs.divergence(one, other)[sample : sample + 1]
        )


@pytest.mark.parametrize(("outputs", "make"), KINDS)
def test_a_confidence_is_within_0_and_1(outputs, make) -> None:
    for score in outputs.scores:
        found = outputs.confidence(make(0), score)
        assert found.shape == (3,)
        assert bool(((found >= 0) & (found <= 1)).all())


@pytest.mark.parametrize(("outputs", "make"), KINDS)
def test_what_is_written_comes_back(outputs, make) -> None:
    assert outputs_from_dict(outputs.to_dict()) == outputs
    assert OUTPUTS[outputs.kind] is type(outputs)


def test_boxes_by_a_loop() -> None:
    mine, ann = heads(3), heads(9)
    read = Boxes()

    def kl(p: float, q: float) -> float:
        return p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))

    for n in range(3):
        p, q = (x["cls_logits"][n].double().sigmoid() for x in (ann, mine))
        objects = max(1.0, sum(float(v) for v in p.flatten() if v > 0.5))
        total = 0.0
        for a in range(40):
            for c in range(4):
                here, there = float(p[a, c]), float(q[a, c])
                total += (kl(here, there) + kl(there, here)) / 2
            off = (mine["bbox_regression"][n, a] - ann["bbox_regression"][n, a]).abs().double()
            smooth = torch.where(off < 1, 0.5 * off**2, off - 0.5).sum()
            total += float(p[a].max() * smooth)
        assert float(read.divergence(mine, ann)[n]) == pytest.approx(total / objects, rel=1e-3)
        best = sorted((float(v) for v in q.amax(-1)), reverse=True)
        sure = [1 + (v * math.log2(v) + (1 - v) * math.log2(1 - v)) for v in best]
        expected = sum(v * s for v, s in zip(best, sure, strict=True)) / sum(best)
        assert float(read.confidence(mine, "entropy")[n]) == pytest.approx(expected, rel=1e-3)


def test_a_detector_that_is_sure_is_confident_and_one_that_wavers_is_not() -> None:
    sure, unsure = heads(0), heads(0)
    sure["cls_logits"] = torch.where(sure["cls_logits"] > 4, 12.0, -12.0)
    unsure["cls_logits"] = torch.zeros_like(unsure["cls_logits"])
    for score in ("entropy", "margin", "top1"):
        assert bool((Boxes().confidence(sure, score) > 0.99).all())
    assert Boxes().confidence(unsure, "entropy").tolist() == pytest.approx([0] * 3, abs=1e-6)
    softmax = Boxes(activation="softmax")
    assert softmax.probabilities(sure).shape == (3, 40, 3)


def test_values_have_no_early_exit() -> None:
    net = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 1))
    x = drawn(80, 4)
    found = profile(net, x, outputs=Values())
    assert isinstance(found.outputs, Values)
    with torch.no_grad():
        assert found.outputs.scale == pytest.approx(float(net(x).std(correction=0)), rel=1e-5)
    model = convert(found, ConversionConfig.uniform(found.layers, timesteps=3, phi=2))
    with pytest.raises(ConfigError, match="values outputs have no confidence 'entropy'"):
        model.exit = ExitRule(score="entropy", thresholds=(0.5,) * 3)
    assert model.infer(x).timesteps.tolist() == [3] * 80
    with pytest.raises(ConfigError, match="values outputs cannot be learned by labels"):
        found.outputs.label_loss({"output": x}, x)


def test_a_detector_keeps_its_outputs_when_saved(tmp_path) -> None:
    def run(m: nn.Module, x: Tensor) -> dict[str, Tensor]:
        y = torch.relu(m.a(x)).flatten(2).transpose(1, 2)
        return {"scores": m.b(y), "boxes": m.c(y)}

    net = Form(run, a=nn.Conv2d(3, 8, 3), b=nn.Linear(8, 2), c=nn.Linear(8, 4))
    x = drawn(24, 3, 6, 6)
    read = Boxes(output="scores", boxes="boxes")
    found = profile(net, x, outputs=read)
    config = ConversionConfig.uniform(found.layers, timesteps=3, phi=4)
    model = convert(found, config)
    model.exit = ExitRule(score="margin", thresholds=(0.3, 0.3, 0.3))
    save(model, tmp_path / "a.json")
    again = load(tmp_path / "a.json", net)
    assert again.outputs == model.outputs == read
    one, two = model.infer(x), again.infer(x)
    assert torch.equal(one.timesteps, two.timesteps)
    assert torch.equal(one.answers["boxes"], two.answers["boxes"])
    steps = [model.simulate(x).at(t) for t in range(3)]
    scores = torch.stack([read.confidence(step, "margin") for step in steps])
    assert torch.equal(model.exit.exits(scores) + 1, one.timesteps)
    learned = ConversionConfig.uniform(
        found.layers,
        timesteps=2,
        phi=4,
        calibration=LearnedWeights(iterations=3, energy_weight=0.1),
    )
    assert convert(found, learned).weights


def test_a_segmentation_learns_by_labels_and_leaves_unknown_ones_out() -> None:
    logits = drawn(2, 3, 4, 4)
    labels = torch.randint(0, 3, (2, 4, 4), generator=torch.Generator().manual_seed(1))
    read = Classes(output="a")
    expected = torch.nn.functional.cross_entropy(logits, labels)
    torch.testing.assert_close(read.label_loss({"a": logits}, labels), expected)
    some = labels.clone()
    some[:, 0] = 255
    kept = torch.nn.functional.cross_entropy(logits[:, :, 1:], labels[:, 1:])
    torch.testing.assert_close(read.label_loss({"a": logits}, some), kept)
    with pytest.raises(ConfigError, match=r"label_weight needs batches \(inputs, labels\)"):
        read.label_loss({"a": logits}, labels[:, 0])


def test_what_is_not_there_is_told_of() -> None:
    assert outputs_of("scores") == Classes(output="scores")
    assert outputs_of(Values()) == Values()
    with pytest.raises(ConversionError, match="no output 'boxes'; it returns output"):
        profile(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), drawn(4, 2), outputs="boxes")
    with pytest.raises(ConfigError, match="the kind 'words' are unknown; known: "):
        outputs_from_dict({"kind": "words"})
    with pytest.raises(ConfigError, match="malformed outputs"):
        outputs_from_dict({"kind": "values", "size": 3})
    with pytest.raises(ConfigError, match="activation must be sigmoid or softmax"):
        Boxes(activation="relu")


def test_learning_does_not_depend_on_an_offset_of_values() -> None:
    """The loss is in units of the outputs' spread: a constant added to them changes nothing."""
    x = drawn(128, 4)
    found = []
    for offset in (0.0, 100.0):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(4, 24), nn.ReLU(), nn.Linear(24, 1))
        with torch.no_grad():
            net[2].bias += offset
        known = profile(net, x, outputs=Values())
        calibration = LearnedWeights(iterations=40, energy_weight=0.3)
        config = ConversionConfig.uniform(known.layers, timesteps=4, phi=4, calibration=calibration)
        model = convert(known, config)
        step = model.simulate(x).at(3)
        found.append(float(known.outputs.divergence(step, known.expected).mean()))
    assert found[1] == pytest.approx(found[0], rel=0.2)
    rows = torch.cat([drawn(40, 1), 100 + drawn(40, 1, seed=3)], 1)
    scale = Values(output="a").fitted(lambda: {"a": rows}).scale
    assert scale == pytest.approx(float(rows.var(0, correction=0).mean().sqrt()), rel=1e-4)


def test_labels_of_one_logit_and_labels_that_are_ignored() -> None:
    read, logits = Classes(output="a"), drawn(8, 1)
    labels = torch.tensor([0, 1] * 4)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits[:, 0], labels.float())
    for one in (logits, logits[:, 0]):
        torch.testing.assert_close(read.label_loss({"a": one}, labels), expected)
    none = torch.full((2, 4, 4), 255)
    maps = drawn(2, 3, 4, 4).requires_grad_()
    loss = read.label_loss({"a": maps}, none)
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert maps.grad is not None
    assert not maps.grad.any()
    zero = torch.zeros(2, 4, 4, dtype=torch.long)
    left_out = Classes(output="a", ignore=0).label_loss({"a": maps.detach()}, zero)
    assert float(left_out) == 0.0
    two = torch.cat([torch.zeros_like(logits), logits], 1)
    torch.testing.assert_close(
        read.loss({"a": logits}, {"a": 2 * logits}), read.loss({"a": two}, {"a": 2 * two})
    )

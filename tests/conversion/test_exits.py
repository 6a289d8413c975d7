from __future__ import annotations

import math

import pytest
import torch

from conversion import (
    Classes,
    ConfigError,
    ExitPolicy,
    ExitRule,
    confidence,
    mean_entropy,
)


def test_scores_by_hand() -> None:
    logits = torch.tensor([0.5, 0.25, 0.25]).log()
    entropy = -(0.5 * math.log(0.5) + 2 * 0.25 * math.log(0.25)) / math.log(3)
    assert float(1 - confidence(logits, "entropy")) == pytest.approx(entropy)
    assert float(confidence(logits, "entropy")) == pytest.approx(1 - entropy)
    assert float(confidence(logits, "top1")) == pytest.approx(0.5)
    assert float(confidence(logits, "margin")) == pytest.approx(0.25)


def test_confidence_is_0_when_all_are_equal_and_1_when_sure() -> None:
    equal, sure = torch.zeros(10), torch.tensor([100.0] + [0.0] * 9)
    assert float(confidence(equal, "entropy")) == pytest.approx(0, abs=1e-6)
    assert float(confidence(equal, "margin")) == pytest.approx(0, abs=1e-6)
    for score in ("entropy", "top1", "margin"):
        assert float(confidence(sure, score)) == pytest.approx(1)


def test_a_sample_leaves_at_the_first_step_above_its_threshold() -> None:
    # Two classes; with the margin, p = 0.9 has confidence 0.8.
    p = torch.tensor([[0.6, 0.9], [0.95, 0.2], [0.5, 0.5]])
    logits = torch.stack([p, 1 - p], -1).log()
    rule = ExitRule(score="margin", thresholds=(0.7, 0.7, 0.7))
    margins = confidence(logits, "margin")
    assert rule.exits(margins).tolist() == [1, 0]
    never = ExitRule(score="margin", thresholds=(1.0, 1.0, 1.0))
    assert never.exits(margins).tolist() == [2, 2]
    rising = ExitRule(score="margin", thresholds=(0.9, 0.5, 0.0))
    assert rising.exits(margins).tolist() == [1, 1]


def test_the_paper_s_schedule_by_hand() -> None:
    entropies = torch.tensor([0.5, 0.2, 0.1])
    rule = ExitPolicy(alpha=0.6, beta=0.4).rule(entropies)
    expected = [0.6 + 0.4 * math.exp(0.1 - h) for h in (0.5, 0.2, 0.1)]
    assert rule.thresholds == pytest.approx(expected, rel=1e-6)
    assert rule.thresholds[-1] == pytest.approx(1.0)


def test_mean_entropy_looks_only_at_agreeing_samples() -> None:
    entropy = torch.tensor([[0.1, 0.9], [0.2, 0.3]])
    agreement = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    assert mean_entropy(entropy, agreement).tolist() == pytest.approx([0.1, 0.25])
    parts = torch.tensor([[0.5, 0.25], [0.0, 0.0]])  # of several positions; nothing agrees at last
    assert mean_entropy(entropy, parts).tolist() == pytest.approx([(0.05 + 0.225) / 0.75, 1.0])


def test_policies_are_checked() -> None:
    with pytest.raises(ConfigError, match="score must be one of entropy, top1, margin"):
        ExitPolicy(score="hope")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="score must be one of"):
        ExitRule(score="hope", thresholds=(1.0,))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"alpha and beta must be within 0\.\.1"):
        ExitPolicy(alpha=-0.1)


def test_a_single_output_is_the_logit_of_two_classes() -> None:
    """As the same network with two outputs, 0 and the logit, in every shape."""
    z = torch.randn(3, 5, 1, generator=torch.Generator().manual_seed(0))
    two = torch.cat([torch.zeros_like(z), z], dim=-1)
    for score in ("entropy", "top1", "margin"):
        assert torch.equal(confidence(z, score), confidence(two, score))
        flat = confidence(z.squeeze(-1), score, samples=2)
        assert torch.equal(flat, confidence(two, score))
    sure = confidence(torch.tensor([[9.0], [0.0], [-9.0]]), "top1")
    assert sure.tolist() == pytest.approx([0.99988, 0.5, 0.99988], abs=1e-4)
    rule = ExitRule(score="top1", thresholds=(0.9, 0.9, 0.9))
    leaving = rule.exits(
        confidence(torch.tensor([[[0.1], [5.0]], [[5.0], [5.0]], [[9.0], [9.0]]]), "top1")
    )
    assert leaving.tolist() == [1, 0]
    read = Classes(output="output")
    mine, ann = ({"output": torch.tensor(z)} for z in ([[1.0], [2.0]], [[3.0], [-1.0]]))
    assert read.agreement(mine, ann).tolist() == [1.0, 0.0]


def test_classes_stand_behind_the_samples_and_positions_are_averaged() -> None:
    """A segmentation network's ``(T, N, classes, H, W)``: each pixel by itself, then the mean."""
    logits = torch.randn(2, 3, 5, 4, 6, generator=torch.Generator().manual_seed(0))
    for score in ("entropy", "top1", "margin"):
        found = confidence(logits, score, samples=2)
        assert found.shape == (2, 3)
        pixels = [confidence(logits[..., y, x], score) for y in range(4) for x in range(6)]
        torch.testing.assert_close(found, torch.stack(pixels).mean(0))


def test_certainty_without_doubt_is_a_number() -> None:
    never = torch.tensor([[0.0, -torch.inf, -torch.inf]])
    assert float(confidence(never, "entropy")) == 1


def test_thresholds_of_an_exit_are_numbers() -> None:
    for wrong in (None, True, "a", float("nan")):
        with pytest.raises(ConfigError, match="thresholds of an exit must be numbers"):
            ExitRule(score="top1", thresholds=(0.5, wrong))

"""Metrics against hand counts and torchmetrics, and their intervals against closed forms."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import Tensor

from conversion import Classes, ConfigError, Inputs, Values
from evaluators import R2, MeanAveragePrecision, MeanIoU, Scores, TaskError, TopK
from evaluators._comparison import Comparing
from evaluators.metrics import metric_of


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def place(index: int) -> str:
    return f"sample {index}"


def test_mean_iou_by_hand() -> None:
    # Two images of four pixels, three classes; 9 is ignored.
    answered = torch.tensor([[[0, 0], [1, 2]], [[2, 2], [1, 0]]])
    target = torch.tensor([[[0, 1], [1, 9]], [[2, 1], [1, 0]]])
    logits = torch.nn.functional.one_hot(answered, 3).permute(0, 3, 1, 2).float()
    metric = MeanIoU(ignore=9)
    found = metric.statistics(logits, target)
    # Class 0: right 2, answered 3, in the targets 2; class 1: 2, 2, 4; class 2: 1, 2, 1.
    assert found.sum(0).tolist() == [[2, 3, 2], [2, 2, 4], [1, 2, 1]]
    assert metric.value(found) == pytest.approx((2 / 3 + 2 / 4 + 1 / 2) / 3)
    assert metric.per_class(found, target).tolist() == pytest.approx([2 / 3, 1 / 2, 1 / 2])
    once = metric.values(found, torch.tensor([[1.0, 0.0], [0.0, 3.0]])).tolist()
    assert once == pytest.approx([metric.value(found[:1]), metric.value(found[1:])])


def test_a_class_that_never_occurs_is_left_out_of_the_mean() -> None:
    logits = torch.zeros(1, 3, 2, 2)
    logits[:, 0] = 1
    found = MeanIoU().statistics(logits, torch.zeros(1, 2, 2, dtype=torch.long))
    assert MeanIoU().value(found) == 1.0
    assert MeanIoU().per_class(found, found)[1:].isnan().all()


def test_mean_iou_is_that_of_torchmetrics() -> None:
    torchmetrics = pytest.importorskip("torchmetrics")
    logits, target = drawn(6, 5, 9, 7), torch.randint(0, 6, (6, 9, 7))
    target[target == 5] = 255
    oracle = torchmetrics.JaccardIndex(task="multiclass", num_classes=5, ignore_index=255)
    metric = MeanIoU(ignore=255)
    found = metric.statistics(logits, target)
    assert metric.value(found) == pytest.approx(float(oracle(logits, target)), rel=1e-6)


@pytest.mark.parametrize("k", [1, 2, 5])
def test_top_k_is_that_of_torchmetrics(k: int) -> None:
    torchmetrics = pytest.importorskip("torchmetrics")
    logits, target = drawn(200, 12), torch.randint(0, 12, (200,))
    oracle = torchmetrics.Accuracy(task="multiclass", num_classes=12, top_k=k, average="micro")
    metric = TopK(k)
    assert metric.value(metric.statistics(logits, target)) == pytest.approx(
        float(oracle(logits, target))
    )
    assert metric.name == ("accuracy" if k == 1 else f"top-{k} accuracy")


def test_accuracy_by_class_by_hand() -> None:
    logits = torch.eye(3)[[0, 1, 1, 2, 0]]
    targets = torch.tensor([0, 0, 1, 2, 2])
    metric = TopK()
    found = metric.per_class(metric.statistics(logits, targets), targets)
    assert found.tolist() == [0.5, 1.0, 0.5]
    assert metric.chance(targets) == pytest.approx(0.4)
    assert TopK(2).chance(targets) == pytest.approx(0.8)


def test_r2_is_that_of_its_definition_and_of_torchmetrics() -> None:
    torchmetrics = pytest.importorskip("torchmetrics")
    target = drawn(80, 1, seed=1)
    answer = target + 0.5 * drawn(80, 1, seed=2)
    metric = R2()
    found = metric.statistics(answer, target)
    expected = 1 - (answer - target).square().sum() / (target - target.mean()).square().sum()
    assert metric.value(found) == pytest.approx(float(expected), rel=1e-5)
    assert metric.value(found) == pytest.approx(
        float(torchmetrics.functional.r2_score(answer[:, 0], target[:, 0])), rel=1e-5
    )
    assert metric.value(metric.statistics(100 * answer, target)) == 0.0


def test_r2_of_several_outputs_is_the_mean_of_theirs() -> None:
    torchmetrics = pytest.importorskip("torchmetrics")
    target = drawn(300, 2) + torch.tensor([0.0, 100.0])
    constant = torch.tensor([[0.0, 100.0]]).expand(300, 2)
    metric = R2()
    assert metric.value(metric.statistics(constant, target)) == pytest.approx(0.0, abs=0.01)
    near = target + torch.tensor([0.1, 0.7]) * drawn(300, 2, seed=4)
    assert metric.value(metric.statistics(near, target)) == pytest.approx(
        float(torchmetrics.functional.r2_score(near, target)), rel=1e-3
    )


def test_one_sample_has_a_drop_that_json_can_hold() -> None:
    one = R2().statistics(torch.ones(1, 1), torch.zeros(1, 1))
    assert json.dumps(R2().drop(one, one).to_dict(), allow_nan=False)


def boxes(*rows: tuple[float, ...]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float32).reshape(-1, 4)


def test_average_precision_by_hand() -> None:
    """Two objects of one class; detections by score: a hit, a miss, a second on the first object.

    Precision is 1 up to a recall of a half; with 101 recalls that is 51 of 101.
    """
    target = torch.tensor([[[0, 0, 10, 10, 0], [20, 20, 30, 30, 0]]], dtype=torch.float32)
    found = {
        "boxes": boxes((0, 0, 10, 10), (50, 50, 60, 60), (0, 0, 10, 9)),
        "scores": torch.tensor([0.9, 0.8, 0.7]),
        "labels": torch.tensor([0, 0, 0]),
    }
    metric = MeanAveragePrecision(lambda answer: [found], 1)
    statistics = metric.statistics({}, target)
    assert statistics[0, :3].tolist() == [
        pytest.approx([0.9, 0, 1]), pytest.approx([0.8, 0, 0]), pytest.approx([0.7, 0, 0])
    ]  # fmt: skip
    assert metric.value(statistics) == pytest.approx(51 / 101)
    # The last one on the second object: precision 2/3 for the other half.
    found["boxes"][2] = torch.tensor([20, 20, 30, 29])
    statistics = metric.statistics({}, target)
    assert metric.value(statistics) == pytest.approx((51 + 50 * 2 / 3) / 101)
    assert metric.per_class(statistics, target).tolist() == pytest.approx([(51 + 100 / 3) / 101])
    assert metric.name == "mAP@50"


def test_no_objects_anywhere_are_no_crash() -> None:
    found = {"boxes": boxes((0, 0, 1, 1)), "scores": torch.ones(1), "labels": torch.zeros(1)}
    metric = MeanAveragePrecision(lambda answer: [found], 2)
    target = torch.zeros(1, 0, 5)
    metric.check(target, {}, place)
    assert metric.value(metric.statistics({}, target)) == 0.0


def random_detections(samples: int, classes: int) -> tuple[Tensor, list[dict[str, Tensor]]]:
    torch.manual_seed(0)
    target, found = torch.full((samples, 7, 5), -1.0), []
    for n in range(samples):
        count, tried = int(torch.randint(0, 8, ())), int(torch.randint(0, 100, ()))
        corner, size = torch.rand(count, 2) * 80, torch.rand(count, 2) * 30 + 5
        target[n, :count, :2], target[n, :count, 2:4] = corner, corner + size
        target[n, :count, 4] = torch.randint(0, classes, (count,)).float()
        near = target[n, torch.randint(0, max(count, 1), (tried,)), :4] + 3 * torch.randn(tried, 4)
        near[:, 2:] = torch.maximum(near[:, 2:], near[:, :2] + 1)
        labels = torch.randint(0, classes, (tried,))
        found.append({"boxes": near, "scores": torch.rand(tried), "labels": labels})
    return target, found


@pytest.mark.parametrize("overlaps", [(0.5,), (0.5, 0.75), tuple(i / 20 for i in range(10, 20))])
def test_average_precision_is_that_of_torchmetrics(overlaps: tuple[float, ...]) -> None:
    pytest.importorskip("pycocotools")
    detection = pytest.importorskip("torchmetrics.detection")
    target, found = random_detections(30, 3)
    metric = MeanAveragePrecision(lambda answer: found, 3, overlaps)
    oracle = detection.MeanAveragePrecision(iou_thresholds=list(overlaps))
    known = [rows[rows[:, 4] >= 0] for rows in target]
    oracle.update(found, [{"boxes": r[:, :4], "labels": r[:, 4].long()} for r in known])
    assert metric.value(metric.statistics({}, target)) == pytest.approx(
        float(oracle.compute()["map"]), abs=1e-6
    )


def test_a_bootstrap_of_a_mean_has_its_standard_error() -> None:
    """A mean by the bootstrap has the interval that its closed form has."""

    class Mean(MeanIoU):
        def values(self, statistics: Tensor, weights: Tensor) -> Tensor:
            return weights @ statistics.double() / weights.sum(1)

    scores = drawn(400).sigmoid()
    found = Mean().estimate(scores)
    expected = 1.96 * float(scores.double().std()) / math.sqrt(400)
    assert (found.high - found.low) / 2 == pytest.approx(expected, rel=0.1)
    assert found.value == pytest.approx(float(scores.double().mean()))


def test_the_paired_drop_of_a_metric_is_narrower_than_its_intervals() -> None:
    target = torch.randint(0, 4, (60, 8, 8), generator=torch.Generator().manual_seed(0))
    ann = torch.nn.functional.one_hot(target, 4).permute(0, 3, 1, 2) + 0.7 * drawn(60, 4, 8, 8)
    spiking = ann + 0.1 * drawn(60, 4, 8, 8, seed=5)
    metric = MeanIoU()
    both = [metric.statistics(x, target) for x in (ann, spiking)]
    drop, alone = metric.drop(*both), metric.estimate(both[1])
    assert drop.mean == pytest.approx(metric.value(both[0]) - metric.value(both[1]))
    low, high = drop.interval()
    assert low < drop.mean < high
    assert high - low < 0.7 * (alone.high - alone.low)
    same = metric.drop(both[0], both[0])
    assert same.mean == 0
    assert 0 < same.bound(0.9) < 0.001
    assert type(drop).from_dict(drop.to_dict()) == drop


def test_one_sample_has_no_interval() -> None:
    found = MeanIoU().estimate(torch.tensor([[[1, 2, 1], [0, 0, 1]]]))
    assert math.isinf(found.high)
    assert type(found).from_dict(found.to_dict()) == found


def test_what_a_user_gives_becomes_a_metric() -> None:
    assert isinstance(metric_of(None, Classes()), TopK)
    assert isinstance(metric_of(None, Values()), R2)

    def near(answer: Tensor, targets: Tensor) -> Tensor:
        return (1 - (answer[:, 0] - targets).abs()).clamp(0, 1)

    metric = metric_of(near, Values())
    assert (metric.name, type(metric)) == ("near", Scores)
    assert metric.value(metric.statistics(torch.zeros(2, 1), torch.tensor([0.0, 0.5]))) == 0.75
    with pytest.raises(ConfigError, match=r"must be a Metric or a function .*, got 'accuracy'"):
        metric_of("accuracy", Classes())


@pytest.mark.parametrize(
    ("metric", "answer", "target", "message"),
    [
        (MeanIoU(), torch.zeros(2, 3, 4, 4), torch.full((2, 4, 4), 7), "sample 0 has the class 7"),
        (
            MeanIoU(),
            torch.zeros(2, 3, 4, 4),
            torch.zeros(2, 5, 5, dtype=torch.long),
            r"have the shape \(5, 5\), but the network answers for \(4, 4\) positions",
        ),
        (
            TopK(),
            torch.zeros(4, 3, 5, 6),
            torch.zeros(4, dtype=torch.long),
            r"have the shape \(\), but the network answers for \(5, 6\) positions",
        ),
        (
            TopK(),
            torch.zeros(4, 3, 5, 6),
            torch.zeros(4, 6, 5, dtype=torch.long),
            r"have the shape \(6, 5\), but the network answers for \(5, 6\) positions",
        ),
        (
            TopK(),
            torch.zeros(4, 3),
            torch.zeros(4, 5, 6, dtype=torch.long),
            r"have the shape \(5, 6\), but the network answers for \(\) positions",
        ),
        (
            MeanIoU(ignore=255),
            torch.zeros(2, 1, 4, 4),
            torch.full((2, 4, 4), 255),
            "mIoU needs an output per class, two at least",
        ),
        (
            MeanAveragePrecision(lambda answer: [], 3),
            {},
            torch.zeros(2, 3),
            r"must be boxes \(G, 5\): x1, y1, x2, y2, class",
        ),
        (
            MeanAveragePrecision(lambda answer: [], 3),
            {},
            torch.tensor([[[0, 0, 1, 1, 0]], [[0, 0, 1, 1, 5]]]).float(),
            "sample 1 has an object of a class above 2",
        ),
    ],
)
def test_targets_that_do_not_fit(metric, answer, target: Tensor, message: str) -> None:
    with pytest.raises((TaskError, ConfigError), match=message):
        metric.check(target, answer, place)


def test_scores_and_overlaps_are_checked() -> None:
    with pytest.raises(ConfigError, match=r"one score within 0\.\.1 per sample"):
        Scores(lambda answer, target: 2 * answer[:, 0]).statistics(torch.ones(3, 1), torch.ones(3))
    with pytest.raises(ConfigError, match="top-k needs k >= 1"):
        TopK(0)
    with pytest.raises(ConfigError, match=r"overlaps must be within 0\.\.1"):
        MeanAveragePrecision(lambda answer: [], 2, (1.5,))
    with pytest.raises(ConfigError, match="R² needs targets of the outputs' shape"):
        R2().statistics(torch.zeros(3, 2), torch.zeros(3))


def test_one_hot_targets_are_compared_by_a_metric_of_their_own() -> None:
    """No top-5 of what is no class index; what both decide is still counted."""
    logits, targets = drawn(40, 12), torch.eye(12)[torch.arange(40) % 12]
    metric = metric_of(lambda answer, target: (answer.argmax(1) == target.argmax(1)).double(), None)
    comparing = Comparing(Classes(output="a"), metric, pairs=3)
    x = Inputs((torch.zeros(40, 2),), {})
    comparing.add(x, targets, {"a": logits}, {"a": logits.flip(1)}, torch.ones(40))
    found = comparing.found("search")
    assert found.top5 is None
    assert int(found.confusion.sum()) == 40
    mirrored = 11 - logits.argmax(1)
    assert int(found.confusion[int(logits[0].argmax()), int(mirrored[0])]) >= 1
    assert len(found.pairs) == 3
    classes = torch.arange(40) % 12
    comparing = Comparing(Classes(output="a"), TopK(), pairs=1)
    comparing.add(x, classes, {"a": logits}, {"a": logits}, torch.ones(40))
    best = logits.topk(5, dim=1).indices == classes[:, None]
    expected = float(best.any(1).double().mean())
    assert comparing.found("search").top5 == (pytest.approx(expected), pytest.approx(expected))

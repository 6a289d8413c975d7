from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)
from torchvision.datasets import ImageFolder
from torchvision.transforms import ToTensor

from conversion import Choice, ConversionConfig, ConversionError, ExitPolicy, Learned, profile
from evaluators import Evaluator, Split, Task, TaskError, TopK
from evaluators.metrics._scores import check_classes

N = 60
X = torch.randn(3 * N, 1, 6, 6, generator=torch.Generator().manual_seed(0))
Y = torch.randint(0, 4, (3 * N,), generator=torch.Generator().manual_seed(1))
PARTS = [(X[i : i + N], Y[i : i + N]) for i in (0, N, 2 * N)]


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 4)).eval()


def task(**given: Any) -> Task:
    names = ("calibration", "search", "test")
    return Task(name="t", model=net(), **{**dict(zip(names, PARTS, strict=True)), **given})


class Numbered(Dataset[Any]):
    """Samples that cannot all be read, with their files."""

    def __init__(self, broken: int | None = None) -> None:
        self.samples = [(f"images/{i}.png", 0) for i in range(N)]
        self.broken = broken

    def __len__(self) -> int:
        return N

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if index == self.broken:
            raise OSError("cannot identify image file")
        return PARTS[1][0][index], int(PARTS[1][1][index])


class Endless(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter(())


def doubled(samples: list[Any]) -> Any:
    inputs, targets = zip(*samples, strict=True)
    return 2 * torch.stack(inputs), torch.stack(targets)


@pytest.mark.parametrize(
    "search",
    [
        PARTS[1],
        list(PARTS[1]),
        Split.of(*PARTS[1]),
        TensorDataset(*PARTS[1]),
        Numbered(),
        DataLoader(TensorDataset(*PARTS[1]), batch_size=7),
        DataLoader(TensorDataset(*PARTS[1]), batch_size=64, shuffle=True, drop_last=True),
        DataLoader(TensorDataset(X, Y), sampler=SubsetRandomSampler(range(N, 2 * N))),
        Subset(TensorDataset(X, Y), range(N, 2 * N)),
    ],
    ids=["pair", "list", "Split", "TensorDataset", "Dataset", "loader", "shuffled", "sampler",
         "Subset"],
)  # fmt: skip
def test_a_split_is_made_of_what_a_user_has(search: Any) -> None:
    """All of it, in the dataset's order, whatever a loader does."""
    split = task(search=search).search
    x, y = (torch.cat(part) for part in zip(*split.batches(13), strict=True))
    assert torch.equal(x, PARTS[1][0])
    assert torch.equal(y, PARTS[1][1])
    assert split.name == "search"


def test_a_loader_s_way_to_make_batches_is_kept() -> None:
    loader = DataLoader(TensorDataset(*PARTS[1]), batch_size=7, collate_fn=doubled)
    x, _ = next(task(search=loader).search.batches(5))
    assert torch.equal(x, 2 * PARTS[1][0][:5])


def test_a_split_can_be_profiled() -> None:
    made = task(calibration=DataLoader(TensorDataset(*PARTS[0])))
    found = profile(made.model, made.calibration)
    assert found.data_fingerprint == profile(made.model, PARTS[0][0]).data_fingerprint


def test_without_a_metric_it_is_top_1() -> None:
    made = task(metric=None)
    assert isinstance(made.metric, TopK)
    expected = float((net()(PARTS[1][0]).argmax(1) == PARTS[1][1]).double().mean())
    assert Evaluator(made).ann("search").accuracy.value == pytest.approx(expected)


def test_what_learning_sees_may_be_a_dataset_a_pair_or_batches() -> None:
    for train in (PARTS[0], TensorDataset(*PARTS[0])):
        x, _ = next(iter(task(train=train).batches_to_learn_from()))
        assert x.shape == (32, 1, 6, 6)
    batches = [PARTS[0], PARTS[0]]
    assert task(train=batches).batches_to_learn_from() is batches
    loader = DataLoader(TensorDataset(*PARTS[0]), batch_size=7)
    assert task(train=loader).batches_to_learn_from() is loader


def with_nan(place: int) -> tuple[Tensor, Tensor]:
    x = PARTS[1][0].clone()
    x[place, 0, 2, 2] = float("nan")
    return x, PARTS[1][1]


LOADER = DataLoader(TensorDataset(X, Y), sampler=WeightedRandomSampler([1.0] * 180, 180))
REFUSED = [
    ({"search": LOADER}, "the search split's DataLoader has a custom sampler, WeightedRandom"),
    ({"search": DataLoader(Endless())}, "the search split needs a Dataset that can be indexed"),
    ({"search": 3}, "the search split must be a Split, a DataLoader or a Dataset of .* got int"),
    ({"search": PARTS[0]}, "the splits calibration and search share samples"),
    ({"test": PARTS[1]}, "the splits search and test share samples"),
    ({"train": PARTS[2]}, "the splits test and train share samples"),
    (
        {"search": Subset(TENSORS := TensorDataset(X, Y), [1, 2]), "test": Subset(TENSORS, [2, 3])},
        "the splits search and test share samples",
    ),
    (
        {"search": Subset(TENSORS, torch.arange(5)), "test": Subset(TENSORS, torch.arange(4, 9))},
        "the splits search and test share samples",
    ),
    (
        {"test": TENSORS, "train": DataLoader(TENSORS, batch_size=8, shuffle=True)},
        "the splits test and train share samples",
    ),
    (
        {"search": DataLoader(TENSORS, sampler=RandomSampler(TENSORS, num_samples=3))},
        "has a custom sampler, RandomSampler",
    ),
    ({"search": DataLoader(TENSORS, batch_size=None)}, "uses a batch_sampler or pre-batched data"),
    ({"search": (PARTS[1][0], PARTS[1][1][:50])}, "there are 60 inputs, but 50 targets"),
    ({"search": (X[:0], Y[:0])}, "split is empty"),
]


@pytest.mark.parametrize(("given", "message"), REFUSED)
def test_what_is_no_split_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(TaskError, match=message):
        task(**given)


UNFIT = [
    ({"search": PARTS[1][0]}, "sample 0 of the search split is not a pair .* but a Tensor"),
    (
        {"search": Numbered(33)},
        r"33 of the search split \(images/33.png\) cannot be read: OSE",
    ),
    (
        {"search": Subset(Numbered(33), range(30, 40))},
        r"sample 3 of the search split \(images/33.png\) cannot be read",
    ),
    ({"search": with_nan(17)}, "sample 17 of the search split contains NaN or infinity"),
    ({"calibration": with_nan(5)}, "sample 5 of the calibration split contains NaN or infinity"),
    (
        {"search": (PARTS[1][0], PARTS[1][1] + (torch.arange(N) == 8) * 9)},
        r"8 of the search split has the class \d+, but the network tells 4 classes apart, 0 to 3",
    ),
    ({"search": (PARTS[1][0], PARTS[1][1] - 1)}, "has the class -1, but the network tells 4"),
    (
        {"search": (PARTS[1][0], nn.functional.one_hot(PARTS[1][1], 4))},
        r"targets of the shape of the outputs, \(4,\): give the index",
    ),
    ({"search": (PARTS[1][0], PARTS[1][1] + 0.5)}, "are not classes, but fractions"),
]


@pytest.mark.parametrize(("given", "message"), UNFIT)
def test_data_that_cannot_be_judged_by_are_told_of(given: dict[str, Any], message: str) -> None:
    with pytest.raises(TaskError, match=message):
        Evaluator(task(**given)).ann("search")


def test_one_hot_targets_of_two_classes_are_refused() -> None:
    targets = nn.functional.one_hot(torch.tensor([0, 1, 1]))
    with pytest.raises(TaskError, match="give the index of each sample's class"):
        check_classes(targets, torch.zeros(3, 2), Split.of(torch.zeros(3, 1), targets).place)


def test_a_metric_of_the_user_s_own_decides_what_targets_are() -> None:
    def near(outputs: Tensor, targets: Tensor) -> Tensor:
        return (1 - (outputs.mean(1) - targets).abs()).clamp(0, 1).double()

    found = Evaluator(task(search=(PARTS[1][0], PARTS[1][1] + 0.5), metric=near)).ann("search")
    assert 0 <= found.accuracy.value <= 1


def test_nan_in_what_is_learned_from_is_told_of() -> None:
    evaluator = Evaluator(task(train=with_nan(3)))
    config = ConversionConfig.uniform(
        evaluator.layers, timesteps=2, phi=2, calibration=Learned(iterations=4)
    )
    with pytest.raises(ConversionError, match="the data to learn from contains NaN or infinity"):
        evaluator.convert(Choice(conversion=config, exit=ExitPolicy()))


def test_a_split_in_memory_still_names_its_files(tmp_path: Path) -> None:
    """Of what was read and kept, as of what is read again."""
    for split, shade in (("train", 0), ("val", 255)):
        for label in "ab":
            (tmp_path / split / label).mkdir(parents=True)
            for i in range(3):
                path = tmp_path / split / label / f"{i}.png"
                Image.new("RGB", (8, 8), (shade, 10 * i, 3)).save(path)
    lazy = Split(ImageFolder(str(tmp_path / "val"), ToTensor()), "search")
    kept = lazy.in_memory()
    assert [kept.place(i) for i in range(6)] == [lazy.place(i) for i in range(6)]
    assert kept.place(4).endswith("b/1.png)")
    assert kept.name == "search"

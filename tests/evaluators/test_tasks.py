from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch
import torchvision
from PIL import Image
from torch.utils.data import Dataset

from evaluators import (
    Evaluator,
    ResNetCifar,
    Split,
    Task,
    TaskError,
    TaskSpec,
    digits,
    load_state,
    load_task,
)
from evaluators.tasks._digits import WEIGHTS


def test_digits_is_good_and_its_splits_are_disjoint(digits_task: Task) -> None:
    evaluator = Evaluator(digits_task)
    assert evaluator.ann("test").accuracy.value >= 0.975
    assert len(evaluator.layers) == 19
    sizes = [len(digits_task.split(name)) for name in ("calibration", "search", "test")]
    assert sizes == [100, 450, 450]
    seen: set[bytes] = set()
    for name in ("calibration", "search", "test"):
        for x, _ in digits_task.split(name).batches(1):
            seen.add(x.numpy().tobytes())
    assert len(seen) == 1000


@pytest.mark.parametrize("seed", [0, 1])
def test_the_digits_network_is_the_same_everywhere_and_good(seed: int) -> None:
    task = digits(seed=seed)
    for name in ("search", "test"):
        images, labels = task.split(name).dataset.tensors
        with torch.inference_mode():
            assert task.metric.value(task.metric.statistics(task.model(images), labels)) >= 0.99
    assert WEIGHTS.stat().st_size < 600_000


@pytest.mark.parametrize("seed", [0, 5])
def test_digits_never_learns_from_search_or_test_images(seed: int) -> None:
    task = digits(seed=seed)
    kept = {x.numpy().tobytes() for name in ("search", "test")
            for x, _ in task.split(name).batches(1)}  # fmt: skip
    assert not kept & {x.numpy().tobytes() for x in task.train.images.split(1)}
    one, two = (next(iter(task.batches_to_learn_from()))[0] for _ in range(2))
    assert one.shape == (32, 1, 8, 8)
    assert not torch.equal(one, two), "in another order each time, and warped anew"


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    random = torch.Generator().manual_seed(0)
    for split, per_class in (("train", 6), ("val", 8)):
        for label in range(10):
            folder = tmp_path / "data" / split / f"class{label}"
            folder.mkdir(parents=True)
            for i in range(per_class):
                pixels = torch.randint(0, 256, (32, 32, 3), generator=random, dtype=torch.uint8)
                Image.fromarray(pixels.numpy()).save(folder / f"{i}.png")
    return tmp_path / "data"


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(ResNetCifar().state_dict(), path)
    return path


def test_cifar_from_image_folders(image_folder: Path, weights: Path) -> None:
    spec = TaskSpec(
        task="cifar10",
        data=str(image_folder),
        weights=str(weights),
        calibration_samples=9,
        search_samples=30,
    )
    task = load_task(spec)
    assert [len(s) for s in (task.calibration, task.search, task.test)] == [9, 30, 50]
    assert next(task.search.batches(4))[0].shape == (4, 3, 32, 32)
    again = load_task(spec)
    assert torch.equal(next(task.search.batches(30))[1], next(again.search.batches(30))[1])
    searched = {x.numpy().tobytes() for x, _ in task.search.batches(1)}
    tested = {x.numpy().tobytes() for x, _ in task.test.batches(1)}
    files = [Path(path).parts[-3] for path, _ in task.train.dataset.samples]
    assert set(files) == {"train"}, "nothing that search or test hold is learned from"
    assert len(searched) == 30
    assert not searched & tested


def test_imagefolder_with_a_torchvision_model(image_folder: Path, tmp_path: Path) -> None:
    model = torchvision.models.resnet18(num_classes=10)
    path = tmp_path / "resnet18.pt"
    torch.save({"state_dict": {f"module.{k}": v for k, v in model.state_dict().items()}}, path)
    task = load_task(
        TaskSpec(
            task="imagefolder",
            data=str(image_folder),
            model="resnet18",
            weights=str(path),
            image_size=32,
            search_samples=5,
            test_samples=7,
        )
    )
    assert (len(task.search), len(task.test)) == (5, 7)
    assert not task.model.training
    assert len(Evaluator(task).layers) == 17


USER_TASK = """
import torch
from evaluators import Split
def make_task():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    one, two, three = (Split.of(torch.randn(20, 3), torch.randint(0, 2, (20,))) for _ in range(3))
    splits = dict(calibration=one, search=two.dataset, test=three)
    return model, splits, lambda logits, y: (logits.argmax(-1) == y).double()
def wrong():
    return 3
def broken():
    raise KeyError("nothing here")
not_a_function = 3
"""


def test_the_user_s_own_task(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(USER_TASK)
    task = load_task(TaskSpec(task=f"{file}:make_task"))
    assert Evaluator(task).layers == ("1",)


class ListDataset(Dataset):
    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.full((2,), float(index)), index


def test_splits_of_any_dataset_keep_their_order() -> None:
    split = Split(ListDataset())
    assert [y.tolist() for _, y in split.batches(2)] == [[0, 1], [2, 3], [4]]
    x, y = next(split.in_memory().batches(10))
    assert x[:, 0].tolist() == y.tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(TaskError, match="the given split is empty"):
        Split.of(torch.zeros(0, 2), torch.zeros(0))


def test_splits_with_other_classes_are_refused(image_folder: Path, weights: Path) -> None:
    shutil.rmtree(next((image_folder / "val").iterdir()))
    spec = TaskSpec(task="cifar10", data=str(image_folder), weights=str(weights))
    with pytest.raises(TaskError, match="do not have the same classes: only one has"):
        load_task(spec)


def test_errors_say_what_to_give(image_folder: Path, weights: Path, tmp_path: Path) -> None:
    cifar = {"task": "cifar10", "data": str(image_folder), "weights": str(weights)}
    user = tmp_path / "mine.py"
    user.write_text(USER_TASK)
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.safetensors").write_bytes(b"no")
    with (tmp_path / "object.pt").open("wb") as file:
        pickle.dump({"weight": Path("x")}, file)
    torch.save([1, 2], tmp_path / "list.pt")
    cases = [
        ({"task": "digit"}, "task 'digit' is unknown; give one of digits"),
        ({"weights": str(weights)}, "--weights does not apply to digits, which has its own data"),
        ({"search_samples": 200}, "--search-samples does not apply to digits"),
        ({**cifar, "data": None}, "needs --data DIR"),
        ({**cifar, "data": "/no/such"}, "data folder /no/such does not exist"),
        ({**cifar, "data": str(tmp_path / "empty")}, "neither train/ and val/ image folders nor"),
        ({**cifar, "weights": None}, "needs --weights FILE"),
        ({**cifar, "weights": "/no/such.safetensors"}, "weights file /no/such.safetensors does"),
        ({**cifar, "weights": str(tmp_path / "bad.safetensors")}, "cannot read weights from"),
        ({**cifar, "weights": str(tmp_path / "object.pt")}, "contains more than tensors"),
        ({**cifar, "weights": str(tmp_path / "list.pt")}, "holds no state dict, but list"),
        ({**cifar, "model": "resnet18"}, "does not fit the model resnet18"),
        ({**cifar, "model": "resnet21"}, "model 'resnet21' is unknown"),
        ({**cifar, "model": f"{user}:wrong"}, "must return an nn.Module, got int"),
        ({**cifar, "task": "imagefolder"}, "needs --model NAME"),
        ({"task": f"{user}:wrong"}, "must return an evaluators.Task"),
        ({"task": f"{user}:broken"}, "raised KeyError"),
        ({"task": f"{user}:absent"}, "has no function 'absent'"),
        ({"task": f"{user}:make_task", "weights": "a.pt"}, "--weights does not apply to .*:make"),
        ({"task": f"{user}:not_a_function"}, "has no function 'not_a_function'"),
        ({"task": "/no/such.py:f"}, "there is no file /no/such.py"),
        ({"task": "no_such_module:f"}, "cannot import no_such_module: ModuleNotFoundError"),
    ]
    for settings, message in cases:
        with pytest.raises(TaskError, match=message):
            load_task(TaskSpec(**settings))
    with pytest.raises(TaskError, match="search_samples must be >= 1, got 0"):
        TaskSpec(search_samples=0)
    with pytest.raises(TaskError, match="unknown task setting 'color'"):
        TaskSpec.from_dict({"color": 1})


def test_weights_are_never_unpickled(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self):
            return (Path(tmp_path / "sprung").touch, ())

    torch.save({"weight": Trap()}, tmp_path / "trap.pt")
    with pytest.raises(TaskError, match="contains more than tensors"):
        load_state(tmp_path / "trap.pt")
    assert not (tmp_path / "sprung").exists()


def test_specs_round_trip_and_know_user_code() -> None:
    spec = TaskSpec(task="cifar10", data="/d", model="resnet20", seed=3)
    assert TaskSpec.from_dict(spec.to_dict()) == spec
    assert not spec.names_user_code
    assert TaskSpec(task="a.py:f").names_user_code
    assert TaskSpec(task="cifar10", model="pkg.mod:f").names_user_code


def test_what_early_versions_recorded_though_it_meant_nothing() -> None:
    """Studies and configs of digits may hold sizes of splits, which were ignored."""
    assert TaskSpec(search_samples=200, seed=3).effective() == TaskSpec(seed=3)
    assert TaskSpec(task="a.py:make", test_samples=9).effective() == TaskSpec(task="a.py:make")
    kept = TaskSpec(task="cifar10", data="d", search_samples=200)
    assert kept.effective() == kept

"""Trains the network of the embedded task, which lies in evaluators/tasks/digits.safetensors.

    python -m benchmarks.digits_network

On the 797 images that every seed's splits leave to training, about half a minute on two cores. The
weights are kept in half precision.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor

from evaluators import ResNetCifar, TopK, digits
from evaluators.tasks._digits import WEIGHTS, training_images, warped

_EPOCHS, _BATCH, _RATE = 120, 64, 0.1


def train(model: ResNetCifar, images: Tensor, labels: Tensor, *, seed: int) -> None:
    """SGD with one-cycle rate, label smoothing and small random warps."""
    random = torch.Generator().manual_seed(seed)
    model.to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(
        model.parameters(), lr=_RATE, momentum=0.9, weight_decay=5e-4, nesterov=True
    )
    rounds = len(images) // _BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _RATE, total_steps=_EPOCHS * rounds)
    for _ in range(_EPOCHS):
        order = torch.randperm(len(images), generator=random)
        for index in order[: rounds * _BATCH].split(_BATCH):
            x = warped(images[index], random).contiguous(memory_format=torch.channels_last)
            loss = F.cross_entropy(model(x), labels[index], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    model.to(memory_format=torch.contiguous_format)


def main() -> None:
    """Train, tell the accuracy on the splits of three seeds, and write the weights."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--to", type=Path, default=WEIGHTS)
    given = parser.parse_args()
    torch.set_num_threads(1)  # the same sums on every machine with this processor
    torch.manual_seed(given.seed)
    model = ResNetCifar(in_channels=1)
    train(model, *training_images(), seed=given.seed)
    half = {
        k: v.half().contiguous() if v.is_floating_point() else v
        for k, v in model.state_dict().items()
    }
    model.load_state_dict(half)
    model.eval()
    for seed in range(3):
        for name in ("search", "test"):
            images, labels = digits(seed=seed).split(name).dataset.tensors
            with torch.inference_mode():
                right = TopK().statistics(model(images), labels).mean()
            print(f"seed {seed}, {name}: {float(right):.2%}")
    given.to.write_bytes(safetensors.torch.save(half))


if __name__ == "__main__":
    main()

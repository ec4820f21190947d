"""A network of 264 maskable weights, its data, and the loop that a user would write."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gemkern.optim import masked_layers

STEPS = 3
TOTAL = 72 + 192


def network(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1, bias=False),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(64, 3),
        )


def batches(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
    stream = torch.Generator().manual_seed(epoch)
    for _ in range(STEPS):
        labels = torch.randint(3, (8,), generator=stream)
        images = torch.randn(8, 2, 4, 4, generator=stream) + labels.reshape(-1, 1, 1, 1)
        yield images, labels


def run_step(model: nn.Module, search, batch: tuple[Tensor, Tensor]) -> None:
    images, labels = batch
    F.cross_entropy(model(images), labels).backward()
    search.step()


def run_epoch(model: nn.Module, search, epoch: int) -> None:
    for batch in batches(epoch):
        run_step(model, search, batch)
    search.end_epoch()


def run(model: nn.Module, search) -> None:
    for epoch in range(search.epochs):
        run_epoch(model, search, epoch)


def active(model: nn.Module) -> dict[str, Tensor]:
    return {name: layer.active.clone() for name, layer in masked_layers(model).items()}


def count(masks: dict[str, Tensor]) -> int:
    return sum(int(mask.sum()) for mask in masks.values())


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Equal shapes, dtypes and bytes: -0.0 is not 0.0 and a NaN is itself."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    bits = [t.detach().clone(memory_format=torch.contiguous_format) for t in (one, other)]
    return torch.equal(*(t.reshape(-1).view(torch.uint8) for t in bits))


def assert_same_state(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert list(one) == list(other)
    differing = [entry for entry in one if not same_bits(one[entry], other[entry])]
    assert not differing

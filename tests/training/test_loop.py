"""One loop for every method: it learns, repeats itself to the bit, and reads nothing in a step."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from gemkern.data import Dataset
from gemkern.errors import GemkernError
from gemkern.training import EpochStats, WeightTraining, evaluate, train
from gemkern.training.numerics import reproducible_numerics


class HostReads(TorchDispatchMode):
    """Counts the times that the host waits for a number of the device."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def run(network: nn.Module, dataset: Dataset, seed: int = 0, epochs: int = 3) -> list[EpochStats]:
    stats: list[EpochStats] = []
    method = WeightTraining(network, epochs, lr=0.05)
    train(network, method, dataset, batch_size=16, seed=seed, on_epoch=stats.append)
    return stats


def test_it_learns(network: nn.Module, stripes: Dataset) -> None:
    stats = run(network, stripes, epochs=5)
    assert [s.epoch for s in stats] == [1, 2, 3, 4, 5]
    assert all(s.steps == 96 // 16 and s.seconds > 0 for s in stats)
    assert stats[-1].loss < 0.5 * stats[0].loss
    assert evaluate(network, stripes.test, stripes) > 0.9


def test_the_same_seed_gives_the_same_bits(network: nn.Module, stripes: Dataset) -> None:
    twin, other = copy.deepcopy(network), copy.deepcopy(network)
    run(network, stripes)
    run(twin, stripes)
    run(other, stripes, seed=1)
    same = [torch.equal(a, b) for a, b in zip(network.parameters(), twin.parameters(), strict=True)]
    assert all(same)
    assert not torch.equal(network[0].weight, other[0].weight)


def test_the_host_reads_once_an_epoch(network: nn.Module, stripes: Dataset) -> None:
    with HostReads() as short:
        run(network, stripes, epochs=1)
    with HostReads() as longer:
        run(network, stripes, epochs=4)
    assert longer.count - short.count == 3, "the mean loss of each epoch and nothing else"


def test_a_loss_that_is_not_finite_ends_the_run(network: nn.Module, stripes: Dataset) -> None:
    with torch.no_grad():
        network[4].bias[0] = float("nan")
    with pytest.raises(GemkernError, match=r"the loss is nan in epoch 1 of 3: lower the learning"):
        run(network, stripes)


def test_evaluation_counts_exactly_and_changes_nothing(stripes: Dataset) -> None:
    constant = nn.Sequential(nn.Flatten(), nn.Linear(36, 3), nn.Dropout(0.5))
    with torch.no_grad():
        constant[1].weight.zero_()
        constant[1].bias.copy_(torch.tensor([0.0, 1.0, 0.0]))
    constant.train()
    expected = (stripes.test.labels == 1).sum().item() / 30
    assert evaluate(constant, stripes.test, stripes, batch_size=7) == expected
    assert constant.training
    assert constant[2].training


def test_evaluation_uses_running_statistics(network: nn.Module, stripes: Dataset) -> None:
    run(network, stripes)
    before = network[1].running_mean.clone()
    evaluate(network, stripes.test, stripes)
    assert torch.equal(network[1].running_mean, before)


def test_denormals_are_flushed_inside_and_not_after() -> None:
    tiny = torch.tensor(1e-40)
    with reproducible_numerics():
        assert (tiny * 1.0).item() == 0.0
    assert (tiny * 1.0).item() != 0.0

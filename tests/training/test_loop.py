"""One loop for every method: it learns, repeats itself to the bit, and reads nothing in a step."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import gemkern as gk
from gemkern.data import Dataset
from gemkern.errors import GemkernError
from gemkern.training import (
    EpochStats,
    Method,
    Trainee,
    Training,
    WeightTraining,
    evaluate,
    train,
    train_together,
)


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


def half_masked(network: nn.Module) -> Method:
    gk.convert(network)
    network[0].active.view(-1)[::2] = False
    return WeightTraining(network, 4, lr=0.05)


def mined(network: nn.Module) -> Method:
    gk.convert(network, scores=True)
    return gk.GemMiner(network, 0.4, 4, 1, optimizer="adam", lr=0.05, seed=0)


def pruned(network: nn.Module) -> Method:
    gk.convert(network)
    return gk.IMP(network, 0.4, 2, prune=0.4, rewind=2)


METHODS = [half_masked, mined, pruned]


def test_it_learns(network: nn.Module, stripes: Dataset) -> None:
    stats = run(network, stripes, epochs=5)
    assert [s.epoch for s in stats] == [1, 2, 3, 4, 5]
    assert all(s.steps == 96 // 16 and s.seconds > 0 for s in stats)
    assert stats[-1].loss < 0.5 * stats[0].loss
    assert evaluate(network, stripes) > 0.9


def test_the_loss_of_an_epoch_is_the_mean_over_its_batches(stripes: Dataset) -> None:
    undecided = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
    for parameter in undecided.parameters():
        nn.init.zeros_(parameter)
    stats: list[EpochStats] = []
    method = WeightTraining(undecided, 1, lr=0.0)
    train(undecided, method, stripes, batch_size=16, seed=0, on_epoch=stats.append)
    assert stats[0].loss == pytest.approx(math.log(3))


def test_the_same_seed_gives_the_same_bits(network: nn.Module, stripes: Dataset) -> None:
    twin, other = copy.deepcopy(network), copy.deepcopy(network)
    run(network, stripes)
    run(twin, stripes)
    run(other, stripes, seed=1)
    same = [torch.equal(a, b) for a, b in zip(network.parameters(), twin.parameters(), strict=True)]
    assert all(same)
    assert not torch.equal(network[0].weight, other[0].weight)


@pytest.mark.parametrize("make", METHODS)
def test_every_method_repeats_itself_to_the_bit(
    network: nn.Module, stripes: Dataset, make: Callable[[nn.Module], Method]
) -> None:
    losses: list[list[float]] = []
    states: list[dict[str, torch.Tensor]] = []
    for seed in (0, 0, 1):
        twin = copy.deepcopy(network)
        stats: list[EpochStats] = []
        method = make(twin)
        # What else draws random numbers changes nothing.
        torch.rand(seed + len(losses))
        train(twin, method, stripes, batch_size=16, seed=seed, on_epoch=stats.append)
        losses.append([epoch.loss for epoch in stats])
        states.append(twin.state_dict())
    assert losses[0] == losses[1] != losses[2]
    assert all(torch.equal(states[0][entry], states[1][entry]) for entry in states[0])
    assert not all(torch.equal(states[0][entry], states[2][entry]) for entry in states[0])


@pytest.mark.parametrize("make", METHODS)
def test_a_step_of_no_method_reads_a_number(
    network: nn.Module, stripes: Dataset, make: Callable[[nn.Module], Method]
) -> None:
    reads = []
    for batch_size in (32, 16):
        twin = copy.deepcopy(network)
        method = make(twin)
        with HostReads() as watched:
            train(twin, method, stripes, batch_size=batch_size, seed=0)
        reads.append(watched.count)
    assert reads[0] == reads[1], "twice the steps, as many reads"
    assert reads[0] >= 4, "the watch sees the loss of each epoch"


def test_the_host_reads_once_an_epoch(network: nn.Module, stripes: Dataset) -> None:
    with HostReads() as short:
        run(network, stripes, epochs=1)
    with HostReads() as longer:
        run(network, stripes, epochs=4)
    assert longer.count - short.count == 3, "the mean loss of each epoch and nothing else"


@pytest.mark.parametrize(
    ("bias", "labels", "message"),
    [
        (float("nan"), 0, r"the loss is nan in epoch 1 of 3: lower the learning rate or check the"),
        (3e38, 1, r"the loss is inf in epoch 1 of 3: lower the learning rate or check the data"),
    ],
)
def test_a_loss_that_is_not_finite_ends_the_run(
    network: nn.Module, stripes: Dataset, bias: float, labels: int, message: str
) -> None:
    with torch.no_grad():
        network[4].bias.copy_(torch.tensor([bias, -3e38, -3e38]))
    train_split = dataclasses.replace(
        stripes.train, labels=torch.full_like(stripes.train.labels, labels)
    )
    dataset = dataclasses.replace(stripes, train=train_split)
    method = WeightTraining(network, 3)
    stats: list[EpochStats] = []
    with pytest.raises(GemkernError, match=message):
        train(network, method, dataset, batch_size=96, seed=0, on_epoch=stats.append)
    assert not stats, "an epoch that failed is not reported"
    assert method.epoch == 0


def test_a_batch_larger_than_the_split_is_refused(network: nn.Module, stripes: Dataset) -> None:
    with pytest.raises(GemkernError, match=r"batch_size is 97: give at least 1 and at most 96"):
        train(network, WeightTraining(network, 1), stripes, batch_size=97, seed=0)


def test_what_is_done_after_an_epoch_takes_no_time_of_the_run(
    network: nn.Module, stripes: Dataset
) -> None:
    clock = 0.0

    def tick() -> float:
        nonlocal clock
        clock += 1.0
        return clock

    def dawdle(stats: EpochStats) -> None:
        nonlocal clock
        clock += 1000.0
        seconds.append(stats.seconds)

    seconds: list[float] = []
    trainee = Trainee(network, WeightTraining(network, 3), 0, dawdle)
    Training([trainee], stripes, batch_size=16, clock=tick).run()
    assert seconds == [1.0, 1.0, 1.0]


def test_together_the_time_is_shared(network: nn.Module, stripes: Dataset) -> None:
    ticks = itertools.count()
    seconds: list[float] = []
    models = [copy.deepcopy(network) for _ in range(4)]
    trainees = [
        Trainee(model, WeightTraining(model, 2), seed, lambda stats: seconds.append(stats.seconds))
        for seed, model in enumerate(models)
    ]
    Training(trainees, stripes, batch_size=16, clock=lambda: float(next(ticks))).run()
    assert seconds == [0.25] * 8


@pytest.mark.parametrize(("epochs", "named"), [((2, 3, 2), r"\[2, 3\]"), ((), r"\[\]")])
def test_what_does_not_last_equally_long_is_not_trained_together(
    network: nn.Module, stripes: Dataset, epochs: tuple[int, ...], named: str
) -> None:
    models = [copy.deepcopy(network) for _ in epochs]
    trainees = [
        Trainee(model, WeightTraining(model, count), 0)
        for model, count in zip(models, epochs, strict=True)
    ]
    with pytest.raises(GemkernError, match=f"last {named} epochs cannot be trained together"):
        train_together(trainees, stripes, batch_size=16)


def test_every_epoch_trains_in_training_mode(network: nn.Module, stripes: Dataset) -> None:
    twin = copy.deepcopy(network)
    run(network, stripes)
    method = WeightTraining(twin, 3, lr=0.05)
    train(twin, method, stripes, batch_size=16, seed=0, on_epoch=lambda stats: twin.eval())
    assert torch.equal(network[0].weight, twin[0].weight)
    assert torch.equal(network[1].running_mean, twin[1].running_mean)


def test_evaluation_counts_exactly_and_changes_nothing(stripes: Dataset) -> None:
    constant = nn.Sequential(nn.Flatten(), nn.Linear(36, 3), nn.Dropout(0.5))
    with torch.no_grad():
        constant[1].weight.zero_()
        constant[1].bias.copy_(torch.tensor([0.0, 1.0, 0.0]))
    constant.train()
    expected = (stripes.test.labels == 1).sum().item() / 30
    assert evaluate(constant, stripes, batch_size=7) == expected
    assert constant.training
    assert constant[2].training
    constant.eval()
    assert evaluate(constant, stripes) == expected
    assert not constant.training


def test_evaluation_uses_running_statistics(network: nn.Module, stripes: Dataset) -> None:
    run(network, stripes)
    before = network[1].running_mean.clone()
    evaluate(network, stripes)
    assert torch.equal(network[1].running_mean, before)

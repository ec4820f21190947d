"""Weights learn under fixed masks."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from gemkern.data import Dataset
from gemkern.errors import GemkernError
from gemkern.nn import convert
from gemkern.training import WeightTraining, train


def half_masked(network: nn.Module) -> nn.Module:
    convert(network)
    network[0].active.view(-1)[::2] = False
    return network


def test_masked_weights_stay_zero_and_the_others_learn(
    network: nn.Module, stripes: Dataset
) -> None:
    model = half_masked(network)
    before = model[0].weight.detach().clone()
    train(model, WeightTraining(model, 2, nesterov=True), stripes, batch_size=16, seed=0)
    weight = model[0].weight.detach()
    assert not weight[~model[0].active].any()
    assert (weight != before)[model[0].active].all()


def test_the_rate_follows_the_schedule_and_restart_begins_anew(network: nn.Module) -> None:
    training = WeightTraining(network, 4, lr=0.2, schedule="cosine")
    rates = []
    for _ in range(4):
        rates.append(training.optimizer.param_groups[0]["lr"])
        network(torch.ones(4, 1, 6, 6)).square().sum().backward()
        training.step()
        training.end_epoch()
    assert rates == pytest.approx([0.2, 0.2 * 0.853553, 0.1, 0.2 * 0.146447], rel=1e-5)
    training.restart()
    assert training.epoch == 0
    assert training.optimizer.param_groups[0]["lr"] == 0.2
    memories = [state["momentum_buffer"] for state in training.optimizer.state.values()]
    assert len(memories) == 3
    assert not any(map(torch.any, memories))


def test_factors_are_rescaled_every_so_many_epochs(
    network: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    training, rescaled = WeightTraining(half_masked(network), 5, sign_in=2), []
    monkeypatch.setattr(training.optimizer, "rescale", lambda: rescaled.append(training.epoch))
    for _ in range(5):
        training.end_epoch()
    assert rescaled == [2, 4]


def test_it_resumes_to_the_same_bits(network: nn.Module) -> None:
    def steps(model: nn.Module, training: WeightTraining, epochs: range) -> None:
        for epoch in epochs:
            generator = torch.Generator().manual_seed(epoch)
            for _ in range(3):
                x = torch.randn(4, 1, 6, 6, generator=generator)
                model(x).square().mean().backward()
                training.step()
            training.end_epoch()

    whole = copy.deepcopy(network)
    steps(whole, WeightTraining(whole, 4), range(4))

    first = WeightTraining(network, 4)
    steps(network, first, range(2))
    resumed = copy.deepcopy(network)
    second = WeightTraining(resumed, 4)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    steps(resumed, second, range(2, 4))
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_a_step_clears_every_gradient(network: nn.Module) -> None:
    training = WeightTraining(network, 1)
    network(torch.randn(4, 1, 6, 6)).sum().backward()
    training.step()
    assert all(parameter.grad is None for parameter in network.parameters())


def test_a_run_of_no_epochs_is_refused(network: nn.Module) -> None:
    with pytest.raises(GemkernError, match="training lasts 0 epochs: give at least 1"):
        WeightTraining(network, 0)

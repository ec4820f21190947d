"""A search plans from what is there, ranks what has learnt, and takes whole numbers as such."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from tiny_search import TOTAL, active, batches, count, network, run, run_epoch, run_step
from torch import Tensor, nn
from torch.nn import functional as F

import gemkern as gk
from gemkern.data.randomness import Stream, random_numbers
from gemkern.errors import GemkernError
from gemkern.models import build
from gemkern.tickets import IMP, GemMiner, Ticket, smart_ratio_ticket
from gemkern.tickets.randomness import generator
from gemkern.training import WeightTraining

EPOCHS = 6


def masked(scores: bool, left: int) -> nn.Module:
    """A network with the first `left` of its weights active."""
    model = network()
    gk.convert(model, scores=scores)
    model[0].active.view(-1)[left:] = False
    model[4].active.view(-1)[max(0, left - model[0].active.numel()) :] = False
    assert count(active(model)) == left
    return model


def search_of(model: nn.Module, density: float, **options: Any) -> Any:
    if model[0].scores is None:
        return IMP(model, density, 1, prune=0.4, **options)
    return GemMiner(model, density, EPOCHS, 1, **{"seed": 1, **options})


@pytest.mark.parametrize("scores", [True, False])
@pytest.mark.parametrize("left", [53, 100, TOTAL])
def test_the_density_is_that_of_all_weights_whatever_was_active(scores: bool, left: int) -> None:
    model = masked(scores, left)
    before = active(model)
    search = search_of(model, 0.1)
    run(model, search)
    # Five freezes that each round a share up.
    assert round(0.1 * TOTAL) - 5 <= search.weights_left <= round(0.1 * TOTAL)
    assert all((before[name] | ~mask).all() for name, mask in active(model).items())


@pytest.mark.parametrize("scores", [True, False])
def test_what_is_sparser_already_is_refused_before_the_first_step(scores: bool) -> None:
    model = masked(scores, 26)
    with pytest.raises(GemkernError, match=r"0.2 of 264 weights is no less than the 26 that are"):
        search_of(model, 0.2)


def test_a_resumed_miner_goes_on_with_its_own_plan() -> None:
    model = masked(True, 100)
    miner = search_of(model, 0.1)
    for epoch in range(2):
        run_epoch(model, miner, epoch)
    states = copy.deepcopy((model.state_dict(), miner.state_dict()))
    again = masked(True, 100)
    resumed = search_of(again, 0.1)
    again.load_state_dict(states[0])
    resumed.load_state_dict(states[1])
    for epoch in range(2, EPOCHS):
        run_epoch(model, miner, epoch)
        run_epoch(again, resumed, epoch)
    assert all(torch.equal(active(again)[name], mask) for name, mask in active(model).items())


@pytest.mark.parametrize("scores", [True, False])
def test_a_compressed_model_counts_as_the_whole_one(scores: bool) -> None:
    model = masked(scores, 100)
    for layer in (model[0], model[4]):
        layer.compress()
    assert search_of(model, 0.1).total == TOTAL


def test_the_smart_ratio_is_that_of_the_whole_layers() -> None:
    model = masked(False, 100)
    whole = smart_ratio_ticket(model, 0.4, seed=0)
    for layer in (model[0], model[4]):
        layer.compress()
    compressed = smart_ratio_ticket(model, 0.4, seed=0)
    assert all(torch.equal(compressed.masks[name], mask) for name, mask in whole.masks.items())


class WithUnused(nn.Module):
    """A network with a layer that its forward pass leaves out."""

    def __init__(self) -> None:
        super().__init__()
        self.used = network()
        self.unused = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.used(x)


def converted_with_unused() -> nn.Module:
    model = WithUnused()
    gk.convert(model, scores=True)
    return model


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("fused", [True, False])
def test_scores_that_never_learnt_are_not_ranked(optimizer: str, fused: bool) -> None:
    model = converted_with_unused()
    miner = GemMiner(model, 0.3, EPOCHS, 1, seed=1, optimizer=optimizer, fused=fused)
    with pytest.raises(GemkernError, match="no gradient has reached the scores of 'unused', which"):
        run_epoch(model, miner, 0)
    assert model.unused.active.all()


def test_by_choice_they_are_kept_and_the_others_make_up_for_them() -> None:
    model = converted_with_unused()
    miner = GemMiner(model, 0.3, EPOCHS, 1, seed=1, unlearnt="keep")
    run(model, miner)
    assert model.unused.active.all()
    assert miner.density == pytest.approx(0.3, abs=0.02)
    ticket = miner.ticket()
    assert ticket.layer_density["unused"] == 1.0


def test_more_than_the_others_have_is_refused() -> None:
    model = converted_with_unused()
    miner = GemMiner(model, 0.1, EPOCHS, 1, seed=1, unlearnt="keep")
    with pytest.raises(GemkernError, match=r"the layers that learn have .*: raise the density"):
        run(model, miner)


@pytest.mark.parametrize("scores", [True, False])
def test_a_step_without_a_gradient_and_an_epoch_without_a_step_are_refused(scores: bool) -> None:
    model = masked(scores, TOTAL)
    search = search_of(model, 0.1)
    with pytest.raises(GemkernError, match=r"epoch 1 has no gradient .*: call loss.backward\(\)"):
        search.step()
    with pytest.raises(GemkernError, match="epoch 1 had no step to learn from"):
        search.end_epoch()
    run_step(model, search, next(batches(0)))
    search.end_epoch()
    with pytest.raises(GemkernError, match="epoch 2 had no step"):
        search.end_epoch()


WHOLE = (np.int64(3), np.uint8(3), torch.tensor(3))


@pytest.mark.parametrize("three", WHOLE, ids=lambda three: type(three).__name__)
def test_whole_numbers_of_other_libraries_are_whole_numbers(three: Any, tmp_path: Any) -> None:
    weights = [next(build("resnet8", seed=seed).parameters()) for seed in (three, 3)]
    assert torch.equal(*weights)
    one, other = (torch.rand(4, generator=generator("x", seed)) for seed in (three, 3))
    assert torch.equal(one, other)
    drawn = [random_numbers(Stream.EPOCH, *of).random() for of in ((three, three), (3, 3))]
    assert drawn[0] == drawn[1]
    model = masked(True, TOTAL)
    miner = GemMiner(model, 0.3, three, 1, seed=three, model_seed=three)
    assert miner.epochs == 3
    run(model, miner)
    miner.ticket().save(tmp_path / "mined.safetensors")
    loaded = Ticket.load(tmp_path / "mined.safetensors")
    assert (loaded.seed, type(loaded.seed)) == (3, int)
    plain = masked(False, TOTAL)
    imp = IMP(plain, 0.3, three, rewind=three, model_seed=three)
    assert imp.epochs == 3 * imp.rounds
    assert WeightTraining(plain, three).epochs == 3
    assert smart_ratio_ticket(plain, 0.3, seed=three, model_seed=three).seed == 3


@pytest.mark.parametrize("number", [2.5, 3.0, "3", torch.tensor(3.0), torch.tensor([3, 4]), None])
def test_what_is_no_whole_number_is_refused_before_the_first_step(number: Any) -> None:
    for make in (
        lambda: GemMiner(masked(True, TOTAL), 0.3, number, 1),
        lambda: GemMiner(masked(True, TOTAL), 0.3, 5, number),
        lambda: IMP(masked(False, TOTAL), 0.3, number),
        lambda: WeightTraining(masked(False, TOTAL), number),
        lambda: smart_ratio_ticket(masked(False, TOTAL), 0.3, seed=number),
    ):
        with pytest.raises(GemkernError, match="give a whole number"):
            make()
    if number is not None:
        with pytest.raises(GemkernError, match=r"the seed is .*: give a whole number"):
            GemMiner(masked(True, TOTAL), 0.3, 5, 1, seed=number)
        with pytest.raises(GemkernError, match=r"the seed is .*: give a whole number"):
            IMP(masked(False, TOTAL), 0.3, 5, model_seed=number)


def test_gradients_of_a_loss_that_was_scaled_count() -> None:
    """Whatever made them: `step` asks for gradients, not for a call of backward."""
    model = masked(True, TOTAL)
    miner = search_of(model, 0.1)
    images, labels = next(batches(0))
    grads = torch.autograd.grad(
        F.cross_entropy(model(images), labels), [model[0].scores, model[4].scores]
    )
    model[0].scores.grad, model[4].scores.grad = grads
    miner.step()

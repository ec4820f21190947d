"""Edge-popup: its masks against plain sorts, its gradients against a formula, its densities."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from tiny_search import TOTAL, batches, count, network, run, run_epoch, run_step
from torch import Tensor, nn
from torch.nn import functional as F

import gemkern as gk
from gemkern.errors import GemkernError
from gemkern.optim import masked_layers
from gemkern.tickets import EdgePopup, freeze_epochs, freeze_rate, weights_left
from gemkern.tickets.edge_popup import kept_of
from gemkern.training.rates import cosine

DENSITIES = pytest.mark.parametrize("density", [0.1, 0.0144])
SCOPES = pytest.mark.parametrize("scope", ["layer", "global"])
SIZES = {"0": 72, "4": 192}


def start(density: float = 0.1, epochs: int = 4, **options: Any) -> tuple[nn.Module, EdgePopup]:
    model = network()
    gk.convert(model, scores=True)
    return model, EdgePopup(model, density, epochs, **{"seed": 1, "model_seed": 1, **options})


def scores(model: nn.Module) -> dict[str, Tensor]:
    return {name: layer.scores.detach().clone() for name, layer in masked_layers(model).items()}


def sorted_masks(model: nn.Module, scope: str, density: float) -> dict[str, Tensor]:
    """The masks by a plain sort; of equal magnitudes the last stay."""

    def largest(values: Tensor) -> Tensor:
        mask = torch.zeros(len(values), dtype=torch.bool)
        kept = max(1, round(density * len(values)))
        mask[values.argsort(stable=True)[len(values) - kept :]] = True
        return mask

    magnitudes = [score.abs().flatten() for score in scores(model).values()]
    if scope == "layer":
        parts = [largest(values) for values in magnitudes]
    else:
        parts = list(largest(torch.cat(magnitudes)).split([len(values) for values in magnitudes]))
    shapes = {name: layer.weight.shape for name, layer in masked_layers(model).items()}
    return {
        name: part.view(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)
    }


def assert_same_masks(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert list(one) == list(other)
    assert all(torch.equal(one[name], other[name]) for name in one)


def explicit(
    model: nn.Module, images: Tensor, masks: dict[str, Tensor], learnt: dict[str, Tensor]
) -> Tensor:
    """The network as published: |score|, a choice of derivative 1, times the weight."""
    chosen = {
        name: score.abs() + (masks[name].to(score.dtype) - score.abs()).detach()
        for name, score in learnt.items()
    }
    norm = model[1]
    x = F.conv2d(images, model[0].weight * chosen["0"], padding=1)
    x = F.batch_norm(x, None, None, norm.weight, norm.bias, True, eps=norm.eps).relu()
    return F.linear(x.flatten(1), model[4].weight * chosen["4"], model[4].bias)


@SCOPES
@DENSITIES
def test_at_every_step_it_computes_with_the_largest_scores(density: float, scope: str) -> None:
    model, search = start(density, scope=scope, lr=0.5)
    for epoch in range(search.epochs - 1):
        for batch in batches(epoch):
            masks = search.masks()
            assert_same_masks(masks, sorted_masks(model, scope, density))
            if scope == "layer":
                for name, size in SIZES.items():
                    assert masks[name].sum() == max(1, round(density * size))
            else:
                assert count(masks) == round(density * TOTAL)
            assert search.weights_left == count(masks)
            assert search.density == count(masks) / TOTAL
            expected = explicit(model, batch[0], masks, scores(model))
            torch.testing.assert_close(model(batch[0]), expected)
            run_step(model, search, batch)
        search.end_epoch()


@SCOPES
@DENSITIES
def test_scores_learn_by_the_published_gradient(density: float, scope: str) -> None:
    model = network().double()
    gk.convert(model, scores=True)
    stream = torch.Generator().manual_seed(0)
    for layer in masked_layers(model).values():
        drawn = torch.randn(layer.weight.shape, dtype=torch.float64, generator=stream)
        layer.scores = nn.Parameter(drawn)
    search = EdgePopup(model, density, 2, scope=scope)
    images, labels = next(batches(0))
    images = images.double()
    theirs = {name: score.requires_grad_() for name, score in scores(model).items()}
    F.cross_entropy(explicit(model, images, search.masks(), theirs), labels).backward()
    search.loss(model(images), labels, images).backward()
    for name, layer in masked_layers(model).items():
        torch.testing.assert_close(layer.scores.grad, theirs[name].grad, rtol=1e-9, atol=1e-12)
        assert layer.weight.grad is None
    masks = search.masks()
    left_out = [layer.scores.grad[~masks[name]] for name, layer in masked_layers(model).items()]
    assert torch.cat(left_out).any(), "what is left out learns too"


@SCOPES
@DENSITIES
def test_equal_magnitudes_are_told_apart_as_by_a_stable_sort(density: float, scope: str) -> None:
    model, search = start(density, scope=scope, lr=0.0)
    stream = torch.Generator().manual_seed(3)
    for layer in masked_layers(model).values():
        few = torch.randint(-2, 3, layer.scores.shape, generator=stream)
        layer.scores.data.copy_(few)
    run_step(model, search, next(batches(0)))
    assert_same_masks(search.masks(), sorted_masks(model, scope, density))


@SCOPES
def test_what_was_left_out_comes_back(scope: str) -> None:
    model, search = start(scope=scope, lr=0.5)
    was_out = {name: torch.zeros_like(mask) for name, mask in search.masks().items()}
    back = 0
    for epoch in range(3):
        for batch in batches(epoch):
            run_step(model, search, batch)
            for name, mask in search.masks().items():
                back += int((mask & was_out[name]).sum())
                was_out[name] |= ~mask
        search.end_epoch()
    assert back > 0


@DENSITIES
def test_the_density_of_the_network_goes_down_as_by_gem_miners_freezes(density: float) -> None:
    epochs, every = 7, 2
    model, search = start(density, epochs, scope="global", freeze_every=every, lr=0.5)
    planned = freeze_epochs(epochs, every)
    *before, _ = weights_left(TOTAL, density, epochs, every)
    steps = dict(zip(planned, [*before, round(density * TOTAL)], strict=True))
    assert len(steps) == 3
    left, out = (
        TOTAL,
        {
            name: torch.zeros(layer.weight.shape).bool()
            for name, layer in masked_layers(model).items()
        },
    )
    came_back = False
    for epoch in range(epochs):
        for batch in batches(epoch):
            assert search.weights_left == left, "within an epoch nothing changes"
            run_step(model, search, batch)
            for name, mask in search.masks().items():
                came_back = came_back or bool((mask & out[name]).any())
                out[name] |= ~mask
        search.end_epoch()
        left = steps.get(epoch, left)
        assert search.weights_left == left
        if epoch + 1 < epochs:
            assert_same_masks(search.masks(), sorted_masks(model, "global", left / TOTAL))
    assert search.ticket().weights_left == round(density * TOTAL)
    assert came_back, "nothing is frozen for good"


@DENSITIES
def test_the_density_of_each_layer_goes_down_alike(density: float) -> None:
    epochs = 5
    model, search = start(density, epochs, freeze_every=1)
    rate = freeze_rate(density, epochs, 1)
    left = dict(SIZES)
    for epoch in range(epochs):
        kept = {name: int(mask.sum()) for name, mask in search.masks().items()}
        assert kept == left
        run_epoch(model, search, epoch)
        if 0 < epoch < epochs - 1:
            end = {name: max(1, round(density * size)) for name, size in SIZES.items()}
            left = {
                name: max(end[name], size - math.ceil(round(rate * size, 6)))
                for name, size in left.items()
            }
    assert {name: int(mask.sum()) for name, mask in search.ticket().masks.items()} == end


@pytest.mark.parametrize("size", [1, 3, 264, 10_000])
@pytest.mark.parametrize("density", [0.9, 0.1, 0.0144])
@pytest.mark.parametrize("every", [1, 3])
def test_plans_go_down_to_exactly_the_density(size: int, density: float, every: int) -> None:
    plan = kept_of(size, density, 40, every)
    assert len(plan) == 41
    assert plan[0] == size
    assert plan[-1] == max(1, round(density * size))
    assert plan == sorted(plan, reverse=True)
    assert set(kept_of(size, density, 40)) == {plan[-1]}


@SCOPES
def test_scores_move_by_sgd_with_decay_and_regulariser(scope: str) -> None:
    options = {"lr": 0.2, "momentum": 0.8, "weight_decay": 0.01, "l2": 0.02}
    model, search = start(epochs=3, scope=scope, **options)
    ours = [layer.scores for layer in masked_layers(model).values()]
    theirs = [score.detach().clone() for score in ours]
    momentum = [torch.zeros_like(score) for score in theirs]
    for epoch in range(2):
        for images, labels in batches(epoch):
            search.loss(model(images), labels, images).backward()
            grads = [score.grad.clone() for score in ours]
            search.step()
            lr = 0.2 * cosine(epoch, 3)
            for score, moved, grad in zip(theirs, momentum, grads, strict=True):
                moved.mul_(0.8).add_(grad + 0.01 * score + 2 * 0.02 * score)
                score -= lr * moved
            torch.testing.assert_close([score.detach() for score in ours], theirs)
        search.end_epoch()


def test_scores_are_drawn_as_by_kaiming() -> None:
    drawn = [scores(start(seed=seed)[0]) for seed in (1, 1, 2)]
    for name, score in drawn[0].items():
        bound = 1 / math.sqrt(score[0].numel())
        assert 0.9 * bound < score.abs().max() <= bound
        assert abs(score.mean()) < 0.2 * bound
        assert torch.equal(score, drawn[1][name])
        assert not torch.equal(score, drawn[2][name])
    model = network()
    gk.convert(model, scores=True)
    before = scores(model)
    EdgePopup(model, 0.1, 2)
    assert_same_masks(before, scores(model))


def test_an_unknown_scope_is_refused() -> None:
    with pytest.raises(GemkernError, match="scope cannot be 'row': choose one of layer, global"):
        start(scope="row")


def test_it_learns() -> None:
    accuracies = []
    for lr in (0.0, 0.3):
        model, search = start(0.3, 20, lr=lr)
        run(model, search)
        images, labels = map(torch.cat, zip(*batches(30), strict=True))
        model.eval()
        accuracies.append((model(images).argmax(1) == labels).float().mean())
    assert accuracies[1] > accuracies[0] + 0.2

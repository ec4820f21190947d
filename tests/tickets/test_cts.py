"""Concrete Ticket Search: its samples, its objective, and how its density is steered."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from tiny_search import TOTAL, assert_same_state, batches, count, network
from torch import Tensor, nn
from torch.nn import functional as F

import gemkern as gk
from gemkern.errors import GemkernError
from gemkern.optim import masked_layers
from gemkern.tickets import ConcreteTicketSearch
from gemkern.tickets.cts import GAIN, concrete, reverse_kl, wanted_density
from gemkern.tickets.randomness import generator

DENSITIES = pytest.mark.parametrize("density", [0.1, 0.0144])


def start(
    density: float = 0.1, epochs: int = 4, **options: Any
) -> tuple[nn.Module, ConcreteTicketSearch]:
    model = network()
    gk.convert(model, scores=True)
    return model, ConcreteTicketSearch(model, density, epochs, **{"seed": 5, **options})


def take(model: nn.Module, search: ConcreteTicketSearch, batch: tuple[Tensor, Tensor]) -> None:
    images, labels = batch
    search.loss(model(images), labels, images).backward()
    search.step()


def take_epochs(model: nn.Module, search: ConcreteTicketSearch, epochs: int) -> None:
    for epoch in range(search.epoch, search.epoch + epochs):
        for batch in batches(epoch):
            take(model, search, batch)
        search.end_epoch()


def logits(model: nn.Module) -> list[Tensor]:
    return [layer.scores for layer in masked_layers(model).values()]


def set_logits(model: nn.Module, value: float | None = None) -> None:
    """Set every logit to `value`, or to one of few numbers at random."""
    stream = torch.Generator().manual_seed(3)
    for one in logits(model):
        few = torch.randint(-3, 4, one.shape, generator=stream).float()
        with torch.no_grad():
            one.copy_(few) if value is None else one.fill_(value)


def drawn(step: int, shapes: list[torch.Size], seed: int = 5) -> list[Tensor]:
    """The uniform numbers of a step."""
    stream = generator(f"concrete samples of step {step}", seed)
    return [torch.rand(shape, generator=stream) for shape in shapes]


def computed(model: nn.Module, images: Tensor, masks: list[Tensor], train: bool) -> Tensor:
    """What the network computes with its weights times `masks`."""
    norm = model[1]
    x = F.conv2d(images, model[0].weight * masks[0], padding=1)
    moments = (None, None) if train else (norm.running_mean, norm.running_var)
    x = F.batch_norm(x, *moments, norm.weight, norm.bias, train, eps=norm.eps).relu()
    return F.linear(x.flatten(1), model[4].weight * masks[1], model[4].bias)


def test_a_step_computes_with_concrete_samples_of_its_own() -> None:
    model, search = start(temperature=0.4)
    seen = []
    for step, batch in enumerate(batches(0)):
        uniform = drawn(step, [one.shape for one in logits(model)])
        samples = [
            torch.sigmoid((one.detach() + u.log() - (1 - u).log()) / 0.4)
            for one, u in zip(logits(model), uniform, strict=True)
        ]
        expected = computed(model, batch[0], samples, train=True)
        torch.testing.assert_close(model(batch[0]), expected)
        torch.testing.assert_close(model(batch[0]), expected, msg="one step, one sample")
        take(model, search, batch)
        seen.append(samples[0])
    assert not torch.allclose(seen[0], seen[1], atol=0.1)


def test_a_weight_is_sampled_as_often_as_its_logit_says() -> None:
    wanted = torch.tensor([-4.0, -1.0, 0.0, 2.0])
    _, search = start()
    noise = torch.cat(noise_of_steps(search, 60))
    for logit in wanted:
        kept = (concrete(logit, noise, 0.5) > 0.5).float().mean()
        assert abs(kept - torch.sigmoid(logit)) < 0.015


def noise_of_steps(search: ConcreteTicketSearch, steps: int) -> list[Tensor]:
    found = []
    for step in range(steps):
        search._steps = step
        search._refresh()
        found += [one.clone().flatten() for one in search._noise]
    return found


@pytest.mark.parametrize("temperature", [0.3, 2 / 3, 2.0])
def test_a_sample_and_its_gradient_are_those_of_the_formula(temperature: float) -> None:
    stream = torch.Generator().manual_seed(0)
    a = torch.randn(12, dtype=torch.float64, generator=stream).requires_grad_()
    u = torch.rand(12, dtype=torch.float64, generator=stream)
    odds = (a.detach().exp() * u / (1 - u)) ** (1 / temperature)
    sample = concrete(a.detach(), torch.logit(u), temperature)
    torch.testing.assert_close(sample, odds / (1 + odds))
    assert torch.autograd.gradcheck(lambda a: concrete(a, torch.logit(u), temperature), (a,))


def test_logits_learn_by_the_gradient_of_the_whole_network() -> None:
    model = network().double()
    gk.convert(model, scores=True)
    for layer in masked_layers(model).values():
        layer.scores = nn.Parameter(torch.empty(layer.weight.shape, dtype=torch.float64))
    search = ConcreteTicketSearch(model, 0.1, 2, seed=5)
    images = next(batches(0))[0].double()
    dense = computed(model, images, [torch.ones(1).double()] * 2, train=True)

    def objective(*learnt: Tensor) -> Tensor:
        samples = [concrete(a, n, 2 / 3) for a, n in zip(learnt, search._noise, strict=True)]
        return reverse_kl(computed(model, images, samples, train=True), dense)

    theirs = [one.detach().clone().requires_grad_() for one in logits(model)]
    objective(*theirs).backward()
    search.loss(model(images), torch.tensor(0), images).backward()
    for ours, other in zip(logits(model), theirs, strict=True):
        torch.testing.assert_close(ours.grad, other.grad, rtol=1e-8, atol=1e-12)


@DENSITIES
@pytest.mark.parametrize("how", ["evaluation", "temperature 0"])
def test_without_noise_it_computes_with_the_largest_logits(density: float, how: str) -> None:
    model, search = start(density)
    images, _ = next(batches(7))
    for change in (lambda: None, lambda: set_logits(model), lambda: take_epochs(model, search, 1)):
        change()
        flat = torch.cat([one.detach().flatten() for one in logits(model)])
        kept = round(density * TOTAL)
        top = torch.zeros(TOTAL, dtype=torch.bool)
        top[flat.argsort(stable=True)[TOTAL - kept :]] = True
        masks = [
            part.view(one.shape)
            for part, one in zip(top.split([72, 192]), logits(model), strict=True)
        ]
        if how == "evaluation":
            model.eval()
        else:
            search.temperature = 0.0
        expected = computed(model, images, masks, train=how != "evaluation")
        torch.testing.assert_close(model(images), expected)
        assert all(torch.equal(*pair) for pair in zip(search.masks().values(), masks, strict=True))
        assert search.weights_left == kept
        model.train()
        search.temperature = 2 / 3


def test_the_objective_is_the_reverse_divergence_in_float64() -> None:
    stream = torch.Generator().manual_seed(0)
    sparse, dense = (3 * torch.randn(6, 5, generator=stream).double() for _ in range(2))
    p, q = sparse.softmax(1), dense.softmax(1)
    expected = sum(
        float(p[i, c] * (p[i, c].log() - q[i, c].log())) for i in range(6) for c in range(5)
    )
    assert reverse_kl(sparse, dense).item() == pytest.approx(expected / 6, rel=1e-12)
    assert reverse_kl(sparse, sparse).item() == 0
    assert reverse_kl(sparse.bfloat16(), dense.bfloat16()).dtype == torch.float32
    assert reverse_kl(sparse, dense).item() != pytest.approx(reverse_kl(dense, sparse).item())


def test_the_loss_is_that_of_sparse_outputs_and_dense_ones() -> None:
    model, search = start()
    images, labels = next(batches(0))
    dense = computed(model, images, [torch.ones(1)] * 2, train=True)
    outputs = model(images)
    torch.testing.assert_close(search.loss(outputs, labels, images), reverse_kl(outputs, dense))
    set_logits(model, 1e3)
    assert search.loss(model(images), labels, images).item() == 0
    set_logits(model)
    assert search.loss(model(images), labels, images).item() > 0.01


def test_the_dense_network_changes_nothing() -> None:
    model, search = start()
    images, labels = next(batches(0))
    alone = copy.deepcopy(model)
    for ours, theirs in zip(
        masked_layers(model).values(), masked_layers(alone).values(), strict=True
    ):
        theirs.override = ours.override
    outputs = model(images)
    alone(images)
    before = copy.deepcopy(model.state_dict())
    loss = search.loss(outputs, labels, images)
    assert_same_state(model.state_dict(), before)
    assert_same_state(model.state_dict(), alone.state_dict())
    assert model[1].num_batches_tracked == 1
    loss.backward()
    assert all(one.grad is not None for one in logits(model))
    assert model[0].weight.grad is None
    assert not search._dense_outputs(images).requires_grad
    assert torch.equal(model(images), outputs), "the model samples as before"


def test_an_error_of_the_dense_network_leaves_a_sampling_one() -> None:
    model, search = start()
    images, labels = next(batches(0))
    outputs = model(images)
    with pytest.raises(GemkernError, match="give x as"):
        search.loss(outputs, labels, images[:, :1])
    assert torch.equal(model(images), outputs)


@pytest.mark.parametrize("level", [-6.0, 0.0, 3.0])
@DENSITIES
def test_the_gradients_of_objective_and_density_are_balanced(density: float, level: float) -> None:
    model, search = start(density)
    with torch.no_grad():
        for one in logits(model):
            one.add_(level)
    images, labels = next(batches(0))
    search.loss(model(images), labels, images).backward()
    objective = torch.cat([one.grad.double().flatten() for one in logits(model)])
    flat = torch.cat([one.detach().double().flatten() for one in logits(model)]).requires_grad_()
    expected = flat.sigmoid().mean()
    expected.backward()
    assert search.expected_density == pytest.approx(expected.item(), rel=1e-5)
    wanted = wanted_density(0, 4, density)
    weight = GAIN * (expected.detach() / wanted).log()
    assert (weight > 0) == (expected > wanted)
    balanced = objective / objective.norm() + weight * flat.grad / flat.grad.norm()
    search._balance()
    ours = torch.cat([one.grad.flatten() for one in logits(model)])
    torch.testing.assert_close(ours, balanced.float(), rtol=1e-3, atol=1e-5)


def test_where_nothing_is_to_be_learnt_the_density_is_steered_all_the_same() -> None:
    model, search = start()
    for one in logits(model):
        one.grad = torch.zeros_like(one)
    before = search.expected_density
    search.step()
    assert search.expected_density < before


def test_the_wanted_density_goes_down_by_equal_factors_and_stays() -> None:
    wanted = [wanted_density(epoch, 8, 0.02) for epoch in range(9)]
    factors = [after / before for before, after in zip([0.5, *wanted[:3]], wanted[:4], strict=True)]
    assert factors == pytest.approx([factors[0]] * 4)
    assert wanted[3:] == pytest.approx([0.02] * 6)
    assert wanted_density(0, 1, 0.02) == pytest.approx(0.02)


@DENSITIES
def test_the_expected_density_reaches_the_density(density: float) -> None:
    model, search = start(density, 80)
    assert search.expected_density == pytest.approx(0.5, abs=0.01)
    take_epochs(model, search, 79)
    assert search.expected_density == pytest.approx(density, rel=0.1)
    take_epochs(model, search, 1)
    kept = round(density * TOTAL)
    assert search.ticket().weights_left == search.weights_left == count(search.masks()) == kept
    assert search.expected_density == search.density == kept / TOTAL


def test_a_search_brings_sparse_outputs_near_the_dense_ones() -> None:
    model, search = start(0.3, 60)
    held_out = [batch for epoch in (70, 71) for batch in batches(epoch)]

    def divergence() -> float:
        search.temperature = 0.0
        with torch.no_grad():
            found = [search.loss(model(images), labels, images) for images, labels in held_out]
        search.temperature = 2 / 3
        return torch.stack(found).mean().item()

    before = divergence()
    take_epochs(model, search, 59)
    assert divergence() < 0.7 * before

"""What all have in common that prune at initialisation: counts, a model left alone, refusals."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from tiny_search import TOTAL, assert_same_state, batches, network, same_bits
from torch import Tensor, nn

import gemkern as gk
from gemkern.errors import GemkernError
from gemkern.models import build
from gemkern.optim import masked_layers
from gemkern.tickets import (
    METHODS,
    Start,
    Ticket,
    grasp_ticket,
    prospr_ticket,
    snip_ticket,
    synflow_ticket,
)
from gemkern.tickets.saliency import keep_highest

Prune = Callable[..., Ticket]


def by_snip(model: nn.Module, density: float, given: Any, **options: Any) -> Ticket:
    return snip_ticket(model, density, given, mini_batches=2, **options)


def by_grasp(model: nn.Module, density: float, given: Any, **options: Any) -> Ticket:
    return grasp_ticket(model, density, given, samples=2, **options)


def by_prospr(model: nn.Module, density: float, given: Any, **options: Any) -> Ticket:
    return prospr_ticket(model, density, given, steps=1, **options)


def by_synflow(model: nn.Module, density: float, given: Any, **options: Any) -> Ticket:
    inputs, _ = next(iter(given))
    return synflow_ticket(model, density, inputs.shape[1:], rounds=5, **options)


WITH_DATA = {"snip": by_snip, "grasp": by_grasp, "prospr": by_prospr}
ALL = {**WITH_DATA, "synflow": by_synflow}
all_of_them = pytest.mark.parametrize("name", ALL)


def masked(seed: int = 0, scores: bool = False) -> nn.Module:
    model = network(seed)
    gk.convert(model, scores=scores)
    return model


def digits() -> list[tuple[Tensor, Tensor]]:
    stream = torch.Generator().manual_seed(0)
    labels = torch.arange(40) % 10
    images = torch.randn(40, 1, 8, 8, generator=stream) + labels.reshape(-1, 1, 1, 1) / 5
    return [(images[:20], labels[:20]), (images[20:], labels[20:])]


@all_of_them
@pytest.mark.parametrize("density", [0.1, 0.0144])
def test_exactly_the_weights_of_the_density_remain(name: str, density: float) -> None:
    model = build("resnet8", channels=1, image_size=8, seed=0, init="kaiming_normal")
    fresh = copy.deepcopy(model.state_dict())
    gk.convert(model)
    total = sum(layer.active.numel() for layer in masked_layers(model).values())
    ticket = ALL[name](model, density, digits(), name="resnet8", model_seed=0)
    assert ticket.weights_left == round(density * total)
    assert (ticket.method, ticket.model, ticket.seed) == (name, "resnet8", 0)
    assert ticket.weights is not None
    assert_same_state(dict(ticket.weights), fresh)


class Noisy(nn.Module):
    """A network with dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.body = network()
        self.drop = nn.Dropout(0.3)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self.drop(x))


def random_numbers() -> list[Any]:
    return [torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()]  # noqa: NPY002


def described(model: nn.Module) -> list[Any]:
    return [(one.training, sorted(vars(one)), one._forward_hooks) for one in model.modules()]


@all_of_them
@pytest.mark.parametrize("training", [True, False])
def test_the_model_and_the_random_numbers_are_what_they_were(name: str, training: bool) -> None:
    model = Noisy()
    gk.convert(model)
    for inputs, labels in batches(0):
        nn.functional.cross_entropy(model(inputs), labels).backward()
    model.body[4].active[0, :5] = False
    model.body[1].eval()
    model.drop.train(training)
    grads = [parameter.grad.clone() for parameter in model.parameters()]
    state = copy.deepcopy(model.state_dict())
    modules = described(model)
    shuffled = torch.utils.data.DataLoader(
        [(x, y) for inputs, labels in batches(1) for x, y in zip(inputs, labels, strict=True)],
        batch_size=8,
        shuffle=True,
    )
    numbers = random_numbers()
    ticket = WITH_DATA.get(name, lambda *_: by_synflow(model, 0.1, batches(1)))(
        model, 0.1, shuffled
    )
    assert ticket.weights_left == round(0.1 * TOTAL)
    assert random_numbers() == numbers
    assert_same_state(model.state_dict(), state)
    assert described(model) == modules
    for parameter, grad in zip(model.parameters(), grads, strict=True):
        assert parameter.grad is not None
        assert same_bits(parameter.grad, grad)


@pytest.mark.parametrize("name", WITH_DATA)
def test_dropout_is_a_function_of_the_seed(name: str) -> None:
    model = Noisy()
    gk.convert(model)
    first, second, other = (
        ALL[name](model, 0.3, batches(0), model_seed=seed).masks for seed in (1, 1, 2)
    )
    assert_same_state(dict(first), dict(second))
    assert not all(torch.equal(other[layer], mask) for layer, mask in first.items())


@all_of_them
def test_what_is_not_active_does_not_come_back(name: str) -> None:
    model = masked()
    model[0].active[:3] = False
    whole = ALL[name](model, 0.2, batches(0))
    assert not whole.masks["0"][:3].any()
    assert whole.weights_left == round(0.2 * TOTAL)
    zeroed = masked()
    zeroed[0].active[:3] = False
    with torch.no_grad():
        zeroed[0].weight[:3] = 0
    assert_same_state(dict(ALL[name](zeroed, 0.2, batches(0)).masks), dict(whole.masks))
    for layer in masked_layers(model).values():
        layer.compress()
    assert_same_state(dict(ALL[name](model, 0.2, batches(0)).masks), dict(whole.masks))
    assert model[0].is_compressed


@all_of_them
def test_scores_and_the_mode_of_gradients_make_no_difference(name: str) -> None:
    plain = ALL[name](masked(), 0.2, batches(0))
    with torch.no_grad():
        scored = ALL[name](masked(scores=True), 0.2, batches(0))
    assert_same_state(dict(scored.masks), dict(plain.masks))


@all_of_them
def test_a_saliency_that_is_no_number_is_refused_with_its_layer(name: str) -> None:
    model = masked()
    with torch.no_grad():
        model[4].weight[1, 2] = math.nan
    with pytest.raises(
        GemkernError, match=r"layer '.' has a saliency of .* infinite or NaN: check"
    ):
        ALL[name](model, 0.2, batches(0))


@all_of_them
@pytest.mark.parametrize("density", [0.0, 1.0, 0.55])
def test_densities_that_leave_nothing_to_do_are_refused(name: str, density: float) -> None:
    model = masked()
    model[4].active[:2] = False

    def unread() -> Iterator[Any]:
        yield from batches(0) if name == "synflow" else pytest.fail("a batch was read")

    with pytest.raises(GemkernError, match=rf"density {density:g} "):
        ALL[name](model, density, unread())


@all_of_them
def test_a_model_must_be_converted(name: str) -> None:
    with pytest.raises(GemkernError, match=r"call gemkern.convert\(model\) first"):
        ALL[name](network(), 0.2, batches(0))


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("snip", 0, "SNIP computes with 2 batches and was given 0: give more"),
        ("snip", 1, "SNIP computes with 2 batches and was given 1: give more"),
        ("prospr", 0, "ProsPr computes with 2 batches and was given 0: give more"),
        ("prospr", 1, "ProsPr computes with 2 batches and was given 1: give more"),
        ("grasp", 0, "GraSP computes with 2 examples of each class and the batches brought 0 of"),
    ],
)
def test_too_few_batches_are_refused(name: str, given: int, message: str) -> None:
    with pytest.raises(GemkernError, match=message):
        ALL[name](masked(), 0.2, list(batches(0))[:given])


def test_the_highest_of_all_layers_remain_and_of_equals_the_last() -> None:
    model = nn.Sequential(nn.Linear(3, 1), nn.Linear(2, 2))
    gk.convert(model)
    layers = masked_layers(model)
    layers["1"].active[1, 1] = False
    saliencies = [torch.tensor([[1.0, 5.0, 1.0]]), torch.tensor([[1.0, -2.0], [1.0, 9.0]])]
    keep_highest(layers, saliencies, 3, "a test")
    assert layers["0"].active.tolist() == [[False, True, False]]
    assert layers["1"].active.tolist() == [[True, False], [True, False]]


def start(method: str, **own: Any) -> Start:
    def unread() -> Any:
        yield pytest.fail("a batch was read")

    return Start(
        own=METHODS[method].settings(**own), seed=3, name="tiny", fresh=network, density=0.1,
        total=TOTAL, weights=17, weight_decay=0.0, schedule="cosine",
        accelerated=lambda: "never", batches=unread,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("method", "own", "message"),
    [
        ("snip", {"snip_batches": 0}, "snip_batches is 0: give at least 1"),
        ("grasp", {"grasp_samples": 0}, "grasp_samples is 0: give at least 1"),
        ("grasp", {"grasp_temperature": 0.0}, "grasp_temperature is 0: give a positive number"),
        ("grasp", {"grasp_temperature": math.nan}, "grasp_temperature is nan: give a positive"),
        ("synflow", {"synflow_rounds": 0}, "synflow_rounds is 0: give at least 1"),
        ("prospr", {"prospr_steps": -1}, "prospr_steps is -1: give at least 0"),
        ("prospr", {"prospr_lr": -0.1}, "prospr_lr is -0.1: give a number at least 0"),
        ("prospr", {"prospr_momentum": 1.0}, "momentum is 1.0: give a number in"),
    ],
)
def test_settings_that_cannot_be_are_refused_before_a_batch_is_read(
    method: str, own: dict[str, Any], message: str
) -> None:
    with pytest.raises(GemkernError, match=message):
        METHODS[method].make(start(method, **own))


@all_of_them
def test_to_make_a_method_reads_no_batch(name: str) -> None:
    assert callable(METHODS[name].make(start(name)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: snip_ticket(m, 0.2, batches(0), mini_batches=0), "mini_batches is 0"),
        (lambda m: grasp_ticket(m, 0.2, batches(0), samples=0), "samples is 0"),
        (lambda m: grasp_ticket(m, 0.2, batches(0), temperature=-1.0), "temperature is -1"),
        (lambda m: synflow_ticket(m, 0.2, (2, 4, 4), rounds=0), "rounds is 0"),
        (lambda m: prospr_ticket(m, 0.2, batches(0), steps=-1), "steps is -1"),
        (lambda m: prospr_ticket(m, 0.2, batches(0), lr=math.inf), "lr is inf"),
        (lambda m: prospr_ticket(m, 0.2, batches(0), momentum=-0.1), "momentum is -0.1"),
    ],
)
def test_options_that_cannot_be_are_refused(call: Prune, message: str) -> None:
    with pytest.raises(GemkernError, match=message):
        call(masked())

"""A ticket that does not fit leaves the model as it was, whatever form it is in."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable

import pytest
import torch
from tiny_search import assert_same_state, network
from torch import nn

import gemkern as gk
from gemkern.errors import GemkernError
from gemkern.nn import is_accelerated
from gemkern.tickets import Ticket, smart_ratio_ticket


@pytest.fixture
def ticket() -> Ticket:
    model = network()
    gk.convert(model)
    return smart_ratio_ticket(model, 0.4, seed=0)


def reshaped(ticket: Ticket) -> Ticket:
    return dataclasses.replace(ticket, masks={**ticket.masks, "4": torch.ones(2, 2) > 0})


def renamed(ticket: Ticket) -> Ticket:
    return dataclasses.replace(ticket, masks={"0": ticket.masks["0"], "5": ticket.masks["4"]})


def of_other_weights(ticket: Ticket) -> Ticket:
    return dataclasses.replace(ticket, weights=None, checksum="0" * 64)


def with_fewer_weights(ticket: Ticket) -> Ticket:
    weights = {name: one for name, one in ticket.weights.items() if name != "1.weight"}
    return dataclasses.replace(ticket, weights=weights)


WRONG = (reshaped, renamed, of_other_weights, with_fewer_weights)


def plain() -> nn.Module:
    return network()


def with_scores() -> nn.Module:
    model = network()
    gk.convert(model, scores=True)
    return model


def accelerated() -> nn.Module:
    model = network()
    gk.convert(model)
    smart_ratio_ticket(model, 0.3, seed=5).apply(model)
    for layer in (model[0], model[4]):
        layer.compress()
    model.forward = model.forward
    assert is_accelerated(model)
    return model


@pytest.mark.parametrize("make", [plain, with_scores, accelerated])
@pytest.mark.parametrize("wrong", WRONG)
def test_a_refused_ticket_changes_nothing(
    ticket: Ticket, make: Callable[[], nn.Module], wrong: Callable[[Ticket], Ticket]
) -> None:
    model = make()
    kinds, state = [type(one) for one in model.modules()], copy.deepcopy(model.state_dict())
    places = [parameter.data_ptr() for parameter in model.parameters()]
    was_accelerated = is_accelerated(model)
    with pytest.raises(GemkernError, match=r"does not fit the model|there are no weights"):
        wrong(ticket).apply(model)
    assert [type(one) for one in model.modules()] == kinds
    assert [parameter.data_ptr() for parameter in model.parameters()] == places
    assert is_accelerated(model) == was_accelerated
    assert_same_state(model.state_dict(), state)


def test_one_layer_that_cannot_be_masked_keeps_the_others_plain(ticket: Ticket) -> None:
    model = network()
    model[4].register_forward_hook(lambda *_: None)
    with pytest.raises(GemkernError, match=r"layer '4' cannot be masked \(it has hooks"):
        ticket.apply(model)
    assert type(model[0]) is nn.Conv2d


def test_an_accelerated_model_takes_a_ticket_that_fits(ticket: Ticket) -> None:
    model = accelerated()
    ticket.apply(model)
    assert not is_accelerated(model)
    assert torch.equal(model[4].active, ticket.masks["4"])

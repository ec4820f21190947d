"""What is wrapped around a model leaves no trace in its ticket."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from tiny_search import network, run
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import gemkern as gk
from gemkern.optim import unwrapped
from gemkern.tickets import Ticket, smart_ratio_ticket


def compiled(model: nn.Module) -> nn.Module:
    return torch.compile(model, backend="eager")


def both(model: nn.Module) -> nn.Module:
    return compiled(DistributedDataParallel(model))


WRAPPINGS = (compiled, DistributedDataParallel, nn.DataParallel, both)


@pytest.mark.parametrize("scores", [True, False])
@pytest.mark.parametrize("wrap", WRAPPINGS, ids=lambda wrap: wrap.__name__)
def test_a_ticket_has_the_names_of_a_fresh_model(
    alone: None, wrap: Callable[[nn.Module], nn.Module], scores: bool
) -> None:
    model = network()
    gk.convert(model, scores=scores)
    wrapped = wrap(model)
    assert unwrapped(wrapped) is model
    if scores:
        search = gk.GemMiner(wrapped, 0.3, 3, 1, seed=1)
    else:
        search = gk.IMP(wrapped, 0.4, 1, prune=0.4)
    run(wrapped, search)
    ticket = search.ticket()
    assert list(ticket.masks) == ["0", "4"]
    assert ticket.model == "Sequential"
    assert not any("module" in name or "_orig_mod" in name for name in ticket.weights)
    fresh = network()
    ticket.apply(fresh)
    assert torch.equal(fresh[4].active, ticket.masks["4"])


@pytest.mark.parametrize("wrap", WRAPPINGS, ids=lambda wrap: wrap.__name__)
def test_a_ticket_fits_a_wrapped_model(alone: None, wrap: Callable[[nn.Module], nn.Module]) -> None:
    model = network()
    gk.convert(model)
    wrapped = wrap(model)
    ticket = smart_ratio_ticket(wrapped, 0.4, seed=0)
    ticket.apply(wrapped)
    assert torch.equal(model[4].active, ticket.masks["4"])
    assert list(Ticket.from_model(wrapped, method="x").masks) == ["0", "4"]

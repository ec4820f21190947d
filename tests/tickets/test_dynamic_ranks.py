"""RigL and SET on ranks of DistributedDataParallel, whatever each of them began with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from ranks_apart import on_every_rank
from tiny_dynamic import KINDS, STEPS, batch, search_of
from tiny_search import assert_same_state
from torch import nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

import gemkern as gk
from gemkern.tickets import erk_ticket


def network_of(rank: int) -> nn.Module:
    torch.manual_seed(rank)
    model = nn.Sequential(
        nn.Conv2d(1, 6, 3, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(216, 3),
    )
    gk.convert(model)
    return model


def before_wrapping(kind: str, rank: int) -> tuple[nn.Module, Any]:
    model = network_of(rank)
    search = search_of(kind, model, 0.2, seed=rank, model_seed=rank)
    return DistributedDataParallel(model), search


def after_wrapping(kind: str, rank: int) -> tuple[nn.Module, Any]:
    parallel = DistributedDataParallel(network_of(rank))
    return parallel, search_of(kind, parallel, 0.2, seed=rank, model_seed=rank)


CASES: dict[str, Callable[[str, int], tuple[nn.Module, Any]]] = {
    "rigl": after_wrapping,
    "set": before_wrapping,
}


def search_on_one_rank(rank: int) -> dict[str, Any]:
    found = {}
    for kind, start in CASES.items():
        parallel, search = start(kind, rank)
        for taken in range(4 * STEPS):
            images, labels = batch(2 * taken + rank)
            F.cross_entropy(parallel(images), labels).backward()
            search.step()
            if (taken + 1) % STEPS == 0:
                search.end_epoch()
        ticket = search.ticket()
        found[kind] = dict(ticket.masks), dict(ticket.weights), ticket.seed
    return found


def test_ranks_come_to_one_ticket(tmp_path: Path) -> None:
    one, other = on_every_rank(search_on_one_rank, tmp_path)
    first = erk_ticket(network_of(0), 0.2, seed=0)
    for kind in KINDS:
        masks, weights, seed = one[kind]
        assert seed == other[kind][2] == 0
        assert_same_state(other[kind][0], masks)
        for name in ("0.weight", "4.weight", "4.bias"):
            assert torch.equal(other[kind][1][name], weights[name])
        assert not torch.equal(first.masks["4"], masks["4"])

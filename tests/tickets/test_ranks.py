"""Ranks of DistributedDataParallel come to one ticket, whatever each of them began with."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from ranks_apart import on_every_rank
from torch import nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

import gemkern as gk
from gemkern.optim import masked_layers


def network(rank: int, scores: bool) -> nn.Module:
    torch.manual_seed(rank)
    model = nn.Sequential(
        nn.Conv2d(2, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(96, 3)
    )
    gk.convert(model, scores=scores)
    return model


def miner(model: nn.Module, rank: int) -> gk.GemMiner:
    return gk.GemMiner(model, 0.1, 3, 1, seed=rank, model_seed=rank)


def imp(model: nn.Module, rank: int) -> gk.IMP:
    return gk.IMP(model, 0.2, 1, prune=0.6, model_seed=rank)


SEARCHES: dict[str, tuple[bool, Callable[[nn.Module, int], Any]]] = {
    "miner": (True, miner),
    "imp": (False, imp),
}
CASES = [*itertools.product(SEARCHES, ["before wrapping", "after wrapping"])]


def run_epoch(parallel: nn.Module, search: Any, rank: int, spoil: bool = False) -> None:
    for step in range(2):
        stream = torch.Generator().manual_seed(100 * search.epoch + 10 * step + rank)
        x, labels = torch.randn(8, 2, 6, 6, generator=stream), torch.arange(8) % 3
        F.cross_entropy(parallel(x), labels).backward()
        search.step()
    if spoil and rank == 1:
        layer = masked_layers(search.model)["4"]
        layer.weight.data.neg_().mul_(torch.rand(layer.weight.shape))
    search.end_epoch()


def start(kind: str, when: str, rank: int) -> tuple[nn.Module, Any]:
    scores, make = SEARCHES[kind]
    model = network(rank, scores)
    if when == "before wrapping":
        search = make(model, rank)
        return DistributedDataParallel(model), search
    parallel = DistributedDataParallel(model)
    return parallel, make(parallel, rank)


def search_on_one_rank(rank: int) -> dict[Any, Any]:
    found: dict[Any, Any] = {}
    for kind, when in CASES:
        parallel, search = start(kind, when, rank)
        for _ in range(search.epochs):
            run_epoch(parallel, search, rank)
        ticket = search.ticket()
        found[kind, when] = dict(ticket.masks), ticket.checksum, ticket.seed, dict(ticket.weights)
    parallel, search = start("imp", "after wrapping", rank)
    try:
        run_epoch(parallel, search, rank, spoil=True)
    except gk.GemkernError as error:
        found["spoilt"] = str(error)
    return found


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[Any, Any]]:
    return on_every_rank(search_on_one_rank, tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize("case", CASES)
def test_ranks_come_to_one_ticket(found: list[dict[Any, Any]], case: tuple[str, str]) -> None:
    (masks, checksum, seed, weights), theirs = (one[case] for one in found)
    assert theirs[1:3] == (checksum, seed)
    assert seed == 0
    for name, mask in masks.items():
        assert torch.equal(mask, theirs[0][name])
    for name in ("0.weight", "4.weight"):
        assert torch.equal(weights[name], theirs[3][name])
    # The first rank's own.
    initial = network(0, scores=False).state_dict()
    assert torch.equal(weights["4.weight"], initial["4.weight"])


def test_a_rank_that_differs_is_named_on_all(found: list[dict[Any, Any]]) -> None:
    for one in found:
        assert "rank 1 has another mask of layer" in one["spoilt"]
        assert "than rank 0 after epoch 1" in one["spoilt"]


def test_a_sharded_weight_is_refused() -> None:
    class DTensor(nn.Parameter):
        """What a sharded weight is called."""

    model = network(0, scores=False)
    model[4].weight.__class__ = DTensor
    with pytest.raises(gk.GemkernError, match="weight of layer '4' is a DTensor"):
        imp(model, 0)

"""Gem-Miner's named variants: starts and regularisers of scores, rankings, rewound scores."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from tiny_search import STEPS, active, assert_same_state, batches, network, run_epoch, run_step
from torch import Tensor, nn
from torch.nn import functional as F

import gemkern as gk
from gemkern.errors import GemkernError
from gemkern.optim import masked_layers
from gemkern.tickets import GemMiner, freeze_rate
from gemkern.tickets.schedules import share
from gemkern.tickets.score_starts import STARTS


def converted(seed: int = 0) -> nn.Module:
    model = network(seed)
    gk.convert(model, scores=True)
    return model


def miner_of(model: nn.Module, **options: Any) -> GemMiner:
    chosen: dict[str, Any] = {"density": 0.1, "epochs": 6, "freeze_every": 1, "seed": 1}
    return GemMiner(model, **{**chosen, **options})


def scores(model: nn.Module) -> list[Tensor]:
    return [layer.scores.detach().clone() for layer in masked_layers(model).values()]


MOMENTS = {
    "uniform": (1 / 2, 1 / 12),
    "half": (1 / 2, 0.0),
    "bernoulli": (1 / 2, 1 / 4),
    "bimodal": (1 / 2, 0.25 / 1.2),
    "skewed": (1 / 6, 5 / (36 * 7)),
}


@pytest.mark.parametrize("start", STARTS)
def test_scores_start_from_the_distribution_that_is_named(start: str) -> None:
    drawn = STARTS[start](torch.Size([200, 500]), torch.Generator().manual_seed(0))
    mean, variance = MOMENTS[start]
    assert drawn.dtype == torch.float32
    assert drawn.min() >= 0
    assert drawn.max() <= 1
    assert drawn.double().mean().item() == pytest.approx(mean, abs=4e-3)
    assert drawn.double().var().item() == pytest.approx(variance, abs=2e-3)
    if start == "skewed":
        # P(p > 1/2) of Beta(1, 5).
        assert (drawn > 0.5).float().mean().item() == pytest.approx(0.5**5, abs=2e-3)


@pytest.mark.parametrize("start", STARTS)
def test_a_seed_draws_the_start_of_a_miner(start: str) -> None:
    one, same, other = (converted() for _ in range(3))
    miner_of(one, start=start)
    miner_of(same, start=start)
    miner_of(other, start=start, seed=2)
    assert all(map(torch.equal, scores(one), scores(same)))
    assert all(map(torch.equal, scores(one), scores(other))) is (start == "half")


def test_half_of_all_scores_at_one_half_begins_with_the_whole_network() -> None:
    model = converted()
    miner_of(model, start="half")
    assert all(layer.mask().all() for layer in masked_layers(model).values())


@pytest.mark.parametrize("fused", [False, True])
def test_l1_is_the_gradient_of_the_sum_of_active_scores(fused: bool) -> None:
    model = converted()
    l1, lr = 0.01, 0.5
    miner = miner_of(model, l1=l1, lr=lr, momentum=0.0, fused=fused)
    first = next(iter(masked_layers(model).values()))
    first.active[0] = False
    for step in range(3):
        x, labels = list(batches(0))[step]
        before = scores(model)
        twin = copy.deepcopy(model)
        F.cross_entropy(twin(x), labels).backward()
        gradients = [layer.scores.grad for layer in masked_layers(twin).values()]
        run_step(model, miner, (x, labels))
        for layer, p, g in zip(masked_layers(model).values(), before, gradients, strict=True):
            there = (layer.active & (p > 0)).float()
            expected = (p - lr * (g + l1 * there)).clamp(0, 1)
            expected = torch.where(layer.active, expected, torch.zeros(()))
            torch.testing.assert_close(layer.scores.detach(), expected, rtol=1e-5, atol=1e-6)


def test_inverted_freezes_the_highest_scores() -> None:
    model = converted()
    miner = miner_of(model, freeze="highest", freeze_every=1, epochs=3)
    run_epoch(model, miner, 0)
    for batch in batches(1):
        run_step(model, miner, batch)
    before, was = scores(model), [mask.clone() for mask in active(model).values()]
    miner.end_epoch()
    gone = [old & ~new for old, new in zip(was, active(model).values(), strict=True)]
    taken = torch.cat([p[one] for p, one in zip(before, gone, strict=True)])
    left = torch.cat([p[one] for p, one in zip(before, active(model).values(), strict=True)])
    assert len(taken) > 0
    assert taken.min() >= left.max()


def test_a_layer_is_ranked_by_itself() -> None:
    model = converted()
    miner = miner_of(model, scope="layer", freeze_every=1, epochs=3)
    rate = freeze_rate(0.1, 3, 1)
    left = {name: mask.numel() for name, mask in active(model).items()}
    for epoch in range(3):
        for batch in batches(epoch):
            run_step(model, miner, batch)
        before = dict(zip(left, scores(model), strict=True))
        was = {name: mask.clone() for name, mask in active(model).items()}
        miner.end_epoch()
        for name, mask in active(model).items():
            if epoch > 0:
                left[name] -= share(rate, left[name])
                gone = was[name] & ~mask
                assert before[name][gone].max() <= before[name][mask].min()
            assert int(mask.sum()) == left[name]


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("accelerated", ["never", "always"])
def test_rewound_scores_begin_anew_after_each_freeze(optimizer: str, accelerated: str) -> None:
    model = converted()
    miner = miner_of(
        model, rewound=True, optimizer=optimizer, lr=0.1, epochs=4, accelerated=accelerated
    )
    first = scores(converted_with_seed())
    run_epoch(model, miner, 0)
    run_epoch(model, miner, 1)
    for layer, start in zip(masked_layers(model).values(), first, strict=True):
        now = layer.spread(layer.scores.detach())
        on = layer.spread(layer.active)
        assert on.any()
        assert not on.all()
        assert torch.equal(now[on], start[on])
    memories = [one for state in miner.optimizer.state.values() for one in state.values()]
    assert memories
    assert all(not one.any() for one in memories if isinstance(one, Tensor))
    assert miner.epoch == 2


def converted_with_seed() -> nn.Module:
    model = converted()
    miner_of(model)
    return model


@pytest.mark.parametrize(
    "options",
    [
        {"l1": 1e-3},
        {"rewound": True, "start": "skewed"},
        {"scope": "layer", "freeze": "highest"},
    ],
)
def test_variants_go_on_to_the_same_bits(options: dict[str, Any]) -> None:
    whole = converted()
    miner = miner_of(whole, **options)
    for epoch in range(3):
        run_epoch(whole, miner, epoch)
    run_step(whole, miner, next(batches(3)))
    state = copy.deepcopy((whole.state_dict(), miner.state_dict()))
    again = converted()
    other = miner_of(again, **options)
    again.load_state_dict(state[0])
    other.load_state_dict(state[1])
    for model, search in ((whole, miner), (again, other)):
        for step in range(1, STEPS):
            run_step(model, search, list(batches(3))[step])
        search.end_epoch()
        for epoch in range(4, 6):
            run_epoch(model, search, epoch)
    assert_same_state(whole.state_dict(), again.state_dict())


@pytest.mark.parametrize(
    "options",
    [{"start": "cold"}, {"scope": "block"}, {"freeze": "middle"}, {"l1": -1.0}],
)
def test_what_is_not_known_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(GemkernError):
        miner_of(converted(), **options)

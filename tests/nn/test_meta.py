"""Masks are never what happened to be in memory: models without memory, and room made anew."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn

import gemkern as gk


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(16, 5))


def converted(scores: bool, device: str = "cpu") -> nn.Module:
    with torch.device(device):
        model = network()
        gk.convert(model, scores=scores)
    return model


@pytest.fixture(autouse=True)
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let memory hold something else than a mask of a new layer."""
    empty_like = torch.empty_like

    def poison(*arguments: object, **options: object) -> torch.Tensor:
        made = empty_like(*arguments, **options)
        return made.fill_(float("nan") if made.is_floating_point() else 0)

    monkeypatch.setattr(torch, "empty_like", poison)


def is_new(layer: nn.Module) -> bool:
    scores = layer.scores
    drawn = scores is None or bool(((scores >= 0) & (scores < 1)).all() and scores.std() > 0)
    return bool(layer.active.all()) and drawn


@pytest.mark.parametrize("scores", [True, False])
def test_room_made_for_a_model_without_memory_holds_a_new_mask(scores: bool) -> None:
    model = converted(scores, "meta").to_empty(device="cpu")
    assert is_new(model[0])
    assert is_new(model[2])


@pytest.mark.parametrize("scores", [True, False])
def test_room_made_anew_keeps_the_mask(scores: bool) -> None:
    model = converted(scores)
    model[0].active.view(-1)[::3] = False
    before = copy.deepcopy(model)
    model.to_empty(device="cpu")
    for layer, was in ((model[0], before[0]), (model[2], before[2])):
        assert torch.equal(layer.active, was.active)
        assert scores is False or torch.equal(layer.scores, was.scores)
    assert model[0].weight.isnan().all(), "what is no mask is made anew"


@pytest.mark.parametrize("scores", [True, False])
def test_room_made_anew_keeps_where_compressed_weights_remain(scores: bool) -> None:
    model = converted(scores)
    for layer in (model[0], model[2]):
        layer.active.view(-1)[::3] = False
        layer.compress()
    before = copy.deepcopy(model)
    model.to_empty(device="cpu")
    for layer, was in ((model[0], before[0]), (model[2], before[2])):
        for one, other in zip(layer.pattern()[1:], was.pattern()[1:], strict=True):
            assert torch.equal(one, other)
    model.load_state_dict(before.state_dict())
    x = torch.randn(2, 3, 4, 4)
    assert torch.equal(model(x), before(x))


@pytest.mark.parametrize("scores", [True, False])
@pytest.mark.parametrize("assign", [True, False])
def test_a_dense_checkpoint_brings_a_model_without_memory_a_new_mask(
    scores: bool, assign: bool
) -> None:
    dense = network()
    model = converted(scores, "meta")
    if not assign:
        model.to_empty(device="cpu")
    model.load_state_dict(dense.state_dict(), assign=assign)
    assert is_new(model[0])
    assert is_new(model[2])
    assert torch.equal(model[2].weight, dense[2].weight)
    assert model(torch.randn(2, 3, 4, 4)).isfinite().all()


@pytest.mark.parametrize(
    "move",
    [
        lambda model: model.to(memory_format=torch.channels_last),
        lambda model: model.share_memory(),
        lambda model: model.half(),
        lambda model: model.double(),
        lambda model: model.to("cpu", copy.copy(torch.float32)),
    ],
)
def test_moves_keep_the_mask(move: Callable[[nn.Module], nn.Module]) -> None:
    model = converted(scores=True)
    model[0].active.view(-1)[::3] = False
    before = copy.deepcopy(model)
    move(model)
    for layer, was in ((model[0], before[0]), (model[2], before[2])):
        assert torch.equal(layer.active, was.active)
        assert torch.equal(layer.scores, was.scores)
        assert layer.scores.dtype == torch.float32

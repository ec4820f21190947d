"""Checkpoints: dense ones load into masked models, masked ones restore to the bit, in place."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from torch import nn

from gemkern.nn import MaskedLinear, convert, unconvert


def dense(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    )


def masked(scores: bool, seed: int = 0) -> nn.Sequential:
    """Return a converted model with about a fifth of its weights frozen."""
    model = dense(seed)
    convert(model, scores=scores)
    for layer in (model[0], model[2][1]):
        layer.active.copy_(torch.rand(layer.active.shape) < 0.8)
    return model


def assert_equal(ours: nn.Module, theirs: nn.Module) -> None:
    mine, expected = ours.state_dict(), theirs.state_dict()
    assert list(mine) == list(expected)
    for key, value in expected.items():
        assert mine[key].dtype == value.dtype
        assert torch.equal(mine[key], value), key


def round_trip(thing: Any, weights_only: bool) -> Any:
    stream = io.BytesIO()
    torch.save(thing, stream)
    stream.seek(0)
    return torch.load(stream, weights_only=weights_only)


@pytest.mark.parametrize("scores", [True, False])
def test_keys(scores: bool) -> None:
    expected = {"weight", "bias", "active"} | ({"scores"} if scores else set())
    layer = MaskedLinear(2, 2, scores=scores)
    assert set(layer.state_dict()) == expected
    keys = masked(scores).state_dict()
    assert {key[2:] for key in keys if key.startswith("0.")} == expected
    assert {key[4:] for key in keys if key.startswith("2.1.")} == expected


@pytest.mark.parametrize("scores", [True, False])
@pytest.mark.parametrize("assign", [True, False])
def test_a_dense_checkpoint_loads_strictly_and_leaves_the_mask(scores: bool, assign: bool) -> None:
    model, twin = masked(scores), masked(scores)
    checkpoint = dense(seed=1).state_dict()
    given = dict(checkpoint)
    held = [model[0].scores, model[2][1].scores]
    model.load_state_dict(checkpoint, strict=True, assign=assign)
    assert model[0].scores is held[0]
    for key, value in model.state_dict().items():
        source = given if key in given else twin.state_dict()
        assert torch.equal(value, source[key]), key


@pytest.mark.parametrize("nested", [True, False])
def test_loading_does_not_touch_the_checkpoint(nested: bool) -> None:
    model: nn.Module = masked(True) if nested else MaskedLinear(16, 3, scores=True)
    checkpoint = (dense(seed=1) if nested else nn.Linear(16, 3)).state_dict()
    keys, values = list(checkpoint), copy.deepcopy(checkpoint)
    model.load_state_dict(checkpoint)
    assert list(checkpoint) == keys
    assert all(torch.equal(checkpoint[key], values[key]) for key in keys)


def test_a_missing_weight_is_still_missed() -> None:
    checkpoint = dense().state_dict()
    del checkpoint["0.weight"]
    with pytest.raises(RuntimeError, match=r'Missing key\(s\) in state_dict: "0\.weight"'):
        masked(True).load_state_dict(checkpoint)
    with pytest.raises(RuntimeError, match=r'Unexpected key\(s\) in state_dict: "0\.scores"'):
        masked(False).load_state_dict(masked(True).state_dict())


@pytest.mark.parametrize("scores", [True, False])
def test_a_masked_checkpoint_restores_in_place(scores: bool) -> None:
    model, source = masked(scores, seed=1), masked(scores, seed=2)
    places = {key: value.data_ptr() for key, value in model.state_dict().items()}
    model.load_state_dict(source.state_dict())
    assert_equal(model, source)
    assert {key: value.data_ptr() for key, value in model.state_dict().items()} == places


def test_an_unconverted_model_has_an_ordinary_checkpoint() -> None:
    model = masked(True)
    x = torch.randn(2, 2, 4, 4)
    expected = model(x)
    unconvert(model)
    fresh = dense(seed=5)
    assert list(model.state_dict()) == list(fresh.state_dict())
    fresh.load_state_dict(model.state_dict(), strict=True)
    assert torch.equal(fresh(x), expected)


@pytest.mark.parametrize("scores", [True, False])
@pytest.mark.parametrize("way", ["weights", "pickle", "deepcopy"])
def test_copies_are_equal_and_apart(scores: bool, way: str) -> None:
    model = masked(scores)
    if way == "weights":
        copied = masked(scores, seed=3)
        copied.load_state_dict(round_trip(model.state_dict(), weights_only=True))
    elif way == "pickle":
        copied = round_trip(model, weights_only=False)
    else:
        copied = copy.deepcopy(model)
    assert_equal(copied, model)
    for ours, theirs in zip(copied.parameters(), model.parameters(), strict=True):
        assert ours.requires_grad == theirs.requires_grad
    before = model[0].active.clone()
    copied[0].active.fill_(False)
    assert torch.equal(model[0].active, before)
    x = torch.randn(2, 2, 4, 4)
    copied[0].active.copy_(before)
    assert torch.equal(copied(x), model(x))

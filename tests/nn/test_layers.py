"""Masked layers compute what PyTorch's do on the effective weight; scores keep to themselves."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gemkern.nn import MaskedConv2d, MaskedLinear

MODES = ("zeros", "reflect", "replicate", "circular")
GEOMETRIES = (
    {"padding": 1},
    {"padding": (2, 1), "stride": 2, "groups": 2, "bias": False},
    {"padding": (0, 2), "stride": (1, 2), "dilation": 2},
    {"padding": 2, "dilation": (1, 2), "groups": 4},
    {"padding": "same"},
    {"padding": "same", "kernel_size": (2, 4), "dilation": (1, 2)},
    {"padding": "valid", "stride": 2, "groups": 4, "bias": False},
)


def gradients(layer: nn.Module) -> list[Tensor]:
    return [parameter.grad for parameter in layer.parameters() if parameter.grad is not None]


def assert_same(plain: nn.Module, masked: nn.Module, x: Tensor) -> None:
    """Compare outputs and gradients of a dense layer and of its masked twin, to the bit."""
    ours = x.clone().requires_grad_()
    x = x.clone().requires_grad_()
    expected, y = plain(x), masked(ours)
    assert torch.equal(y, expected)
    grad = torch.randn_like(y)
    expected.backward(grad)
    y.backward(grad)
    pairs = zip([x.grad, *gradients(plain)], [ours.grad, *gradients(masked)], strict=True)
    for theirs, mine in pairs:
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)


def twins(layer: nn.Module, scores: bool = False) -> tuple[Any, Any]:
    """Return the layer, and a masked one with equal parameters of its own."""
    if isinstance(layer, nn.Conv2d):
        masked: Any = MaskedConv2d.from_dense(layer, scores)
    else:
        masked = MaskedLinear.from_dense(layer, scores)
    for name in ("weight", "bias"):
        own = getattr(layer, name)
        if own is not None:
            learns = getattr(masked, name).requires_grad
            setattr(masked, name, nn.Parameter(own.detach().clone(), learns))
    return layer.requires_grad_(True), masked


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_convolution_is_pytorchs(mode: str, geometry: dict[str, Any]) -> None:
    torch.manual_seed(0)
    options = {"kernel_size": 3, "padding_mode": mode, **geometry}
    plain, masked = twins(nn.Conv2d(4, 8, **options))
    x = torch.randn(2, 4, 9, 8)
    assert_same(plain, masked, x)
    assert torch.equal(masked(x[0]), plain(x[0]))
    assert masked(x[0]).dim() == 3


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(6,), (5, 6), (2, 3, 4, 6)])
def test_linear_is_pytorchs(shape: tuple[int, ...], bias: bool) -> None:
    torch.manual_seed(0)
    assert_same(*twins(nn.Linear(6, 3, bias)), torch.randn(shape))


@pytest.mark.parametrize("scored", [True, False])
@pytest.mark.parametrize("kind", ["conv", "linear"])
def test_the_effective_weight_is_selected(kind: str, scored: bool) -> None:
    torch.manual_seed(0)
    plain, masked = twins(
        nn.Conv2d(4, 8, 3, groups=2) if kind == "conv" else nn.Linear(6, 3), scored
    )
    masked.active.copy_(torch.rand(masked.active.shape) < 0.7)
    expected = masked.active
    if scored:
        with torch.no_grad():
            masked.scores.flatten()[:2] = 0.5
        expected = expected & (masked.scores >= 0.5)
    assert 0 < expected.sum() < expected.numel()
    assert torch.equal(masked.mask(), expected)
    before = masked.weight.detach().clone()
    with torch.no_grad():
        masked.weight[~masked.active] = float("inf")
        plain.weight.copy_(torch.where(expected, before, 0))
    x = torch.randn(2, 4, 6, 6) if kind == "conv" else torch.randn(2, 6)
    assert torch.equal(masked(x), plain(x))
    masked(x).square().sum().backward()
    plain(x).square().sum().backward()
    if scored:
        assert masked.weight.grad is None
        assert masked.bias.grad is None
        grad = torch.where(masked.active, plain.weight.grad * masked.weight, 0)
        torch.testing.assert_close(masked.scores.grad, grad)
    else:
        grad = torch.where(expected, plain.weight.grad, 0)
        torch.testing.assert_close(masked.weight.grad, grad)
        torch.testing.assert_close(masked.bias.grad, plain.bias.grad)


@pytest.mark.parametrize("scores", [True, False])
def test_at_first_everything_is_active_and_scores_are_uniform(scores: bool) -> None:
    torch.manual_seed(0)
    for layer in (MaskedConv2d(16, 32, 3, scores=scores), MaskedLinear(64, 64, scores=scores)):
        assert layer.active.dtype == torch.bool
        assert layer.active.all()
        assert layer.weight.requires_grad is layer.bias.requires_grad is not scores
        if not scores:
            assert layer.scores is None
            assert layer.mask().all()
            continue
        assert layer.scores.dtype == torch.float32
        assert 0 <= layer.scores.min() < 0.01
        assert 0.99 < layer.scores.max() < 1
        assert layer.scores.mean().sub(0.5).abs() < 0.02


def test_resetting_and_dropping_scores() -> None:
    layer = MaskedLinear(8, 8, scores=True)
    held = layer.scores
    layer.reset_scores(torch.Generator().manual_seed(3))
    first = held.detach().clone()
    layer.reset_scores()
    assert not torch.equal(held, first)
    layer.reset_scores(torch.Generator().manual_seed(3))
    assert torch.equal(held, first)
    assert layer.scores is held
    layer.drop_scores()
    assert layer.scores is None
    assert layer.weight.requires_grad
    assert layer.bias.requires_grad
    assert sorted(layer.state_dict()) == ["active", "bias", "weight"]
    assert layer.mask().all()
    layer.reset_scores()
    assert layer.scores is None


def test_repr() -> None:
    assert repr(MaskedLinear(4, 2)) == "MaskedLinear(in_features=4, out_features=2, bias=True)"
    expected = "MaskedConv2d(3, 8, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1), bias=False)"
    assert repr(MaskedConv2d(3, 8, 3, padding=1, bias=False)) == expected


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float64, torch.float32], ids=str
)
@pytest.mark.parametrize("way", ["to", "type", "method"])
def test_a_change_of_dtype_leaves_scores_and_active(dtype: torch.dtype, way: str) -> None:
    layer = MaskedLinear(4, 3, scores=True)
    layer.active[0, 0] = False
    layer(torch.randn(2, 4)).sum().backward()
    held, grad = layer.scores, layer.scores.grad.clone()
    before, active = held.detach().clone(), layer.active.clone()
    if way == "method":
        names = {torch.float16: "half", torch.float64: "double", torch.float32: "float"}
        getattr(layer, names.get(dtype, "bfloat16"))()
    else:
        getattr(layer, way)(dtype)
    assert layer.weight.dtype == layer.bias.dtype == dtype
    assert layer.scores is held
    assert held.dtype == held.grad.dtype == torch.float32
    assert torch.equal(held, before)
    assert torch.equal(held.grad, grad)
    assert layer.active.dtype == torch.bool
    assert torch.equal(layer.active, active)
    assert layer(torch.randn(2, 4, dtype=dtype)).dtype == dtype


def test_scores_follow_to_meta_and_back() -> None:
    layer = MaskedConv2d(2, 3, 3, scores=True).to("meta", torch.bfloat16)
    assert layer.scores.is_meta
    assert layer.active.is_meta
    assert (layer.weight.dtype, layer.scores.dtype) == (torch.bfloat16, torch.float32)
    layer.to_empty(device="cpu")
    assert layer.scores.device == layer.active.device == torch.device("cpu")
    assert (layer.scores.dtype, layer.active.dtype) == (torch.float32, torch.bool)
    assert isinstance(layer.scores, nn.Parameter)
    built = MaskedConv2d(2, 3, 3, device="meta", dtype=torch.float16, scores=True)
    assert (built.weight.dtype, built.scores.dtype) == (torch.float16, torch.float32)


def test_an_optimizer_holding_scores_works_after_a_change_of_dtype() -> None:
    layer = MaskedLinear(4, 3, scores=True)
    optimizer = torch.optim.SGD([layer.scores], lr=0.1)
    layer.to(torch.bfloat16)
    before = layer.scores.detach().clone()
    layer(torch.randn(2, 4, dtype=torch.bfloat16)).sum().backward()
    optimizer.step()
    assert not torch.equal(layer.scores, before)

"""Mixed precision: products in the autocast dtype; scores and all gradients keep their own."""

from __future__ import annotations

import pytest
import torch
from masked_layers import LAYERS, conv2d, linear

from gemkern import GemkernError, ops

both_layers = pytest.mark.parametrize("make", LAYERS)
PARAMETERS = ("x", "weight", "scores", "bias")


@both_layers
def test_the_layer_computes_in_the_autocast_dtype(make) -> None:
    layer = make()
    leaves = [getattr(layer, name).requires_grad_() for name in PARAMETERS]
    with torch.autocast("cpu", torch.bfloat16):
        y = layer()
    y.float().sum().backward()
    assert y.dtype == torch.bfloat16
    assert [leaf.grad.dtype for leaf in leaves] == [torch.float32] * 4


@both_layers
def test_autocast_rounds_the_operands_and_nothing_else(make) -> None:
    layer = make()
    with torch.autocast("cpu", torch.bfloat16):
        y = layer()
    effective = torch.where(layer.mask(), layer.weight, 0).bfloat16()
    layer.x, layer.bias = layer.x.bfloat16(), layer.bias.bfloat16()
    assert torch.equal(y, layer.plain_output(effective))


@both_layers
def test_scores_beside_the_threshold_are_not_rounded_to_it(make) -> None:
    layer = make()
    layer.scores.fill_(0.49999)  # 0.5 in bfloat16
    layer.bias = None
    with torch.autocast("cpu", torch.bfloat16):
        assert not layer().any()


@both_layers
def test_a_low_precision_input_needs_no_second_cast(make) -> None:
    layer = make()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer(x=layer.x.bfloat16()), layer())


@both_layers
def test_float64_is_left_alone_as_pytorch_does(make) -> None:
    layer = make(torch.float64)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer(), layer.plain_output(torch.where(layer.mask(), layer.weight, 0)))


def test_autocast_does_not_hide_a_float64_weight() -> None:
    layer = linear()
    with (
        torch.autocast("cpu", torch.bfloat16),
        pytest.raises(GemkernError, match=r"x is torch.float32 and the weight torch.float64"),
    ):
        layer(weight=layer.weight.double())


@both_layers
def test_a_backward_pass_inside_autocast_is_the_same(make) -> None:
    layer = make()
    grads = []
    for enabled in (False, True):
        leaves = [getattr(layer, name).clone().requires_grad_() for name in PARAMETERS]
        y = layer(**dict(zip(PARAMETERS, leaves, strict=True)))
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            y.sum().backward()
        grads.append([leaf.grad for leaf in leaves])
    assert all(torch.equal(*pair) for pair in zip(*grads, strict=True))


def test_the_operator_itself_is_not_recast() -> None:
    layer = linear()
    operands = (layer.x, layer.weight, layer.scores, layer.active, layer.bias, "")
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.ops.gemkern.masked_linear(*operands).dtype == torch.float32


@both_layers
def test_half_precision_modules_keep_float32_scores(make) -> None:
    layer = make(torch.bfloat16)
    leaves = [getattr(layer, name).requires_grad_() for name in PARAMETERS]
    y = layer()
    y.float().sum().backward()
    assert y.dtype == torch.bfloat16
    wanted = [torch.bfloat16, torch.bfloat16, torch.float32, torch.bfloat16]
    assert [leaf.grad.dtype for leaf in leaves] == wanted


def test_the_bias_gradient_has_the_dtype_of_the_bias() -> None:
    layer = conv2d(torch.bfloat16)
    bias = layer.bias.float().requires_grad_()
    layer(bias=bias).float().sum().backward()
    assert bias.grad.dtype == torch.float32


def test_effective_weights_ignore_autocast() -> None:
    layer = linear()
    with torch.autocast("cpu", torch.bfloat16):
        (effective,) = ops.effective_weight([layer.weight], [layer.scores], [layer.active])
    assert effective.dtype == torch.float32

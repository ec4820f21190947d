"""Values, straight-through gradients and their limits: Rare Gems (NeurIPS 2022), section 3."""

from __future__ import annotations

import pytest
import torch
from masked_layers import LAYERS, Layer, conv2d, linear
from torch import Tensor

from gemkern import GemkernError, ops

both_layers = pytest.mark.parametrize("make", LAYERS)
scored_or_not = pytest.mark.parametrize("scores", [True, False])


def effective_gradient(layer: Layer, grad_y: Tensor) -> Tensor:
    """dL/dw_eff of the plain PyTorch layer under the mask."""
    effective = torch.where(layer.mask(), layer.weight.detach(), 0).requires_grad_()
    (grad,) = torch.autograd.grad(layer.plain_output(effective), effective, grad_y)
    return grad


def output_gradient(layer: Layer) -> Tensor:
    with torch.no_grad():
        like = layer()
    generator = torch.Generator().manual_seed(1)
    return torch.randn(like.shape, generator=generator, dtype=torch.float64).to(like.dtype)


@both_layers
@scored_or_not
def test_the_output_is_that_of_the_effective_weight(make, scores: bool) -> None:
    layer = make(scores=scores)
    expected = layer.plain_output(torch.where(layer.mask(), layer.weight, 0))
    assert torch.equal(layer(), expected)


@both_layers
def test_a_layer_needs_no_bias(make) -> None:
    layer = make()
    layer.bias = None
    assert torch.equal(layer(), layer.plain_output(torch.where(layer.mask(), layer.weight, 0)))


@both_layers
@scored_or_not
def test_x_weight_and_bias_have_their_true_derivatives(make, scores: bool) -> None:
    layer = make(torch.float64, scores=scores)
    x, weight, bias = (t.requires_grad_() for t in (layer.x, layer.weight, layer.bias))
    assert torch.autograd.gradcheck(
        lambda x, weight, bias: layer(x=x, weight=weight, bias=bias), (x, weight, bias)
    )


def test_a_single_vector_has_its_true_derivatives() -> None:
    layer = linear(torch.float64)
    x, bias = layer.x[0, 0].clone().requires_grad_(), layer.bias.requires_grad_()
    weight = layer.weight.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x, weight, bias: layer(x=x, weight=weight, bias=bias), (x, weight, bias)
    )


@both_layers
def test_scores_get_the_straight_through_gradient(make) -> None:
    layer = make(torch.float64)
    grad_y = output_gradient(layer)
    layer.scores.requires_grad_()
    layer().backward(grad_y)
    expected = effective_gradient(layer, grad_y) * layer.weight
    torch.testing.assert_close(
        layer.scores.grad, torch.where(layer.active, expected, 0), rtol=1e-12, atol=1e-12
    )


@both_layers
def test_frozen_scores_get_exactly_nothing_and_hidden_ones_do_learn(make) -> None:
    layer = make()
    layer.scores.requires_grad_()
    layer().sum().backward()
    assert (layer.scores.grad[~layer.active] == 0).all()
    hidden = layer.active & ~layer.mask()
    assert hidden.any()
    assert (layer.scores.grad[hidden] != 0).all()


@both_layers
@scored_or_not
def test_masked_weights_get_exactly_nothing(make, scores: bool) -> None:
    layer = make(scores=scores)
    layer.weight.requires_grad_()
    layer().sum().backward()
    assert (layer.weight.grad[~layer.mask()] == 0).all()
    assert (layer.weight.grad[layer.mask()] != 0).all()


@both_layers
def test_the_score_gradient_does_not_depend_on_scores_that_leave_the_mask_alone(make) -> None:
    layer = make()
    grads = []
    for scores in (layer.scores, torch.where(layer.scores >= 0.5, 0.9, 0.1)):
        leaf = scores.clone().requires_grad_()
        layer(scores=leaf).sum().backward()
        grads.append(leaf.grad)
    assert torch.equal(*grads)


@both_layers
@pytest.mark.parametrize("learns", ["x", "weight", "scores", "bias"])
def test_a_gradient_is_computed_only_where_it_is_wanted(make, learns: str) -> None:
    layer = make()
    getattr(layer, learns).requires_grad_()
    y = layer()
    with torch.profiler.profile() as profile:
        y.sum().backward()
    called = {event.key for event in profile.key_averages() if event.key.startswith("gemkern::")}
    name = layer.masked.__name__
    operators = {"x": "input", "weight": "weight", "scores": "score"}
    expected = {f"gemkern::{name}_{operators[learns]}_grad"} if learns in operators else set()
    assert called == expected
    assert getattr(layer, learns).grad is not None


@both_layers
def test_a_float32_score_learns_under_a_float64_weight(make) -> None:
    layer = make(torch.float64)
    layer.scores = layer.scores.float().requires_grad_()
    layer().sum().backward()
    assert layer.scores.grad.dtype == torch.float32


@both_layers
@pytest.mark.parametrize("learns", ["x", "weight", "scores"])
def test_a_second_derivative_is_refused(make, learns: str) -> None:
    layer = make()
    leaf = getattr(layer, learns).requires_grad_()
    (grad,) = torch.autograd.grad(layer().square().sum(), leaf, create_graph=True)
    with pytest.raises(GemkernError, match=r"differentiable once.*double backward"):
        grad.sum().backward()


def test_the_bias_alone_refuses_a_second_derivative() -> None:
    layer = linear()
    layer.bias.requires_grad_()
    (grad,) = torch.autograd.grad(layer().square().sum(), layer.bias, create_graph=True)
    with pytest.raises(GemkernError, match="differentiable once"):
        grad.sum().backward()


@pytest.mark.parametrize("learns", ["weights", "scores"])
def test_effective_weights_refuse_a_second_derivative(learns: str) -> None:
    layer = conv2d()
    leaves = {"weights": layer.weight, "scores": layer.scores}
    leaf = leaves[learns].requires_grad_()
    (effective,) = ops.effective_weight([layer.weight], [layer.scores], [layer.active])
    (grad,) = torch.autograd.grad(effective.square().sum(), leaf, create_graph=True)
    with pytest.raises(GemkernError, match="differentiable once"):
        grad.sum().backward()


@both_layers
def test_create_graph_changes_no_gradient(make) -> None:
    layer = make()
    layer.scores.requires_grad_()
    (plain,) = torch.autograd.grad(layer().sum(), layer.scores)
    (graphed,) = torch.autograd.grad(layer().sum(), layer.scores, create_graph=True)
    assert torch.equal(plain, graphed)


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_effective_weights_pass_gradients_straight_through(dtype: torch.dtype | None) -> None:
    layers = [linear(seed=2), conv2d(seed=3)]
    weights = [layer.weight.requires_grad_() for layer in layers]
    scores = [layer.scores.requires_grad_() for layer in layers]
    active = [layer.active for layer in layers]
    effective = ops.effective_weight(weights, scores, active, dtype=dtype)
    assert all(e.dtype == (dtype or torch.float32) for e in effective)
    grads = [torch.randn(e.shape).to(e.dtype) for e in effective]
    torch.autograd.backward(effective, grads)
    for layer, grad in zip(layers, grads, strict=True):
        grad = grad.float()
        assert torch.equal(layer.weight.grad, torch.where(layer.mask(), grad, 0))
        straight = torch.where(layer.active, grad * layer.weight.detach(), 0)
        assert torch.equal(layer.scores.grad, straight)


def test_an_effective_weight_that_is_not_used_passes_nothing() -> None:
    layers = [linear(seed=2), linear(seed=3)]
    weights = [layer.weight.requires_grad_() for layer in layers]
    used, _ = ops.effective_weight(weights, None, [layer.active for layer in layers])
    used.sum().backward()
    assert torch.equal(weights[0].grad, layers[0].active.float())
    assert weights[1].grad is None or not weights[1].grad.any()


def test_effective_weights_mask_at_any_threshold() -> None:
    layer = linear()
    for tau in (0.2, torch.tensor(0.2)):
        weight = layer.weight.clone().requires_grad_()
        (effective,) = ops.effective_weight([weight], [layer.scores], [layer.active], tau)
        mask = (layer.scores >= 0.2) & layer.active
        assert torch.equal(effective, torch.where(mask, layer.weight, 0))
        effective.sum().backward()
        assert torch.equal(weight.grad, mask.float())


def test_one_score_gradient_is_left_out_where_one_layer_is_fixed() -> None:
    layers = [linear(seed=2), linear(seed=3)]
    scores = [layers[0].scores.requires_grad_(), layers[1].scores]
    effective = ops.effective_weight(
        [layer.weight for layer in layers], scores, [layer.active for layer in layers]
    )
    sum(e.sum() for e in effective).backward()
    assert scores[0].grad is not None
    assert scores[1].grad is None

"""Edge-popup as an operator: its gradients in closed form, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from host_reads import host_reads
from torch import Tensor

from gemkern import GemkernError, ops

SHAPES = ((3, 4), (0, 5), (4, 2, 3, 3))
KEPT = torch.tensor([5, 0, 40])


def model(dtype: torch.dtype = torch.float32) -> tuple[list[Tensor], list[Tensor]]:
    generator = torch.Generator().manual_seed(0)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    weights = [torch.randn(shape, generator=generator, dtype=wide) for shape in SHAPES]
    scores = [torch.randn(shape, generator=generator, dtype=wide) for shape in SHAPES]
    scores[0][0, :2] = torch.tensor([0.0, -0.0])
    return [weight.to(dtype) for weight in weights], scores


def magnitudes_kept(score: Tensor, kept: int) -> Tensor:
    """The mask of a layer by a plain sort; of equal magnitudes the last stay."""
    order = score.abs().view(-1).argsort(stable=True)
    mask = torch.zeros(score.numel(), dtype=torch.bool)
    mask[order[score.numel() - kept :]] = True
    return mask.view(score.shape)


def test_masks_and_weights() -> None:
    weights, scores = model()
    masks = ops.popup_mask(scores, KEPT)
    effective = ops.popup_weight(weights, scores, KEPT)
    for mask, made, weight, score, kept in zip(
        masks, effective, weights, scores, KEPT.tolist(), strict=True
    ):
        assert torch.equal(mask, magnitudes_kept(score, kept))
        assert torch.equal(made, torch.where(mask, weight, 0))


@pytest.mark.parametrize("out", [None, torch.bfloat16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_scores_learn_everywhere_and_weights_where_they_are_kept(
    dtype: torch.dtype, out: torch.dtype | None
) -> None:
    weights, scores = model(dtype)
    for leaf in (*weights, *scores):
        leaf.requires_grad_()
    effective = ops.popup_weight(weights, scores, KEPT, out)
    grads = [torch.randn(one.shape).to(one.dtype) for one in effective]
    torch.autograd.backward(effective, grads)
    masks = ops.popup_mask(scores, KEPT)
    for weight, score, grad, mask in zip(weights, scores, grads, masks, strict=True):
        assert torch.equal(weight.grad, torch.where(mask, grad, 0).to(dtype))
        product = grad.to(score.dtype) * weight.detach().to(score.dtype)
        assert torch.equal(score.grad, product * score.detach().sign())
        assert (weight.grad.dtype, score.grad.dtype) == (weight.dtype, score.dtype)
    hidden = ~masks[2]
    assert hidden.any()
    assert scores[2].grad[hidden].all()
    assert not scores[0].grad[0, :2].any()


def test_the_gradient_is_that_of_an_identity_after_the_absolute_value() -> None:
    """As published: scores.abs(), a choice whose derivative counts as 1, times the weight."""
    weights, scores = model()
    ours, theirs = ([score.clone().requires_grad_() for score in scores] for _ in range(2))
    effective = ops.popup_weight(weights, ours, KEPT)
    masks = ops.popup_mask(scores, KEPT)
    for made, weight, score, mask in zip(effective, weights, theirs, masks, strict=True):
        magnitude = score.abs()
        published = weight * (magnitude + (mask.float() - magnitude).detach())
        grad = torch.randn(weight.shape)
        torch.testing.assert_close(made, published)
        published.backward(grad)
        made.backward(grad, retain_graph=True)
    torch.testing.assert_close([s.grad for s in ours], [s.grad for s in theirs])


@pytest.mark.parametrize("learns", ["weights", "scores"])
def test_a_gradient_is_left_out_where_it_is_not_wanted(learns: str) -> None:
    weights, scores = model()
    leaves = {"weights": weights, "scores": scores}[learns]
    leaves[2].requires_grad_()
    effective = ops.popup_weight(weights, scores, KEPT)
    sum(made.sum() for made in effective).backward()
    assert [leaf.grad is None for leaf in (*weights, *scores)].count(False) == 1
    assert leaves[2].grad is not None


@pytest.mark.parametrize("learns", ["weights", "scores"])
def test_a_second_derivative_is_refused(learns: str) -> None:
    weights, scores = model()
    leaf = {"weights": weights, "scores": scores}[learns][0].requires_grad_()
    made, *_ = ops.popup_weight(weights, scores, KEPT)
    (grad,) = torch.autograd.grad(made.square().sum(), leaf, create_graph=True)
    with pytest.raises(GemkernError, match="differentiable once"):
        grad.sum().backward()


def test_it_ignores_autocast() -> None:
    weights, scores = model()
    with torch.autocast("cpu", torch.bfloat16):
        made = ops.popup_weight(weights, scores, KEPT)
    assert [one.dtype for one in made] == [torch.float32] * 3


def test_no_number_is_read() -> None:
    weights, scores = model()
    assert not host_reads(lambda: ops.popup_weight(weights, scores, KEPT))
    assert not host_reads(lambda: ops.popup_mask(scores, KEPT))


SCORE, ONE = torch.rand(2, 3), torch.tensor([1])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"scores": SCORE}, ": scores is a tensor; give a list"),
        ({"scores": []}, r": \w+ has . layers and scores 0; give one tensor for each layer"),
        ({"scores": [SCORE.half()]}, ", layer 0: scores are torch.float16; keep them in float32"),
        ({"kept": torch.tensor(1)}, r": kept is torch.int64 \(\) on cpu; give torch.int64 \(1,\)"),
        ({"kept": torch.tensor([1, 1])}, r": kept is torch.int64 \(2,\) on cpu; give torch.int64"),
        ({"kept": ONE.int()}, r": kept is torch.int32 \(1,\) on cpu; give torch.int64 \(1,\)"),
        ({"kept": ONE.to("meta")}, r": kept is torch.int64 \(1,\) on meta; give .* \(1,\) on cpu"),
    ],
)
@pytest.mark.parametrize("where", ["popup_mask", "popup_weight"])
def test_both_refuse(where: str, changed: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"scores": [SCORE], "kept": ONE}
    if where == "popup_weight":
        arguments["weights"] = [SCORE]
    with pytest.raises(GemkernError, match=f"^{where}{message}"):
        getattr(ops, where)(**{**arguments, **changed})


def test_scores_of_two_dtypes_are_refused() -> None:
    with pytest.raises(GemkernError, match=r"^popup_mask: in layer 1, scores are torch.float64, "):
        ops.popup_mask([SCORE, SCORE.double()], torch.tensor([1, 1]))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"weights": [SCORE] * 2}, ": weights has 2 layers and scores 1; give one tensor"),
        ({"weights": [SCORE.t()]}, r": in layer 0, scores is \(2, 3\) on cpu and weights \(3, 2\)"),
        ({"weights": [SCORE.long()]}, ": in layer 0, weights are torch.int64; give a float dtype"),
        ({"scores": [SCORE.double()]}, ", layer 0: scores are torch.float64; keep them"),
        ({"dtype": torch.int8}, ": dtype is torch.int8; give a float dtype"),
    ],
)
def test_weights_refuse(changed: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"weights": [SCORE], "scores": [SCORE], "kept": ONE}
    with pytest.raises(GemkernError, match=f"^popup_weight{message}"):
        ops.popup_weight(**{**arguments, **changed})

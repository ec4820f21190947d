"""What the kernels replace: the authors' operators, and what a careful user of PyTorch writes.

The first is the sequence of operators that Gem-Miner's own code runs in a step, counted there and
written anew here, with its detours: full-size tensors of ones and thresholds, masks in float32 and
int32, a mask of a bias that no layer has.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gemkern import ops

LR, MOMENTUM, L2 = 1e-3, 0.9, 1e-4
TAU = 0.5


@dataclass
class State:
    """What a score step reads and writes, a tensor for each layer; frozen scores are 0."""

    scores: list[Tensor]
    active: list[Tensor]
    grads: list[Tensor]
    buffers: list[Tensor]
    weights: list[Tensor]
    effective: list[Tensor]

    def lists(self) -> tuple[list[Tensor], ...]:
        return self.scores, self.active, self.grads, self.buffers, self.weights, self.effective


def random_state(shapes: Sequence[tuple[int, ...]], device: str, narrow: torch.dtype) -> State:
    """Return a state in channels-last order, a tenth of it frozen, effective weights `narrow`."""

    def drawn(draw: Callable[..., Tensor]) -> list[Tensor]:
        made = [draw(shape, device=device) for shape in shapes]
        layout = {4: torch.channels_last}
        keep = torch.contiguous_format
        return [one.contiguous(memory_format=layout.get(one.dim(), keep)) for one in made]

    active = [chance >= 0.1 for chance in drawn(torch.rand)]
    scores = [score * on for score, on in zip(drawn(torch.rand), active, strict=True)]
    weights = drawn(torch.randn)
    buffers = [torch.zeros_like(score) for score in scores]
    effective = [torch.zeros_like(weight, dtype=narrow) for weight in weights]
    return State(scores, active, drawn(torch.randn), buffers, weights, effective)


@cache
def number(value: float | tuple[int, ...], device: torch.device) -> Tensor:
    """Return a tensor made once: a plain number would cost a launch more at each call."""
    return torch.tensor(value, device=device)


def our_threshold(of: State) -> list[Tensor]:
    tau = number(TAU, of.scores[0].device)
    return ops.threshold(of.scores, of.active, tau, backend="gpu")


def our_score_step(of: State, backend: str = "gpu") -> None:
    lr, l2 = (number(rate, of.scores[0].device) for rate in (LR, L2))
    ops.score_step_sgd(*of.lists(), lr=lr, l2=l2, momentum=MOMENTUM, backend=backend)


def eager_threshold(of: State) -> list[Tensor]:
    return [(score >= TAU) & on for score, on in zip(of.scores, of.active, strict=True)]


def eager_score_step(of: State) -> None:
    """The same step in as few launches as PyTorch's lists of tensors allow."""
    grads = torch._foreach_mul(of.grads, of.weights)
    grads = [grad * on for grad, on in zip(grads, of.active, strict=True)]
    torch._foreach_add_(grads, of.scores, alpha=2 * L2)
    torch._foreach_mul_(of.buffers, MOMENTUM)
    torch._foreach_add_(of.buffers, grads)
    torch._foreach_add_(of.scores, of.buffers, alpha=-LR)
    torch._foreach_clamp_min_(of.scores, 0.0)
    torch._foreach_clamp_max_(of.scores, 1.0)
    masks = eager_threshold(of)
    for effective, weight, mask in zip(of.effective, of.weights, masks, strict=True):
        effective.copy_(weight * mask)


class _Rounded(torch.autograd.Function):
    """Scores, and those of a bias, compared with a full-size threshold; straight through."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, bias_scores: Tensor) -> tuple[Tensor, Tensor]:
        mask, bias_mask = (
            (one > torch.ones_like(one) * TAU).float() for one in (scores, bias_scores)
        )
        return mask, bias_mask

    @staticmethod
    def backward(ctx: Any, grad: Tensor, bias_grad: Tensor) -> tuple[Tensor, Tensor]:
        return grad, bias_grad


class AuthorsMask(nn.Module):
    """The scores of one layer and its int32 flags, as after the first freeze."""

    def __init__(self, weight: Tensor, scores: Tensor, active: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.detach(), requires_grad=False)
        self.scores = nn.Parameter(scores.clone())
        self.bias_scores = nn.Parameter(weight.new_full((1,), 0.75))
        self.flag = nn.Parameter(active.to(torch.int32), requires_grad=False)
        self.bias_flag = nn.Parameter(weight.new_ones(1), requires_grad=False)

    def mask(self) -> Tensor:
        subnet, _ = _Rounded.apply(self.scores, self.bias_scores)
        subnet = subnet * self.flag.float()
        # The mask of a bias, taken of the wrong tensor at full size, and never used.
        _ = subnet * self.bias_flag
        return subnet

    def forward(self) -> Tensor:
        return self.weight * self.mask()


class AuthorsLayer(nn.Module):
    """A convolution or linear layer, without bias, under an `AuthorsMask`."""

    def __init__(self, layer: nn.Conv2d | nn.Linear) -> None:
        super().__init__()
        weight = layer.weight
        active = torch.ones_like(weight, dtype=torch.bool)
        self.effective = AuthorsMask(weight, torch.rand_like(weight), active)
        self.geometry = (layer.stride, layer.padding) if isinstance(layer, nn.Conv2d) else None

    def forward(self, x: Tensor) -> Tensor:
        if self.geometry is None:
            return F.linear(x, self.effective())
        return F.conv2d(x, self.effective(), None, *self.geometry)


def authors_network(model: nn.Module) -> nn.Module:
    """Return `model` with the authors' layers in place of its own, which have no bias."""
    for name, child in model.named_children():
        masked = isinstance(child, nn.Conv2d | nn.Linear)
        setattr(model, name, AuthorsLayer(child) if masked else authors_network(child))
    return model


class AuthorsStep:
    """What the authors do around a loss: project the scores, penalise them, SGD."""

    def __init__(self, masks: Sequence[AuthorsMask]) -> None:
        self.masks = masks
        self.learning = [p for mask in masks for p in (mask.scores, mask.bias_scores)]
        self.sgd = torch.optim.SGD(self.learning, LR, MOMENTUM)

    @torch.no_grad()
    def project(self) -> None:
        for parameter in self.learning:
            parameter.clamp_(0.0, 1.0)

    def penalty(self) -> Tensor:
        total = self.masks[0].scores.new_zeros(())
        for mask in self.masks:
            total = total + mask.scores.norm(2) ** 2
        return L2 * total


def authors_threshold(of: State) -> Callable[[], object]:
    masks = _authors_masks(of)
    return torch.no_grad()(lambda: [mask.mask() for mask in masks])


def authors_score_step(of: State) -> Callable[[], object]:
    """Return the authors' share of a step: masks, effective weights, their gradients, SGD."""
    masks = _authors_masks(of)
    authors = AuthorsStep(masks)
    one = torch.ones((), device=of.scores[0].device)

    def step() -> list[Tensor]:
        authors.project()
        effective = [mask() for mask in masks]
        # As autocast does where a layer computes in 16 bits.
        narrow = [weight.to(like) for weight, like in zip(effective, of.effective, strict=True)]
        authors.sgd.zero_grad(set_to_none=True)
        torch.autograd.backward([*effective, authors.penalty()], [*of.grads, one])
        authors.sgd.step()
        return narrow

    return step


def _authors_masks(of: State) -> list[AuthorsMask]:
    return [AuthorsMask(*layer) for layer in zip(of.weights, of.scores, of.active, strict=True)]


def sorted_popup(
    weights: Sequence[Tensor], scores: Sequence[Tensor], kept: Sequence[int], dtype: torch.dtype
) -> list[Tensor]:
    """Edge-popup as its authors run it: each layer sorted, two scattered writes, a product.

    They write numbers of the host through index tensors, which a CUDA graph cannot hold: PyTorch
    copies such a number to the device at each write. Filled by index, it goes along as an argument.
    """
    out = []
    for weight, score, count in zip(weights, scores, kept, strict=True):
        mask = score.abs().clone()
        _, order = score.abs().flatten().sort()
        flat = mask.flatten()
        flat.index_fill_(0, order[: flat.numel() - count], 0)
        flat.index_fill_(0, order[flat.numel() - count :], 1)
        out.append((weight * mask).to(dtype))
    return out


def topk_popup(
    weights: Sequence[Tensor], scores: Sequence[Tensor], kept: Sequence[int], dtype: torch.dtype
) -> list[Tensor]:
    """Edge-popup by `torch.topk`, which need not sort what it finds."""
    out = []
    for weight, score, count in zip(weights, scores, kept, strict=True):
        mask = torch.zeros_like(score, dtype=torch.bool)
        kept_here = score.abs().flatten().topk(count, sorted=False).indices
        mask.view(-1).index_fill_(0, kept_here, True)
        out.append((weight * mask).to(dtype))
    return out

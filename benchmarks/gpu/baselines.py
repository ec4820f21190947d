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
HALF = torch.bfloat16


@dataclass
class State:
    """What a score step reads and writes, a tensor for each layer; frozen scores are 0."""

    scores: list[Tensor]
    active: list[Tensor]
    grads: list[Tensor]
    buffers: list[Tensor]
    weights: list[Tensor]
    effective: list[Tensor]

    @property
    def size(self) -> int:
        return sum(score.numel() for score in self.scores)

    def lists(self) -> tuple[list[Tensor], ...]:
        return self.scores, self.active, self.grads, self.buffers, self.weights, self.effective


def random_state(shapes: Sequence[tuple[int, ...]], device: str) -> State:
    """Return a state in channels-last order, a tenth of it frozen."""

    def drawn(draw: Callable[..., Tensor]) -> list[Tensor]:
        made = [draw(shape, device=device) for shape in shapes]
        return [
            one.contiguous(memory_format=torch.channels_last) if one.dim() == 4 else one
            for one in made
        ]

    active = [number >= 0.1 for number in drawn(torch.rand)]
    scores = [s * on for s, on in zip(drawn(torch.rand), active, strict=True)]
    weights = drawn(torch.randn)
    buffers = [torch.zeros_like(score) for score in scores]
    effective = [torch.zeros_like(weight, dtype=HALF) for weight in weights]
    return State(scores, active, drawn(torch.randn), buffers, weights, effective)


@cache
def number(value: float, device: torch.device) -> Tensor:
    """Return a 0-d tensor, made once: a float would cost a launch more at each call."""
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
    grads = [torch.where(on, grad, 0) for on, grad in zip(of.active, grads, strict=True)]
    torch._foreach_add_(grads, of.scores, alpha=2 * L2)
    torch._foreach_mul_(of.buffers, MOMENTUM)
    torch._foreach_add_(of.buffers, grads)
    torch._foreach_add_(of.scores, of.buffers, alpha=-LR)
    torch._foreach_clamp_min_(of.scores, 0.0)
    torch._foreach_clamp_max_(of.scores, 1.0)
    masks = eager_threshold(of)
    for effective, mask, weight in zip(of.effective, masks, of.weights, strict=True):
        effective.copy_(torch.where(mask, weight, 0))


class _Rounded(torch.autograd.Function):
    """Scores, and those of a bias, compared with full tensors of the threshold; straight through."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, bias_scores: Tensor) -> tuple[Tensor, Tensor]:
        rounded = []
        for one in (scores, bias_scores):
            rounded.append((one > torch.ones_like(one) * TAU).float())
        return rounded[0], rounded[1]

    @staticmethod
    def backward(ctx: Any, grad: Tensor, bias_grad: Tensor) -> tuple[Tensor, Tensor]:
        return grad, bias_grad


class AuthorsMask(nn.Module):
    """The scores of one layer and its int32 flags, as after the first freeze."""

    def __init__(self, weight: Tensor, active: Tensor | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.detach(), requires_grad=False)
        on = torch.ones_like(weight, dtype=torch.bool) if active is None else active
        self.scores = nn.Parameter(torch.rand_like(weight))
        self.bias_scores = nn.Parameter(weight.new_full((1,), 0.75))
        self.flag = nn.Parameter(on.to(torch.int32), requires_grad=False)
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
        self.effective = AuthorsMask(layer.weight)
        self.geometry = (layer.stride, layer.padding) if isinstance(layer, nn.Conv2d) else None

    def forward(self, x: Tensor) -> Tensor:
        if self.geometry is None:
            return F.linear(x, self.effective())
        return F.conv2d(x, self.effective(), None, *self.geometry)


def authors_network(model: nn.Module) -> nn.Module:
    """Return `model` with the authors' masked layers in place of its own, all without bias."""
    for name, child in model.named_children():
        if isinstance(child, nn.Conv2d | nn.Linear):
            setattr(model, name, AuthorsLayer(child))
        else:
            authors_network(child)
    return model


class AuthorsStep:
    """A step of scores around a loss: project, regularise, differentiate, SGD."""

    def __init__(self, masks: Sequence[AuthorsMask]) -> None:
        self.masks = masks
        self.learning = [p for mask in masks for p in (mask.scores, mask.bias_scores)]
        self.sgd = torch.optim.SGD(self.learning, LR, MOMENTUM)

    def project(self) -> None:
        with torch.no_grad():
            for parameter in self.learning:
                parameter.clamp_(0.0, 1.0)

    def penalty(self) -> Tensor:
        total = self.masks[0].scores.new_zeros(())
        for mask in self.masks:
            total = total + mask.scores.norm(2) ** 2
        return L2 * total


def authors_threshold(of: State) -> Callable[[], object]:
    masks = _authors_masks(of)

    @torch.no_grad()
    def run() -> list[Tensor]:
        return [mask.mask() for mask in masks]

    return run


def authors_score_step(of: State) -> Callable[[], object]:
    """Return the authors' share of a step: masks, effective weights, their gradients, SGD."""
    masks = _authors_masks(of)
    step = AuthorsStep(masks)
    one = torch.ones((), device=of.scores[0].device)

    def run() -> list[Tensor]:
        step.project()
        effective = [mask() for mask in masks]
        # As under autocast, where a layer computes in bfloat16.
        narrow = [weight.to(HALF) for weight in effective]
        step.sgd.zero_grad(set_to_none=True)
        torch.autograd.backward([*effective, step.penalty()], [*of.grads, one])
        step.sgd.step()
        return narrow

    return run


def _authors_masks(of: State) -> list[AuthorsMask]:
    masks = [AuthorsMask(*layer) for layer in zip(of.weights, of.active, strict=True)]
    for mask, scores in zip(masks, of.scores, strict=True):
        mask.scores.data.copy_(scores)
    return masks


def sorted_popup(
    weights: Sequence[Tensor], scores: Sequence[Tensor], kept: Sequence[int]
) -> list[Tensor]:
    """Edge-popup as its authors run it: each layer sorted, two scattered writes, a product."""
    out = []
    for weight, score, count in zip(weights, scores, kept, strict=True):
        mask = score.abs().clone()
        _, order = score.abs().flatten().sort()
        flat = mask.flatten()
        flat[order[: flat.numel() - count]] = 0
        flat[order[flat.numel() - count :]] = 1
        out.append((weight * flat.view_as(weight)).to(HALF))
    return out


def topk_popup(
    weights: Sequence[Tensor], scores: Sequence[Tensor], kept: Sequence[int]
) -> list[Tensor]:
    """Edge-popup by `torch.topk`, which need not sort what it finds."""
    out = []
    for weight, score, count in zip(weights, scores, kept, strict=True):
        mask = torch.zeros_like(score, dtype=torch.bool).flatten()
        mask[score.abs().flatten().topk(count, sorted=False).indices] = True
        out.append(torch.where(mask.view_as(weight), weight, 0).to(HALF))
    return out

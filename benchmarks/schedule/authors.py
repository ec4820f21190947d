"""Steps of Gem-Miner and of IMP in the way of Rare Gems' public code: its operators, one by one.

What it does to a model in each step is written anew here from its description: a mask made by
comparing all scores with a tensor of thresholds, a flag of integers, a second mask for a bias that
is not there, a regulariser a layer, projections by clamping, and the reading of loss and accuracies
by the host. Its evaluations are left out, and so is automatic mixed precision.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# The accuracies that it reads in each step: the first, five and ten best classes.
BEST = (1, 5, 10)
Batch = tuple[Tensor, Tensor]
Step = Callable[[Batch], None]


class _Subnet(torch.autograd.Function):
    """1 where a score is above the threshold, else 0; the gradient goes straight through."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, bias_scores: Tensor) -> tuple[Tensor, Tensor]:
        masks = [torch.gt(one, torch.ones_like(one) * 0.5).float() for one in (scores, bias_scores)]
        return masks[0], masks[1]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        return grads


class ScoredLayer(nn.Module):
    """A convolution or linear layer whose scores learn; its weight stays as it is."""

    def __init__(self, layer: nn.Conv2d | nn.Linear, flag: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(layer.weight.detach().clone(), requires_grad=False)
        self.scores = nn.Parameter(torch.rand_like(layer.weight))
        self.bias_scores = nn.Parameter(torch.rand(1))
        # Its first freeze makes integers of the flag.
        self.flag = flag.int()
        self.bias_flag = torch.ones(1)
        self._apply_to: Callable[[Tensor, Tensor], Tensor]
        if isinstance(layer, nn.Conv2d):
            geometry = layer.stride, layer.padding, layer.dilation, layer.groups
            self._apply_to = lambda x, weight: F.conv2d(x, weight, None, *geometry)
        else:
            self._apply_to = F.linear

    def forward(self, x: Tensor) -> Tensor:
        subnet, _bias_subnet = _Subnet.apply(self.scores, self.bias_scores)
        subnet = subnet * self.flag.float()
        # Its code makes this product too, and does not use it.
        _ = subnet * self.bias_flag
        return self._apply_to(x, self.weight * subnet)


def mining_step(model: nn.Module, density: float, lr: float, l2: float) -> Step:
    """Return a step of Gem-Miner on a plain model, whose layers are replaced in place."""
    layers = _replace(model, density)
    learning = [one for layer in layers for one in (layer.scores, layer.bias_scores)]
    optimizer = torch.optim.SGD(learning, lr=lr, momentum=0.9)

    def step(batch: Batch) -> None:
        _project(layers)
        outputs = model(batch[0])
        regulariser = sum(torch.norm(layer.scores, p=2) ** 2 for layer in layers)
        _learn(optimizer, outputs, batch[1], l2 * regulariser)

    return step


def finetuning_step(model: nn.Module, density: float, lr: float, weight_decay: float) -> Step:
    """Return a step of finetuning: masks are made of scores in each, and scores are projected."""
    layers = _replace(model, density)
    for layer in layers:
        layer.weight.requires_grad_(True)
        layer.scores.requires_grad_(False)
    norms = [one for one in model.parameters() if one.requires_grad and one.dim() == 1]
    learning = [*(layer.weight for layer in layers), *norms]
    optimizer = torch.optim.SGD(learning, lr=lr, momentum=0.9, weight_decay=weight_decay)

    def step(batch: Batch) -> None:
        _project(layers)
        _learn(optimizer, model(batch[0]), batch[1])

    return step


def pruning_step(model: nn.Module, density: float, lr: float, weight_decay: float) -> Step:
    """Return a step of IMP on a plain model: weights are masked after each step, one by one."""
    masked = [
        (layer.weight, (torch.rand_like(layer.weight) < density).float())
        for layer in model.modules()
        if isinstance(layer, (nn.Conv2d, nn.Linear))
    ]
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, weight_decay=weight_decay)

    def step(batch: Batch) -> None:
        _learn(optimizer, model(batch[0]), batch[1])
        for weight, mask in masked:
            weight.data = weight.data * mask.to(weight.device)

    return step


def _project(layers: Sequence[ScoredLayer]) -> None:
    for layer in layers:
        for one in (layer.scores, layer.bias_scores):
            one.data = torch.clamp(one.data, 0.0, 1.0)


def _learn(
    optimizer: torch.optim.Optimizer, outputs: Tensor, labels: Tensor, more: Tensor | float = 0.0
) -> None:
    loss = F.cross_entropy(outputs, labels) + more
    _read(loss, outputs, labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def _read(loss: Tensor, outputs: Tensor, labels: Tensor) -> None:
    """Let the host read the loss and how often the right class was among the best."""
    loss.item()
    _, best = outputs.topk(min(BEST[-1], outputs.shape[1]), 1)
    right = best.t().eq(labels.view(1, -1).expand_as(best.t()))
    for count in BEST:
        right[:count].reshape(-1).float().sum().item()


def _replace(model: nn.Module, density: float) -> list[ScoredLayer]:
    """Let all layers have scores, and flags at random places."""
    found = []
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, (nn.Conv2d, nn.Linear)):
                made = ScoredLayer(layer, torch.rand_like(layer.weight) < density)
                setattr(parent, name, made)
                found.append(made)
    return found

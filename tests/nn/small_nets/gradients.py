"""Gradients that take a way of their own: checkpoints, functions by hand, detached parts."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

from small_nets.parts import conv, head, unit
from small_nets.registry import net


class Sign(torch.autograd.Function):
    """The sign, with the gradient of a clamp."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return torch.sign(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return grad * (x.abs() <= 1)


class Reversed(torch.autograd.Function):
    """The identity, with the gradient reversed."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, share: float) -> Tensor:
        ctx.share = share
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad.neg() * ctx.share, None


class Doubled(torch.autograd.Function):
    """Twice x, in place."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.mark_dirty(x)
        return x.mul_(2)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return 2 * grad


class Led(nn.Module):
    """Parts that `lead` leads gradients through."""

    def __init__(self, lead: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.stem, self.head, self.lead = unit(3), head(), lead
        self.conv, self.norm, self.last = conv(), nn.BatchNorm2d(8), conv()
        self.block = nn.Sequential(unit(), conv(), nn.BatchNorm2d(8))
        self.dropped = nn.Sequential(unit(), nn.Dropout(0.2))

    def main(self, x: Tensor) -> Tensor:
        """Return what the first parts make of x."""
        return F.relu(self.norm(self.conv(x)))

    def rest(self, x: Tensor) -> Tensor:
        """Return what the other parts make of x."""
        return self.last(self.dropped(self.block(x) + x))

    def forward(self, x: Tensor) -> Any:
        return self.head(self.lead(self, self.stem(x)))


def _checkpointed_lambda(m: Led, x: Tensor) -> Tensor:
    x = checkpoint(lambda x, y: m.norm(m.conv(x)) + y, x, x, use_reentrant=False)
    return m.rest(F.relu(x))


def _saved_apart(m: Led, x: Tensor) -> Tensor:
    def pack(saved: Tensor) -> Any:
        return saved.detach().clone()

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda kept: kept):
        return m.rest(m.main(x))


def _saved_on_cpu(m: Led, x: Tensor) -> Tensor:
    with torch.autograd.graph.save_on_cpu():
        x = m.main(x)
    return m.rest(x)


def _partly_without_gradient(m: Led, x: Tensor) -> Tensor:
    with torch.no_grad():
        y = m.main(x).sigmoid()
    return m.rest(m.main(x)) * y


def _teacher(m: Led, x: Tensor) -> Tensor:
    with torch.inference_mode():
        y = m.main(x)
    return m.rest(m.main(x)) + y.clone().mean()


def _gradients_again(m: Led, x: Tensor) -> Tensor:
    with torch.no_grad():
        y = m.conv(x)
        with torch.enable_grad():
            z = m.main(x)
    return m.rest(z) + y


def _clipped_gradient(m: Led, x: Tensor) -> Tensor:
    y = m.norm(m.conv(x))
    if y.requires_grad:
        y.register_hook(lambda grad: grad.clamp(-1e-3, 1e-3))
    return m.rest(y.relu())


def _gradient_of_conv(m: Led, x: Tensor) -> Tensor:
    y = m.conv(x)
    if y.requires_grad:
        y.register_hook(lambda grad: 2 * grad)
        y.retain_grad()
    return m.rest(m.norm(y).relu_())


def _gradient_inside(m: Led, x: Tensor) -> Tensor:
    """Move the features along the gradient of an energy, as in test-time training."""
    y = m.main(x)
    with torch.enable_grad():
        moved = y.detach().requires_grad_()
        (grad,) = torch.autograd.grad(m.last(moved).square().mean(), moved)
    return m.rest(y - 0.1 * grad)


def _detached_copy(m: Led, x: Tensor) -> Tensor:
    y = m.conv(x)
    return m.rest(m.norm(y).relu() + y.detach())


def _detached_view(m: Led, x: Tensor) -> Tensor:
    y = m.norm(m.conv(x))
    y.detach()[:, 0].zero_()
    return m.rest(y)


def _straight_through(m: Led, x: Tensor) -> Tensor:
    y = m.norm(m.conv(x))
    hard = (y > 0).to(y.dtype)
    return m.rest(hard + y - y.detach())


def _through_numpy(m: Led, x: Tensor) -> Tensor:
    y = m.conv(x)
    with torch.no_grad():
        scale = torch.from_numpy(y.numpy().std(axis=(0, 2, 3), keepdims=True))
    return m.rest(m.norm(y / (1 + scale)).relu())


def _numpy_detached(m: Led, x: Tensor) -> Tensor:
    y = m.norm(m.conv(x))
    largest = float(y.detach().cpu().numpy().max())
    return m.rest((y / largest).relu())


def _penalised(m: Led, x: Tensor) -> Tensor:
    """Add the sizes of weights: a sum, which places without a weight leave as it is."""
    sizes = sum(layer.weight.abs().sum() for layer in (m.conv, m.last))
    decay = sum(parameter.square().sum() for parameter in m.parameters())
    return m.rest(m.main(x)) + 1e-3 * sizes + 1e-4 * decay


def _bias_read(m: Led, x: Tensor) -> Tensor:
    return m.rest(m.main(x) + m.norm.bias.view(1, -1, 1, 1) * m.norm.weight.mean())


def _sparse_activations(m: Led, x: Tensor) -> Tensor:
    y = m.main(x)
    return m.rest(y) + 0.1 * y.abs().mean() + y.var(dim=1, keepdim=True)


LEADS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "checkpoint": lambda m, x: m.rest(checkpoint(m.main, x, use_reentrant=False)),
    "checkpoint_reentrant": lambda m, x: m.rest(checkpoint(m.main, x, use_reentrant=True)),
    "checkpoint_of_block": lambda m, x: m.last(
        m.dropped(checkpoint(m.block, m.main(x), use_reentrant=False) + x)
    ),
    "checkpoint_of_block_reentrant": lambda m, x: m.last(
        m.dropped(checkpoint(m.block, m.main(x), use_reentrant=True) + x)
    ),
    "checkpoint_of_rest": lambda m, x: checkpoint(m.rest, m.main(x), use_reentrant=False),
    "checkpoint_of_dropout": lambda m, x: m.last(
        m.block(checkpoint(m.dropped, m.main(x), use_reentrant=True))
    ),
    "checkpoint_of_lambda": _checkpointed_lambda,
    "checkpoint_sequential": lambda m, x: m.rest(
        checkpoint_sequential([m.conv, m.norm, nn.ReLU()], 2, x, use_reentrant=False)
    ),
    "saved_apart": _saved_apart,
    "saved_on_cpu": _saved_on_cpu,
    "straight_through_function": lambda m, x: m.rest(Sign.apply(m.norm(m.conv(x)))),
    "gradient_reversed": lambda m, x: m.rest(Reversed.apply(m.norm(m.conv(x)), 0.5)),
    "gradient_reversed_of_conv": lambda m, x: m.rest(m.norm(Reversed.apply(m.conv(x), 1.0))),
    "function_in_place": lambda m, x: m.rest(Doubled.apply(m.norm(m.conv(x)))),
    "partly_without_gradient": _partly_without_gradient,
    "teacher": _teacher,
    "gradients_again": _gradients_again,
    "gradient_clipped": _clipped_gradient,
    "gradient_of_conv": _gradient_of_conv,
    "gradient_inside": _gradient_inside,
    "detached_copy": _detached_copy,
    "detached_view": _detached_view,
    "detached_input": lambda m, x: m.rest(m.main(x) - x.detach().mean()) + m.conv(x).detach(),
    "straight_through": _straight_through,
    "through_numpy": _through_numpy,
    "numpy_detached": _numpy_detached,
    "penalised": _penalised,
    "bias_read": _bias_read,
    "sparse_activations": _sparse_activations,
}
for name, lead in LEADS.items():
    net(name)(partial(Led, lead))


@net("backbone_frozen")
class FrozenBackbone(nn.Module):
    """Fine-tuning: the first part computes under no_grad, in eval()."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.body, self.head = nn.Sequential(unit(3), unit()), unit(), head()
        self.backbone.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        self.backbone.eval()
        with torch.no_grad():
            x = self.backbone(x)
        return self.head(self.body(x))


@net("first_layer_frozen")
class FrozenFirst(nn.Module):
    """Fine-tuning: what learns stands between layers that do not."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.body, self.last, self.head = unit(3), unit(), unit(), head()
        self.first.requires_grad_(False)
        self.last[0].requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.last(self.body(self.first(x))))

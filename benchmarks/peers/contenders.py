"""A layer by each contender: ours, SparseProp's, torch's CSR product, and dense in two layouts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from importlib import import_module
from typing import Any

import torch
from gemkern.kernels.reference.pattern import Pattern, pattern
from torch import Tensor, nn
from torch.nn import functional as F

import gemkern as gk
from benchmarks.cpu_layers import LAYOUTS, Layer
from gemkern import ops

OURS, SPARSEPROP, CSR, DENSE = "gemkern", "SparseProp", "CSR", "dense"
HOW_TO_INSTALL = "pip install sparseprop, which needs a C++ compiler and pybind11"
FORWARD, BACKWARD, BOTH = "forward", "both gradients", "forward and both gradients"
# Relative to the largest number of a result, of float32 sums in another order.
CLOSE = 1e-4
Call = Callable[[], tuple[Tensor, ...]]
# By pass, by contender.
Calls = dict[str, dict[str, Call]]


@cache
def sparseprop() -> Any:
    """Return the module of SparseProp's layers, or None where it is not installed."""
    try:
        return import_module("sparseprop.modules")
    except ImportError:
        return None


@dataclass(frozen=True)
class Operands:
    """What all contenders compute with; the weight is `values` where `where` says."""

    x: Tensor
    weight: Tensor
    where: Pattern
    values: Tensor
    grad_y: Tensor

    @classmethod
    def drawn(
        cls, x: tuple[int, ...], shape: tuple[int, ...], y: tuple[int, ...], density: float
    ) -> Operands:
        normal = partial(torch.randn, generator=torch.Generator().manual_seed(0))
        where = pattern(torch.rand(shape, generator=torch.Generator().manual_seed(1)) < density)
        values = normal(len(where.positions))
        weight = torch.zeros(shape).flatten().index_put((where.positions,), values).view(shape)
        return cls(normal(x), weight, where, values, normal(y))

    def exact(self, layer: Callable[[Tensor, Tensor], Tensor]) -> dict[str, tuple[Tensor, ...]]:
        """Return by pass what `layer`, of x and weight, computes in float64."""
        x, weight = (one.double().requires_grad_() for one in (self.x, self.weight))
        y = layer(x, weight)
        grad_x, grad_weight = torch.autograd.grad(y, (x, weight), self.grad_y.double())
        gradients = grad_x, grad_weight.flatten()[self.where.positions]
        return {FORWARD: (y,), BACKWARD: gradients, BOTH: (y, *gradients)}


@dataclass
class Contender:
    """A layer as one contender runs it.

    Attributes:
        run: of x and what learns, to y.
        weight: what learns, whole or the values alone.
        x, grad_y: as it wants them laid out.
    """

    run: Callable[[Tensor, Tensor], Tensor]
    weight: Tensor
    x: Tensor
    grad_y: Tensor

    def __post_init__(self) -> None:
        self.x, self.weight = (one.detach().requires_grad_() for one in (self.x, self.weight))

    def forward(self) -> tuple[Tensor, ...]:
        with torch.no_grad():
            return (self.run(self.x, self.weight),)

    def backward(self) -> Call:
        """Return the call of the backward pass of one forward pass."""
        y = self.run(self.x, self.weight)
        leaves = self.x, self.weight
        return lambda: torch.autograd.grad(y, leaves, self.grad_y, retain_graph=True)

    def both(self) -> tuple[Tensor, ...]:
        """Run both passes as a layer among dense ones: all that enters and leaves is contiguous."""
        y = self.run(self.x, self.weight).contiguous()
        grad_x, grad_weight = torch.autograd.grad(y, (self.x, self.weight), self.grad_y)
        return y, grad_x.contiguous(), grad_weight


def convolution(layer: Layer, batch: int, density: float) -> Calls:
    """Return both passes on images that lie as each contender wants them.

    Raises:
        AssertionError: a result is wrong.
    """
    of, dense = _convolution(layer, batch, density)
    x, grad_y = ops.batch_last(of.x), ops.batch_last(of.grad_y)
    walk = {"stride": layer.stride, "padding": 1}
    contenders = {
        OURS: Contender(
            lambda x, values: ops.sparse_conv2d(x, values, of.where, **walk), of.values, x, grad_y
        )
    }
    if sparseprop() is not None:
        theirs = sparseprop().SparseConv2d(of.weight, **walk)
        contenders[SPARSEPROP] = _module(theirs, "W_val", x, grad_y)
    for name, layout in LAYOUTS.items():
        laid = (one.contiguous(memory_format=layout) for one in (of.weight, of.x, of.grad_y))
        contenders[name] = Contender(dense, *laid)
    return _checked(of, dense, {FORWARD: contenders, BACKWARD: contenders})


def drop_in(layer: Layer, batch: int, density: float) -> Calls:
    """Return both passes, in one, of a layer in the place of `nn.Conv2d`.

    Raises:
        AssertionError: a result is wrong.
    """
    of, dense = _convolution(layer, batch, density)
    conv = nn.Conv2d(layer.inputs, layer.outputs, 3, layer.stride, 1, bias=False)
    conv.weight.data = of.weight.clone()
    model = nn.Sequential(conv)
    gk.convert(model)
    model[0].active.copy_(of.weight != 0)
    gk.accelerate(model)
    contenders = {OURS: _module(model, "0.weight", of.x, of.grad_y)}
    if sparseprop() is not None:
        theirs = sparseprop().SparseConv2d(of.weight, padding=1, stride=layer.stride)
        contenders[SPARSEPROP] = _module(theirs, "W_val", of.x, of.grad_y)
    contenders[DENSE] = Contender(dense, of.weight, of.x, of.grad_y)
    return _checked(of, dense, {BOTH: contenders})


def linear(inputs: int, outputs: int, batch: int, density: float) -> Calls:
    """Return both passes of a linear layer.

    Raises:
        AssertionError: a result is wrong.
    """
    of = Operands.drawn((batch, inputs), (outputs, inputs), (batch, outputs), density)
    contenders = {
        OURS: Contender(
            lambda x, values: ops.sparse_linear(x, values, of.where), of.values, of.x, of.grad_y
        )
    }
    if sparseprop() is not None:
        theirs = sparseprop().SparseLinear(of.weight)
        contenders[SPARSEPROP] = _module(theirs, "W_val", of.x, of.grad_y)
    contenders[DENSE] = Contender(F.linear, of.weight, of.x, of.grad_y)
    csr = of.weight.to_sparse_csr()
    product = Contender(lambda x, weight: (csr @ x.T).T, of.weight, of.x, of.grad_y)
    return _checked(of, F.linear, {FORWARD: {**contenders, CSR: product}, BACKWARD: contenders})


def _convolution(
    layer: Layer, batch: int, density: float
) -> tuple[Operands, Callable[[Tensor, Tensor], Tensor]]:
    """Return operands of a convolution, and PyTorch's."""
    size = -(-layer.size // layer.stride)
    of = Operands.drawn(
        (batch, layer.inputs, layer.size, layer.size),
        (layer.outputs, layer.inputs, 3, 3),
        (batch, layer.outputs, size, size),
        density,
    )
    return of, partial(F.conv2d, stride=layer.stride, padding=1)


def _module(module: nn.Module, weight: str, x: Tensor, grad_y: Tensor) -> Contender:
    """Return a module as a contender: its own parameter learns."""
    contender = Contender(lambda x, _: module(x), module.get_parameter(weight), x, grad_y)
    contender.weight = module.get_parameter(weight)
    return contender


def _checked(
    of: Operands,
    layer: Callable[[Tensor, Tensor], Tensor],
    passes: dict[str, dict[str, Contender]],
) -> Calls:
    """Return the calls of contenders, once they are what `layer` computes in float64."""
    exact = of.exact(layer)
    calls: Calls = {}
    for which, contenders in passes.items():
        for name, one in contenders.items():
            way = {FORWARD: one.forward, BOTH: one.both}
            call = one.backward() if which == BACKWARD else way[which]
            for found, right in zip(call(), exact[which], strict=True):
                _require_near(of, name, found, right)
            calls.setdefault(which, {})[name] = call
    return calls


def _require_near(of: Operands, name: str, found: Tensor, exact: Tensor) -> None:
    if found.shape == of.weight.shape != exact.shape:
        found = found.flatten()[of.where.positions]
    error = (found.double() - exact).abs().max() if exact.numel() else torch.zeros(())
    scale = exact.abs().max() if exact.numel() else torch.ones(())
    assert found.shape == exact.shape, f"{name}: {tuple(found.shape)}, not {tuple(exact.shape)}"
    assert error <= CLOSE * scale, f"{name} is wrong by {error / scale:.1e}"

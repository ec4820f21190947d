"""Time masked layers, norms, poolings and shortcuts beside PyTorch's, on any device.

Baselines compute in the same dtype: the authors' operators, what a careful user of PyTorch writes
(eager), that compiled, and the dense layer without masks, the lower bound. What has no weights has
a layout of its own here; it stands beside PyTorch's in each of its layouts. Each contender's result
is compared first, with float64 where it rounds; a wrong one is not timed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from gemkern.kernels.reference.batch_last import batch_last
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor
from torch.nn import functional as F

from benchmarks.gpu.baselines import AuthorsMask
from benchmarks.gpu.exactness import require_as_exact_as, require_same
from benchmarks.operators import (
    AUTHORS,
    COMPILED,
    DENSE,
    DEVICE,
    EAGER,
    OURS,
    compiled,
    first_result,
    timed,
)
from gemkern import ops

BATCH = 128
DENSITY, TAU, EPS = 0.0144, 0.5, 1e-5
# PyTorch's operators in the layout of ours.
KEPT = "batch-last"
APART = "norm, then pooling"
LAYOUTS = {"contiguous": torch.contiguous_format, "channels-last": torch.channels_last}


class Shape(NamedTuple):
    """A masked layer: a 3x3 convolution on images of `size`, padded by 1; linear where it is 0."""

    channels: int
    size: int = 0

    def layer(self) -> Callable[[Tensor, Tensor], Tensor]:
        """Return the dense layer: x and weight to y."""
        return (lambda x, weight: F.conv2d(x, weight, None, 1, 1)) if self.size else F.linear

    def masked(self) -> Callable[..., Tensor]:
        """Return ours: x, weight, scores and active to y."""
        return (lambda *of: ops.masked_conv2d(*of, padding=1)) if self.size else ops.masked_linear

    def __str__(self) -> str:
        kind = f"conv2d 3x3, {self.size}x{self.size}" if self.size else "linear"
        return f"{kind}, {self.channels} channels"


# The three stages of ResNet-20, a late layer of VGG-16 and a linear layer.
SHAPES = (Shape(16, 32), Shape(32, 16), Shape(64, 8), Shape(512, 4), Shape(512))
# Channels and side of activations: ResNet-20's first, and VGG-16's.
ACTIVATIONS = ((16, 32), (64, 32))

Passes = Callable[[], tuple[Tensor, ...]]


class Operands:
    """What a masked layer takes, a half of what is active masked now, and dL/dy."""

    def __init__(self, shape: Shape) -> None:
        generator = torch.Generator().manual_seed(0)
        n, size = shape.channels, (shape.size,) * 2 if shape.size else ()
        weight = (n, n, 3, 3) if size else (n, n)
        fan_in = n * (9 if size else 1)
        self.x, self.grad_y = (
            torch.randn(BATCH, n, *size, generator=generator).to(DEVICE) for _ in range(2)
        )
        self.weight = (torch.randn(weight, generator=generator) / fan_in**0.5).to(DEVICE)
        self.scores = torch.rand(weight, generator=generator).to(DEVICE)
        self.active = (torch.rand(weight, generator=generator) < 2 * DENSITY).to(DEVICE)

    def mask(self) -> Tensor:
        return (self.scores >= TAU) & self.active


def eager(shape: Shape, of: Operands, dtype: torch.dtype = torch.float32) -> Passes:
    """Return the layer and its gradients with the mask taken once, and no graph over it."""
    layer = shape.layer()
    x, weight, grad_y = (one.detach().to(dtype) for one in (of.x, of.weight, of.grad_y))
    x.requires_grad_()

    def passes() -> tuple[Tensor, ...]:
        effective = torch.where(of.mask(), weight, 0).requires_grad_()
        y = layer(x, effective)
        grad_x, grad_effective = torch.autograd.grad(y, (x, effective), grad_y)
        return y.detach(), grad_x, torch.where(of.active, grad_effective * weight, 0)

    return passes


def dense(shape: Shape, of: Operands) -> Passes:
    """Return the layer without masks, and its gradients to x and to the weight."""
    layer, weight = shape.layer(), of.weight.clone().requires_grad_()
    return _with_gradients(lambda x: layer(x, weight), of, weight)


def authors(shape: Shape, of: Operands) -> Passes:
    layer, mask = shape.layer(), AuthorsMask(of.weight, of.scores, of.active)
    return _with_gradients(lambda x: layer(x, mask()), of, mask.scores)


def ours(shape: Shape, of: Operands) -> Passes:
    layer, scores = shape.masked(), of.scores.clone().requires_grad_()
    return _with_gradients(lambda x: layer(x, of.weight, scores, of.active), of, scores)


def compiled_eager(shape: Shape, of: Operands) -> Passes:
    """Return a compiled layer that is straight through by a difference that is zero."""
    layer, scores = shape.layer(), of.scores.clone().requires_grad_()

    def masked(x: Tensor, weight: Tensor, scores: Tensor, active: Tensor) -> Tensor:
        hard = ((scores >= TAU) & active).to(weight.dtype)
        return layer(x, weight * (hard + active * (scores - scores.detach())))

    fast = compiled(masked)
    return _with_gradients(lambda x: fast(x, of.weight, scores, of.active), of, scores)


def _with_gradients(layer: Callable[[Tensor], Tensor], of: Operands, learning: Tensor) -> Passes:
    x = of.x.clone().requires_grad_()

    def passes() -> tuple[Tensor, ...]:
        y = layer(x)
        return y.detach(), *torch.autograd.grad(y, (x, learning), of.grad_y)

    return passes


def require_exact(found: tuple[Tensor, ...], shape: Shape, of: Operands, what: str) -> None:
    """Check results of a masked layer against float64, by the errors of the eager layer.

    Raises:
        WrongResult: an error is more than twice as large.
    """
    plain, exact = eager(shape, of)(), eager(shape, of, torch.float64)()
    for name, *three in zip(("y", "dL/dx", "dL/dscores"), found, plain, exact, strict=True):
        require_as_exact_as(*three, f"{what}, {name}")


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("contender", [OURS, AUTHORS, EAGER, COMPILED, DENSE])
def bench_masked_layer(benchmark: BenchmarkFixture, contender: str, shape: Shape) -> None:
    """Forward, and the gradients of x and of the scores (of the weight where nothing is masked)."""
    benchmark.group = f"{shape}, batch {BATCH}, float32"
    of = Operands(shape)
    contenders: dict[str, Callable[[Shape, Operands], Passes]] = {
        OURS: ours, AUTHORS: authors, EAGER: eager, COMPILED: compiled_eager, DENSE: dense,
    }  # fmt: skip
    work = contenders[contender](shape, of)
    found = first_result(contender, work)
    if contender == DENSE:
        # Without masks it computes something else: what masks of nothing but ones would give.
        of.scores.fill_(1.0)
        of.active.fill_(True)
        found = (*found[:2], found[2] * of.weight)
    require_exact(found, shape, of, contender)
    timed(benchmark, work)


def activations(channels: int, size: int) -> tuple[Tensor, Tensor]:
    """Return x and another tensor, [batch, channels, size, size]."""
    generator = torch.Generator().manual_seed(0)
    shape = (BATCH, channels, size, size)
    return tuple(torch.randn(shape, generator=generator).to(DEVICE) for _ in range(2))


def norm_relu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.batch_norm(x, None, None, weight, bias, training=True, eps=EPS).relu()


def our_norm_relu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return ops.batch_norm_relu(x, None, weight, bias, eps=EPS)


def gradients(
    function: Callable[..., Tensor], grad_y: Tensor, *operands: Tensor
) -> tuple[Tensor, ...]:
    """Return y and the gradients of all operands."""
    y = function(*operands)
    return y.detach(), *torch.autograd.grad(y, operands, grad_y)


@pytest.mark.parametrize(("channels", "size"), ACTIVATIONS)
@pytest.mark.parametrize("contender", [OURS, *LAYOUTS, COMPILED])
def bench_norm_relu(benchmark: BenchmarkFixture, contender: str, channels: int, size: int) -> None:
    """Batch norm and ReLU while training, forward and backward."""
    benchmark.group = f"batch norm and ReLU, {channels}x{size}x{size}, batch {BATCH}, float32"
    x, grad_y = _laid_out(contender, *activations(channels, size))
    learned = (torch.full((channels,), value, device=DEVICE) for value in (0.9, 0.1))
    operands = tuple(one.requires_grad_() for one in (x, *learned))
    function = {OURS: our_norm_relu, COMPILED: compiled(norm_relu)}.get(contender, norm_relu)

    def work() -> tuple[Tensor, ...]:
        return gradients(function, grad_y, *operands)

    plain = gradients(norm_relu, grad_y, *operands)
    wide = (one.detach().double().requires_grad_() for one in operands)
    exact = gradients(norm_relu, grad_y.double(), *wide)
    names = ("y", "dL/dx", "dL/dweight", "dL/dbias")
    found = first_result(contender, work)
    for name, *three in zip(names, found, plain, exact, strict=True):
        require_as_exact_as(*three, f"{contender}, {name}")
    timed(benchmark, work)


def norm_pool(x: Tensor, *statistics: Tensor) -> Tensor:
    mean, var, weight, bias = (one.view(1, -1, 1, 1) for one in statistics)
    return F.max_pool2d(((x - mean) * (var + EPS).rsqrt() * weight + bias).relu(), 2)


def our_norm_pool(x: Tensor, *statistics: Tensor) -> Tensor:
    return ops.normalise_max_pool2d(x, ops.Norm(*statistics, EPS), 2)


def our_norm_then_pool(x: Tensor, *statistics: Tensor) -> Tensor:
    return ops.max_pool2d(ops.normalise(x, ops.Norm(*statistics, EPS)), 2)


@pytest.mark.parametrize(("channels", "size"), ACTIVATIONS)
@pytest.mark.parametrize("kind", ["average", "maximum"])
@pytest.mark.parametrize("contender", [OURS, *LAYOUTS])
def bench_pooling(
    benchmark: BenchmarkFixture, contender: str, kind: str, channels: int, size: int
) -> None:
    """Pooling of 2x2 windows, forward and backward."""
    benchmark.group = f"{kind} of 2x2, {channels}x{size}x{size}, batch {BATCH}, float32"
    x, grad_y = _laid_out(contender, *activations(channels, size))
    grad_y = _laid_out(contender, grad_y[..., ::2, ::2].contiguous())[0]
    plain = {"average": F.avg_pool2d, "maximum": F.max_pool2d}[kind]
    mine = {"average": ops.average_pool2d, "maximum": ops.max_pool2d}[kind]
    function = mine if contender == OURS else plain
    x.requires_grad_()

    def work() -> tuple[Tensor, ...]:
        return gradients(lambda x: function(x, 2), grad_y, x)

    wide = x.detach().double().requires_grad_()
    exact = gradients(lambda x: plain(x, 2), grad_y.double(), wide)
    for found, other, like in zip(
        work(), gradients(lambda x: plain(x, 2), grad_y, x), exact, strict=True
    ):
        require_as_exact_as(found, other, like, f"{contender}, {kind}")
    timed(benchmark, work)


def padded_slice(x: Tensor, before: int, after: int) -> Tensor:
    return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, before, after))


def kept_padded_slice(x: Tensor, before: int, after: int) -> Tensor:
    """Return the same from PyTorch's operators on batch-last activations."""
    taken = x.movedim(0, -1)[:, ::2, ::2]
    return F.pad(taken, (0, 0, 0, 0, 0, 0, before, after)).movedim(-1, 0)


def our_shortcut(x: Tensor, before: int, after: int) -> Tensor:
    return ops.padded_shortcut(x, 2, before, after)


@pytest.mark.parametrize(("channels", "size"), ACTIVATIONS)
@pytest.mark.parametrize("contender", [OURS, KEPT, *LAYOUTS])
def bench_shortcut(benchmark: BenchmarkFixture, contender: str, channels: int, size: int) -> None:
    """Every second pixel and twice the channels, forward and backward."""
    benchmark.group = f"padded shortcut, {channels}x{size}x{size}, batch {BATCH}, float32"
    x, grad_y = activations(channels, size)[0], activations(2 * channels, size // 2)[1]
    x, grad_y = _laid_out(contender, x, grad_y)
    padding = (channels // 2, channels - channels // 2)
    function = {OURS: our_shortcut, KEPT: kept_padded_slice}.get(contender, padded_slice)
    x.requires_grad_()

    def work() -> tuple[Tensor, ...]:
        return gradients(lambda x: function(x, *padding), grad_y, x)

    wanted = gradients(lambda x: padded_slice(x, *padding), grad_y, x)
    require_same(work(), wanted, f"{contender}, shortcut")
    timed(benchmark, work)


@pytest.mark.parametrize(("channels", "size"), ACTIVATIONS)
@pytest.mark.parametrize("contender", [OURS, APART, *LAYOUTS, COMPILED])
def bench_norm_pool(benchmark: BenchmarkFixture, contender: str, channels: int, size: int) -> None:
    """Batch norm by known statistics, ReLU and maxima of 2x2, forward and backward."""
    shape = f"{channels}x{size}x{size}"
    benchmark.group = f"batch norm, ReLU and maximum of 2x2, {shape}, batch {BATCH}, float32"
    x, grad_y = _laid_out(contender, *activations(channels, size))
    grad_y = _laid_out(contender, grad_y[..., ::2, ::2].contiguous())[0]
    learned = (torch.full((channels,), value, device=DEVICE) for value in (0.1, 0.8, -0.9, 0.1))
    operands = tuple(one.requires_grad_() for one in (x, *learned))
    functions = {OURS: our_norm_pool, APART: our_norm_then_pool, COMPILED: compiled(norm_pool)}
    function = functions.get(contender, norm_pool)

    def work() -> tuple[Tensor, ...]:
        return gradients(function, grad_y, *operands)

    plain = gradients(norm_pool, grad_y, *operands)
    wide = (one.detach().double().requires_grad_() for one in operands)
    exact = gradients(norm_pool, grad_y.double(), *wide)
    names = ("y", "dL/dx", "dL/dmean", "dL/dvar", "dL/dweight", "dL/dbias")
    found = first_result(contender, work)
    for name, *three in zip(names, found, plain, exact, strict=True):
        require_as_exact_as(*three, f"{contender}, {name}")
    timed(benchmark, work)


def _laid_out(contender: str, *tensors: Tensor) -> tuple[Tensor, ...]:
    """Return activations in a contender's layout; the compiled one takes them channels-last."""
    if contender in (OURS, KEPT, APART):
        return tuple(batch_last(one) for one in tensors)
    layout = LAYOUTS.get(contender, torch.channels_last)
    return tuple(one.contiguous(memory_format=layout) for one in tensors)

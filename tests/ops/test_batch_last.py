"""Operators on batch-last activations: PyTorch's results and gradients, in that layout."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gemkern import GemkernError, ops

BACKENDS = pytest.mark.parametrize("backend", ["reference", "cpu"])
generator = torch.Generator().manual_seed(0)


def normal(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=dtype)


def active(*shape: int, density: float = 0.3) -> Tensor:
    return torch.rand(shape, generator=generator) < density


def gradients(run: Callable[..., Tensor], operands: list[Tensor]) -> list[Tensor]:
    """Return the output of `run` and the gradients of a fixed function of it."""
    leaves = [operand.clone().requires_grad_() for operand in operands]
    y = run(*leaves)
    weights = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view(y.shape)
    return [y.detach(), *torch.autograd.grad((y * weights).sum(), leaves)]


def assert_close(ours: list[Tensor], theirs: list[Tensor]) -> None:
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=1e-4)


GEOMETRIES = [
    {},
    {"stride": 2, "padding": 1},
    {"stride": (2, 1), "padding": (0, 2), "dilation": (1, 2), "groups": 2},
    {"padding": 1, "groups": 4},
]


@BACKENDS
@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("density", [0.0, 0.3, 1.0])
def test_sparse_convolution_is_pytorchs(
    backend: str, geometry: dict[str, Any], density: float
) -> None:
    mask = active(8, 4 // geometry.get("groups", 1), 3, 2, density=density)
    where = ops.pattern(mask)
    x, values, bias = normal(5, 4, 9, 8), normal(len(where.positions)), normal(8)

    def dense(x: Tensor, values: Tensor, bias: Tensor) -> Tensor:
        weight = x.new_zeros(mask.shape).masked_scatter(mask, values)
        return F.conv2d(x, weight, bias, **geometry)

    def ours(x: Tensor, values: Tensor, bias: Tensor) -> Tensor:
        y = ops.sparse_conv2d(x, values, where, bias, **geometry, backend=backend)
        assert ops.is_batch_last(y)
        return y

    operands = [x, values, bias]
    assert_close(
        gradients(ours, [operand.float() for operand in operands]), gradients(dense, operands)
    )


@BACKENDS
def test_sparse_linear_is_pytorchs(backend: str) -> None:
    mask = active(6, 9)
    where = ops.pattern(mask)
    operands = [normal(5, 9), normal(len(where.positions)), normal(6)]

    def dense(x: Tensor, values: Tensor, bias: Tensor) -> Tensor:
        return F.linear(x, x.new_zeros(mask.shape).masked_scatter(mask, values), bias)

    def ours(x: Tensor, values: Tensor, bias: Tensor) -> Tensor:
        return ops.sparse_linear(x, values, where, bias, backend=backend)

    assert_close(
        gradients(ours, [operand.float() for operand in operands]), gradients(dense, operands)
    )


def test_values_have_their_true_derivatives() -> None:
    where = ops.pattern(active(4, 3, 3, 3))
    operands = [normal(2, 3, 5, 5), normal(len(where.positions)), normal(4)]
    leaves = [operand.requires_grad_() for operand in operands]
    assert torch.autograd.gradcheck(
        lambda x, values, bias: ops.sparse_conv2d(x, values, where, bias, padding=1), leaves
    )


def test_autocast_leaves_values_in_their_dtype() -> None:
    where = ops.pattern(active(4, 3, 3, 3))
    values, x = normal(len(where.positions)).float(), normal(2, 3, 5, 5).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        y = ops.sparse_conv2d(x, values, where)
    assert torch.equal(y, ops.sparse_conv2d(x.float(), values, where))


@BACKENDS
@pytest.mark.parametrize("with_residual", [True, False])
@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_is_pytorchs(
    backend: str, with_residual: bool, relu: bool, training: bool
) -> None:
    norm = nn.BatchNorm2d(3).double()
    with torch.no_grad():
        norm.running_mean.copy_(normal(3))
        norm.running_var.copy_(normal(3).abs() + 0.5)
    norm.train(training)
    running = [norm.running_mean.float(), norm.running_var.float()]
    operands = [normal(6, 3, 5, 4), normal(3), normal(3)] + [normal(6, 3, 5, 4)] * with_residual

    def theirs(x: Tensor, weight: Tensor, bias: Tensor, *residual: Tensor) -> Tensor:
        y = F.batch_norm(
            x, norm.running_mean, norm.running_var, weight, bias, training, norm.momentum, norm.eps
        )
        y = sum(residual, y)
        return y.relu() if relu else y

    def ours(x: Tensor, weight: Tensor, bias: Tensor, *residual: Tensor) -> Tensor:
        return ops.batch_norm_relu(
            x,
            residual[0] if residual else None,
            weight,
            bias,
            *running,
            training=training,
            relu=relu,
            backend=backend,
        )

    assert_close(
        gradients(ours, [operand.float() for operand in operands]), gradients(theirs, operands)
    )
    assert_close(running, [norm.running_mean, norm.running_var])


@BACKENDS
@pytest.mark.parametrize(
    "windows", [(2, None, 0), (3, 2, 1), ((3, 2), (1, 2), (1, 0)), ((6, 4), None, 0)]
)
def test_pooling_is_pytorchs(backend: str, windows: tuple[Any, ...]) -> None:
    x = [normal(5, 3, 6, 4)]
    x32 = [x[0].float()]
    for ours, theirs in (
        (ops.max_pool2d, F.max_pool2d),
        (ops.average_pool2d, F.avg_pool2d),
    ):
        assert_close(
            gradients(lambda x, of=ours: of(x, *windows, backend=backend), x32),
            gradients(lambda x, of=theirs: of(x, *windows), x),
        )
    assert_close(
        gradients(lambda x: ops.average_pool2d(x, 3, 2, 1, False, backend=backend), x32),
        gradients(lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False), x),
    )


@BACKENDS
@pytest.mark.parametrize("stride", [1, 2, (1, 3), (7, 2)])
def test_the_shortcut_is_pytorchs(backend: str, stride: int | tuple[int, int]) -> None:
    x = normal(5, 3, 6, 5)
    rows, columns = (stride, stride) if isinstance(stride, int) else stride

    def theirs(x: Tensor) -> Tensor:
        return F.pad(x[:, :, ::rows, ::columns], (0, 0, 0, 0, 1, 2))

    def ours(x: Tensor) -> Tensor:
        y = ops.padded_shortcut(x, stride, 1, 2, backend=backend)
        assert ops.is_batch_last(y)
        return y

    for dtype in (torch.float32, torch.float64):
        operands = [x.to(dtype)]
        assert all(map(torch.equal, gradients(ours, operands), gradients(theirs, operands)))


def test_the_shortcut_has_its_true_derivative() -> None:
    x = normal(3, 2, 5, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: ops.padded_shortcut(x, (2, 3), 1, 0), x)


def test_autocast_leaves_the_shortcut_in_its_dtype() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert ops.padded_shortcut(IMAGES, 2, 1, 1).dtype == torch.float32


PLACES = ops.pattern(torch.ones(4, 2, 3, 3, dtype=torch.bool))
ROWS = ops.pattern(torch.ones(4, 2, dtype=torch.bool))
X, IMAGES = torch.ones(5, 2), torch.ones(1, 2, 5, 5)
VALUES = torch.ones(72)

REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "count": (lambda: ops.sparse_conv2d(IMAGES, VALUES[:5], PLACES), "give 72 floats"),
    "integers": (lambda: ops.sparse_conv2d(IMAGES, VALUES.int(), PLACES), "values are torch.int32"),
    "dtype": (lambda: ops.sparse_conv2d(IMAGES.half(), VALUES, PLACES), "x is torch.float16"),
    "bias": (lambda: ops.sparse_conv2d(IMAGES, VALUES, PLACES, X[0]), r"bias has shape \(2,\)"),
    "place": (lambda: ops.sparse_conv2d(IMAGES.to("meta"), VALUES, PLACES), "x is on meta"),
    "channels": (lambda: ops.sparse_conv2d(IMAGES[:, :1], VALUES, PLACES), "^sparse_conv2d: x has"),
    "image": (lambda: ops.sparse_conv2d(IMAGES[..., :2], VALUES, PLACES), "larger than the image"),
    "stride": (lambda: ops.sparse_conv2d(IMAGES, VALUES, PLACES, stride=0), "stride is"),
    "features": (lambda: ops.sparse_linear(X[:, :1], VALUES[:8], ROWS), "^sparse_linear: x has"),
    "vector": (lambda: ops.sparse_linear(X[0], VALUES[:8], ROWS), r"give \(batch, features\)"),
    "no channels": (lambda: ops.batch_norm_relu(X[0]), r"give floats \(batch, channels"),
    "residual": (lambda: ops.batch_norm_relu(IMAGES, X), "the residual is torch.float32"),
    "scale": (lambda: ops.batch_norm_relu(IMAGES, weight=X[0, :1]), r"weight has shape \(1,\)"),
    "statistics": (lambda: ops.batch_norm_relu(IMAGES, training=False), "needs running statistics"),
    "one value": (lambda: ops.batch_norm_relu(IMAGES[..., :1, :1]), "one value for each channel"),
    "pooled rows": (lambda: ops.max_pool2d(X, 2), r"give \(batch, channels, height, width\)"),
    "window": (lambda: ops.average_pool2d(IMAGES, 6), "larger than the image"),
    "no window": (lambda: ops.max_pool2d(IMAGES, 0), "at least 1"),
    "padding": (lambda: ops.max_pool2d(IMAGES, 2, padding=2), "at most half the kernel"),
    "large window": (
        lambda: ops.max_pool2d(torch.ones(1, 1, 17, 17), 17),
        "larger than the 256",
    ),
    "shortcut of rows": (
        lambda: ops.padded_shortcut(X, 2, 1, 1),
        r"^padded_shortcut: x has shape \(5, 2\); give \(batch, channels",
    ),
    "no stride": (lambda: ops.padded_shortcut(IMAGES, (2, 0), 1, 1), r"stride \(2, 0\) with"),
    "three strides": (lambda: ops.padded_shortcut(IMAGES, (2, 2, 2), 1, 1), "an int or a pair"),
    "before": (lambda: ops.padded_shortcut(IMAGES, 2, -1, 1), "-1 and 1 channels of zeros"),
    "after": (lambda: ops.padded_shortcut(IMAGES, 2, 0, -2), "at least 0 channels"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_input_is_one_sentence(name: str) -> None:
    call, sentence = REFUSED[name]
    with pytest.raises(GemkernError, match=sentence):
        call()


@pytest.mark.parametrize(
    "run",
    [
        lambda x: ops.batch_norm_relu(x),
        lambda x: ops.max_pool2d(x, 2),
        lambda x: ops.average_pool2d(x, 2),
        lambda x: ops.padded_shortcut(x, 2, 1, 1),
        lambda x: ops.sparse_conv2d(x, VALUES, PLACES),
        lambda x: ops.sparse_linear(x[:, :, 0, 0], VALUES[:8], ROWS),
    ],
)
def test_there_is_no_second_derivative(run: Callable[[Tensor], Tensor]) -> None:
    x = normal(2, 2, 5, 5, dtype=torch.float32).requires_grad_()
    (grad,) = torch.autograd.grad(run(x).square().sum(), x, create_graph=True)
    with pytest.raises(GemkernError, match="differentiable once"):
        grad.sum().backward()

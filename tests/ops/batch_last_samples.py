"""Arguments of the operators on batch-last activations, as their schemas want them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gemkern import ops

Arguments = tuple[Any, ...]

NO_CHOICE = ""
generator = torch.Generator().manual_seed(1)


def normal(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=dtype)


def learning_one(operand: Any) -> Any:
    return operand.requires_grad_() if isinstance(operand, Tensor) else operand


def pattern(*shape: int) -> ops.Pattern:
    return ops.pattern(torch.rand(shape, generator=generator) < 0.4)


def of_layouts(lay: Callable[[Tensor], Tensor]) -> dict[str, Arguments]:
    """Samples of a change of layout, each laid out by `lay` before."""
    large = normal(64, 3, 8, 8)
    return {
        "images": (lay(normal(4, 3, 5, 2)).requires_grad_(), NO_CHOICE),
        "large": (lay(large), NO_CHOICE),
        "float64": (lay(normal(4, 6, dtype=torch.float64)), "reference"),
    }


def of_sparse_linear() -> dict[str, Arguments]:
    return {name: (of.x, of.values, *of.where, of.bias, of.backend) for name, of in LINEAR.items()}


def of_sparse_linear_backward() -> dict[str, Arguments]:
    samples = {}
    for name, of in LINEAR.items():
        given = of.grad_y, of.x.detach(), of.values.detach(), *of.where
        samples[name] = (*given, True, name != "batch last", of.backend)
    return samples


class Linear:
    """Operands of a linear layer by the weights that remain."""

    def __init__(
        self,
        batch: int,
        dtype: torch.dtype = torch.float32,
        last: bool = False,
        backend: str = NO_CHOICE,
    ) -> None:
        self.where = pattern(3, 5)
        x = normal(batch, 5, dtype=dtype)
        self.x = (ops.batch_last(x) if last else x).requires_grad_()
        self.values = normal(len(self.where.positions), dtype=dtype).requires_grad_()
        self.bias = normal(3, dtype=dtype).requires_grad_()
        self.grad_y, self.backend = normal(batch, 3, dtype=dtype), backend


LINEAR = {
    "float32": Linear(4),
    "batch last": Linear(17, last=True),
    "float64": Linear(4, torch.float64, backend="reference"),
    "no rows": Linear(0),
}


def of_norm() -> dict[str, Arguments]:
    def sample(*shape: int, residual: bool, affine: bool, training: bool, relu: bool) -> Arguments:
        channels = shape[1]
        running = (normal(channels), normal(channels).abs())
        scale = (normal(channels), normal(channels)) if affine else (None, None)
        learning = (normal(*shape), normal(*shape) if residual else None, *scale)
        required = (t if t is None else t.requires_grad_() for t in learning)
        return (*required, *running, training, 0.1, 1e-5, relu, NO_CHOICE)

    return {
        "training": sample(4, 3, 5, 2, residual=True, affine=True, training=True, relu=True),
        "evaluation": sample(4, 3, 5, 2, residual=True, affine=False, training=False, relu=False),
        "plain": sample(17, 3, 2, 2, residual=False, affine=True, training=True, relu=True),
    }


def of_norm_backward() -> dict[str, Arguments]:
    samples = {}
    for name, (x, residual, weight, bias, *_, training, _, _, relu, _) in of_norm().items():
        given = [t if t is None else t.detach() for t in (x, residual, weight, bias)]
        y, mean, invstd = torch.ops.gemkern.batch_norm_relu(
            *given, None, None, True, 0.1, 1e-5, relu, "reference"
        )
        kept = y if relu and residual is not None else None
        grad_y = ops.batch_last(normal(*x.shape))
        rest = (*given[2:], mean, invstd, training, relu, residual is not None, NO_CHOICE)
        samples[name] = (grad_y, given[0], kept, *rest)
    return samples


def of_norm_sparse() -> dict[str, Arguments]:
    def sample(
        batch: int, norm: bool, residual: bool, added: bool, keep: bool, moments: bool
    ) -> Arguments:
        size, where = (batch, 4, 7, 6), pattern(6, 2, 3, 2)
        statistics = (normal(4), normal(4).abs(), normal(4), normal(4)) if norm else (None,) * 4
        of_norm = (*statistics, 1e-5, normal(*size) if residual else None, norm)
        values, more = normal(len(where.positions)), normal(batch, 6, 4, 8) if added else None
        learning = map(learning_one, (normal(*size), *of_norm, values))
        geometry = ((2, 1), (1, 2), (1, 2), 2)
        return (*learning, *where, normal(6), more, keep, moments, *geometry, NO_CHOICE)

    return {
        "norm": sample(3, norm=True, residual=False, added=False, keep=False, moments=True),
        "residual": sample(3, norm=True, residual=True, added=False, keep=True, moments=True),
        "added": sample(17, norm=True, residual=False, added=True, keep=True, moments=False),
        "measured": sample(3, norm=False, residual=False, added=True, keep=False, moments=True),
    }


def of_norm_sparse_backward() -> dict[str, Arguments]:
    samples = {}
    for name, sample in of_norm_sparse().items():
        given = [t.detach() if isinstance(t, Tensor) else t for t in sample]
        x, of_norm, (values, *where), _, added, keep, moments, *geometry = (
            given[0], given[1:8], given[8:12], *given[12:],
        )  # fmt: skip
        y, z, mean, _ = torch.ops.gemkern.norm_sparse_conv2d(*given[:-1], "reference")
        grad_y, residual = ops.batch_last(normal(*y.shape)), of_norm[5]
        of_moments = (normal(6), normal(6)) if moments else (None, None)
        samples[name] = (
            grad_y, normal(*x.shape) if keep else None, *of_moments, normal(*x.shape),
            y if moments else None, mean, z, x, *of_norm[:5], None, of_norm[6], values, *where,
            residual is not None, added is not None, True, True, *geometry,
        )  # fmt: skip
    return samples


def of_normalise() -> dict[str, Arguments]:
    def sample(*shape: int, residual: bool, affine: bool, relu: bool) -> Arguments:
        channels = shape[1]
        scale = (normal(channels), normal(channels)) if affine else (None, None)
        other = normal(*shape) if residual else None
        of_norm = (normal(channels), normal(channels).abs(), *scale, 1e-5, other, relu)
        return (*map(learning_one, (normal(*shape), *of_norm)), NO_CHOICE)

    return {
        "residual": sample(4, 3, 5, 2, residual=True, affine=True, relu=True),
        "plain": sample(17, 3, 2, 2, residual=False, affine=False, relu=False),
    }


def of_normalise_backward() -> dict[str, Arguments]:
    samples = {}
    for name, sample in of_normalise().items():
        x, *of_norm, _ = (t.detach() if isinstance(t, Tensor) else t for t in sample)
        y = torch.ops.gemkern.normalise(x, *of_norm, "reference")
        grad_y, residual = ops.batch_last(normal(*x.shape)), of_norm[5]
        rest = (*of_norm[:5], None, of_norm[6], residual is not None, NO_CHOICE)
        samples[name] = (grad_y, y, x, *rest)
    return samples


WINDOWS = {
    "halves": ((2, 3, 6, 4), ((2, 2), (2, 2), (0, 0))),
    "overlapping": ((17, 2, 5, 7), ((3, 2), (2, 1), (1, 1))),
    "whole": ((2, 3, 4, 4), ((4, 4), (4, 4), (0, 0))),
}


def of_average_pool() -> dict[str, Arguments]:
    return {
        name: (normal(*shape).requires_grad_(), *windows, name != "overlapping", NO_CHOICE)
        for name, (shape, windows) in WINDOWS.items()
    }


def of_average_pool_backward() -> dict[str, Arguments]:
    return {
        name: (ops.average_pool2d(x.detach(), *windows), x.shape, *windows, counted, NO_CHOICE)
        for name, (x, *windows, counted, _) in of_average_pool().items()
    }


def of_max_pool() -> dict[str, Arguments]:
    return {
        name: (normal(*shape).requires_grad_(), *windows, NO_CHOICE)
        for name, (shape, windows) in WINDOWS.items()
    }


def of_max_pool_backward() -> dict[str, Arguments]:
    samples = {}
    for name, (x, *windows, _) in of_max_pool().items():
        y, taps = torch.ops.gemkern.max_pool2d(x.detach(), *windows, "reference")
        samples[name] = (y, taps, x.shape, *windows, NO_CHOICE)
    return samples


def of_shortcut() -> dict[str, Arguments]:
    def sample(*shape: int, geometry: Arguments, dtype: torch.dtype = torch.float32) -> Arguments:
        return (normal(*shape, dtype=dtype).requires_grad_(), *geometry, NO_CHOICE)

    return {
        "halves": sample(2, 3, 6, 4, geometry=((2, 2), 1, 2)),
        "odd": sample(17, 2, 5, 7, geometry=((3, 2), 0, 3)),
        "nothing to do": sample(2, 3, 4, 4, geometry=((1, 1), 0, 0)),
        "one image": sample(1, 3, 4, 4, geometry=((2, 2), 1, 1)),
        "no images": sample(0, 3, 4, 4, geometry=((2, 2), 1, 1)),
        "float64": sample(2, 3, 4, 4, geometry=((2, 1), 1, 1), dtype=torch.float64),
    }


def of_shortcut_backward() -> dict[str, Arguments]:
    return {
        name: (ops.padded_shortcut(x.detach(), *geometry), x.shape, *geometry[:2], NO_CHOICE)
        for name, (x, *geometry, _) in of_shortcut().items()
    }


def of_norm_pool() -> dict[str, Arguments]:
    def sample(*shape: int, affine: bool, relu: bool, windows: Arguments) -> Arguments:
        channels = shape[1]
        scale = (normal(channels), normal(channels)) if affine else (None, None)
        of_norm = (normal(channels), normal(channels).abs(), *scale, 1e-5, None, relu)
        return (*map(learning_one, (normal(*shape), *of_norm)), *windows, NO_CHOICE)

    return {
        "halves": sample(4, 3, 5, 6, affine=True, relu=True, windows=((2, 2), (2, 2))),
        "plain": sample(17, 3, 6, 4, affine=False, relu=False, windows=((2, 1), (3, 2))),
    }


def of_norm_pool_backward() -> dict[str, Arguments]:
    samples = {}
    for name, sample in of_norm_pool().items():
        given = [t.detach() if isinstance(t, Tensor) else t for t in sample[:-1]]
        y, taps = torch.ops.gemkern.normalise_max_pool2d(*given, "reference")
        samples[name] = (ops.batch_last(normal(*y.shape)), y, taps, *given, NO_CHOICE)
    return samples


SAMPLES: dict[str, dict[str, Arguments]] = {
    "batch_last": of_layouts(torch.Tensor.contiguous),
    "contiguous": of_layouts(ops.batch_last),
    "sparse_linear": of_sparse_linear(),
    "sparse_linear_backward": of_sparse_linear_backward(),
    "batch_norm_relu": of_norm(),
    "batch_norm_relu_backward": of_norm_backward(),
    "norm_sparse_conv2d": of_norm_sparse(),
    "norm_sparse_conv2d_backward": of_norm_sparse_backward(),
    "normalise": of_normalise(),
    "normalise_backward": of_normalise_backward(),
    "normalise_max_pool2d": of_norm_pool(),
    "normalise_max_pool2d_backward": of_norm_pool_backward(),
    "average_pool2d": of_average_pool(),
    "average_pool2d_backward": of_average_pool_backward(),
    "max_pool2d": of_max_pool(),
    "max_pool2d_backward": of_max_pool_backward(),
    "padded_shortcut": of_shortcut(),
    "padded_shortcut_backward": of_shortcut_backward(),
}

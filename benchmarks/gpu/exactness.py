"""When a result is right: bit for bit, or with the rounding errors of plain PyTorch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

# Of the error that plain PyTorch makes in the same dtype; and what float32 sums may differ by.
ALLOWED = 2.0
FLOOR = 1e-6
# Elements after which the least of them, a byte, lies on a multiple of 16 bytes again.
ALIGNMENT = 16


class WrongResult(Exception):
    """A kernel computed something else than it should."""


def require_same(got: Any, wanted: Any, what: str) -> None:
    """Check that two nests of tensors agree bit for bit; a NaN is a NaN, whatever its bits."""
    for place, (one, other) in enumerate(zip(tensors(got), tensors(wanted), strict=True)):
        if one.shape != other.shape or one.dtype != other.dtype:
            raise WrongResult(
                f"{what}, tensor {place}: {one.dtype} {tuple(one.shape)}, "
                f"not {other.dtype} {tuple(other.shape)}"
            )
        different = int((~_same(one, other)).sum())
        if different:
            raise WrongResult(f"{what}, tensor {place}: {different} of {one.numel()} differ")


def require_as_exact_as(got: Tensor, plain: Tensor, exact: Tensor, what: str) -> float:
    """Check that `got` is at most twice as far from `exact` as `plain` is; return its error.

    Errors are norms of differences over the norm of `exact`, float64.
    """
    if got.shape != exact.shape:
        raise WrongResult(f"{what}: shape {tuple(got.shape)}, not {tuple(exact.shape)}")
    error, theirs = relative_error(got, exact), relative_error(plain, exact)
    # Written so that NaN is refused.
    if not error <= ALLOWED * theirs + FLOOR:
        raise WrongResult(f"{what}: error {error:.2e}, plain PyTorch's {theirs:.2e}")
    return error


def relative_error(got: Tensor, exact: Tensor) -> float:
    norm = exact.double().norm().clamp_min(torch.finfo(torch.float64).tiny)
    return float((got.double() - exact.double()).norm() / norm)


def copied(values: Any) -> Any:
    """Return a nest of lists and tuples with clones of its tensors, which lie as they do."""
    if isinstance(values, Tensor):
        there = values.storage_offset() % ALIGNMENT
        whole = values.new_empty(there + _extent(values))
        begin = whole.storage_offset() + there
        return whole.as_strided(values.shape, values.stride(), begin).copy_(values)
    if isinstance(values, tuple) and hasattr(values, "_fields"):
        return type(values)(*map(copied, values))
    if isinstance(values, (list, tuple)):
        return type(values)(map(copied, values))
    return values


def _extent(tensor: Tensor) -> int:
    """Return how many elements of memory a tensor reaches over."""
    if not tensor.numel():
        return 0
    steps = zip(tensor.shape, tensor.stride(), strict=True)
    return 1 + sum((size - 1) * stride for size, stride in steps)


def tensors(values: Any) -> Iterator[Tensor]:
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, (list, tuple)):
        for value in values:
            yield from tensors(value)


def _same(one: Tensor, other: Tensor) -> Tensor:
    if not one.is_floating_point():
        return one == other
    signs = one.signbit() == other.signbit()
    return ((one == other) & signs) | (one.isnan() & other.isnan())

"""Memory orders: kernels that work element by element read tensors as flat runs of memory."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

# Layouts, of layers or of whole models, that are known to fill runs of memory or not to.
KNOWN = 1024


def dense(tensor: Tensor) -> Tensor:
    """Return `tensor` if its elements fill one run of memory, in any order; else a copy that do."""
    return tensor if _is_dense(tensor.shape, tensor.stride()) else tensor.contiguous()


def ordered_as(tensor: Tensor, like: Tensor) -> Tensor:
    """Return `tensor` with its elements in the memory order of the dense `like`, a copy or not."""
    return tensor if same_order(tensor, like) else empty_as(like, tensor.dtype).copy_(tensor)


def empty_as(like: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a tensor with no values, in the shape and memory order of the dense `like`."""
    return torch.empty_like(like, dtype=dtype, memory_format=torch.preserve_format)


def same_order(tensor: Tensor, like: Tensor) -> bool:
    """Return whether two tensors of one shape keep each element in the same place."""
    return _order(tensor) == _order(like)


def laid_out_alike(first: Sequence[Tensor], *others: Sequence[Tensor]) -> bool:
    """Return whether the tensors of `first` are dense, and those of `others` have their strides.

    False says nothing: the order of tensors of other strides may be the same.
    """
    strides = [*map(Tensor.stride, first)]
    if any([*map(Tensor.stride, tensors)] != strides for tensors in others):
        return False
    return _are_dense(tuple([tensor.shape for tensor in first]), tuple(strides))


def _order(tensor: Tensor) -> list[int]:
    # The stride of a dimension with one index, or of an empty tensor, places nothing.
    if tensor.numel() == 0:
        return []
    return [stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if size > 1]


@lru_cache(KNOWN)
def _are_dense(shapes: Sequence[Sequence[int]], strides: Sequence[Sequence[int]]) -> bool:
    return all(map(_is_dense, shapes, strides))


@lru_cache(KNOWN)
def _is_dense(shape: Sequence[int], strides: Sequence[int]) -> bool:
    reach = 1
    steps = sorted((stride, size) for size, stride in zip(shape, strides, strict=True) if size > 1)
    for stride, size in steps:
        if stride != reach:
            return False
        reach *= size
    return True

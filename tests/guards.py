"""Tensors with poison inside and guard bands around them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

BAND = 64
POISON = 0xA5
# Kept before anything replaces them.
_empty, _empty_like = torch.empty, torch.empty_like


class Guards:
    """Allocates guarded tensors and remembers their bands."""

    def __init__(self) -> None:
        self._bands: list[Tensor] = []

    def empty(self, *size: Any, **options: Any) -> Tensor:
        return self.around(_empty(*size, **options))

    def empty_like(self, tensor: Tensor, **options: Any) -> Tensor:
        return self.around(_empty_like(tensor, **options))

    def new_empty(self, tensor: Tensor, *size: Any, **options: Any) -> Tensor:
        options = {"dtype": tensor.dtype, "device": tensor.device, **options}
        return self.around(_empty(*size, **options))

    def around(self, like: Tensor) -> Tensor:
        """Return a poisoned tensor laid out as the dense `like`, between bands of poison."""
        if like.device.type != "cpu":
            return like
        count = like.numel() * like.element_size()
        storage = torch.full((count + 2 * BAND,), POISON, dtype=torch.uint8)
        self._bands += [storage[:BAND], storage[BAND + count :]]
        inner = storage[BAND : BAND + count].view(like.dtype)
        if like.is_floating_point():
            inner.fill_(torch.nan)
        return inner.as_strided(like.size(), like.stride(), inner.storage_offset())

    def holding(self, values: Tensor) -> Tensor:
        """Return a guarded copy of the dense `values`, for operands that change in place."""
        return self.around(values).copy_(values)

    def check(self) -> None:
        """Fail if any band was written to."""
        assert all((band == POISON).all() for band in self._bands), "a store beyond the end"

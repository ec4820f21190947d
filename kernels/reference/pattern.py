"""Where the weights of a layer remain, by output channel.

The compressed sparse row format of SciPy and of PyTorch, whose columns are the weights of an output
channel.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Pattern(NamedTuple):
    """The `nnz` remaining places of a weight [Co, Ci / groups, kh, kw] or [Ko, Ki].

    Attributes:
        shape: of the weight.
        starts: int64 [Co + 1], the first entry of each output channel, and nnz.
        positions: int64 [nnz], ascending, row-major indices into the flat weight: entry by entry
            the place of a value.
    """

    shape: tuple[int, ...]
    starts: Tensor
    positions: Tensor


def pattern(active: Tensor) -> Pattern:
    """Return where `active` (bool, of a weight's shape) is on. Its size is read on the host."""
    positions = active.flatten().nonzero().flatten()
    outputs = active.shape[0]
    sizes = torch.bincount(positions // (active[:1].numel() or 1), minlength=outputs)
    starts = torch.cat((sizes.new_zeros(1), sizes.cumsum(0)))
    return Pattern(tuple(active.shape), starts, positions)

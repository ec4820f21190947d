"""Where the weights of a layer remain: compressed by output channel, and by input channel.

The compressed sparse row format of SciPy and of PyTorch, with both orders in one tuple: the forward
pass and the weight gradient walk an output channel, the input gradient walks an input channel.
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
        input_starts: int64 [Ci / groups + 1], the first place in `input_order` of each input
            channel of a group, and nnz.
        input_order: int64 [nnz], the entries by input channel, and by position within one.
    """

    shape: tuple[int, ...]
    starts: Tensor
    positions: Tensor
    input_starts: Tensor
    input_order: Tensor


def pattern(active: Tensor) -> Pattern:
    """Return where `active` (bool, of a weight's shape) is on. Its size is read on the host."""
    outputs, inputs = active.shape[:2]
    positions = active.flatten().nonzero().flatten()
    taps = active[0, 0].numel() if outputs and inputs else 1
    output_channels = positions // (inputs * taps or 1)
    input_channels = positions // taps % (inputs or 1)
    return Pattern(
        shape=tuple(active.shape),
        starts=_starts(output_channels, outputs),
        positions=positions,
        input_starts=_starts(input_channels, inputs),
        input_order=input_channels.argsort(stable=True),
    )


def _starts(channels: Tensor, count: int) -> Tensor:
    """Return how many of `channels` lie below each of 0 ... count, int64 [count + 1]."""
    sizes = torch.bincount(channels, minlength=count)
    return torch.cat((sizes.new_zeros(1), sizes.cumsum(0)))

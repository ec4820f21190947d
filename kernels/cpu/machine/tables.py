"""Tables of layers: one parallel pass over all of a model, wherever its tensors lie.

A table is int64 [2 + operands, layers]: sizes, how many elements come before each layer, and the
address of each operand. A thread works on its share of all elements, layer by layer.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from itertools import accumulate

import torch
from gemkern.kernels.cpu.machine.compiling import njit
from gemkern.kernels.cpu.machine.lanes import share_of
from gemkern.kernels.cpu.machine.memory import integers
from gemkern.kernels.layouts import dense, ordered_as
from torch import Tensor


@njit(cache=True)
def table_at(address, operands, layers):
    """Return the table of `operands` and `layers` at `address`."""
    return integers(address, (2 + operands) * layers).reshape(2 + operands, layers)


@njit(cache=True)
def share_of_layer(table, layer, thread, threads):
    """Return the first element of `layer` that is in a thread's share of all, and how many are."""
    last = table.shape[1] - 1
    total = table[0, last] + table[1, last]
    begin, end = share_of(total, thread, threads)
    first = max(begin - table[1, layer], 0)
    return first, max(min(end - table[1, layer], table[0, layer]) - first, 0)


def table(*operands: Sequence[Tensor]) -> array[int]:
    """Return the table of `operands`, each one tensor for each layer."""
    sizes = [tensor.numel() for tensor in operands[0]]
    of_layers = array("q", sizes)
    of_layers.extend(accumulate(sizes[:-1], initial=0))
    for tensors in operands:
        of_layers.extend([tensor.data_ptr() for tensor in tensors])
    return of_layers


def address_of(of_layers: array[int]) -> int:
    """Return where a table lies; it has to outlive the kernel."""
    return of_layers.buffer_info()[0]


def in_memory(value: float | Tensor) -> Tensor:
    """Return a number as float64 []: the kernel reads it, so that the host need not."""
    if isinstance(value, Tensor):
        return value.to(torch.float64)
    return torch.full((), value, dtype=torch.float64)


def alike(like: Sequence[Tensor], *operands: Sequence[Tensor]) -> list[list[Tensor]]:
    """Return `like`, made dense, and `operands` in the memory order of it, copies or not."""
    every = (like, *operands)
    if all(tensor.is_contiguous() for tensors in every for tensor in tensors):
        return [list(tensors) for tensors in every]
    order = [dense(tensor) for tensor in like]
    return [
        order,
        *(
            [ordered_as(tensor, model) for tensor, model in zip(tensors, order, strict=True)]
            for tensors in operands
        ),
    ]

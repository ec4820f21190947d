"""Pointer tables: one launch over all layers of a model, wherever their tensors lie.

The plan of a launch says which program works on which part of which layer; it depends on sizes
alone. The addresses say where each operand of each layer begins. Both are made once for the same
sizes and the same places, and found again after that: an allocator reuses memory, so that a step of
training builds nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import TypeVar

import torch
import triton
import triton.language as tl
from gemkern.kernels.kept import filled, kept
from torch import Tensor

# Elements a program works on, and its threads: eight each, a load of 16 bytes in any float dtype.
BLOCK = 1024
THREADS = 128
WARPS = THREADS // (64 if torch.version.hip else 32)
# What a load of 16 bytes asks of an address.
ALIGNMENT = 16

Item = TypeVar("Item")


@triton.jit
def locate(plan_ptr, LAYERS, BLOCK: tl.constexpr):
    """Return the layer of this program, its first element there, and the layer's size."""
    program = tl.program_id(0)
    layer = tl.load(plan_ptr + 2 * LAYERS + program)
    part = program - tl.load(plan_ptr + LAYERS + layer)
    return layer, part * BLOCK, tl.load(plan_ptr + layer)


@triton.jit
def operand(addresses_ptr, row, layer, LAYERS, DTYPE: tl.constexpr, ALIGNED: tl.constexpr):
    """Return the pointer to operand `row` of `layer`."""
    pointer = tl.load(addresses_ptr + row * LAYERS + layer).to(tl.pointer_type(DTYPE))
    if ALIGNED:
        pointer = tl.multiple_of(pointer, 16)
    return pointer


@triton.jit
def load_part(pointer, offsets, size, WHOLE: tl.constexpr):
    """Load a part of a layer; 0 beyond its `size`, which a WHOLE part does not reach."""
    if WHOLE:
        values = tl.load(pointer + offsets)
    else:
        values = tl.load(pointer + offsets, mask=offsets < size, other=0)
    return values


@triton.jit
def store_part(pointer, offsets, values, size, WHOLE: tl.constexpr):
    """Store a part of a layer, up to its `size`."""
    if WHOLE:
        tl.store(pointer + offsets, values)
    else:
        tl.store(pointer + offsets, values, mask=offsets < size)


@dataclass(frozen=True)
class Table:
    """The operands of all layers, for kernels that `locate` their part.

    Attributes:
        plan: int64 [2 * layers + programs]: sizes, first program of each layer, layer of each
            program.
        addresses: int64 [operands * layers].
        layers, programs: how many there are.
        dtypes: of the operands.
        aligned: whether every operand begins at a multiple of 16 bytes.
    """

    plan: Tensor
    addresses: Tensor
    layers: int
    programs: int
    dtypes: tuple[torch.dtype, ...]
    aligned: bool


def table(
    *operands: Sequence[Tensor],
    sizes: Sequence[int] | None = None,
    numbers: Sequence[Sequence[int]] = (),
) -> Table:
    """Return the table of `operands`, each one tensor for each layer, all of one dtype.

    Args:
        sizes: how much of each layer there is to plan for; elements of the first operand if None.
        numbers: rows that follow the addresses, one number for each layer.
    """
    device = operands[0][0].device
    counts = tuple(map(Tensor.numel, operands[0]) if sizes is None else sizes)
    dtypes = tuple(tensors[0].dtype for tensors in operands)
    places = tuple(map(Tensor.data_ptr, chain.from_iterable(operands)))
    rows = places + tuple(chain.from_iterable(numbers))

    def make() -> Table:
        plan = kept((device, counts), device, lambda: filled(_plan(counts), torch.int64, device))
        return Table(
            plan=plan,
            addresses=filled(rows, torch.int64, device),
            layers=len(counts),
            programs=plan.numel() - 2 * len(counts),
            dtypes=dtypes,
            aligned=all(place % ALIGNMENT == 0 for place in places),
        )

    return kept((device, counts, dtypes, rows), device, make)


def alike(*operands: Sequence[Tensor]) -> list[Callable[[Sequence[Item]], list[Item]]]:
    """Return, for each combination of dtypes among layers, a function that picks those layers."""
    if all(len({tensor.dtype for tensor in tensors}) == 1 for tensors in operands):
        return [list]
    groups: dict[tuple[torch.dtype, ...], list[int]] = {}
    for layer, tensors in enumerate(zip(*operands, strict=True)):
        groups.setdefault(tuple(tensor.dtype for tensor in tensors), []).append(layer)
    return [partial(_pick, layers) for layers in groups.values()]


def _pick(layers: Sequence[int], items: Sequence[Item]) -> list[Item]:
    return [items[layer] for layer in layers]


def element(dtype: torch.dtype) -> tl.dtype:
    """Return what Triton calls `dtype`; a bool is a byte."""
    return _ELEMENTS[dtype]


_ELEMENTS = {
    torch.bool: tl.int8,
    torch.uint8: tl.uint8,
    torch.float16: tl.float16,
    torch.bfloat16: tl.bfloat16,
    torch.float32: tl.float32,
    torch.float64: tl.float64,
}


def _plan(sizes: Sequence[int]) -> list[int]:
    programs = [triton.cdiv(size, BLOCK) for size in sizes]
    first = [sum(programs[:layer]) for layer in range(len(sizes))]
    layer_of = [layer for layer, count in enumerate(programs) for _ in range(count)]
    return [*sizes, *first, *layer_of]

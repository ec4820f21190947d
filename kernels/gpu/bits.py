"""Masks as bits: eight entries a byte, the first in the least significant bit.

Named and called as `gemkern.kernels.reference.bits`, and equal to it; one launch each.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
import triton
import triton.language as tl
from gemkern.kernels.gpu.launching import launch
from gemkern.kernels.gpu.tables import THREADS, WARPS, load_part, store_part
from gemkern.kernels.gpu.variants import Variant
from torch import Tensor

# Entries a program works on: 16 a thread, one load or store of 16 bytes.
ENTRIES = 16 * THREADS


@triton.jit
def pack_mask_kernel(mask_ptr, packed_ptr, SIZE, BLOCK: tl.constexpr):
    start = tl.program_id(0).to(tl.int64) * BLOCK
    offsets = start + tl.arange(0, BLOCK)
    if start + BLOCK <= SIZE:
        mask = load_part(mask_ptr, offsets, SIZE, True)
    else:
        mask = load_part(mask_ptr, offsets, SIZE, False)
    bits = tl.reshape((mask != 0).to(tl.int32), (BLOCK // 8, 8))
    packed = tl.sum(bits << tl.arange(0, 8)[None, :], axis=1)
    bytes_ = start // 8 + tl.arange(0, BLOCK // 8)
    tl.store(packed_ptr + bytes_, packed.to(tl.uint8), mask=bytes_ * 8 < SIZE)


@triton.jit
def unpack_mask_kernel(packed_ptr, mask_ptr, SIZE, BLOCK: tl.constexpr):
    start = tl.program_id(0).to(tl.int64) * BLOCK
    bytes_ = start // 8 + tl.arange(0, BLOCK // 8)
    packed = tl.load(packed_ptr + bytes_, mask=bytes_ * 8 < SIZE, other=0).to(tl.int32)
    bits = (packed[:, None] >> tl.arange(0, 8)[None, :]) & 1
    mask = tl.reshape(bits.to(tl.uint8), (BLOCK,))
    offsets = start + tl.arange(0, BLOCK)
    if start + BLOCK <= SIZE:
        store_part(mask_ptr, offsets, mask, SIZE, True)
    else:
        store_part(mask_ptr, offsets, mask, SIZE, False)


def pack_mask(mask: Tensor) -> Tensor:
    mask = mask.contiguous()
    packed = mask.new_empty(triton.cdiv(mask.numel(), 8), dtype=torch.uint8)
    launch(
        pack_mask_kernel, (triton.cdiv(mask.numel(), ENTRIES),), mask.device,
        mask.view(torch.uint8), packed, mask.numel(), BLOCK=ENTRIES, num_warps=WARPS,
    )  # fmt: skip
    return packed


def unpack_mask(packed: Tensor, shape: Sequence[int]) -> Tensor:
    size = math.prod(shape)
    mask = packed.new_empty(tuple(shape), dtype=torch.bool)
    launch(
        unpack_mask_kernel, (triton.cdiv(size, ENTRIES),), mask.device,
        packed.contiguous(), mask.view(torch.uint8), size, BLOCK=ENTRIES, num_warps=WARPS,
    )  # fmt: skip
    return mask


def variants() -> Iterator[Variant]:
    """Yield both kernels, for masks of fewer than 2^31 entries."""
    arguments = {"mask_ptr": "*u8", "packed_ptr": "*u8", "SIZE": "i32"}
    yield Variant(pack_mask_kernel, arguments, {"BLOCK": ENTRIES}, "elementwise", THREADS)
    # What it loads is an eighth of what it stores.
    yield Variant(unpack_mask_kernel, arguments, {"BLOCK": ENTRIES}, "other", THREADS)

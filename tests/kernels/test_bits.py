"""Packed masks, against numpy's own packing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gemkern.kernels.reference import pack_mask, unpack_mask
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

shapes = st.lists(st.integers(0, 7), max_size=4).map(tuple)


def packed_by_numpy(mask: Tensor) -> Tensor:
    return torch.from_numpy(np.packbits(mask.numpy().ravel(), bitorder="little"))


def random_mask(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < 0.5


@settings(max_examples=60, deadline=None)
@given(shapes, st.integers(0, 99))
def test_packing_is_that_of_numpy_and_unpacking_undoes_it(shape: tuple[int, ...], seed: int):
    mask = random_mask(shape, seed)
    packed = pack_mask(mask)
    assert packed.dtype == torch.uint8
    assert torch.equal(packed, packed_by_numpy(mask))
    assert torch.equal(unpack_mask(packed, shape), mask)


def test_the_first_entry_is_the_lowest_bit_and_spare_bits_are_zero() -> None:
    mask = torch.tensor([True, False, False, True, False, False, False, True, True, True])
    assert pack_mask(mask).tolist() == [0b10001001, 0b11]


@pytest.mark.parametrize("view", ["channels_last", "transposed", "strided", "expanded"])
def test_the_order_is_row_major_whatever_the_strides(view: str) -> None:
    mask = random_mask((3, 5, 4, 2))
    mask = {
        "channels_last": mask.contiguous(memory_format=torch.channels_last),
        "transposed": mask.transpose(0, 2),
        "strided": mask[:, ::2],
        "expanded": mask[:1].expand(3, 5, 4, 2),
    }[view]
    assert torch.equal(pack_mask(mask), packed_by_numpy(mask))


def test_strided_bytes_unpack() -> None:
    mask = random_mask((5, 5))
    spread = torch.zeros(8, dtype=torch.uint8)
    spread[::2] = pack_mask(mask)
    assert torch.equal(unpack_mask(spread[::2], (5, 5)), mask)

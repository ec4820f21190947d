"""pack_mask and unpack_mask: those of the reference."""

from __future__ import annotations

import pytest
import torch
from gemkern.kernels import reference
from gemkern.kernels.gpu import bits as gpu
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

SIZE = gpu.ENTRIES
SHAPES = [(), (0,), (3, 0), (1,), (7,), (8,), (9,), (4, 3, 3, 3), (SIZE - 1,), (SIZE,), (SIZE + 1,)]


def a_mask(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < 0.5


@pytest.mark.parametrize("shape", SHAPES)
def test_packed_and_back(shape: tuple[int, ...]) -> None:
    mask = a_mask(*shape)
    packed = gpu.pack_mask(mask)
    assert packed.dtype == torch.uint8
    assert torch.equal(packed, reference.pack_mask(mask))
    back = gpu.unpack_mask(packed, shape)
    assert back.dtype == torch.bool
    assert torch.equal(back, mask)


@pytest.mark.parametrize("place", range(8))
def test_each_entry_has_its_bit(place: int) -> None:
    mask = torch.arange(16) == 8 + place
    assert gpu.pack_mask(mask).tolist() == [0, 1 << place]
    assert torch.equal(gpu.unpack_mask(torch.tensor([0, 1 << place]).byte(), (16,)), mask)


def test_spare_bits_are_not_read() -> None:
    assert gpu.unpack_mask(torch.tensor([0b11111010]).byte(), (3,)).tolist() == [False, True, False]


def test_masks_of_any_stride_and_offset() -> None:
    mask = a_mask(61, 70)
    for part in (mask.T, mask[3:40, 1:], mask[1::3, 1::7], mask[7, 1:]):
        assert torch.equal(gpu.pack_mask(part), reference.pack_mask(part))
    packed = torch.randint(256, (40, 3)).byte()[:, 1]
    assert torch.equal(gpu.unpack_mask(packed, (300,)), reference.unpack_mask(packed, (300,)))


@given(shape=st.lists(st.integers(0, 20), max_size=3), seed=st.integers(0, 99))
@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_shape(shape: list[int], seed: int) -> None:
    mask = a_mask(*shape, seed=seed)
    packed = gpu.pack_mask(mask)
    assert torch.equal(packed, reference.pack_mask(mask))
    assert torch.equal(gpu.unpack_mask(packed, shape), mask)

"""The CPU kernels' quick look at the layout says what the reference says."""

from __future__ import annotations

import pytest
import torch
from gemkern.kernels.cpu import layout
from gemkern.kernels.reference import batch_last as reference

SIZES = [(5, 3, 4, 2), (1, 3, 4, 2), (5, 1, 1, 1), (5, 3, 1, 2), (7, 4), (0, 3, 4, 2), (5, 0, 4, 2)]


@pytest.mark.parametrize("size", SIZES)
def test_what_is_made_has_the_strides_of_the_reference(size: tuple[int, ...]) -> None:
    like = torch.zeros(1, dtype=torch.float64)
    made, expected = (module.empty_batch_last(size, like) for module in (layout, reference))
    assert (made.shape, made.stride(), made.dtype) == (size, expected.stride(), torch.float64)


@pytest.mark.parametrize("size", SIZES)
def test_what_lies_batch_last_is_taken_and_what_does_not_is_copied(size: tuple[int, ...]) -> None:
    x = torch.randn(size)
    laid = reference.batch_last(x)
    every_second = torch.randn(*size[:-1], 2 * size[-1])[..., ::2]
    # Strides of dimensions of size 1 do not count.
    strides = [7 if n == 1 else step for n, step in zip(size, laid.stride(), strict=True)]
    strange = torch.empty_strided(size, strides).zero_()
    turned = torch.randn(size[::-1]).permute(*range(len(size) - 1, -1, -1))
    for one in (x, laid, strange, every_second, turned, x[:1].expand(size)):
        made, expected = layout.batch_last(one), reference.batch_last(one)
        assert (made is one) == (expected is one)
        assert made.stride() == expected.stride()
        assert torch.equal(made, expected)

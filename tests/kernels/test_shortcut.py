"""The reference of the shortcut without parameters, against a slice in `F.pad`, bit for bit."""

from __future__ import annotations

import pytest
import torch
from gemkern.kernels.reference import shortcut
from gemkern.kernels.reference.batch_last import is_batch_last
from same_bits import same_bits
from shortcut_cases import CASES, Case, special
from torch.nn import functional as F


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("images", [0, 1, 3])
def test_it_is_a_padded_slice(case: Case, dtype: torch.dtype, images: int) -> None:
    _, (rows, columns), before, after = case
    x = case.special(images).to(dtype).requires_grad_()
    expected = F.pad(x[:, :, ::rows, ::columns], (0, 0, 0, 0, before, after))
    grad_y = special(*expected.shape).to(dtype)
    expected.backward(grad_y)
    y = shortcut.padded_shortcut(x.detach(), *case[1:])
    grad_x = shortcut.padded_shortcut_backward(grad_y, x.shape, case.stride, before)
    assert same_bits(y, expected.detach())
    assert same_bits(grad_x, x.grad)
    assert is_batch_last(y)
    assert is_batch_last(grad_x)


def test_results_share_no_memory_with_what_they_are_made_of() -> None:
    x = torch.ones(2, 3, 4, 4)
    shortcut.padded_shortcut(x, (1, 1), 0, 0).zero_()
    shortcut.padded_shortcut_backward(x, (2, 3, 4, 4), (1, 1), 0).zero_()
    assert x.all()

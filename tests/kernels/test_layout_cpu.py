"""The CPU kernels' quick look at the layout says what the reference says."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest
import torch
from gemkern.kernels import reference
from gemkern.kernels.cpu.batch_last import batch_last
from gemkern.kernels.cpu.machine import layout
from gemkern.kernels.reference.batch_last import empty_batch_last

SIZES = [(5, 3, 4, 2), (1, 3, 4, 2), (5, 1, 1, 1), (5, 3, 1, 2), (7, 4), (0, 3, 4, 2), (5, 0, 4, 2)]


@pytest.mark.parametrize("size", SIZES)
def test_what_is_made_has_the_strides_of_the_reference(size: tuple[int, ...]) -> None:
    like = torch.zeros(1, dtype=torch.float64)
    made, expected = (make(size, like) for make in (layout.empty_batch_last, empty_batch_last))
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
        made, expected = batch_last(one), reference.batch_last(one)
        assert (made is one) == (expected is one)
        assert made.stride() == expected.stride()
        assert torch.equal(made, expected)


def test_a_large_one_begins_a_line_of_the_cache_and_is_no_view() -> None:
    like = torch.zeros(1)
    for size in ((33, 64, 8, 8), (1, 64, 16, 17), (129, 130)):
        made, expected = (make(size, like) for make in (layout.empty_batch_last, empty_batch_last))
        assert made.numel() >= layout.PLAIN_FROM
        assert (made.shape, made.stride(), made.dtype) == (size, expected.stride(), torch.float32)
        assert made.data_ptr() % 64 == 0
        assert not made._is_view()


GROWTH = """
import gc, torch
from gemkern.kernels.cpu.machine.layout import empty_batch_last
from gemkern.nn import keep_freed_memory

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1])

keep_freed_memory()
like, small = torch.zeros(1), []
gc.disable()
for turn in range(40):
    blocks = [{make}.fill_(1) for _ in range(4)]
    small += [torch.empty(4) for _ in range(200)]
    if turn == 4:
        before = resident()
    del blocks
print(resident() - before)
"""


def _pages_grown(make: str) -> int:
    """Return by how many pages a process grows that makes and frees 4 MiB, among small tensors."""
    run = [sys.executable, "-c", GROWTH.format(make=make)]
    return int(subprocess.run(run, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc leaves splinters")
def test_what_is_freed_serves_as_large_a_tensor_again() -> None:
    assert _pages_grown("empty_batch_last((64, 16, 16, 16), like)") < 4096

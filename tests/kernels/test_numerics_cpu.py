"""Threads of Numba flush denormals where their caller does; Numba waits until it is needed."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from gemkern.kernels.cpu.score_step import score_step_sgd
from torch import Tensor


@pytest.fixture(autouse=True)
def flushing_is_put_back():
    before = bool(torch.tensor(1e-40) * 1.0 == 0.0)
    yield
    torch.set_flush_denormal(before)


def stepped() -> Tensor:
    """Halve denormal momenta, in as many parts as Numba has threads, and more."""
    torch.set_num_threads(4)
    size = 4096
    buffers = torch.full((size,), 1e-40)
    zeros = torch.zeros(size)
    score_step_sgd(
        [zeros.clone()], [torch.ones(size, dtype=torch.bool)], [zeros], [buffers], None, None,
        0.1, 0.0, 0.5, False,
    )  # fmt: skip
    return buffers.view(torch.int32)


@pytest.mark.parametrize("flush", [True, False])
def test_all_threads_flush_as_their_caller_does(threads: int, flush: bool) -> None:
    if not torch.set_flush_denormal(flush):
        pytest.fail("this machine cannot flush denormals")
    for _ in range(2):
        assert (stepped() == 0).all() == flush
        assert (stepped() == 0).any() == flush
        # The threads are there by now, with the state that they were left in.
        flush = not flush
        torch.set_flush_denormal(flush)


def test_numba_is_imported_for_a_kernel_and_not_before() -> None:
    code = (
        "import sys, gemkern, gemkern.kernels.cpu, gemkern.kernels.table as table;"
        "print('numba' in sys.modules); table.load('threshold', 'cpu');"
        "print('numba' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["False", "True"]

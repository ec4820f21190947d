"""select_kth and remove_lowest in Triton: those of the reference, for keys of every width."""

from __future__ import annotations

import torch
from gemkern.kernels.gpu import select_kth, tables
from suites.select_kth import BLOCK, PROGRAM, SelectKth


class TestSelectKth(SelectKth):
    backend = select_kth


def test_the_suite_crosses_the_borders_of_parts_and_programs() -> None:
    assert (PROGRAM, BLOCK) == (select_kth.PARTS * tables.BLOCK, tables.BLOCK)


def test_counts_go_beyond_32_bits() -> None:
    """As many as 2^33 equal entries precede: the ranks of a program that stands far behind."""
    values = [torch.zeros(2 * PROGRAM)]
    on = torch.ones(2 * PROGRAM, dtype=torch.bool)
    rows = select_kth.spans(values, [on])
    counts = torch.tensor([1 << 33, 5])
    select_kth.before_kernel[(1,)](rows.plan, counts, 1, 2, 0, BLOCK=BLOCK)
    assert counts.tolist() == [0, 1 << 33]
    select_kth.clear_kernel[(rows.programs,)](
        rows.plan, rows.addresses, torch.zeros(()), torch.tensor((1 << 33) + 3), counts, 1, 0,
        **select_kth.constants(rows),
    )  # fmt: skip
    assert on.nonzero().view(-1).tolist() == list(range(PROGRAM + 3, 2 * PROGRAM))


def test_more_programs_than_one_scan_reads_at_once() -> None:
    counts = torch.arange(2 * BLOCK + 7) % 5
    expected = counts.cumsum(0) - counts
    select_kth.before_kernel[(1,)](torch.zeros(2), counts, 1, counts.numel(), 0, BLOCK=BLOCK)
    assert torch.equal(counts, expected)

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
    counts, kth = torch.tensor([1 << 33, 5]), torch.zeros(())
    before = select_kth.equals_before(rows, kth, counts, counts=1)
    assert before.tolist() == [0, 1 << 33]
    select_kth.clear_kernel[(rows.programs,)](
        rows.plan, rows.addresses, kth, torch.tensor((1 << 33) + 3), before, 1, 0,
        **select_kth.constants(rows),
    )  # fmt: skip
    assert on.nonzero().view(-1).tolist() == list(range(PROGRAM + 3, 2 * PROGRAM))


def test_more_programs_than_one_scan_reads_at_once() -> None:
    counts = torch.arange(2 * BLOCK + 7, dtype=torch.int32) % 5
    before = counts.new_empty(len(counts), dtype=torch.int64)
    select_kth.before_kernel[(1,)](
        torch.zeros(2), counts, torch.zeros(()), before, 1, len(counts), 0, COUNTS=1, BLOCK=BLOCK
    )
    assert torch.equal(before, counts.cumsum(0) - counts)


def test_of_the_counts_of_a_pass_those_of_the_last_byte_count() -> None:
    rows = select_kth.spans([torch.zeros(2 * PROGRAM)], [torch.ones(2 * PROGRAM)])
    counts = torch.randint(9, (2, 256), dtype=torch.int32)
    kth = torch.tensor(0x3F0000A7, dtype=torch.int32).view(torch.float32)
    before = select_kth.equals_before(rows, kth, counts, counts=256)
    assert before.tolist() == [0, counts[0, 0xA7]]

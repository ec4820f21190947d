"""select_kth and remove_lowest of any backend: those of the reference, for keys of every width."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from gemkern.kernels import reference
from guards import Guards
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

INF, NAN = math.inf, math.nan
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
# What a program of the Triton kernels works on, and a part of it.
PROGRAM, BLOCK = 4096, 1024
# One part and parts beside it, a whole program, and a program with one entry too many.
SHAPES = [(3,), (), (0, 5), (32, 32), (1023,), (25, 41), (PROGRAM,), (PROGRAM + 1,)]
# The least of what each dtype tells apart from 0 is among them.
SPECIAL = [0.0, -0.0, 1.0, -1.0, INF, -INF, NAN, -NAN, 1e-45, -1e-45, 6e-8, -6e-8, 5e-324, -5e-324]

# Around parts and programs, and where the shares of three threads meet.
RANKS = [1, BLOCK - 1, BLOCK, BLOCK + 1, 2731, 2732, PROGRAM + 1, PROGRAM + 6, 2 * PROGRAM]

every_dtype = pytest.mark.parametrize("dtype", DTYPES)


def model(
    dtype: torch.dtype = torch.float32, shapes: Sequence[tuple[int, ...]] = SHAPES, seed: int = 0
) -> tuple[list[Tensor], list[Tensor]]:
    """Values of `dtype` and of either sign, a few of them special, and active entries."""
    generator = torch.Generator().manual_seed(seed)
    values = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    for value in values:
        if value.numel() > 100:
            value.view(-1)[40 : 40 + len(SPECIAL)] = torch.tensor(SPECIAL, dtype=torch.float64)
    return [value.to(dtype) for value in values], [
        torch.rand(shape, generator=generator) < 0.7 for shape in shapes
    ]


def ranks(active: Sequence[Tensor]) -> list[Tensor]:
    """Ranks over all layers, and in each layer, from none to all of what is active."""
    counts = torch.stack([on.sum() for on in active])
    total = int(counts.sum())
    together = [torch.tensor(min(k, total)) for k in (0, 1, 17, total // 2, total)]
    return [*together, counts * 0, counts.clamp(max=1), counts // 3, counts]


def same_value(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(one.nan_to_num(7), other.nan_to_num(7))


class SelectKth:
    """The tests of a backend."""

    backend: Any

    def check(self, values: Sequence[Tensor], active: Sequence[Tensor], k: Tensor) -> None:
        """Compare both operators with the reference; nothing but active may change."""
        guards = Guards()
        before = [value.clone() for value in values]
        kth, ties = self.backend.select_kth(values, active, k)
        expected, expected_ties = reference.select_kth(values, active, k)
        assert same_value(kth, expected)
        assert torch.equal(kth.isnan(), expected.isnan())
        assert torch.equal(ties, expected_ties)
        assert kth.shape == ties.shape == k.shape
        ours, theirs = ([guards.holding(on) for on in active] for _ in range(2))
        self.backend.remove_lowest(values, ours, kth, ties)
        reference.remove_lowest(values, theirs, expected, expected_ties)
        assert all(map(torch.equal, ours, theirs))
        removed = torch.stack(
            [on.sum() - left.sum() for on, left in zip(active, ours, strict=True)]
        )
        assert torch.equal(removed if k.dim() else removed.sum(), k)
        assert all(map(same_value, values, before))
        guards.check()

    @every_dtype
    @pytest.mark.parametrize("rank", range(9))
    def test_any_rank(self, dtype: torch.dtype, rank: int) -> None:
        values, active = model(dtype)
        self.check(values, active, ranks(active)[rank])

    @every_dtype
    @pytest.mark.parametrize("each", [False, True])
    def test_many_ties(self, dtype: torch.dtype, each: bool) -> None:
        values, active = model(dtype, [(PROGRAM + 40,), (0,), (2 * BLOCK,)])
        values = [(value * 2).round() for value in values]
        self.check(values, active, ranks(active)[7 if each else 3])

    @pytest.mark.parametrize("k", RANKS)
    def test_among_equals_the_first_go(self, k: int) -> None:
        values = [torch.full((PROGRAM + 5,), 0.25), torch.full((9, PROGRAM // 9), 0.25)]
        active = [torch.ones_like(value, dtype=torch.bool) for value in values]
        self.backend.remove_lowest(
            values, active, *self.backend.select_kth(values, active, torch.tensor(k))
        )
        flat = torch.cat([on.view(-1) for on in active])
        assert not flat[:k].any()
        assert flat[k:].all()

    @every_dtype
    def test_special_values_are_ordered_as_by_the_reference(self, dtype: torch.dtype) -> None:
        values = [torch.tensor(SPECIAL, dtype=torch.float64).to(dtype)]
        active = [torch.ones(len(SPECIAL), dtype=torch.bool)]
        for k in range(len(SPECIAL) + 1):
            self.check(values, active, torch.tensor(k))

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_a_value_is_found_again_from_its_key(self, dtype: torch.dtype) -> None:
        bits = torch.arange(-(1 << 15), 1 << 15, 1013).to(torch.int16)
        values = bits.view(dtype)
        # A rank of one among one value.
        kth, _ = self.backend.select_kth(
            values.split(1), [torch.tensor([True])] * len(bits), torch.ones(len(bits)).long()
        )
        assert len(bits) > 60
        assert same_value(kth, values)

    @every_dtype
    def test_a_rank_beyond_the_active_entries_is_that_of_nan(self, dtype: torch.dtype) -> None:
        values, active = [torch.tensor([1.0, -INF, NAN], dtype=dtype)], [torch.tensor([True] * 3)]
        active[0][0] = False
        kth, ties = self.backend.select_kth(values, active, torch.tensor(3))
        assert kth.isnan()
        self.backend.remove_lowest(values, active, kth, ties)
        assert not active[0].any()

    def test_no_entry_at_all(self) -> None:
        values, active = model(shapes=[(0,), (3, 0)])
        for k in (torch.tensor(0), torch.tensor([0, 0])):
            self.check(values, active, k)

    @pytest.mark.parametrize("each", [False, True])
    def test_operands_of_any_stride_and_offset(self, each: bool) -> None:
        storage = torch.rand(60, 70, generator=torch.Generator().manual_seed(1))
        values = [
            storage[3:33, 5:50],
            storage.T[::2],
            storage[1::3, 1::7],
            storage[7, 1:],
            storage[8],
        ]
        flags = torch.rand(60, 70, generator=torch.Generator().manual_seed(2)) < 0.6
        given = [flags[3:33, 5:50], flags.T[::2], flags[1::3, 1::7], flags[7, 1:], flags[8]]
        for k in (5, 30):
            # Each layer on storage of its own, between entries that are not of it.
            layers = [torch.zeros(*like.shape, 3, dtype=torch.bool) for like in given]
            active = [layer[..., 1].copy_(like) for layer, like in zip(layers, given, strict=True)]
            theirs = [on.clone() for on in active]
            rank = torch.full((5,), k) if each else torch.tensor(k)
            found = self.backend.select_kth(values, active, rank)
            self.backend.remove_lowest(values, active, *found)
            expected = reference.select_kth(values, theirs, rank)
            reference.remove_lowest(values, theirs, *expected)
            assert all(map(torch.equal, (*found, *active), (*expected, *theirs)))
            assert not any(layer[..., ::2].any() for layer in layers)

    def test_ranks_of_any_stride(self) -> None:
        values, active = model(shapes=[(50,), (60,)])
        k = torch.tensor([[7, 0], [9, 0]])[:, 0]
        self.check(values, active, k)
        kth, ties = reference.select_kth(values, active, k)
        ours, theirs = ([on.clone() for on in active] for _ in range(2))
        self.backend.remove_lowest(
            values,
            ours,
            torch.stack([kth, kth + 9], 1)[:, 0],
            torch.stack([ties, ties + 9], 1)[:, 0],
        )
        reference.remove_lowest(values, theirs, kth, ties)
        assert all(map(torch.equal, ours, theirs))

    def test_the_ranks_are_not_changed(self) -> None:
        values, active = model(shapes=[(50,), (60,)])
        k = torch.tensor([7, 9])
        kth, ties = self.backend.select_kth(values, active, k)
        given = [tensor.clone() for tensor in (kth, ties)]
        self.backend.remove_lowest(values, active, kth, ties)
        assert k.tolist() == [7, 9]
        assert all(map(torch.equal, (kth, ties), given))

    def test_twice_the_same(self) -> None:
        values, active = model()
        k = ranks(active)[7]
        first, again = (
            self.backend.select_kth(values, active, k),
            self.backend.select_kth(values, active, k),
        )
        assert all(map(torch.equal, first, again))

    @given(
        sizes=st.lists(st.integers(0, 1100), min_size=1, max_size=5),
        dtype=st.sampled_from(DTYPES),
        levels=st.sampled_from([1, 3, 1000]),
        each=st.booleans(),
        data=st.data(),
    )
    @settings(
        max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
    )
    def test_any_model(
        self, sizes: list[int], dtype: torch.dtype, levels: int, each: bool, data: st.DataObject
    ) -> None:
        values, active = model(dtype, [(size,) for size in sizes], data.draw(st.integers(0, 99)))
        values = [(value * levels).round() / levels for value in values]
        counts = [int(on.sum()) for on in active]
        if each:
            k = torch.tensor([data.draw(st.integers(0, count)) for count in counts])
        else:
            k = torch.tensor(data.draw(st.integers(0, sum(counts))))
        self.check(values, active, k)

"""threshold and effective_weight of any backend: the reference bit for bit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from gemkern.kernels import reference
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

# Small enough for one program, exactly one, several with a rest; matrices, empty, a single number.
SHAPES = [(3,), (), (0, 5), (32, 32), (7, 5, 3, 3), (4, 4, 1, 1), (37, 9, 5, 2), (2, 1025)]
WRITTEN = [None, torch.float16]
FORMATS = (torch.preserve_format, torch.contiguous_format, torch.channels_last)


def layers(dtype: torch.dtype = torch.float32, seed: int = 0) -> tuple[list[Tensor], ...]:
    """Weights of `dtype`, scores and active of SHAPES, with numbers that are apt to go wrong."""
    generator = torch.Generator().manual_seed(seed)
    weights = [torch.randn(shape, generator=generator, dtype=dtype) for shape in SHAPES]
    scores = [torch.rand(shape, generator=generator) for shape in SHAPES]
    active = [torch.rand(shape, generator=generator) < 0.7 for shape in SHAPES]
    special = torch.tensor([0.5, torch.nan, -0.0, 0.0, 1.0])
    scores[4].view(-1)[:5] = special
    weights[4].view(-1)[:8] = torch.tensor([-1.0, torch.inf, -torch.inf, -0.0, 0.0, 1e-30, 1, 2])
    return weights, scores, active


def assert_same(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> None:
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.dtype == other.dtype
        assert torch.equal(mine, other)
        if mine.is_floating_point():
            assert torch.equal(mine.signbit(), other.signbit())


class Threshold:
    """The tests of a backend."""

    backend: Any

    @pytest.mark.parametrize("tau", [0.5, 0.0, torch.tensor(0.3), torch.tensor(0.3).double()])
    @pytest.mark.parametrize("scored", [True, False])
    def test_masks(self, tau: float | Tensor, scored: bool) -> None:
        _, scores, active = layers()
        given = scores if scored else None
        assert_same(
            self.backend.threshold(given, active, tau), reference.threshold(given, active, tau)
        )

    @pytest.mark.parametrize("memory_format", FORMATS)
    @pytest.mark.parametrize("dtype", [None, torch.float16, torch.float32, torch.float64])
    @pytest.mark.parametrize("given", [torch.float32, torch.float64, torch.float16])
    def test_effective_weights(
        self, given: torch.dtype, dtype: torch.dtype | None, memory_format: torch.memory_format
    ) -> None:
        weights, scores, active = layers(given)
        for chosen in (scores, None):
            ours = self.backend.effective_weight(weights, chosen, active, 0.5, dtype, memory_format)
            theirs = reference.effective_weight(weights, chosen, active, 0.5, dtype, memory_format)
            assert_same(ours, theirs)

    @pytest.mark.parametrize("memory_format", FORMATS)
    @pytest.mark.parametrize("dtype", WRITTEN)
    def test_channels_last_weights_keep_or_change_their_order(
        self,
        dtype: torch.dtype | None,
        memory_format: torch.memory_format,
    ) -> None:
        weights, scores, active = layers()
        weights = [
            weight.to(memory_format=torch.channels_last) if weight.dim() == 4 else weight
            for weight in weights
        ]
        ours = self.backend.effective_weight(weights, scores, active, 0.5, dtype, memory_format)
        theirs = reference.effective_weight(weights, scores, active, 0.5, dtype, memory_format)
        assert_same(ours, theirs)
        assert [one.stride() for one in ours] == [other.stride() for other in theirs]

    def test_layers_of_different_dtypes(self) -> None:
        weights, scores, active = layers()
        weights = [weights[0].half(), weights[1].double(), *weights[2:]]
        scores = [scores[0], scores[1].double(), *scores[2:]]
        assert_same(
            self.backend.effective_weight(weights, scores, active),
            reference.effective_weight(weights, scores, active),
        )
        assert_same(self.backend.threshold(scores, active), reference.threshold(scores, active))

    def test_operands_of_any_stride_and_offset(self) -> None:
        storage = torch.rand(40, 60, generator=torch.Generator().manual_seed(1))
        scores = [storage[3:33, 5:50], storage.T[::2], storage[1::3, 1::7], storage[7]]
        weights = [score.flip(0) - 0.5 for score in scores]
        active = [(score.T > 0.2).T if score.dim() == 2 else score > 0.2 for score in scores]
        before = storage.clone()
        assert_same(self.backend.threshold(scores, active), reference.threshold(scores, active))
        assert_same(
            self.backend.effective_weight(weights, scores, active),
            reference.effective_weight(weights, scores, active),
        )
        assert torch.equal(storage, before)

    @given(
        shapes=st.lists(
            st.lists(st.integers(0, 9), min_size=1, max_size=4), min_size=1, max_size=5
        ).map(lambda shapes: [tuple(shape) for shape in shapes]),
        seed=st.integers(0, 1000),
        tau=st.floats(0, 1, width=32),
        dtype=st.sampled_from(WRITTEN),
    )
    @settings(
        max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
    )
    def test_any_shapes(
        self, shapes: list[tuple[int, ...]], seed: int, tau: float, dtype: torch.dtype | None
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        scores = [torch.rand(shape, generator=generator) for shape in shapes]
        active = [torch.rand(shape, generator=generator) < 0.5 for shape in shapes]
        weights = [torch.randn(shape, generator=generator) for shape in shapes]
        assert_same(
            self.backend.threshold(scores, active, tau), reference.threshold(scores, active, tau)
        )
        assert_same(
            self.backend.effective_weight(weights, scores, active, tau, dtype),
            reference.effective_weight(weights, scores, active, tau, dtype),
        )

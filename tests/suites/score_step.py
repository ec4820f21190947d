"""score_step of any backend: bit for bit that of the reference, over many steps, in place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from gemkern.kernels import reference
from guards import Guards
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

SHAPES = ((7, 5), (0,), (3, 2, 3, 3), (), (1024,), (5, 431), (16, 8, 3, 3))
LR, L2, MOMENTUM = 0.1, 0.003, 0.9
BETA1, BETA2, EPS = 0.9, 0.999, 1e-8

either_step = pytest.mark.parametrize("kind", ["sgd", "nesterov", "adam"])


@dataclass
class Model:
    """Layers of scores, and what a step changes and reads."""

    scores: list[Tensor]
    active: list[Tensor]
    weights: list[Tensor]
    memories: tuple[list[Tensor], list[Tensor]]
    effective: list[Tensor]

    def step(
        self, backend: Any, kind: str, grads: list[Tensor], count: float | Tensor = 1,
        weighted: bool = True, written: bool = True,
        lr: float | Tensor = LR, l2: float | Tensor = L2,
    ) -> None:  # fmt: skip
        layers = (self.scores, self.active, grads)
        rest = (self.weights if weighted else None, self.effective if written else None, lr, l2)
        if kind == "adam":
            backend.score_step_adam(*layers, *self.memories, *rest, count, BETA1, BETA2, EPS)
        else:
            backend.score_step_sgd(*layers, self.memories[0], *rest, MOMENTUM, kind == "nesterov")

    def changed(self) -> list[Tensor]:
        return [*self.scores, *self.memories[0], *self.memories[1], *self.effective]


def make_model(
    shapes: Any = SHAPES,
    dtype: torch.dtype = torch.float32,
    out: torch.dtype = torch.float32,
    keep: Callable[[Tensor], Tensor] = Tensor.clone,
    seed: int = 0,
) -> Model:
    """Return the model of `seed`; `keep` puts each tensor that changes where it is to lie."""
    generator = torch.Generator().manual_seed(seed)

    def layers(draw: Callable[..., Tensor]) -> list[Tensor]:
        return [draw(shape, generator=generator, dtype=dtype) for shape in shapes]

    return Model(
        scores=[keep(p) for p in layers(torch.rand)],
        active=[on > 0.3 for on in layers(torch.rand)],
        weights=layers(torch.randn),
        memories=(
            [keep(torch.zeros(shape, dtype=dtype)) for shape in shapes],
            [keep(torch.zeros(shape, dtype=dtype)) for shape in shapes],
        ),
        effective=[keep(torch.zeros(shape, dtype=out)) for shape in shapes],
    )


def gradients(seed: int, shapes: Any = SHAPES, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [0.5 * torch.randn(shape, generator=generator).to(dtype) for shape in shapes]


def assert_same(ours: Model, theirs: Model) -> None:
    for mine, other in zip(ours.changed(), theirs.changed(), strict=True):
        assert torch.equal(mine, other)
        assert torch.equal(mine.signbit(), other.signbit())


class ScoreStep:
    """The tests of `backend`, a module, which writes effective weights of dtype `out`."""

    backend: Any
    out: torch.dtype

    def make_model(self, *layers: Any, **choices: Any) -> Model:
        return make_model(*layers, **{"out": self.out, **choices})

    @either_step
    @pytest.mark.parametrize("weighted", [True, False])
    @pytest.mark.parametrize("written", [True, False])
    def test_every_bit_over_many_steps(
        self, guards: Guards, kind: str, weighted: bool, written: bool
    ) -> None:
        ours, theirs = self.make_model(keep=guards.holding), self.make_model()
        for count in range(1, 6):
            for model, backend in ((ours, self.backend), (theirs, reference)):
                model.step(backend, kind, gradients(count), count, weighted, written)
        assert_same(ours, theirs)
        moved = self.make_model()
        assert not torch.equal(ours.scores[4], moved.scores[4])

    @pytest.mark.parametrize("count", [1, 10, 999, 123_456, 10_000_000])
    def test_late_steps_of_adam(self, count: int) -> None:
        ours, theirs = self.make_model(), self.make_model()
        ours.step(self.backend, "adam", gradients(0), float(count))
        theirs.step(reference, "adam", gradients(0), float(count))
        assert_same(ours, theirs)

    @either_step
    @pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.bfloat16])
    def test_gradients_of_any_dtype(self, kind: str, dtype: torch.dtype) -> None:
        ours, theirs = self.make_model(), self.make_model()
        grads = gradients(0, dtype=dtype)
        ours.step(self.backend, kind, grads)
        theirs.step(reference, kind, grads)
        assert_same(ours, theirs)

    @either_step
    def test_float64_scores(self, kind: str) -> None:
        ours, theirs = (self.make_model(dtype=torch.float64, out=torch.float64) for _ in range(2))
        grads = [grad.double() for grad in gradients(0)]
        ours.step(self.backend, kind, grads)
        theirs.step(reference, kind, grads)
        for mine, other in zip(ours.changed(), theirs.changed(), strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-15, atol=1e-15)

    @either_step
    def test_numbers_on_the_device(self, kind: str) -> None:
        ours, theirs = self.make_model(), self.make_model()
        numbers = {"lr": torch.tensor(LR), "l2": torch.tensor(L2, dtype=torch.float64)}
        count = torch.tensor(0.0)
        for step in range(1, 4):
            ours.step(self.backend, kind, gradients(step), count.add_(1), **numbers)
            theirs.step(reference, kind, gradients(step), step)
        assert_same(ours, theirs)

    @either_step
    def test_operands_that_lie_elsewhere_in_memory(self, kind: str) -> None:
        ours, theirs = self.make_model(), self.make_model()
        storage = torch.zeros(40, 70)
        ours.scores[0] = storage[3:38:5, 7:42:7].copy_(ours.scores[0])
        ours.scores[6] = ours.scores[6].to(memory_format=torch.channels_last)
        ours.effective[2] = ours.effective[2].to(memory_format=torch.channels_last)
        ours.active[0] = ours.active[0].T.contiguous().T
        grads = gradients(0)
        grads[5] = grads[5].T.contiguous().T
        ours.step(self.backend, kind, grads)
        theirs.step(reference, kind, grads)
        assert_same(ours, theirs)
        assert storage.count_nonzero() <= 35, "what lies between the scores is left alone"

    @either_step
    def test_nan_gradients_spoil_their_own_scores_alone(self, kind: str) -> None:
        ours, theirs = self.make_model(), self.make_model()
        grads = gradients(0)
        grads[4][::7] = torch.nan
        grads[4][1::7] = torch.inf
        ours.step(self.backend, kind, grads)
        theirs.step(reference, kind, grads)
        for mine, other in zip(ours.changed(), theirs.changed(), strict=True):
            torch.testing.assert_close(mine, other, rtol=0, atol=0, equal_nan=True)
        assert ours.scores[4].isnan().sum() == (ours.active[4] & grads[4].isnan()).sum() + (
            (ours.active[4] & grads[4].isinf()).sum() if kind == "adam" else 0
        )

    @given(
        shapes=st.lists(st.lists(st.integers(0, 9), max_size=4).map(tuple), min_size=1, max_size=4),
        kind=st.sampled_from(["sgd", "nesterov", "adam"]),
        seed=st.integers(0, 1000),
    )
    @settings(
        max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
    )
    def test_any_shapes(self, shapes: list[tuple[int, ...]], kind: str, seed: int) -> None:
        ours, theirs = self.make_model(shapes, seed=seed), self.make_model(shapes, seed=seed)
        grads = gradients(seed, shapes)
        ours.step(self.backend, kind, grads)
        theirs.step(reference, kind, grads)
        assert_same(ours, theirs)

    @either_step
    def test_scores_that_are_no_run_of_memory(self, kind: str) -> None:
        def strided(tensor: Tensor) -> Tensor:
            return torch.stack([tensor, tensor], -1)[..., 0]

        ours, theirs = self.make_model(keep=strided), self.make_model()
        for model, backend in ((ours, self.backend), (theirs, reference)):
            model.step(backend, kind, gradients(0), weighted=False, written=False)
        assert_same(ours, theirs)
        assert not torch.equal(ours.scores[0], self.make_model().scores[0])

"""Score steps: to the bit against numpy, and in substance against torch.optim."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
import torch
from gemkern.kernels.reference import effective_weight, score_step_adam, score_step_sgd
from numpy.typing import NDArray
from same_bits import bits, same_bits
from torch import Tensor

SHAPES = ((7, 5), (0,), (3, 2, 3, 3), (1,), (257,))
STEPS = 4
LR, L2, MOMENTUM = 0.1, 0.003, 0.9
BETA1, BETA2, EPS = 0.9, 0.999, 1e-8

both_dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
weighted_or_not = pytest.mark.parametrize("weighted", [False, True])
either_step = pytest.mark.parametrize("kind", ["sgd", "nesterov", "adam"])


@dataclass
class Model:
    """Layers of scores and what a step changes and reads; two memories, of which SGD uses one."""

    scores: list[Tensor]
    active: list[Tensor]
    weights: list[Tensor]
    memories: tuple[list[Tensor], list[Tensor]]
    generator: torch.Generator

    def grads(self, size: float = 1.0) -> list[Tensor]:
        return [
            size * torch.randn(p.shape, generator=self.generator, dtype=p.dtype)
            for p in self.scores
        ]

    def step(self, kind: str, grads: list[Tensor], count: float | Tensor = 1, weights=None,
             effective=None, lr: float | Tensor = LR, l2: float | Tensor = L2) -> None:  # fmt: skip
        layers = (self.scores, self.active, grads)
        if kind == "adam":
            score_step_adam(
                *layers, *self.memories, weights, effective, lr, l2, count, BETA1, BETA2, EPS
            )
        else:
            rest = (lr, l2, MOMENTUM, kind == "nesterov")
            score_step_sgd(*layers, self.memories[0], weights, effective, *rest)

    def changed(self) -> list[Tensor]:
        return [*self.scores, *self.memories[0], *self.memories[1]]


def make_model(dtype: torch.dtype = torch.float32, all_active: bool = False) -> Model:
    generator = torch.Generator().manual_seed(0)

    def layers(draw: Callable[..., Tensor]) -> list[Tensor]:
        return [draw(shape, generator=generator, dtype=dtype) for shape in SHAPES]

    active = [on > (0.0 if all_active else 0.3) for on in layers(torch.rand)]
    if all_active:
        active = [torch.ones_like(on) for on in active]
    return Model(
        scores=[torch.where(on, p, 0) for on, p in zip(active, layers(torch.rand), strict=True)],
        active=active,
        weights=layers(torch.randn),
        memories=([torch.zeros(s, dtype=dtype) for s in SHAPES],
                  [torch.zeros(s, dtype=dtype) for s in SHAPES]),
        generator=generator,
    )  # fmt: skip


class InNumpy:
    """One layer's step, written again for numpy: every ufunc rounds once."""

    def __init__(self, scores: Tensor, active: Tensor, weights: Tensor | None) -> None:
        self.p, self.on = scores.numpy().copy(), active.numpy()
        self.w = None if weights is None else weights.numpy()
        self.first, self.second = np.zeros_like(self.p), np.zeros_like(self.p)
        self.real = self.p.dtype.type

    def gradient(self, grad: NDArray) -> NDArray:
        straight_through = grad if self.w is None else grad * self.w
        return straight_through + self.real(2) * self.real(L2) * self.p

    def sgd(self, grad: NDArray, nesterov: bool) -> None:
        g, momentum = self.gradient(grad), self.real(MOMENTUM)
        self.first = momentum * self.first + g
        self.move(self.real(LR) * (g + momentum * self.first if nesterov else self.first))

    def adam(self, grad: NDArray, count: int) -> None:
        g, b1, b2 = self.gradient(grad), self.real(BETA1), self.real(BETA2)
        self.first = b1 * self.first + (self.real(1) - b1) * g
        self.second = b2 * self.second + g * g * (self.real(1) - b2)
        corrections = [self.real(1 - np.float64(b) ** np.float64(count)) for b in (b1, b2)]
        denominator = np.sqrt(self.second / corrections[1]) + self.real(EPS)
        self.move(self.real(LR) * (self.first / corrections[0]) / denominator)

    def move(self, by: NDArray) -> None:
        zero = self.real(0)
        self.p = np.where(self.on, np.minimum(np.maximum(self.p - by, zero), self.real(1)), zero)
        self.first = np.where(self.on, self.first, zero)
        self.second = np.where(self.on, self.second, zero)


@either_step
@weighted_or_not
def test_every_bit_is_that_of_numpy(kind: str, weighted: bool) -> None:
    model = make_model()
    weights = model.weights if weighted else None
    twins = [
        InNumpy(p, on, w if weighted else None)
        for p, on, w in zip(model.scores, model.active, model.weights, strict=True)
    ]
    for count in range(1, STEPS + 1):
        grads = model.grads(size=0.5)
        model.step(kind, grads, count, weights)
        for twin, grad in zip(twins, grads, strict=True):
            if kind == "adam":
                twin.adam(grad.numpy(), count)
            else:
                twin.sgd(grad.numpy(), nesterov=kind == "nesterov")
        for i, twin in enumerate(twins):
            assert same_bits(model.scores[i], torch.from_numpy(twin.p))
            assert same_bits(model.memories[0][i], torch.from_numpy(twin.first))
            assert same_bits(model.memories[1][i], torch.from_numpy(twin.second))


@pytest.mark.parametrize("count", [1, 10, 1000, 123_456, 10_000_000])
def test_late_steps_of_adam_are_corrected_as_numpy_does(count: int) -> None:
    model = make_model()
    twin = InNumpy(model.scores[0], model.active[0], None)
    grads = model.grads(size=0.01)
    model.step("adam", grads, count)
    twin.adam(grads[0].numpy(), count)
    assert same_bits(model.scores[0], torch.from_numpy(twin.p))


@either_step
def test_where_nothing_is_clamped_or_frozen_it_is_the_optimiser_of_pytorch(kind: str) -> None:
    model = make_model(torch.float64, all_active=True)
    for p in model.scores:
        p.mul_(0.2).add_(0.4)
    twins = [torch.nn.Parameter(p.clone()) for p in model.scores]
    lr = 0.01
    optimizer = {
        "sgd": lambda: torch.optim.SGD(twins, lr, MOMENTUM, weight_decay=2 * L2),
        "nesterov": lambda: torch.optim.SGD(twins, lr, MOMENTUM, 0, 2 * L2, nesterov=True),
        "adam": lambda: torch.optim.Adam(twins, lr, (BETA1, BETA2), EPS, weight_decay=2 * L2),
    }[kind]()
    for count in range(1, STEPS + 1):
        grads = model.grads()
        for twin, grad in zip(twins, grads, strict=True):
            twin.grad = grad.clone()
        model.step(kind, grads, count, lr=lr)
        optimizer.step()
    for p, twin in zip(model.scores, twins, strict=True):
        torch.testing.assert_close(p, twin.detach(), rtol=1e-12, atol=1e-12)


@either_step
def test_scores_stay_between_zero_and_one(kind: str) -> None:
    model = make_model(all_active=True)
    model.step(kind, model.grads(size=100), lr=10.0)
    scores = torch.cat([p.flatten() for p in model.scores])
    assert set(scores.tolist()) == {0.0, 1.0}
    assert not torch.signbit(scores).any()


@either_step
def test_frozen_scores_and_their_memories_are_zero_whatever_they_were(kind: str) -> None:
    model = make_model()
    model.step(kind, model.grads())
    for p, on in zip(model.scores, model.active, strict=True):
        p.masked_fill_(~on, float("nan"))
    grads = model.grads()
    for grad, on in zip(grads, model.active, strict=True):
        on.flatten()[1::2] = False
        grad.masked_fill_(~on, float("-inf"))
    model.step(kind, grads, 2)
    for tensor, on in zip(model.changed(), model.active * 3, strict=True):
        assert not bits(tensor)[~on].any()
        assert tensor.isfinite().all()


@either_step
@both_dtypes
def test_the_straight_through_product_may_be_taken_here_or_before(kind, dtype) -> None:
    inside, before = make_model(dtype), make_model(dtype)
    grads = inside.grads()
    inside.step(kind, grads, weights=inside.weights)
    before.step(kind, [g * w for g, w in zip(grads, before.weights, strict=True)])
    assert all(map(same_bits, inside.changed(), before.changed()))


@either_step
def test_gradients_and_weights_in_low_precision_are_widened_first(kind: str) -> None:
    low, wide = make_model(), make_model()
    grads = [g.bfloat16() for g in low.grads()]
    weights = [w.bfloat16() for w in low.weights]
    low.step(kind, grads, weights=weights)
    wide.step(kind, [g.float() for g in grads], weights=[w.float() for w in weights])
    assert all(map(same_bits, low.changed(), wide.changed()))


@either_step
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_next_effective_weights_are_those_of_the_new_scores(kind, dtype) -> None:
    model, alone = make_model(), make_model()
    effective = [torch.full(shape, float("nan"), dtype=dtype) for shape in SHAPES]
    effective[2] = effective[2].contiguous(memory_format=torch.channels_last)
    grads = model.grads()
    model.step(kind, grads, weights=model.weights, effective=effective)
    alone.step(kind, grads, weights=alone.weights)
    expected = effective_weight(model.weights, model.scores, model.active, dtype=dtype)
    assert all(map(same_bits, effective, expected))
    assert effective[2].is_contiguous(memory_format=torch.channels_last)
    assert all(map(same_bits, model.changed(), alone.changed()))


@either_step
@both_dtypes
def test_numbers_on_the_device_give_the_bits_of_plain_ones(kind: str, dtype: torch.dtype) -> None:
    models = [make_model(dtype) for _ in range(3)]
    givers: list[Callable[[float], float | Tensor]] = [
        float,
        lambda number: torch.tensor(number, dtype=dtype),
        lambda number: torch.tensor(number, dtype=torch.float64),
    ]
    for model, give in zip(models, givers, strict=True):
        for count in range(1, STEPS + 1):
            model.step(kind, model.grads(), give(count), lr=give(LR), l2=give(L2))
    for one, other in pairwise(models):
        assert all(map(same_bits, one.changed(), other.changed()))


@either_step
def test_strided_layers_step_in_place(kind: str) -> None:
    model, twin = make_model(), make_model()
    grads = model.grads()
    storage = model.scores[0].t().contiguous()
    model.scores[0] = storage.t()
    model.step(kind, grads, weights=model.weights)
    twin.step(kind, grads, weights=twin.weights)
    assert same_bits(storage.t(), twin.scores[0])
    assert all(map(same_bits, model.changed(), twin.changed()))

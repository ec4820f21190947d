"""Time the operators beside what they replace, on whatever device is there.

Each measurement is preceded by a comparison with float64 reference arithmetic; a wrong result is
not timed. Baselines are the same work in plain PyTorch, in the same dtype and layout.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor
from torch.nn import functional as F

from benchmarks.score_steps import FUSED, LAYERS, PLAIN, SCORES, score_steps
from gemkern import ops

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
BATCH = 128
# The three stages of ResNet-20 and a late layer of VGG-16: channels, image size.
CONVOLUTIONS = [(16, 32), (32, 16), (64, 8), (512, 4)]
DENSITY = 0.0144


def timed(benchmark: BenchmarkFixture, work: Callable[[], object]) -> None:
    """Time `work`, the device's queue drained at the end of each round."""

    def drained() -> None:
        work()
        if DEVICE == "cuda":
            torch.cuda.synchronize()

    benchmark.pedantic(drained, rounds=10, warmup_rounds=2)


def masked_layer(channels: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return weight, scores and active of a 3x3 convolution at the benchmark's density."""
    generator = torch.Generator().manual_seed(0)
    shape = (channels, channels, 3, 3)
    weight = torch.randn(shape, generator=generator) / (3 * channels**0.5)
    scores = torch.rand(shape, generator=generator)
    active = torch.rand(shape, generator=generator) < 2 * DENSITY
    return weight.to(DEVICE), scores.to(DEVICE), active.to(DEVICE)


def images(channels: int, size: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(BATCH, channels, size, size, generator=generator).to(DEVICE)


@pytest.mark.parametrize(("channels", "size"), CONVOLUTIONS)
@pytest.mark.parametrize("which", ["dense", "masked"])
def bench_convolution_step(
    benchmark: BenchmarkFixture, which: str, channels: int, size: int
) -> None:
    """Forward and both gradients of one convolution: plain, and masked with score gradients."""
    benchmark.group = f"conv2d 3x3 {channels}x{size}x{size}, batch {BATCH}, float32"
    weight, scores, active = masked_layer(channels)
    x = images(channels, size).requires_grad_()
    exact = F.conv2d(
        x.detach().double(),
        torch.where(active & (scores >= 0.5), weight, 0).double(),
        padding=1,
    )
    torch.testing.assert_close(
        ops.masked_conv2d(x, weight, scores, active, padding=1).double(), exact, rtol=0, atol=1e-4
    )
    scores.requires_grad_()
    dense_weight = weight.clone().requires_grad_()

    def dense() -> None:
        F.conv2d(x, dense_weight, padding=1).sum().backward()

    def masked() -> None:
        ops.masked_conv2d(x, weight, scores, active, padding=1).sum().backward()

    timed(benchmark, {"dense": dense, "masked": masked}[which])


@pytest.mark.parametrize("count", [268_336, 14_715_584])
@pytest.mark.parametrize("which", ["sort", "select_kth"])
def bench_freeze(benchmark: BenchmarkFixture, which: str, count: int) -> None:
    """The k-th smallest of all active scores: a full sort, and `select_kth`."""
    benchmark.group = f"k-th smallest of {count} scores"
    scores = torch.rand(count, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    active = torch.ones_like(scores, dtype=torch.bool)
    k = torch.tensor(count // 8, device=DEVICE)
    kth, _ = ops.select_kth([scores], [active], k)
    assert torch.equal(kth, scores.sort().values[count // 8 - 1])
    work = {
        "sort": lambda: scores.sort().values[count // 8 - 1],
        "select_kth": lambda: ops.select_kth([scores], [active], k),
    }
    timed(benchmark, work[which])


@pytest.mark.parametrize("which", [PLAIN, FUSED])
def bench_score_step(benchmark: BenchmarkFixture, which: str) -> None:
    """One step over the scores of ResNet-20: in plain PyTorch, and `score_step_sgd`."""
    benchmark.group = f"score step, {LAYERS} layers, {SCORES:,} scores, float32"
    timed(benchmark, score_steps(DEVICE)[which])

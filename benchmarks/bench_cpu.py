"""Time sparse training on the CPU beside dense training: whole steps, and single convolutions.

A sparse result is compared with PyTorch's first, and PyTorch's in the other layout; a wrong one is
not timed. `python -m benchmarks.cpu`
measures more of them, interleaved, and keeps the result.
"""

from __future__ import annotations

from functools import cache

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch.nn import functional as F

from benchmarks import cpu_layers, cpu_networks
from benchmarks.cpu_layers import PASSES, Layer
from benchmarks.cpu_networks import DENSITY, LAYOUTS, SPARSE, Case, Trainer
from benchmarks.cpu_steps import NETWORKS

# An early layer and a late one.
LAYERS = (Layer("ResNet-20", 16, 16, 32), Layer("VGG-16", 256, 256, 8))

# Relative, of a dense result in another layout.
CLOSE = 1e-3

check = cache(cpu_networks.check)
calls = cache(cpu_layers.calls)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("contender", [SPARSE, *LAYOUTS])
def bench_training_step(benchmark: BenchmarkFixture, network: str, contender: str) -> None:
    """Forward, loss, backward and optimiser of a network with 1.44 % of its weights, or all."""
    case = Case(network)
    check(case)
    benchmark.group = f"training step of {network}, batch {case.batch}, float32"
    x, labels = cpu_networks.batch_of(case)
    step = Trainer(case, contender).on(x, labels)
    if contender != SPARSE:
        loss = F.cross_entropy(cpu_networks.network(case)(x), labels)
        assert step() == pytest.approx(loss.item(), rel=CLOSE), f"the {contender} loss is wrong"
    benchmark.pedantic(step, rounds=5, warmup_rounds=2)


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: f"{layer.inputs}x{layer.size}")
@pytest.mark.parametrize("which", PASSES)
@pytest.mark.parametrize("contender", [SPARSE, *cpu_layers.LAYOUTS])
def bench_sparse_convolution(
    benchmark: BenchmarkFixture, layer: Layer, which: str, contender: str
) -> None:
    """One pass of one 3x3 convolution with 1.44 % of its weights, or all."""
    benchmark.group = f"{which} of {layer.inputs} to {layer.outputs} at {layer.size}x{layer.size}"
    contenders = calls(layer, DENSITY)[which]
    if contender != SPARSE:
        dense = contenders["contiguous"]()
        atol = CLOSE * dense.abs().max().item()
        torch.testing.assert_close(contenders[contender](), dense, rtol=CLOSE, atol=atol)
    benchmark.pedantic(contenders[contender], rounds=10, warmup_rounds=2)

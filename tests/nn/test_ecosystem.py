"""Converted models live among PyTorch's own tools."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks_apart import on_every_rank
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.func import functional_call
from torch.nn.parallel import DistributedDataParallel

from gemkern.errors import GemkernError
from gemkern.nn import convert
from gemkern.optim import MaskedSGD, ScoreSGD

X = torch.randn(4, 2, 8, 8, generator=torch.Generator().manual_seed(0))


def make_model(scores: bool) -> nn.Sequential:
    """Return a converted model with an asymmetrically padded convolution, partly frozen."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 4, (2, 3), padding="same"),
        nn.BatchNorm2d(4),
        nn.Conv2d(4, 4, 3, 2, 1, groups=2, padding_mode="circular"),
        nn.Flatten(),
        nn.Linear(64, 3),
    )
    convert(model, scores=scores)
    for layer in (model[0], model[2], model[4]):
        layer.active.copy_(torch.rand(layer.active.shape) < 0.8)
    return model


def optimizer_of(model: nn.Module, scores: bool) -> Any:
    return ScoreSGD(model) if scores else MaskedSGD(model, 0.01, 0.9)


def assert_close_states(ours: nn.Module, theirs: nn.Module) -> None:
    expected = theirs.state_dict()
    for key, value in ours.state_dict().items():
        torch.testing.assert_close(value, expected[key], msg=lambda text, key=key: f"{key}: {text}")


@pytest.mark.parametrize("scores", [True, False])
def test_functional_call(scores: bool) -> None:
    model = make_model(scores).eval()
    other = copy.deepcopy(model)
    for layer in (other[0], other[2], other[4]):
        layer.active.logical_not_()
        with torch.no_grad():
            layer.weight.neg_()
    state = dict(other.named_parameters()) | dict(other.named_buffers())
    before = model(X)
    assert torch.equal(functional_call(model, state, (X,)), other(X))
    assert torch.equal(model(X), before)
    assert not torch.equal(other(X), before)


@pytest.mark.parametrize("scores", [True, False])
def test_compiled_steps_equal_eager_ones_without_recompiling(scores: bool) -> None:
    torch._dynamo.reset()
    model = make_model(scores)
    twin = copy.deepcopy(model)
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(model, fullgraph=True, backend=counter)
    steps = [(model, compiled, optimizer_of(model, scores))]
    steps.append((twin, twin, optimizer_of(twin, scores)))
    for step in range(3):
        for owner, call, optimizer in steps:
            optimizer.zero_grad()
            call(X + step).square().mean().backward()
            optimizer.step()
            owner[4].active[0, step] = False
    assert counter.frame_count == 1
    assert_close_states(model, twin)
    start = make_model(scores)
    learned = "scores" if scores else "weight"
    assert not torch.equal(getattr(model[4], learned), getattr(start[4], learned))


@pytest.mark.parametrize("scores", [True, False])
def test_export(scores: bool) -> None:
    model = make_model(scores).eval()
    batch = torch.export.Dim("batch", min=2)
    program = torch.export.export(model, (X,), dynamic_shapes=({0: batch},))
    assert set(program.state_dict) == set(model.state_dict())
    for x in (X, X[:3]):
        torch.testing.assert_close(program.module()(x), model(x))


@pytest.mark.parametrize("scores", [True, False])
def test_autocast(scores: bool) -> None:
    model = make_model(scores)
    plain = nn.Sequential(*[copy.deepcopy(layer) for layer in model])
    for index, make in ((0, "to_dense"), (2, "to_dense"), (4, "to_dense")):
        plain[index] = getattr(model[index], make)()
    with torch.autocast("cpu", torch.bfloat16):
        y, expected = model(X), plain(X)
    assert y.dtype == expected.dtype == torch.bfloat16
    torch.testing.assert_close(y, expected)
    y.float().square().sum().backward()
    learned = model[4].scores if scores else model[4].weight
    assert learned.grad.dtype == torch.float32
    assert learned.grad.any()


@pytest.mark.parametrize("scores", [True, False])
def test_channels_last(scores: bool) -> None:
    model = make_model(scores)
    twin = copy.deepcopy(model).to(memory_format=torch.channels_last)
    x = X.to(memory_format=torch.channels_last)
    assert twin[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(twin[0].active, model[0].active)
    for each, data in ((model, X), (twin, x)):
        optimizer = optimizer_of(each, scores)
        for _ in range(3):
            optimizer.zero_grad()
            each(data).square().mean().backward()
            optimizer.step()
    assert_close_states(twin, model)


@pytest.mark.parametrize("index", [2, 4])
def test_a_second_derivative_of_scores_is_refused(index: int) -> None:
    layer = make_model(scores=True)[index]
    y = layer(torch.randn((2, 4, 6, 6) if index == 2 else (2, 64)))
    (grad,) = torch.autograd.grad(y.square().sum(), layer.scores, create_graph=True)
    with pytest.raises(GemkernError, match="a masked layer is differentiable once"):
        grad.sum().backward()


@pytest.mark.parametrize("index", [2, 4])
def test_weights_have_a_second_derivative(index: int) -> None:
    layer = make_model(scores=False)[index].double()
    layer.active.view(-1)[::3] = False
    x = torch.randn((2, 4, 6, 6) if index == 2 else (2, 64), dtype=torch.float64)

    def output(weight: Tensor) -> Tensor:
        return functional_call(layer, {"weight": weight}, x)

    weight = layer.weight.detach().requires_grad_()
    assert torch.autograd.gradgradcheck(output, weight, fast_mode=True)


def learn_on_one_rank(rank: int) -> dict[str, Tensor]:
    model = make_model(scores=True)
    if rank == 1:
        for layer in (model[0], model[4]):
            layer.reset_scores()
            layer.active.fill_(True)
    parallel = DistributedDataParallel(model)
    optimizer = ScoreSGD(model, lr=0.5, l2=0.01)
    for step in range(3):
        optimizer.zero_grad()
        x = torch.randn(4, 2, 8, 8, generator=torch.Generator().manual_seed(10 * step + rank))
        parallel(x).square().mean().backward()
        optimizer.step()
    return model.state_dict()


def test_two_ranks_learn_the_same_scores(tmp_path: Path) -> None:
    first, second = on_every_rank(learn_on_one_rank, tmp_path)
    start = make_model(scores=True).state_dict()
    for key in (key for key in first if key.endswith(("scores", "active"))):
        assert torch.equal(first[key], second[key]), key
        assert torch.equal(first[key], start[key]) is key.endswith("active"), key

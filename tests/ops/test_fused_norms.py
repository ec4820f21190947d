"""Convolutions that normalise and measure: PyTorch's results and gradients, refusals, one pass."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from gemkern import GemkernError, ops

BACKENDS = pytest.mark.parametrize("backend", ["reference", "cpu"])
generator = torch.Generator().manual_seed(0)
SIZE = (6, 4, 9, 8)


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def operands() -> dict[str, Tensor]:
    mask = torch.rand(5, 4, 3, 3, generator=generator) < 0.3
    return {
        "mask": mask,
        "x": normal(*SIZE),
        "residual": normal(*SIZE),
        "mean": normal(4),
        "var": normal(4).abs() + 0.5,
        "weight": normal(4),
        "shift": normal(4),
        "values": normal(int(mask.sum())),
        "bias": normal(5),
        "added": normal(6, 5, 9, 8),
    }


def per_channel(values: Tensor) -> Tensor:
    return values[None, :, None, None]


def dense(of: dict[str, Tensor]) -> list[Tensor]:
    """Return y, z, mean, variance and x, by PyTorch."""
    scale = (of["var"] + 0.1).rsqrt() * of["weight"]
    z = (of["x"] - per_channel(of["mean"])) * per_channel(scale) + per_channel(of["shift"])
    z = F.relu(z + of["residual"])
    weight = of["x"].new_zeros(of["mask"].shape).masked_scatter(of["mask"], of["values"])
    y = F.conv2d(z, weight, of["bias"], padding=1) + of["added"]
    return [y, z, y.mean((0, 2, 3)), y.var((0, 2, 3), unbiased=False), of["x"] * 1]


def ours(of: dict[str, Tensor], backend: str) -> list[Tensor | None]:
    names = ("mean", "var", "weight", "shift")
    norm = ops.Norm(*(of[name] for name in names), 0.1, of["residual"], True)
    found = ops.norm_sparse_conv2d(
        of["x"], of["values"], ops.pattern(of["mask"]), of["bias"], padding=1, norm=norm,
        added=of["added"], keep=True, moments=True, skip=True, backend=backend,
    )  # fmt: skip
    assert ops.is_batch_last(found.y)
    return list(found)


def gradients(outputs: list[Any], of: dict[str, Tensor], which: list[int]) -> list[Tensor]:
    """Return the gradients of a fixed function of some of the outputs."""
    chosen = [outputs[place] for place in which]
    weights = [torch.linspace(-1, 2, one.numel()).to(one).view(one.shape) for one in chosen]
    loss = sum((one * weight).sum() for one, weight in zip(chosen, weights, strict=True))
    leaves = [leaf for leaf in of.values() if leaf.requires_grad]
    found = torch.autograd.grad(loss, leaves, allow_unused=True)
    return [
        torch.zeros_like(leaf) if g is None else g for g, leaf in zip(found, leaves, strict=True)
    ]


@BACKENDS
@pytest.mark.parametrize("which", [[0], [0, 1], [0, 2, 3], [0, 1, 2, 3, 4], [1, 4], [2], [3]])
def test_outputs_and_gradients_are_pytorchs(backend: str, which: list[int]) -> None:
    wide = operands()
    single = {name: one if one.dtype == torch.bool else one.float() for name, one in wide.items()}
    for of in (wide, single):
        for name, one in of.items():
            one.requires_grad_(name != "mask")
    expected, found = dense(wide), ours(single, backend)
    for one, true in zip(found, expected, strict=True):
        torch.testing.assert_close(one.double(), true, rtol=1e-4, atol=1e-4)
    theirs = gradients(expected, wide, which)
    for one, true in zip(gradients(found, single, which), theirs, strict=True):
        scale = float(true.abs().max())
        torch.testing.assert_close(one.double(), true, rtol=1e-4, atol=1e-4 * scale + 1e-6)


@BACKENDS
def test_a_norm_alone_is_pytorchs(backend: str) -> None:
    x, weight, bias = normal(*SIZE).requires_grad_(), normal(4), normal(4)
    mean, var = normal(4), normal(4).abs() + 0.5
    y = F.relu(F.batch_norm(x, mean, var, weight, bias, eps=0.1))
    grad_y = normal(*SIZE)
    single = x.detach().float().requires_grad_()
    statistics = [one.float() for one in (mean, var, weight, bias)]
    found = ops.normalise(single, ops.Norm(*statistics, 0.1), backend=backend)
    assert ops.is_batch_last(found)
    torch.testing.assert_close(found.double(), y, rtol=1e-4, atol=1e-4)
    (theirs,) = torch.autograd.grad(y, x, grad_y)
    (grad,) = torch.autograd.grad(found, single, grad_y.float())
    torch.testing.assert_close(grad.double(), theirs, rtol=1e-4, atol=1e-4)


def test_gradients_pass_gradcheck() -> None:
    mask = torch.ones(2, 2, 2, 2, dtype=torch.bool)
    mask[0, 1] = False
    where = ops.pattern(mask)
    x, residual, added = normal(3, 2, 3, 3), normal(3, 2, 3, 3), normal(3, 2, 2, 2)
    leaves = [x, residual, normal(2), normal(2).abs() + 1, normal(2), normal(2)]
    leaves += [normal(len(where.positions)), normal(2), added]

    def run(x, residual, mean, var, weight, shift, values, bias, added):
        norm = ops.Norm(mean, var, weight, shift, 0.1, residual)
        return tuple(
            ops.norm_sparse_conv2d(
                x, values, where, bias, norm=norm, added=added, keep=True, moments=True, skip=True
            )
        )

    assert torch.autograd.gradcheck(run, [leaf.requires_grad_() for leaf in leaves])


def test_without_gradients_nothing_is_kept_that_nobody_asked_for() -> None:
    of = operands()
    with torch.no_grad():
        found = ops.norm_sparse_conv2d(of["x"], of["values"], ops.pattern(of["mask"]), skip=True)
    assert found.z is found.mean is found.var is None
    assert found.skip is of["x"]


def test_a_second_derivative_is_refused() -> None:
    of = {name: one.requires_grad_(name != "mask") for name, one in operands().items()}
    y = ours(of, "reference")[0]
    (grad,) = torch.autograd.grad(y.sum(), of["x"], create_graph=True)
    with pytest.raises(GemkernError, match="differentiable once"):
        grad.sum().backward()


REFUSALS = {
    r"mean of the norm has shape \(3,\); give \(4,\)": {"mean": torch.zeros(3)},
    r"bias of the norm has shape \(5,\); give \(4,\)": {"bias": torch.zeros(5)},
    r"the residual is torch.float32 \(6, 4, 9, 7\) and x": {"residual": torch.zeros(6, 4, 9, 7)},
}


@pytest.mark.parametrize("message", REFUSALS)
def test_a_norm_that_does_not_fit_is_refused(message: str) -> None:
    x, mask = torch.zeros(SIZE), torch.ones(5, 4, 3, 3, dtype=torch.bool)
    norm = ops.Norm(torch.zeros(4), torch.ones(4))._replace(**REFUSALS[message])
    with pytest.raises(GemkernError, match=message):
        ops.normalise(x, norm)
    with pytest.raises(GemkernError, match=message):
        ops.norm_sparse_conv2d(x, torch.zeros(180), ops.pattern(mask), norm=norm)
    with pytest.raises(GemkernError, match="what is added is"):
        ops.norm_sparse_conv2d(
            x, torch.zeros(180), ops.pattern(mask), added=torch.zeros(6, 5, 9, 8)
        )


class _Listening(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.heard: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.heard.add(str(func))
        return func(*args, **kwargs or {})


@pytest.mark.parametrize("grad", [True, False])
def test_a_mode_and_a_profiler_see_the_operator(grad: bool) -> None:
    of = operands()
    given = of["x"], of["values"].requires_grad_(grad), ops.pattern(of["mask"])
    with _Listening() as mode:
        y = ops.norm_sparse_conv2d(*given).y
        if grad:
            y.sum().backward()
    with torch.profiler.profile() as profile:
        y = ops.norm_sparse_conv2d(*given).y
        if grad:
            y.sum().backward()
    called = {event.key for event in profile.key_averages()}
    for name in ("norm_sparse_conv2d", "norm_sparse_conv2d_backward")[: 1 + grad]:
        assert f"gemkern.{name}.default" in mode.heard
        assert f"gemkern::{name}" in called

"""What would let a kernel read or write where nothing is: an error before any kernel runs."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import gemkern as gk
from gemkern import ops
from gemkern.errors import GemkernError
from gemkern.ops import Norm, Pattern, patterns

ACTIVE = torch.rand(4, 3, 3, 3, generator=torch.Generator().manual_seed(0)) < 0.5
LINEAR = ACTIVE.flatten(1)


def changed(name: str, change: Callable[[Tensor], Tensor]) -> Callable[[Pattern], Pattern]:
    return lambda found: found._replace(**{name: change(getattr(found, name))})


def first(value: int) -> Callable[[Tensor], Tensor]:
    return lambda tensor: torch.cat((tensor.new_tensor([value]), tensor[1:]))


TENSORS = [name for name in Pattern._fields if name != "shape"]
LIES = {
    **{
        f"{name} {value}": changed(name, first(value))
        for name in TENSORS
        for value in (-1, 2**40, -(2**62))
    },
    **{f"{name} short": changed(name, lambda tensor: tensor[:-1]) for name in TENSORS},
    **{f"{name} of int32": changed(name, Tensor.int) for name in TENSORS},
    **{f"{name} backwards": changed(name, lambda tensor: tensor.flip(0)) for name in TENSORS},
    "shape": lambda found: found._replace(shape=(4, 3, 3, 5)),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_pattern_that_lies(lie: str) -> None:
    values = torch.ones(len(ops.pattern(ACTIVE).positions))
    wrong = LIES[lie](ops.pattern(ACTIVE))
    with pytest.raises(GemkernError, match=r"sparse_conv2d: .*(pattern|values)"):
        ops.sparse_conv2d(torch.ones(2, 3, 8, 8), values, wrong, padding=1, backend="reference")


def test_a_pattern_that_is_overwritten_is_seen() -> None:
    found = ops.pattern(LINEAR)
    x, values = torch.ones(2, 27), torch.ones(len(found.positions))
    before = ops.sparse_linear(x, values, found, backend="reference")
    found.positions.fill_(2**40)
    with pytest.raises(GemkernError, match="sparse_linear: the pattern is not that of a mask"):
        ops.sparse_linear(x, values, found, backend="reference")
    found.positions.copy_(ops.pattern(LINEAR).positions)
    assert torch.equal(ops.sparse_linear(x, values, found, backend="reference"), before)


def test_a_pattern_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    found = ops.pattern(LINEAR)
    x, values = torch.ones(2, 27), torch.ones(len(found.positions))
    looks = []
    whole = patterns._is_whole
    monkeypatch.setattr(patterns, "_is_whole", lambda *all: looks.append(0) or whole(*all))
    for _ in range(3):
        ops.sparse_linear(x, values, Pattern(*found), backend="reference")
    assert len(looks) == 1


def test_a_layer_whose_buffers_are_made_of_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEMKERN_BACKEND", "reference")
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1))
    gk.convert(model)
    for layer in (model[0], model[2]):
        layer.active.copy_(torch.rand(layer.active.shape) < 0.1)
    gk.accelerate(model)
    compressed = [layer for layer in model if getattr(layer, "is_compressed", False)]
    assert compressed
    for layer in compressed:
        layer.pattern().positions.fill_(2**40)
    with pytest.raises(GemkernError, match="pattern is not that of a mask"):
        model(torch.ones(2, 3, 8, 8)).sum().backward()


@pytest.mark.parametrize("name", ["stride", "padding", "dilation"])
@pytest.mark.parametrize("value", [2**31, 2**63, 10**400])
def test_steps_that_no_kernel_counts(name: str, value: int) -> None:
    found = ops.pattern(ACTIVE)
    values = torch.ones(len(found.positions))
    with pytest.raises(GemkernError, match=rf"{name} is .*at most 32768"):
        ops.sparse_conv2d(torch.ones(2, 3, 8, 8), values, found, **{name: value})


@pytest.mark.parametrize("name", ["mean", "var", "weight", "bias", "residual"])
def test_a_norm_of_another_device(name: str) -> None:
    x = torch.ones(2, 3, 8, 8)
    fields = {one: torch.ones(3) for one in ("mean", "var", "weight", "bias")}
    fields[name] = torch.ones_like(x if name == "residual" else torch.ones(3), device="meta")
    with pytest.raises(GemkernError, match=rf"{name}.* is on meta and x on cpu; move one"):
        ops.normalise(x, Norm(**fields))

"""What would let a kernel read or write where nothing is: an error before any kernel runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

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
    "outputs beyond memory": lambda found: found._replace(shape=(2**40, 0, 3, 3)),
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


BYTES = (torch.bool, torch.uint8, torch.int64, torch.complex64, torch.float8_e4m3fn)


@pytest.mark.parametrize("dtype", BYTES)
@pytest.mark.parametrize("name", ["mean", "var", "weight", "bias"])
def test_a_norm_of_other_numbers_than_floats(name: str, dtype: torch.dtype) -> None:
    fields = {one: torch.ones(3) for one in ("mean", "var", "weight", "bias")}
    fields[name] = fields[name].to(dtype)
    with pytest.raises(GemkernError, match=rf"{name} of the norm is {dtype}; give a float dtype"):
        ops.normalise(torch.ones(2, 3, 8, 8), Norm(**fields))


@pytest.mark.parametrize("dtype", BYTES)
@pytest.mark.parametrize("name", ["running_mean", "running_var", "weight"])
def test_statistics_that_would_be_written_beyond_their_end(name: str, dtype: torch.dtype) -> None:
    fields = {one: torch.ones(3) for one in ("running_mean", "running_var", "weight")}
    fields[name] = fields[name].to(dtype)
    with pytest.raises(GemkernError, match=rf"{name} is {dtype}; give a float dtype"):
        ops.batch_norm_relu(torch.ones(2, 3, 8, 8), **fields)


@pytest.mark.parametrize("dtype", [*BYTES, torch.float64])
@pytest.mark.parametrize("operator", [ops.sparse_conv2d, ops.norm_sparse_conv2d])
def test_a_bias_of_other_numbers_than_the_values(operator: Any, dtype: torch.dtype) -> None:
    found = ops.pattern(ACTIVE)
    values, bias = torch.ones(len(found.positions)), torch.ones(4).to(dtype)
    with pytest.raises(GemkernError, match=rf"bias is {dtype} and the values torch.float32"):
        operator(torch.ones(2, 3, 8, 8), values, found, bias)


@pytest.mark.parametrize("dtype", BYTES)
def test_images_that_are_no_floats(dtype: torch.dtype) -> None:
    x = torch.ones(2, 3, 8, 8).to(dtype)
    for call in (
        lambda: ops.max_pool2d(x, 2),
        lambda: ops.average_pool2d(x, 2),
        lambda: ops.padded_shortcut(x, 2, 1, 1),
    ):
        with pytest.raises(GemkernError, match=rf"x is {dtype}; give a float dtype"):
            call()


@pytest.mark.parametrize(
    "numbers", [(2**62, 1, 2**61), ((2,), 1, 0), ((), None, 0), (2, (1, 1, 1), 0)]
)
def test_windows_that_nobody_could_walk(numbers: tuple[Any, ...]) -> None:
    for operator in (ops.max_pool2d, ops.average_pool2d):
        with pytest.raises(GemkernError, match="do not fit; give a kernel of at least 1"):
            operator(torch.ones(2, 3, 8, 8), *numbers)


@pytest.mark.parametrize("numbers", [(2**63, 0, 0), (1, 2**62, 0), (1, 0, 2**31), ((1,), 0, 0)])
def test_a_shortcut_that_nobody_could_walk(numbers: tuple[Any, ...]) -> None:
    with pytest.raises(GemkernError, match="does not fit; give an int or a pair"):
        ops.padded_shortcut(torch.ones(2, 3, 8, 8), *numbers)


@pytest.mark.parametrize("shape", [(-1, -8), (2**63, 0), (10**30,), (8, -1)])
def test_a_mask_of_a_shape_that_cannot_be(shape: tuple[int, ...]) -> None:
    packed = torch.zeros(1 if shape == (-1, -8) else 0, dtype=torch.uint8)
    with pytest.raises(GemkernError, match="unpack_mask: there is no mask of the shape"):
        ops.unpack_mask(packed, shape)


def test_what_changes_in_place_has_an_entry_for_each_number() -> None:
    scores, active = torch.ones(1, 4).expand(3, 4), torch.ones(3, 4, dtype=torch.bool)
    grads, buffers = torch.ones(3, 4), torch.ones(3, 4)
    share = "changes in place, and its entries share their memory"
    with pytest.raises(GemkernError, match=f"score_step_sgd, layer 0: scores {share}"):
        ops.score_step_sgd([scores], [active], [grads], [buffers], lr=0.1)
    kth, ties = ops.select_kth([grads], [active], torch.tensor(2))
    with pytest.raises(GemkernError, match=f"remove_lowest, layer 0: active {share}"):
        ops.remove_lowest([grads], [active[:1].expand(3, 4)], kth, ties)
    with pytest.raises(GemkernError, match=f"batch_norm_relu: running_mean {share}"):
        ops.batch_norm_relu(
            torch.randn(2, 3, 4, 4),
            running_mean=torch.zeros(1).expand(3),
            running_var=torch.ones(3),
        )
    ops.remove_lowest([grads.t()], [active.t()], kth, ties)
    assert active.sum() == 10, "what is turned shares nothing"


@pytest.mark.parametrize("value", [10**400, torch.tensor(1j), torch.tensor(1.0).to(BYTES[-1])])
def test_a_scalar_that_is_no_number(value: Any) -> None:
    scores = [torch.ones(3, 4)]
    with pytest.raises(GemkernError, match=r"threshold: tau is .*; give"):
        ops.threshold(scores, [torch.ones(3, 4, dtype=torch.bool)], value)


def test_what_has_no_batch_and_what_is_no_mask() -> None:
    for operator in (ops.batch_last, ops.is_batch_last):
        with pytest.raises(GemkernError, match="x has no dimension; give a batch"):
            operator(torch.ones(()))
    for active in (torch.ones(3, 4), ACTIVE.flatten(), ACTIVE.to("meta")):
        with pytest.raises(GemkernError, match=r"pattern: active is .* give a bool tensor"):
            ops.pattern(active)


@pytest.mark.parametrize("shape", [(4, 3, 0, 3), (4, 3, 3, 0)])
def test_a_kernel_without_pixels(shape: tuple[int, ...]) -> None:
    active, x = torch.ones(shape, dtype=torch.bool), torch.ones(2, shape[1], 8, 8)
    found, sentence = ops.pattern(active), "weight has shape .*; give a kernel of pixels"
    with pytest.raises(GemkernError, match=sentence):
        ops.sparse_conv2d(x, torch.ones(len(found.positions)), found, padding=1)
    with pytest.raises(GemkernError, match=sentence):
        ops.masked_conv2d(x, torch.ones(shape), None, active, padding=1)


def test_images_without_a_pixel_or_a_channel() -> None:
    """With padding, a window of them holds none."""
    found = ops.pattern(ACTIVE)
    values = torch.ones(len(found.positions))
    with pytest.raises(GemkernError, match=r"x has shape \(2, 3, 0, 8\)"):
        ops.sparse_conv2d(torch.ones(2, 3, 0, 8), values, found, padding=2)
    for x in (torch.ones(2, 3, 0, 8), torch.ones(2, 0, 8, 8)):
        for operator in (ops.max_pool2d, ops.average_pool2d):
            with pytest.raises(GemkernError, match="give images of at least one channel and pixel"):
                operator(x, 2, 2, 1)


@pytest.mark.parametrize("value", [1e308, -1e308, float("inf"), float("nan")])
def test_numbers_of_a_step_that_scores_cannot_hold(value: float) -> None:
    layers = ([torch.ones(3)], [torch.ones(3, dtype=torch.bool)], *([torch.ones(3)],) * 2)
    with pytest.raises(GemkernError, match=r"momentum is .* give a number that torch.float32"):
        ops.score_step_sgd(*layers, lr=0.1, momentum=value)
    with pytest.raises(GemkernError, match="beta2 is"):
        ops.score_step_adam(*layers, [torch.ones(3)], lr=0.1, step=1, beta2=value)


@pytest.mark.parametrize("ties", [-(2**63), -1, 0, 2**63 - 1])
def test_any_number_of_ties(ties: int) -> None:
    values, found = torch.tensor([1.0, 2.0, 1.0, 0.0]), []
    for backend in ("cpu", "reference"):
        active = torch.ones(4, dtype=torch.bool)
        ops.remove_lowest(
            [values], [active], torch.tensor(1.0), torch.tensor(ties), backend=backend
        )
        found.append(active.tolist())
    assert found[0] == found[1]

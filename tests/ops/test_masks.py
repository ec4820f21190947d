"""Masks, their bits and effective weights, against numpy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from host_reads import host_reads
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from gemkern import GemkernError, ops
from gemkern.ops import masks

INF, NAN = math.inf, math.nan
SCORES = [0.0, -0.0, 0.25, float(np.nextafter(np.float32(0.5), np.float32(0))), 0.5, 1.0, INF, NAN]
WEIGHTS = [0.0, -0.0, 1.5, -1.5, INF, -INF, NAN, 1e-45]
ON = torch.ones(2, 3, dtype=torch.bool)
SCORE = torch.full((2, 3), 0.5)


def numpy_mask(scores: Tensor | None, active: Tensor, tau: float = 0.5) -> NDArray:
    on = active.numpy()
    return on if scores is None else np.greater_equal(scores.numpy(), tau) & on


def numpy_bits(mask: NDArray) -> list[int]:
    return np.packbits(mask.ravel(), bitorder="little").tolist()


def numpy_effective(weight: Tensor, mask: NDArray) -> NDArray:
    return np.where(mask, weight.numpy(), np.zeros((), weight.numpy().dtype))


def same_bytes(tensor: Tensor, array: NDArray) -> bool:
    made = tensor.detach().numpy()
    return (made.shape, made.dtype) == (array.shape, array.dtype) and made.tobytes() == (
        array.tobytes()
    )


@st.composite
def models(draw: st.DrawFn) -> tuple[list[Tensor], list[Tensor] | None, list[Tensor], float]:
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    weights, scores, active = [], [], []
    for shape in draw(st.lists(st.lists(st.integers(0, 4), max_size=4), min_size=1, max_size=3)):
        n = math.prod(shape)

        def layer(values: list[Any], n: int = n, shape: list[int] = shape) -> Tensor:
            numbers = draw(st.lists(st.sampled_from(values), min_size=n, max_size=n))
            return torch.tensor(numbers, dtype=dtype).view(shape)

        weights.append(layer(WEIGHTS))
        scores.append(layer(SCORES))
        active.append(layer([0.0, 1.0]).bool())
    return weights, draw(st.sampled_from([scores, None])), active, draw(st.sampled_from([0.5, 0.3]))


@settings(max_examples=80, deadline=None)
@given(models(), st.booleans())
def test_masks_bits_and_weights_are_those_of_numpy(model: Any, on_device: bool) -> None:
    weights, scores, active, tau = model
    given_tau = torch.tensor(tau, dtype=weights[0].dtype) if on_device else tau
    masks = ops.threshold(scores, active, given_tau)
    effective = ops.effective_weight(weights, scores, active, given_tau)
    for i, on in enumerate(active):
        expected = numpy_mask(scores[i] if scores else None, on, tau)
        assert same_bytes(masks[i], expected)
        assert ops.pack_mask(masks[i]).tolist() == numpy_bits(expected)
        assert same_bytes(effective[i], numpy_effective(weights[i], expected))


def test_a_score_at_the_threshold_is_on_and_one_that_is_no_number_is_off() -> None:
    scores = torch.tensor(SCORES)
    (mask,) = ops.threshold([scores], [torch.ones_like(scores, dtype=torch.bool)])
    assert mask.tolist() == [False, False, False, False, True, True, True, False]


def test_a_threshold_as_a_number_is_rounded_to_the_dtype_of_the_scores() -> None:
    tau = 0.1
    scores = torch.tensor([tau])
    assert scores.item() != tau
    assert ops.threshold([scores], [torch.tensor([True])], tau)[0].item()


def test_masks_without_scores_are_not_active_itself() -> None:
    (mask,) = ops.threshold(None, [ON])
    assert torch.equal(mask, ON)
    assert mask.data_ptr() != ON.data_ptr()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("scored", [True, False])
def test_effective_weights_take_the_dtype_asked_for_or_their_own(dtype, scored: bool) -> None:
    weight = torch.linspace(-1, 1, 6).view(2, 3).to(dtype)
    scores = [torch.tensor([[0.0, 1.0, 0.5], [1.0, 0.2, 1.0]])] if scored else None
    for asked in (None, torch.float64, torch.bfloat16):
        (effective,) = ops.effective_weight([weight], scores, [ON], dtype=asked)
        mask = scores[0] >= 0.5 if scores else ON
        assert effective.dtype == (asked or dtype)
        assert torch.equal(effective, weight.masked_fill(~mask, 0).to(asked or dtype))


@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize(
    "asked", [torch.preserve_format, torch.contiguous_format, torch.channels_last]
)
def test_effective_weights_take_the_memory_format_asked_for(last: bool, asked) -> None:
    weight, active = torch.randn(4, 3, 2, 2), torch.rand(4, 3, 2, 2) < 0.7
    own = torch.channels_last if last else torch.contiguous_format
    given = weight.contiguous(memory_format=own)
    linear, on = torch.randn(3, 2), torch.ones(3, 2, dtype=torch.bool)
    made, other = ops.effective_weight([given, linear], None, [active, on], memory_format=asked)
    wanted = own if asked == torch.preserve_format else asked
    assert made.is_contiguous(memory_format=wanted)
    assert other.is_contiguous()
    assert torch.equal(made, torch.where(active, weight, 0))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 6), max_size=4), st.integers(0, 99))
def test_unpacking_undoes_packing(shape: list[int], seed: int) -> None:
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < 0.5
    packed = ops.pack_mask(mask)
    assert packed.dtype == torch.uint8
    assert packed.tolist() == numpy_bits(mask.numpy())
    assert torch.equal(ops.unpack_mask(packed, shape), mask)
    assert torch.equal(ops.unpack_mask(packed, torch.Size(shape)), mask)


def test_packing_goes_by_rows_whatever_the_strides() -> None:
    mask = torch.rand(5, 4) < 0.5
    assert ops.pack_mask(mask.t()).tolist() == numpy_bits(mask.numpy().T)


def test_no_number_is_read() -> None:
    tau = torch.tensor(0.5)
    layers = ([SCORE], [ON], tau)
    assert not host_reads(lambda: ops.threshold(*layers))
    assert not host_reads(lambda: ops.effective_weight([SCORE], *layers))
    assert not host_reads(lambda: ops.unpack_mask(ops.pack_mask(ON), (2, 3)))
    assert host_reads(lambda: tau.item())


@pytest.mark.parametrize(
    ("scores", "active", "message"),
    [
        (SCORE, [ON], "scores is a tensor; give a list with one for each layer"),
        ([SCORE], ON, "active is a tensor; give a list with one for each layer"),
        ([SCORE], [ON, ON], "active has 2 layers and scores 1; give one tensor for each layer"),
        ([], [], "active has 0 layers and active 0; .* one layer at least"),
        (None, [], "active has 0 layers and active 0; .* one layer at least"),
        ([SCORE], [ON.t()], r"in layer 0, scores is \(2, 3\) on cpu and active \(3, 2\) on cpu"),
        ([SCORE, SCORE.to("meta")], [ON, ON], r"in layer 1, scores is \(2, 3\) on meta"),
        (None, [ON, SCORE], "in layer 1, active is torch.float32; give bool tensors"),
        ([SCORE.half()], [ON], ", layer 0: scores are torch.float16; keep them in float32"),
        ([SCORE.long()], [ON], ", layer 0: scores are torch.int64; keep them in float32"),
    ],
)
def test_masks_refuse(scores, active, message: str) -> None:
    with pytest.raises(GemkernError, match=f"^threshold.*{message}"):
        ops.threshold(scores, active)


@pytest.mark.parametrize("tau", [torch.zeros(1), torch.zeros((), device="meta")])
@pytest.mark.parametrize("where", ["threshold", "effective_weight"])
def test_a_threshold_is_one_number_beside_the_scores(where: str, tau: Tensor) -> None:
    weights = ([SCORE],) if where == "effective_weight" else ()
    wrong = rf"{where}: tau is \({'1,' if tau.dim() else ''}\) on {tau.device}; give a number, or"
    with pytest.raises(GemkernError, match=rf"^{wrong} a 0-d tensor on cpu$"):
        getattr(ops, where)(*weights, [SCORE], [ON], tau)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"weights": SCORE}, ": weights is a tensor; give a list"),
        ({"scores": [SCORE] * 2}, ": weights has 1 layers and scores 2; give one tensor"),
        ({"active": [ON.t()]}, r": in layer 0, active is \(3, 2\) on cpu and weights \(2, 3\)"),
        ({"active": [SCORE]}, ": in layer 0, active is torch.float32; give bool tensors"),
        ({"scores": [SCORE.bfloat16()]}, ", layer 0: scores are torch.bfloat16; keep them"),
        ({"scores": [SCORE.double()]}, ", layer 0: scores are torch.float64; keep them"),
        ({"dtype": torch.int8}, ": dtype is torch.int8; give a float dtype"),
        (
            {"memory_format": torch.channels_last_3d},
            ": memory_format is torch.channels_last_3d; give one of torch.preserve_format, "
            "torch.contiguous_format, torch.channels_last$",
        ),
    ],
)
def test_effective_weights_refuse(changed: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"weights": [SCORE], "scores": [SCORE], "active": [ON]}
    with pytest.raises(GemkernError, match=f"^effective_weight{message}"):
        ops.effective_weight(**{**arguments, **changed})


def test_packing_refuses_what_is_not_a_mask() -> None:
    with pytest.raises(GemkernError, match=r"^pack_mask: the mask is torch.uint8; give a bool"):
        ops.pack_mask(ON.byte())


@pytest.mark.parametrize(
    ("packed", "shape", "message"),
    [
        (torch.zeros(1).char(), (2, 3), r"torch.int8 \(1,\); the shape \(2, 3\) needs uint8 \(1,"),
        (torch.zeros(2).byte(), (2, 3), r"torch.uint8 \(2,\); the shape \(2, 3\) needs uint8 \(1"),
        (torch.zeros(1).byte(), (3, 3), r"torch.uint8 \(1,\); the shape \(3, 3\) needs uint8 \(2"),
        (torch.zeros(1, 1).byte(), (1,), r"torch.uint8 \(1, 1\); the shape \(1,\) needs"),
    ],
)
def test_unpacking_refuses_what_does_not_fit(packed: Tensor, shape, message: str) -> None:
    with pytest.raises(GemkernError, match=f"^unpack_mask: packed is {message}"):
        ops.unpack_mask(packed, shape)


@pytest.mark.parametrize("scored", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("large", [0, 1000])
def test_one_layer_by_pytorchs_functions_is_the_operator(
    scored: bool, dtype: torch.dtype, large: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(masks, "WORTH_A_KERNEL", large)
    stream = torch.Generator().manual_seed(0)
    weight = torch.randn(7, 5, generator=stream)
    scores = torch.rand(7, 5, generator=stream)
    weight[0, 0], weight[0, 1], scores[0, 2], scores[0, 3] = torch.inf, -1.0, 0.5, torch.nan
    active = torch.rand(7, 5, generator=stream) < 0.7
    active[0, :2] = False
    leaves = [[weight.clone().requires_grad_(), scores.clone().requires_grad_()] for _ in range(2)]
    grad = torch.randn(7, 5, generator=stream).to(dtype)
    (ours, own), (theirs, other) = leaves
    alone = ops.masked_weight(ours, own if scored else None, active, dtype)
    (listed,) = ops.effective_weight([theirs], [other] if scored else None, [active], dtype=dtype)
    assert torch.equal(alone, listed)
    assert not alone.signbit()[alone == 0].any()
    for one in (alone, listed):
        one.backward(grad)
    assert torch.equal(ours.grad, theirs.grad)
    if scored:
        torch.testing.assert_close(own.grad, other.grad, rtol=0, atol=0, equal_nan=True)

"""Masked layers by way of their effective weight: the bits of the reference, whatever the case."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from gemkern.kernels import reference
from gemkern.kernels.gpu import materialised, ways
from gemkern.kernels.gpu.straight_through import straight_through

sys.path.append(str(Path(__file__).parent.parent / "kernels"))
from layer_cases import CASES, Case, Operands, random_operands

every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
any_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
scored_or_not = pytest.mark.parametrize("scored", [True, False])


def results(case: Case, of: Operands, module: object) -> list[torch.Tensor]:
    """Return what the forward and the three gradients of `module` give."""
    name = "masked_conv2d" if case.geometry else "masked_linear"
    size = (of.x.shape,) if case.geometry else ()
    masked = (of.weight, of.scores, of.active)
    arguments = {
        "": (of.x, *masked, of.bias),
        "_input_grad": (of.grad_y, *size, *masked),
        "_weight_grad": (of.grad_y, of.x, *masked),
        "_score_grad": (of.grad_y, of.x, of.weight, of.active),
    }
    return [
        getattr(module, name + suffix)(*given, *case.geometry)
        for suffix, given in arguments.items()
    ]


@every_case
@any_dtype
@scored_or_not
@pytest.mark.parametrize("module", [materialised, ways])
def test_every_bit(case: Case, dtype: torch.dtype, scored: bool, module: object) -> None:
    of = random_operands(case, scored).to(dtype)
    ours, theirs = results(case, of, module), results(case, of, reference)
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.dtype == other.dtype
        assert torch.equal(mine, other)


@scored_or_not
def test_channels_last_images_have_channels_last_results(scored: bool) -> None:
    case = next(case for case in CASES if case.name == "3x3")
    of = random_operands(case, scored).to(torch.float32)
    last = torch.channels_last
    turned = Operands(
        of.x.contiguous(memory_format=last), of.weight, of.scores, of.active, of.bias,
        of.grad_y.contiguous(memory_format=last),
    )  # fmt: skip
    ours, theirs = results(case, turned, materialised), results(case, of, reference)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-5)
    assert all(image.is_contiguous(memory_format=last) for image in ours[:2])


def test_a_low_precision_input_under_a_float32_weight() -> None:
    case = next(case for case in CASES if case.name == "grouped")
    wide = random_operands(case, scored=True)
    of = Operands(
        wide.x.half(), wide.weight.float(), wide.scores, wide.active, wide.bias.half(),
        wide.grad_y.half(),
    )  # fmt: skip
    ours, theirs = results(case, of, materialised), results(case, of, reference)
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.dtype == other.dtype
        assert torch.equal(mine, other)


@pytest.mark.parametrize("grad", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("weight", [torch.float32, torch.float16, torch.float64])
def test_straight_through(grad: torch.dtype, weight: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = [(3,), (0, 5), (32, 32), (7, 5, 3, 3), (2, 1025)]
    grads = [torch.randn(shape, generator=generator).to(grad) for shape in shapes]
    grads[3] = grads[3].to(memory_format=torch.channels_last)
    weights = [torch.randn(shape, generator=generator).to(weight) for shape in shapes]
    active = [torch.rand(shape, generator=generator) < 0.6 for shape in shapes]
    weights[0][0] = torch.inf
    active[0][:] = False
    ours = straight_through(grads, weights, active)
    theirs = reference.straight_through(grads, weights, active)
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.dtype == other.dtype
        assert torch.equal(mine, other)


def test_the_table_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    row = ways.Row("cpu", "masked_linear", "float32", rows=4, measured="a result file")
    monkeypatch.setattr(ways, "table", lambda: (row,))
    assert ways.in_kernel_is_faster("masked_linear", torch.float32, 4, "cpu")
    assert not ways.in_kernel_is_faster("masked_linear", torch.float32, 5, "cpu")
    assert not ways.in_kernel_is_faster("masked_linear", torch.float16, 4, "cpu")
    assert not ways.in_kernel_is_faster("masked_conv2d", torch.float32, 4, "cpu")
    assert not ways.in_kernel_is_faster("masked_linear", torch.float32, 4, "NVIDIA H100")


def test_the_committed_table_names_what_exists() -> None:
    root = Path(__file__).resolve().parent.parent.parent
    for row in ways.table():
        assert hasattr(ways, row.operator)
        assert (root / "benchmarks" / "results" / row.measured).is_file()

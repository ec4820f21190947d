"""Sparse convolutions with a norm, a residual and moments: operands, and results by any module."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from gemkern.kernels.reference.norm_sparse_conv2d import NormSparse
from gemkern.kernels.reference.normalise import Norm
from sparse_cases import Case
from sparse_cases import operands as plain_operands
from torch import Tensor


@dataclass(frozen=True)
class How:
    """What is done beside the convolution."""

    norm: bool = True
    affine: bool = True
    residual: bool = False
    relu: bool = True
    bias: bool = False
    added: bool = False
    keep: bool = False
    skip: bool = False
    moments: bool = True


HOWS = {
    "norm and ReLU": How(),
    "kept": How(keep=True),
    "residual": How(residual=True, keep=True, bias=True),
    "residual, not affine, no ReLU": How(residual=True, keep=True, affine=False, relu=False),
    "before activation": How(added=True, skip=True),
    "before activation, kept": How(added=True, skip=True, keep=True),
    "everything": How(residual=True, keep=True, skip=True, bias=True, added=True),
    "residual and skip": How(residual=True, skip=True, moments=False),
    "measured alone": How(norm=False, relu=False),
    "nothing": How(norm=False, relu=False, moments=False),
    "added alone": How(norm=False, relu=False, added=True, moments=False),
}

Operands = dict[str, Any]


def operands(case: Case, how: How, whole: bool, seed: int = 0) -> Operands:
    """Return operands in float64; whole numbers, if so, whose results float32 holds exactly."""
    of = plain_operands(case, whole, seed)
    generator = torch.Generator().manual_seed(seed)

    def numbers(*shape: int) -> Tensor:
        if whole:
            return torch.randint(-3, 4, shape, generator=generator).double()
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    inputs, outputs = of.x.shape[1], of.grad_y.shape[1]
    count = max(of.grad_y.numel() // max(outputs, 1), 1)
    powers = torch.tensor([0.25, 1.0, 4.0], dtype=torch.float64)
    var = powers[torch.randint(0, 3, (inputs,), generator=generator)]
    given = {
        "x": of.x,
        "residual": numbers(*of.x.shape) if how.residual else None,
        "mean": numbers(inputs),
        "var": var,
        "norm_weight": numbers(inputs) if how.affine else None,
        "norm_bias": numbers(inputs) if how.affine else None,
        "values": of.values,
        "bias": of.bias if how.bias else None,
        "added": numbers(*of.grad_y.shape) if how.added else None,
        "grad_y": of.grad_y,
        "grad_z": numbers(*of.x.shape) if how.keep else None,
        "grad_skip": numbers(*of.x.shape) if how.skip else None,
        # Divided by the count, these are whole again.
        "grad_mean": numbers(outputs) * count if how.moments else None,
        "grad_var": numbers(outputs) * count if how.moments else None,
        "mean_y": numbers(outputs) if how.moments else None,
    }
    if not how.norm:
        given |= dict.fromkeys(("mean", "var", "norm_weight", "norm_bias"))
    return {**given, "pattern": of.pattern}


def cast(of: Operands, dtype: torch.dtype) -> Operands:
    return {name: one.to(dtype) if isinstance(one, Tensor) else one for name, one in of.items()}


def norm_of(how: How, of: Operands, residual: Tensor | None) -> Norm | None:
    if of["mean"] is None:
        return None
    statistics = (of[name] for name in ("mean", "var", "norm_weight", "norm_bias"))
    return Norm(*statistics, 0.0, residual, how.relu)


def forward(kernels: ModuleType, case: Case, how: How, of: Operands) -> tuple[Tensor | None, ...]:
    """Return y, z, and the moments of y."""
    return kernels.norm_sparse_conv2d(
        of["x"], norm_of(how, of, of["residual"]), of["values"], of["pattern"], of["bias"],
        of["added"], how.keep or how.residual, how.moments, case.geometry,
    )  # fmt: skip


def backward(
    kernels: ModuleType, case: Case, how: How, of: Operands, y: Tensor, z: Tensor | None
) -> Any:
    """Return the gradients, for y, z and the mean of y as given."""
    grads = (of[f"grad_{name}"] for name in NormSparse._fields)
    return kernels.norm_sparse_conv2d_backward(
        NormSparse(*grads), y if how.moments else None, of["mean_y"], z, of["x"],
        norm_of(how, of, None), of["values"], of["pattern"], how.residual, how.added, True, True,
        case.geometry,
    )  # fmt: skip

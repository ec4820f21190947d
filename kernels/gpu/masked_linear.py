"""A linear layer under a mask, and its gradients: the mask is applied inside the products.

Named and called as `gemkern.kernels.reference.masked_linear`; float64 is not served. Where an
output has fewer tiles than the device has processors a long sum is split: parts go to a workspace,
and a second kernel adds them in a fixed order.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import triton
from gemkern.kernels.gpu.launching import INTERPRETER, chip_of, launch
from gemkern.kernels.gpu.masked_products import gradient_kernel, masked_product_kernel, sum_kernel
from gemkern.kernels.gpu.matmul import (
    GROUP,
    Config,
    aligned,
    choose,
    precision,
    steps_and_splits,
)
from gemkern.kernels.gpu.variants import Kind, Variant
from torch import Tensor

# By the bytes of an element of x, largest first; chosen so that no chip we compile for spills.
MASKED = {
    2: (
        Config(block_m=128, block_n=128, block_k=32, warps=8, stages=3),
        Config(block_m=64, block_n=64, block_k=32, warps=8, stages=3),
        Config(block_m=64, block_n=16, block_k=64, warps=8, stages=3),
    ),
    4: (
        Config(block_m=128, block_n=128, block_k=16, warps=8, stages=3),
        Config(block_m=64, block_n=64, block_k=16, warps=4, stages=4),
        Config(block_m=64, block_n=16, block_k=32, warps=4, stages=4),
    ),
}
GRADIENT = {
    2: (
        Config(block_m=128, block_n=128, block_k=64, warps=8, stages=3),
        Config(block_m=64, block_n=64, block_k=64, warps=4, stages=3),
    ),
    4: (
        Config(block_m=128, block_n=128, block_k=16, warps=8, stages=3),
        Config(block_m=64, block_n=64, block_k=32, warps=8, stages=3),
    ),
}
# Where nothing is known of strides every element has an address of its own: few for each thread.
STRIDED = (Config(block_m=64, block_n=64, block_k=32, warps=8, stages=2),)
SUM_ROWS, SUM_COLUMNS, SUM_WARPS = 8, 128, 4


def masked_linear(
    x: Tensor, weight: Tensor, scores: Tensor | None, active: Tensor, bias: Tensor | None
) -> Tensor:
    return _masked_product(x, weight, scores, active, bias, turned=False)


def masked_linear_input_grad(
    grad_y: Tensor, weight: Tensor, scores: Tensor | None, active: Tensor
) -> Tensor:
    return _masked_product(grad_y, weight, scores, active, None, turned=True)


def masked_linear_weight_grad(
    grad_y: Tensor, x: Tensor, weight: Tensor, scores: Tensor | None, active: Tensor
) -> Tensor:
    out = weight.new_empty(weight.shape)
    return _gradient(grad_y, x, None, scores, active, out)


def masked_linear_score_grad(grad_y: Tensor, x: Tensor, weight: Tensor, active: Tensor) -> Tensor:
    dtype = torch.promote_types(weight.dtype, torch.float32)
    return _gradient(grad_y, x, weight, None, active, weight.new_empty(weight.shape, dtype=dtype))


def _masked_product(
    x: Tensor,
    weight: Tensor,
    scores: Tensor | None,
    active: Tensor,
    bias: Tensor | None,
    turned: bool,
) -> Tensor:
    """Return the product of x [..., K] with the effective weight, [M, K] or, `turned`, [K, M]."""
    _refuse_float64(x)
    rows = _rows(x)
    runs = aligned(rows, *_present(weight, scores, active))
    left, left_active = (weight.T, active.T) if turned else (weight, active)
    left_scores = scores.T if turned and scores is not None else scores
    (M, K), N = left.shape, len(rows)
    out = x.new_empty((*x.shape[:-1], M))
    if not out.numel():
        return out
    chip = chip_of(x.device)
    config = choose(MASKED[x.element_size()] if runs else STRIDED, M, N, chip.processors)
    steps, splits = steps_and_splits(config, M, N, K, chip.processors)
    parts = out if splits == 1 else out.new_empty((splits, N, M), dtype=torch.float32)
    launch(
        masked_product_kernel,
        (config.tiles(M, N), splits),
        x.device,
        left,
        left_scores,
        left_active,
        rows,
        bias if splits == 1 else None,
        parts,
        M,
        N,
        K,
        steps,
        *_strides(left),
        *_strides(left_scores),
        *_strides(left_active),
        *rows.stride(),
        _stride(bias),
        WEIGHT_RUNS=("columns" if turned else "rows") if runs else "none",
        X_RUNS="columns" if runs else "none",
        PRECISION=precision(x.dtype),
        GROUP=GROUP,
        **config.constants(),
        num_warps=config.warps,
        num_stages=config.staged(_bytes(weight, scores, active), x.element_size(), chip.shared),
    )
    return out if splits == 1 else _sum(parts, None, None, None, bias, out)


def _gradient(
    grad_y: Tensor,
    x: Tensor,
    weight: Tensor | None,
    scores: Tensor | None,
    active: Tensor,
    out: Tensor,
) -> Tensor:
    """Fill and return `out` [M, N] with grad_y.T @ x, finished."""
    _refuse_float64(x)
    grad_y, x = _rows(grad_y), _rows(x)
    (M, N), K = out.shape, len(x)
    if not out.numel():
        return out
    runs = aligned(grad_y, x, *_present(weight, scores, active))
    chip = chip_of(x.device)
    config = choose(GRADIENT[x.element_size()] if runs else STRIDED, M, N, chip.processors)
    steps, splits = steps_and_splits(config, M, N, K, chip.processors)
    whole = splits == 1
    parts = out if whole else out.new_empty((splits, M, N), dtype=torch.float32)
    finish = (weight, scores, active) if whole else (None, None, None)
    launch(
        gradient_kernel,
        (config.tiles(M, N), splits),
        x.device,
        grad_y,
        x,
        *finish,
        parts,
        M,
        N,
        K,
        steps,
        *grad_y.stride(),
        *x.stride(),
        *(stride for one in finish for stride in _strides(one)),
        ALIGNED=runs,
        PRECISION=precision(x.dtype),
        GROUP=GROUP,
        **config.constants(),
        num_warps=config.warps,
        num_stages=config.staged(x.element_size(), x.element_size(), chip.shared),
    )
    return out if whole else _sum(parts, weight, scores, active, None, out)


def _sum(
    parts: Tensor,
    weight: Tensor | None,
    scores: Tensor | None,
    active: Tensor | None,
    bias: Tensor | None,
    out: Tensor,
) -> Tensor:
    """Fill and return `out` with the sum of `parts`, finished."""
    splits, M, N = parts.shape
    launch(
        sum_kernel,
        (triton.cdiv(M, SUM_ROWS) * triton.cdiv(N, SUM_COLUMNS),),
        parts.device,
        parts,
        weight,
        scores,
        active,
        bias,
        out,
        M,
        N,
        splits,
        *_strides(weight),
        *_strides(scores),
        *_strides(active),
        _stride(bias),
        BLOCK_M=SUM_ROWS,
        BLOCK_N=SUM_COLUMNS,
        num_warps=SUM_WARPS,
    )
    return out


def _rows(x: Tensor) -> Tensor:
    """Return `x` [..., K] as [N, K], copied only if no strides can say that."""
    return x.flatten(0, -2) if x.dim() > 1 else x[None]


def _present(*tensors: Tensor | None) -> list[Tensor]:
    return [tensor for tensor in tensors if tensor is not None]


def _bytes(*tensors: Tensor | None) -> int:
    return sum(tensor.element_size() for tensor in _present(*tensors))


def _strides(matrix: Tensor | None) -> tuple[int, int]:
    return (0, 0) if matrix is None else (matrix.stride(0), matrix.stride(1))


def _stride(vector: Tensor | None) -> int:
    return 0 if vector is None else vector.stride(0)


def _refuse_float64(x: Tensor) -> None:
    if x.dtype == torch.float64:
        raise NotImplementedError(
            "masked_linear has no Triton kernel for float64: use the reference, or float32"
        )


# Triton's types of x and of the weight, and the precision of the product.
_PAIRS = (
    ("bf16", "fp32", "ieee"),
    ("bf16", "bf16", "ieee"),
    ("fp16", "fp32", "ieee"),
    ("fp16", "fp16", "ieee"),
    ("fp32", "fp32", "tf32"),
    ("fp32", "fp32", "ieee"),
)
# How a sum ends, and the strides of what it ends with.
_UNITS = {
    "parts": (),
    "weight": ("stride_an",),
    "scored weight": ("stride_sn", "stride_an"),
    "score": ("stride_wn", "stride_an"),
}
_FINISHES = tuple(_UNITS)
_SIZES = {"bf16": 2, "fp16": 2, "fp32": 4}


def variants(shared: int = INTERPRETER.shared) -> Iterator[Variant]:
    """Yield every kernel of this file as launched where a program may have `shared` bytes.

    The default fits every chip.
    """
    for pair in _PAIRS:
        x, weight, _ = pair
        for config, turned, scored in itertools.product(
            (*MASKED[_SIZES[x]], *STRIDED), (False, True), (False, True)
        ):
            if turned and config in STRIDED:
                continue
            yield _product_variant(pair, config, turned, scored, False, x, shared)
            if not turned:
                yield _product_variant(pair, config, turned, scored, True, x, shared)
            if x != "fp32":
                yield _product_variant(pair, config, turned, scored, False, "fp32", shared)
        for config in (*GRADIENT[_SIZES[x]], *STRIDED):
            # Parts have nothing of the weight in them.
            for finish in _FINISHES[1:] if x != weight else _FINISHES:
                yield _gradient_variant(pair, config, finish, shared)
    for dtype in _SIZES:
        for biased in (False, True):
            yield _sum_variant(dtype, "parts", biased)
        for finish in _FINISHES[1:]:
            yield _sum_variant(dtype, finish, False)


def _product_variant(
    pair: tuple[str, str, str],
    config: Config,
    turned: bool,
    scored: bool,
    biased: bool,
    out: str,
    shared: int,
) -> Variant:
    x, weight, exactness = pair
    runs = config not in STRIDED
    pointers = {
        "weight_ptr": weight,
        "scores_ptr": "fp32" if scored else None,
        "active_ptr": "i1",
        "x_ptr": x,
        "bias_ptr": weight if biased else None,
        "out_ptr": out,
    }
    constants = {
        "WEIGHT_RUNS": ("columns" if turned else "rows") if runs else "none",
        "X_RUNS": "columns" if runs else "none",
        "PRECISION": exactness,
        "GROUP": GROUP,
        **config.constants(),
    }
    if runs:
        units = "wsa" if scored else "wa"
        constants["stride_xk"] = 1
        constants.update({f"stride_{of}{'m' if turned else 'k'}": 1 for of in units})
    row_bytes = _SIZES[weight] + (4 if scored else 0) + 1
    stages = config.staged(row_bytes, _SIZES[x], shared)
    return _variant(masked_product_kernel, pointers, constants, pair, config.warps, stages)


def _gradient_variant(
    pair: tuple[str, str, str], config: Config, finish: str, shared: int
) -> Variant:
    x, weight, exactness = pair
    pointers = {"grad_ptr": x, "x_ptr": x, **_finish(weight, finish)}
    constants = {
        "ALIGNED": config not in STRIDED,
        "PRECISION": exactness,
        "GROUP": GROUP,
        **config.constants(),
    }
    if config not in STRIDED:
        units = ("stride_gm", "stride_xn", *_UNITS[finish])
        constants.update(dict.fromkeys(units, 1))
    stages = config.staged(_SIZES[x], _SIZES[x], shared)
    return _variant(gradient_kernel, pointers, constants, pair, config.warps, stages)


def _sum_variant(dtype: str, finish: str, biased: bool) -> Variant:
    pointers = {"parts_ptr": "fp32", **_finish(dtype, finish)}
    pointers["bias_ptr"] = dtype if biased else None
    if finish == "parts":
        pointers["out_ptr"] = dtype
    constants = {"BLOCK_M": SUM_ROWS, "BLOCK_N": SUM_COLUMNS}
    return _variant(sum_kernel, pointers, constants, (dtype, dtype, "ieee"), SUM_WARPS, 3, "other")


def _finish(weight: str, finish: str) -> dict[str, str | None]:
    """Return the types of the operands that a gradient is finished with, and of the output."""
    return {
        "weight_ptr": weight if finish == "score" else None,
        "scores_ptr": "fp32" if finish == "scored weight" else None,
        "active_ptr": None if finish == "parts" else "i1",
        "out_ptr": weight if "weight" in finish else "fp32",
    }


def _variant(
    kernel: triton.JITFunction,
    pointers: Mapping[str, str | None],
    constants: Mapping[str, Any],
    pair: tuple[str, str, str],
    warps: int,
    stages: int,
    kind: Kind | None = None,
) -> Variant:
    """Return `kernel` with 32-bit numbers for what is neither a pointer nor a constant."""
    absent = {name: None for name, dtype in pointers.items() if dtype is None}
    signature = {
        name: f"*{pointers[name]}" if name in pointers else "i32"
        for name in kernel.arg_names
        if name not in constants and name not in absent
    }
    kind = kind or ("exact" if pair[0] == "fp32" and pair[2] == "ieee" else "matmul")
    return Variant(kernel, signature, {**constants, **absent}, kind, warps=warps, stages=stages)

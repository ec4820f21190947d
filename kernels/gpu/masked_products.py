"""Products with a matrix under a mask: kernels, for `gemkern.kernels.gpu.masked_linear` to launch.

Sums are taken in float32 and rounded once. Absent operands are None: each kernel is compiled
without the code for them.
"""

from __future__ import annotations

import triton
import triton.language as tl
from gemkern.kernels.gpu.matmul import grouped, kept_exact, multiple, places, wide
from gemkern.kernels.gpu.threshold import narrow


@triton.jit
def mask_at(scores_ptr, scores_at, active_ptr, active_at, inside):
    """Return the mask of a tile: off outside; without scores it is `active` alone."""
    mask = tl.load(active_ptr + active_at, mask=inside, other=0) != 0
    if scores_ptr is not None:
        # A NaN is not at least one half.
        mask = mask & (tl.load(scores_ptr + scores_at, mask=inside, other=0) >= 0.5)
    return mask


@triton.jit
def masked_product_kernel(
    weight_ptr,
    scores_ptr,
    active_ptr,
    x_ptr,
    bias_ptr,
    out_ptr,
    M,
    N,
    K,
    STEPS,
    stride_wm,
    stride_wk,
    stride_sm,
    stride_sk,
    stride_am,
    stride_ak,
    stride_xn,
    stride_xk,
    stride_bm,
    WEIGHT_RUNS: tl.constexpr,
    X_RUNS: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP: tl.constexpr,
):
    """Store out[split, n, m]: the sum over k of where(mask, weight, 0)[m, k] * x[n, k], + bias[m].

    The weight stands on the left, where matrix instructions take a tile made in registers.
    """
    row, column = grouped(tl.program_id(0), tl.cdiv(M, BLOCK_M), tl.cdiv(N, BLOCK_N), GROUP)
    split = tl.program_id(1)
    ms = row * BLOCK_M + tl.arange(0, BLOCK_M)
    ns = column * BLOCK_N + tl.arange(0, BLOCK_N)
    ks = tl.arange(0, BLOCK_K)
    first = split * STEPS * BLOCK_K
    limit_m = multiple(M, WEIGHT_RUNS == "columns")
    limit_k = multiple(K, X_RUNS == "columns")

    weight_ptr += wide(first) * stride_wk
    active_ptr += wide(first) * stride_ak
    x_ptr += wide(first) * stride_xk
    weight_at = places(ms, ks, stride_wm, stride_wk, WEIGHT_RUNS)
    active_at = places(ms, ks, stride_am, stride_ak, WEIGHT_RUNS)
    scores_at = active_at
    if scores_ptr is not None:
        scores_ptr += wide(first) * stride_sk
        scores_at = places(ms, ks, stride_sm, stride_sk, WEIGHT_RUNS)
    x_at = places(ks, ns, stride_xk, stride_xn, X_RUNS)

    total = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for k in range(first, tl.minimum(first + STEPS * BLOCK_K, K), BLOCK_K):
        terms = ks < limit_k - k
        inside = (ms < limit_m)[:, None] & terms[None, :]
        mask = mask_at(scores_ptr, scores_at, active_ptr, active_at, inside)
        # Selected, not multiplied: what lies under the mask may be infinite.
        effective = tl.where(mask, tl.load(weight_ptr + weight_at, mask=inside, other=0), 0)
        x = tl.load(x_ptr + x_at, mask=terms[:, None] & (ns < N)[None, :], other=0)
        effective = kept_exact(narrow(effective, x.dtype), PRECISION)
        total = tl.dot(effective, x, total, input_precision=PRECISION)
        weight_ptr += wide(BLOCK_K) * stride_wk
        active_ptr += wide(BLOCK_K) * stride_ak
        x_ptr += wide(BLOCK_K) * stride_xk
        if scores_ptr is not None:
            scores_ptr += wide(BLOCK_K) * stride_sk

    if bias_ptr is not None:
        bias = tl.load(bias_ptr + wide(ms) * stride_bm, mask=ms < M, other=0)
        total += bias.to(tl.float32)[:, None]
    out_ptr += wide(split) * N * M
    out_at = places(ms, ns, 1, M, "none")
    inside = (ms < M)[:, None] & (ns < N)[None, :]
    tl.store(out_ptr + out_at, total.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def gradient_kernel(
    grad_ptr,
    x_ptr,
    weight_ptr,
    scores_ptr,
    active_ptr,
    out_ptr,
    M,
    N,
    K,
    STEPS,
    stride_gk,
    stride_gm,
    stride_xk,
    stride_xn,
    stride_wm,
    stride_wn,
    stride_sm,
    stride_sn,
    stride_am,
    stride_an,
    ALIGNED: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP: tl.constexpr,
):
    """Store out[split, m, n]: the sum over k of grad[k, m] * x[k, n], finished unless split."""
    row, column = grouped(tl.program_id(0), tl.cdiv(M, BLOCK_M), tl.cdiv(N, BLOCK_N), GROUP)
    split = tl.program_id(1)
    ms = row * BLOCK_M + tl.arange(0, BLOCK_M)
    ns = column * BLOCK_N + tl.arange(0, BLOCK_N)
    ks = tl.arange(0, BLOCK_K)
    first = split * STEPS * BLOCK_K
    within_m = (ms < multiple(M, ALIGNED))[None, :]
    within_n = (ns < multiple(N, ALIGNED))[None, :]

    grad_ptr += wide(first) * multiple(stride_gk, ALIGNED)
    x_ptr += wide(first) * multiple(stride_xk, ALIGNED)
    runs: tl.constexpr = "rows" if ALIGNED else "none"
    grad_at = places(ks, ms, stride_gk, stride_gm, runs)
    x_at = places(ks, ns, stride_xk, stride_xn, runs)

    total = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for k in range(first, tl.minimum(first + STEPS * BLOCK_K, K), BLOCK_K):
        terms = (ks < K - k)[:, None]
        grad = tl.load(grad_ptr + grad_at, mask=terms & within_m, other=0)
        x = tl.load(x_ptr + x_at, mask=terms & within_n, other=0)
        total = tl.dot(tl.trans(grad), x, total, input_precision=PRECISION)
        grad_ptr += wide(BLOCK_K) * multiple(stride_gk, ALIGNED)
        x_ptr += wide(BLOCK_K) * multiple(stride_xk, ALIGNED)

    inside = (ms < M)[:, None] & within_n
    total = finished(
        total,
        weight_ptr,
        places(ms, ns, stride_wm, stride_wn, runs),
        scores_ptr,
        places(ms, ns, stride_sm, stride_sn, runs),
        active_ptr,
        places(ms, ns, stride_am, stride_an, runs),
        inside,
        out_ptr.dtype.element_ty,
    )
    out_ptr += wide(split) * M * multiple(N, ALIGNED)
    out_at = places(ms, ns, N, 1, runs)
    tl.store(out_ptr + out_at, total, mask=inside)


@triton.jit
def sum_kernel(
    parts_ptr,
    weight_ptr,
    scores_ptr,
    active_ptr,
    bias_ptr,
    out_ptr,
    M,
    N,
    SPLITS,
    stride_wm,
    stride_wn,
    stride_sm,
    stride_sn,
    stride_am,
    stride_an,
    stride_bn,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Store out[m, n]: the sum of parts[:, m, n] in their order, + bias[n], finished."""
    program, columns = tl.program_id(0), tl.cdiv(N, BLOCK_N)
    ms = program // columns * BLOCK_M + tl.arange(0, BLOCK_M)
    ns = program % columns * BLOCK_N + tl.arange(0, BLOCK_N)
    inside = (ms < M)[:, None] & (ns < N)[None, :]
    at = places(ms, ns, N, 1, "none")
    total = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for _ in range(SPLITS):
        total += tl.load(parts_ptr + at, mask=inside, other=0)
        parts_ptr += wide(M) * N
    if bias_ptr is not None:
        bias = tl.load(bias_ptr + wide(ns) * stride_bn, mask=ns < N, other=0)
        total += bias.to(tl.float32)[None, :]
    total = finished(
        total,
        weight_ptr,
        places(ms, ns, stride_wm, stride_wn, "none"),
        scores_ptr,
        places(ms, ns, stride_sm, stride_sn, "none"),
        active_ptr,
        places(ms, ns, stride_am, stride_an, "none"),
        inside,
        out_ptr.dtype.element_ty,
    )
    tl.store(out_ptr + at, total, mask=inside)


@triton.jit
def finished(
    total,
    weight_ptr,
    weight_at,
    scores_ptr,
    scores_at,
    active_ptr,
    active_at,
    inside,
    OUT: tl.constexpr,
):
    """Return `total` in dtype OUT, times the weight and selected by the mask if they are there."""
    total = total.to(OUT)
    if weight_ptr is not None:
        total *= tl.load(weight_ptr + weight_at, mask=inside, other=0).to(OUT)
    if active_ptr is not None:
        total = tl.where(mask_at(scores_ptr, scores_at, active_ptr, active_at, inside), total, 0)
    return total

"""Masked convolutions with one input channel in each group: sums of few products, no tl.dot.

A channel of the input may lead to several of the output (a multiplier). The output and the gradient
of the input are made by one kernel; `conv2d_walk` has the geometry of both.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import triton
import triton.language as tl
from gemkern.kernels.gpu.conv2d_filters import (
    filter_walk_arguments,
    split_steps,
    sums_signature,
    workspace,
)
from gemkern.kernels.gpu.conv2d_images import image_signature, unit_strides
from gemkern.kernels.gpu.conv2d_tiles import (
    Tile,
    along_channels,
    along_pixels,
    effective_tile,
    image_tile,
    is_planar,
    pixel_pointers,
)
from gemkern.kernels.gpu.conv2d_walk import Walk, pixels_of, taps_of
from gemkern.kernels.gpu.launching import launch
from gemkern.kernels.gpu.variants import Variant
from torch import Tensor

# Pixels by channels, longer along what is contiguous.
PLANAR_TILE = Tile(256, 4, 1, warps=4, stages=2)
CHANNELS_LAST_TILE = Tile(16, 64, 1, warps=4, stages=2)


@triton.jit
def depthwise_conv2d_kernel(
    source_ptr, weight_ptr, scores_ptr, active_ptr, bias_ptr, out_ptr,
    stride_sn, stride_sc, stride_sh, stride_sw,
    stride_wg, stride_wk, stride_wn, stride_wh, stride_ww,
    stride_on, stride_oc, stride_oh, stride_ow,
    ROWS, COLUMNS, REDUCED, GROUPS, BIASES,
    SOURCE_H, OUT_H, KERNEL_H, PHASES_H, SCALE_H, ORIGIN_H, DILATION_H, STEP_H, TAP_STEP_H,
    SOURCE_W, OUT_W, KERNEL_W, PHASES_W, SCALE_W, ORIGIN_W, DILATION_W, STEP_W, TAP_STEP_W,
    SCORED: tl.constexpr, PLANAR: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    all_channels = GROUPS * COLUMNS
    column_tiles = tl.cdiv(all_channels, BLOCK_N)
    row_tiles = tl.cdiv(ROWS, BLOCK_M)
    columns = program % column_tiles * BLOCK_N + tl.arange(0, BLOCK_N)
    program = program // column_tiles
    rows = program % row_tiles * BLOCK_M + tl.arange(0, BLOCK_M)
    phase = program // row_tiles
    phase_h, phase_w = phase // PHASES_W, phase % PHASES_W

    first_h, taps_h, begin_h = taps_of(
        phase_h, PHASES_H, ORIGIN_H, DILATION_H, KERNEL_H, TAP_STEP_H
    )
    first_w, taps_w, begin_w = taps_of(
        phase_w, PHASES_W, ORIGIN_W, DILATION_W, KERNEL_W, TAP_STEP_W
    )
    taps = taps_h * taps_w
    images, place_h, place_w = pixels_of(rows, tl.cdiv(OUT_H, PHASES_H), tl.cdiv(OUT_W, PHASES_W))
    from_h = along_pixels(place_h * SCALE_H + begin_h, PLANAR)
    from_w = along_pixels(place_w * SCALE_W + begin_w, PLANAR)
    groups = along_channels(columns // COLUMNS, PLANAR)
    in_group = along_channels(columns % COLUMNS, PLANAR)
    present = along_channels(columns < all_channels, PLANAR)
    inside = along_pixels(rows < ROWS, PLANAR) & present
    weight_offsets = groups * stride_wg + in_group * stride_wn
    pixels = pixel_pointers(
        source_ptr, along_pixels(images, PLANAR), from_h, from_w, stride_sn, stride_sh, stride_sw
    )

    if PLANAR:
        total = tl.zeros((BLOCK_N, BLOCK_M), tl.float32)
    else:
        total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for step in range(0, REDUCED * taps):
        # The remainder tells the compiler of a 0 where REDUCED is 1: loads stay aligned.
        channel = step // taps % REDUCED
        tap_h, tap_w = step % taps // taps_w, step % taps % taps_w
        move_h, move_w = tap_h * STEP_H, tap_w * STEP_W
        source_offsets = (groups * REDUCED + channel).to(tl.int64) * stride_sc
        source_offsets += move_h.to(tl.int64) * stride_sh + move_w.to(tl.int64) * stride_sw
        source = image_tile(
            pixels, source_offsets, from_h + move_h, from_w + move_w, inside, SOURCE_H, SOURCE_W
        )
        weight_start = channel * stride_wk
        weight_start += (first_h + tap_h * TAP_STEP_H) * stride_wh
        weight_start += (first_w + tap_w * TAP_STEP_W) * stride_ww
        effective = effective_tile(
            weight_ptr, scores_ptr, active_ptr, weight_start, weight_offsets, present, SCORED,
            source_ptr.dtype.element_ty,
        )  # fmt: skip
        total += source.to(tl.float32) * effective.to(tl.float32)

    bias = tl.load(bias_ptr + columns, mask=(columns < all_channels) & (columns < BIASES), other=0)
    total += along_channels(bias.to(out_ptr.dtype.element_ty).to(tl.float32), PLANAR)
    write_h = along_pixels(place_h * PHASES_H + phase_h, PLANAR)
    write_w = along_pixels(place_w * PHASES_W + phase_w, PLANAR)
    out_pixels = along_pixels(images.to(tl.int64), PLANAR) * stride_on
    out_pixels += write_h.to(tl.int64) * stride_oh + write_w.to(tl.int64) * stride_ow
    tl.store(
        out_ptr + out_pixels + along_channels(columns.to(tl.int64) * stride_oc, PLANAR),
        total.to(out_ptr.dtype.element_ty),
        mask=inside & (write_h < OUT_H) & (write_w < OUT_W),
    )


@triton.jit
def depthwise_sums_kernel(
    grad_ptr, x_ptr, sums_ptr,
    stride_gn, stride_gc, stride_gh, stride_gw,
    stride_xn, stride_xc, stride_xh, stride_xw,
    stride_wo, stride_wc, stride_wh, stride_ww,
    FILTERS, CHANNELS, GROUPS, PIXELS, STEPS, SUMS,
    SOURCE_H, OUT_H, KERNEL_H, SCALE_H, ORIGIN_H, STEP_H,
    SOURCE_W, OUT_W, KERNEL_W, SCALE_W, ORIGIN_W, STEP_W,
    PLANAR: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Write the sums over pixels for one tap of many filters, FILTERS of which share a channel."""
    program = tl.program_id(0)
    taps = KERNEL_H * KERNEL_W
    tap_h, tap_w = program % taps // KERNEL_W, program % taps % KERNEL_W
    program = program // taps
    filter_tiles = tl.cdiv(GROUPS * FILTERS, BLOCK_N)
    filters = program % filter_tiles * BLOCK_N + tl.arange(0, BLOCK_N)
    split = program // filter_tiles
    present = filters < GROUPS * FILTERS

    if PLANAR:
        total = tl.zeros((BLOCK_N, BLOCK_M), tl.float32)
    else:
        total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for step in range(0, STEPS):
        pixels = (split * STEPS + step) * BLOCK_M + tl.arange(0, BLOCK_M)
        images, place_h, place_w = pixels_of(pixels, OUT_H, OUT_W)
        images = along_pixels(images, PLANAR)
        place_h, place_w = along_pixels(place_h, PLANAR), along_pixels(place_w, PLANAR)
        inside = along_pixels(pixels < PIXELS, PLANAR) & along_channels(present, PLANAR)
        grad = image_tile(
            pixel_pointers(grad_ptr, images, place_h, place_w, stride_gn, stride_gh, stride_gw),
            along_channels(filters.to(tl.int64) * stride_gc, PLANAR), place_h, place_w, inside,
            OUT_H, OUT_W,
        )  # fmt: skip
        from_h = place_h * SCALE_H + tap_h * STEP_H + ORIGIN_H
        from_w = place_w * SCALE_W + tap_w * STEP_W + ORIGIN_W
        x = image_tile(
            pixel_pointers(x_ptr, images, from_h, from_w, stride_xn, stride_xh, stride_xw),
            along_channels((filters // FILTERS).to(tl.int64) * stride_xc, PLANAR), from_h, from_w,
            inside, SOURCE_H, SOURCE_W,
        )  # fmt: skip
        total += grad.to(tl.float32) * x.to(tl.float32)

    offsets = filters.to(tl.int64) * stride_wo
    offsets += tap_h.to(tl.int64) * stride_wh + tap_w.to(tl.int64) * stride_ww
    sums = tl.sum(total, axis=1 if PLANAR else 0)
    tl.store(sums_ptr + split.to(tl.int64) * SUMS + offsets, sums, mask=present)


def depthwise_convolve(
    source: Tensor,
    weight: Tensor,
    scores: Tensor | None,
    active: Tensor,
    bias: Tensor | None,
    out: Tensor,
    walk: Walk,
    groups: int,
    backward: bool,
) -> None:
    """Do as `gemkern.kernels.gpu.conv2d_images.convolve` for a weight of [C, 1, kh, kw]."""
    tile = _tile(source)
    programs = tile.count(walk.rows, out.shape[1]) * walk.phases
    per_filter, per_channel, per_row, per_column = weight.stride()
    launch(
        depthwise_conv2d_kernel,
        (programs,),
        source.device,
        source,
        weight,
        active if scores is None else scores,
        active,
        weight if bias is None else bias,
        out,
        *source.stride(),
        weight.shape[0] // groups * per_filter,
        *((per_filter, per_channel) if backward else (per_channel, per_filter)),
        per_row,
        per_column,
        *out.stride(),
        ROWS=walk.rows,
        COLUMNS=out.shape[1] // groups,
        REDUCED=source.shape[1] // groups,
        GROUPS=groups,
        BIASES=0 if bias is None else len(bias),
        **walk.arguments,
        SCORED=scores is not None,
        PLANAR=is_planar(source),
        BLOCK_M=tile.m,
        BLOCK_N=tile.n,
        num_warps=tile.warps,
        num_stages=tile.stages,
    )


def depthwise_sums(grad_y: Tensor, x: Tensor, weight: Tensor, walk: Walk, groups: int) -> Tensor:
    """Return the partial sums of dL/dw_eff, in the memory order of the dense weight."""
    tile = _tile(x)
    programs = triton.cdiv(weight.shape[0], tile.n) * weight.shape[2] * weight.shape[3]
    splits, steps = split_steps(walk.rows, tile.m, programs)
    sums = workspace(weight, splits)
    launch(
        depthwise_sums_kernel,
        (programs * splits,),
        x.device,
        grad_y,
        x,
        sums,
        *grad_y.stride(),
        *x.stride(),
        *weight.stride(),
        FILTERS=weight.shape[0] // groups,
        CHANNELS=1,
        GROUPS=groups,
        PIXELS=walk.rows,
        STEPS=steps,
        SUMS=sums.shape[1],
        **filter_walk_arguments(walk),
        PLANAR=is_planar(x),
        BLOCK_M=tile.m,
        BLOCK_N=tile.n,
        num_warps=tile.warps,
        num_stages=tile.stages,
    )
    return sums


def _tile(images: Tensor) -> Tile:
    return PLANAR_TILE if is_planar(images) else CHANNELS_LAST_TILE


def variants() -> Iterator[Variant]:
    """Yield both kernels with every layout and pair of dtypes that mixed precision brings."""
    pairs = (
        ("fp32", "fp32"), ("fp16", "fp16"), ("fp16", "fp32"), ("bf16", "bf16"), ("bf16", "fp32"),
    )  # fmt: skip
    for planar in (True, False):
        tile = PLANAR_TILE if planar else CHANNELS_LAST_TILE
        sizes = {"PLANAR": planar, "BLOCK_M": tile.m, "BLOCK_N": tile.n}
        for (x, weight), scored in itertools.product(pairs, (True, False)):
            yield Variant(
                depthwise_conv2d_kernel,
                image_signature(x, weight, scored, planar),
                {**unit_strides(planar), "SCORED": scored, **sizes},
                "other",
                warps=tile.warps,
                stages=tile.stages,
            )
        axis = "w" if planar else "c"
        for x in ("fp32", "fp16", "bf16"):
            yield Variant(
                depthwise_sums_kernel,
                sums_signature(x, planar),
                {f"stride_g{axis}": 1, f"stride_x{axis}": 1, **sizes},
                "other",
                warps=tile.warps,
                stages=tile.stages,
            )

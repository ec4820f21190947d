"""Masked convolutions that write images: the output, and the gradient of the input.

An implicit matrix product: rows are the pixels that are written, columns the channels of a group,
and the sums run over channels of the source and taps. `conv2d_walk` has the geometry of both.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from gemkern.kernels.gpu.conv2d_tiles import (
    LEAST_CHANNELS,
    Tile,
    Tiles,
    along_channels,
    along_pixels,
    effective_tile,
    image_tile,
    is_planar,
    pixel_pointers,
    precision,
)
from gemkern.kernels.gpu.conv2d_walk import Walk, output_walk, pixels_of, taps_of
from gemkern.kernels.gpu.launching import launch
from gemkern.kernels.gpu.matmul import kept_exact
from gemkern.kernels.gpu.variants import Variant
from torch import Tensor

TILES = {
    "half": Tiles(
        tiles=(
            Tile(128, 64, 32, warps=8, stages=2),
            Tile(64, 64, 32, warps=8, stages=3),
            Tile(64, 32, 32, warps=8, stages=2),
            Tile(128, 16, 16, warps=4, stages=3),
        ),
        flat=Tile(64, 32, 16, warps=8, stages=2),
    ),
    "tf32": Tiles(
        tiles=(
            Tile(128, 64, 32, warps=8, stages=2),
            Tile(64, 64, 32, warps=8, stages=2),
            Tile(64, 32, 32, warps=8, stages=2),
            Tile(128, 16, 16, warps=4, stages=3),
        ),
        flat=Tile(64, 32, 16, warps=8, stages=2),
    ),
    "ieee": Tiles(
        tiles=(Tile(64, 64, 16, warps=8, stages=2), Tile(64, 16, 16, warps=4, stages=2)),
        flat=Tile(64, 32, 16, warps=4, stages=2),
    ),
}


@triton.jit
def masked_conv2d_kernel(
    source_ptr, weight_ptr, scores_ptr, active_ptr, bias_ptr, out_ptr,
    stride_sn, stride_sc, stride_sh, stride_sw,
    stride_wg, stride_wk, stride_wn, stride_wh, stride_ww,
    stride_on, stride_oc, stride_oh, stride_ow,
    ROWS, COLUMNS, REDUCED, GROUPS, BIASES,
    SOURCE_H, OUT_H, KERNEL_H, PHASES_H, SCALE_H, ORIGIN_H, DILATION_H, STEP_H, TAP_STEP_H,
    SOURCE_W, OUT_W, KERNEL_W, PHASES_W, SCALE_W, ORIGIN_W, DILATION_W, STEP_W, TAP_STEP_W,
    SCORED: tl.constexpr, PLANAR: tl.constexpr, FLAT: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    # Programs that read the same pixels follow each other.
    program = tl.program_id(0)
    column_tiles = tl.cdiv(COLUMNS, BLOCK_N)
    row_tiles = tl.cdiv(ROWS, BLOCK_M)
    columns = program % column_tiles * BLOCK_N + tl.arange(0, BLOCK_N)
    program = program // column_tiles
    rows = program % row_tiles * BLOCK_M + tl.arange(0, BLOCK_M)
    program = program // row_tiles
    group = (program % GROUPS).to(tl.int64)
    phase = program // GROUPS
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
    pixels = pixel_pointers(
        source_ptr + group * REDUCED * stride_sc, along_pixels(images, PLANAR), from_h, from_w,
        stride_sn, stride_sh, stride_sw,
    )  # fmt: skip
    within = along_pixels(rows < ROWS, PLANAR)
    first = group * stride_wg + first_h * stride_wh + first_w * stride_ww
    inner = tl.arange(0, BLOCK_K)
    weight_offsets = columns[None, :] * stride_wn
    if not FLAT:
        weight_offsets += inner[:, None] * stride_wk

    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    steps = tl.cdiv(REDUCED * taps, BLOCK_K) if FLAT else tl.cdiv(REDUCED, BLOCK_K) * taps
    for step in range(0, steps):
        # Taps run fastest: they read neighbouring pixels, and neighbouring weights.
        if FLAT:
            terms = step * BLOCK_K + inner
            start = terms // taps
            channels = start
            tap = terms % taps
        else:
            start = step // taps * BLOCK_K
            channels = start + inner
            tap = step % taps
        tap_h, tap_w = tap // taps_w, tap % taps_w
        weight_start = start * stride_wk
        weight_start += tap_h * TAP_STEP_H * stride_wh + tap_w * TAP_STEP_W * stride_ww
        move_h, move_w = tap_h * STEP_H, tap_w * STEP_W
        source_offsets = channels.to(tl.int64) * stride_sc
        source_offsets += move_h.to(tl.int64) * stride_sh + move_w.to(tl.int64) * stride_sw
        if FLAT:
            weight_start = weight_start[:, None]
            move_h, move_w = along_channels(move_h, PLANAR), along_channels(move_w, PLANAR)
        source = image_tile(
            pixels, along_channels(source_offsets, PLANAR), from_h + move_h, from_w + move_w,
            within & along_channels(channels < REDUCED, PLANAR), SOURCE_H, SOURCE_W,
        )  # fmt: skip
        if PLANAR:
            source = tl.trans(source)
        effective = effective_tile(
            weight_ptr + first, scores_ptr + first, active_ptr + first, weight_start,
            weight_offsets, (channels < REDUCED)[:, None] & (columns < COLUMNS)[None, :],
            SCORED, source_ptr.dtype.element_ty,
        )  # fmt: skip
        effective = kept_exact(effective, PRECISION)
        total = tl.dot(source, effective, total, input_precision=PRECISION)

    out_channels = group * COLUMNS + columns
    biased = (columns < COLUMNS) & (out_channels < BIASES)
    bias = tl.load(bias_ptr + out_channels, mask=biased, other=0)
    total += bias.to(out_ptr.dtype.element_ty).to(tl.float32)[None, :]
    result = total.to(out_ptr.dtype.element_ty)
    if PLANAR:
        result = tl.trans(result)
    write_h = place_h * PHASES_H + phase_h
    write_w = place_w * PHASES_W + phase_w
    inside = (rows < ROWS) & (write_h < OUT_H) & (write_w < OUT_W)
    out_pixels = images.to(tl.int64) * stride_on
    out_pixels += write_h.to(tl.int64) * stride_oh + write_w.to(tl.int64) * stride_ow
    tl.store(
        out_ptr
        + along_pixels(out_pixels, PLANAR)
        + along_channels(out_channels * stride_oc, PLANAR),
        result,
        mask=along_pixels(inside, PLANAR) & along_channels(columns < COLUMNS, PLANAR),
    )


def convolve(
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
    """Write to `out` the convolution of `source`, or if `backward` the gradient of its input.

    Args:
        source: [N, K, H, W], out [N, C, H', W'], in any strides.
        weight: [K, C / groups, kh, kw] if `backward`, else [C, K / groups, kh, kw].
        scores, active: in the strides of the weight.
        bias: contiguous [C], or None.
    """
    reduced, columns = source.shape[1] // groups, out.shape[1] // groups
    flat = reduced < LEAST_CHANNELS
    how = precision(source)
    tiles = TILES[how if source.dtype == torch.float32 else "half"]
    tile = tiles.choose(walk.rows, columns, walk.phases * groups, flat)
    programs = tile.count(walk.rows, columns) * walk.phases * groups
    per_filter, per_channel, per_row, per_column = weight.stride()
    launch(
        masked_conv2d_kernel,
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
        COLUMNS=columns,
        REDUCED=reduced,
        GROUPS=groups,
        BIASES=0 if bias is None else len(bias),
        **walk.arguments,
        SCORED=scores is not None,
        PLANAR=is_planar(source),
        FLAT=flat,
        PRECISION=how,
        **tile.constants,
        num_warps=tile.warps,
        num_stages=tile.stages,
    )


def image_signature(x: str, weight: str, scored: bool, planar: bool) -> dict[str, str]:
    """Return the types of what kernels that write images take; one stride of each is 1."""
    pointers = {
        "source_ptr": x,
        "weight_ptr": weight,
        "scores_ptr": "fp32" if scored else "i1",
        "active_ptr": "i1",
        "bias_ptr": weight,
        "out_ptr": x,
    }
    numbers = [
        *(f"stride_{tensor}{axis}" for tensor in "so" for axis in ("nhc" if planar else "nhw")),
        *(f"stride_w{axis}" for axis in "gknhw"),
        *("ROWS", "COLUMNS", "REDUCED", "GROUPS", "BIASES"),
        *output_walk((1, 1, 1, 1), (1, 1), (1, 1), (0, 0), (1, 1)).arguments,
    ]
    return {name: f"*{kind}" for name, kind in pointers.items()} | dict.fromkeys(numbers, "i32")


def unit_strides(planar: bool) -> dict[str, int]:
    """Return the strides that `image_signature` leaves out."""
    axis = "w" if planar else "c"
    return {f"stride_s{axis}": 1, f"stride_o{axis}": 1}


# The dtypes of images and weights, and the tiles and the precision of their products.
DTYPES = (
    ("fp16", "fp16", "half", "ieee"),
    ("fp16", "fp32", "half", "ieee"),
    ("bf16", "bf16", "half", "ieee"),
    ("bf16", "fp32", "half", "ieee"),
    ("fp32", "fp32", "tf32", "tf32"),
    ("fp32", "fp32", "ieee", "ieee"),
)


def variants() -> Iterator[Variant]:
    """Yield the kernel with every tile, layout and pair of dtypes that mixed precision brings."""
    flags = itertools.product((True, False), repeat=2)
    for (scored, planar), (x, weight, tiles, how) in itertools.product(flags, DTYPES):
        for tile, flat in TILES[tiles].all():
            constants = {
                **unit_strides(planar),
                "SCORED": scored,
                "PLANAR": planar,
                "FLAT": flat,
                "PRECISION": how,
                **tile.constants,
            }
            yield Variant(
                masked_conv2d_kernel,
                image_signature(x, weight, scored, planar),
                constants,
                "exact" if tiles == "ieee" else "matmul",
                warps=tile.warps,
                stages=tile.stages,
            )

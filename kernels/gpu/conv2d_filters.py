"""Gradients of the filters of masked convolutions.

An implicit matrix product: rows are output channels, columns input channels and taps, and the sums
run over output pixels. These are split among programs; their partial sums lie in a workspace and
are added in order, so the same operands give the same bits. No atomics.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from gemkern.kernels.gpu.conv2d_tiles import (
    LEAST_CHANNELS,
    TAU,
    Tile,
    Tiles,
    along_channels,
    along_pixels,
    image_tile,
    is_planar,
    pixel_pointers,
    precision,
)
from gemkern.kernels.gpu.conv2d_walk import Walk, output_walk, pixels_of
from gemkern.kernels.gpu.launching import launch
from gemkern.kernels.gpu.tables import BLOCK, THREADS, WARPS, load_part, store_part
from gemkern.kernels.gpu.variants import Variant
from torch import Tensor

TILES = {
    "half": Tiles(
        tiles=(
            Tile(128, 64, 32, warps=8, stages=3),
            Tile(64, 64, 32, warps=8, stages=3),
            Tile(32, 32, 64, warps=4, stages=3),
        ),
        flat=Tile(64, 32, 32, warps=4, stages=3),
    ),
    "tf32": Tiles(
        tiles=(
            Tile(128, 64, 32, warps=8, stages=2),
            Tile(64, 64, 32, warps=4, stages=3),
            Tile(32, 32, 32, warps=4, stages=3),
        ),
        flat=Tile(64, 32, 32, warps=4, stages=2),
    ),
    "ieee": Tiles(
        tiles=(Tile(64, 64, 16, warps=8, stages=2), Tile(32, 32, 16, warps=4, stages=2)),
        flat=Tile(32, 32, 16, warps=4, stages=2),
    ),
}
# Programs among which the sums are split, and the fewest steps that are worth a program.
PROGRAMS = 256
LEAST_STEPS = 4


@triton.jit
def filter_sums_kernel(
    grad_ptr, x_ptr, sums_ptr,
    stride_gn, stride_gc, stride_gh, stride_gw,
    stride_xn, stride_xc, stride_xh, stride_xw,
    stride_wo, stride_wc, stride_wh, stride_ww,
    FILTERS, CHANNELS, GROUPS, PIXELS, STEPS, SUMS,
    SOURCE_H, OUT_H, KERNEL_H, SCALE_H, ORIGIN_H, STEP_H,
    SOURCE_W, OUT_W, KERNEL_W, SCALE_W, ORIGIN_W, STEP_W,
    PLANAR: tl.constexpr, FLAT: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    taps = KERNEL_H * KERNEL_W
    if FLAT:
        column_tiles = tl.cdiv(CHANNELS * taps, BLOCK_N)
        terms = program % column_tiles * BLOCK_N + tl.arange(0, BLOCK_N)
        channels, tap = terms // taps, terms % taps
    else:
        # All columns of a tile have one tap; programs that differ in it alone follow each other.
        column_tiles = tl.cdiv(CHANNELS, BLOCK_N) * taps
        column_tile = program % column_tiles
        channels = column_tile // taps * BLOCK_N + tl.arange(0, BLOCK_N)
        tap = column_tile % taps
    tap_h, tap_w = tap // KERNEL_W, tap % KERNEL_W
    move_h, move_w = tap_h * STEP_H, tap_w * STEP_W
    x_offsets = channels.to(tl.int64) * stride_xc
    x_offsets += move_h.to(tl.int64) * stride_xh + move_w.to(tl.int64) * stride_xw
    if FLAT:
        move_h, move_w = along_channels(move_h, PLANAR), along_channels(move_w, PLANAR)
    program = program // column_tiles
    filter_tiles = tl.cdiv(FILTERS, BLOCK_M)
    filters = program % filter_tiles * BLOCK_M + tl.arange(0, BLOCK_M)
    program = program // filter_tiles
    group = (program % GROUPS).to(tl.int64)
    split = program // GROUPS
    grad_ptr += group * FILTERS * stride_gc
    x_ptr += group * CHANNELS * stride_xc

    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for step in range(0, STEPS):
        pixels = (split * STEPS + step) * BLOCK_K + tl.arange(0, BLOCK_K)
        images, place_h, place_w = pixels_of(pixels, OUT_H, OUT_W)
        images = along_pixels(images, PLANAR)
        place_h, place_w = along_pixels(place_h, PLANAR), along_pixels(place_w, PLANAR)
        there = along_pixels(pixels < PIXELS, PLANAR)
        grad = image_tile(
            pixel_pointers(grad_ptr, images, place_h, place_w, stride_gn, stride_gh, stride_gw),
            along_channels(filters.to(tl.int64) * stride_gc, PLANAR), place_h, place_w,
            there & along_channels(filters < FILTERS, PLANAR), OUT_H, OUT_W,
        )  # fmt: skip
        from_h, from_w = place_h * SCALE_H + ORIGIN_H, place_w * SCALE_W + ORIGIN_W
        x = image_tile(
            pixel_pointers(x_ptr, images, from_h, from_w, stride_xn, stride_xh, stride_xw),
            along_channels(x_offsets, PLANAR), from_h + move_h, from_w + move_w,
            there & along_channels(channels < CHANNELS, PLANAR), SOURCE_H, SOURCE_W,
        )  # fmt: skip
        if PLANAR:
            x = tl.trans(x)
        else:
            grad = tl.trans(grad)
        total = tl.dot(grad, x, total, input_precision=PRECISION)

    rows = (group * FILTERS + filters) * stride_wo
    offsets = channels.to(tl.int64) * stride_wc
    offsets += tap_h.to(tl.int64) * stride_wh + tap_w.to(tl.int64) * stride_ww
    tl.store(
        sums_ptr + split.to(tl.int64) * SUMS + rows[:, None] + offsets[None, :],
        total,
        mask=(filters < FILTERS)[:, None] & (channels < CHANNELS)[None, :],
    )


@triton.jit
def filter_grad_part(
    sums_ptr, weight_ptr, scores_ptr, active_ptr, out_ptr, SPLITS, SUMS, offsets, size,
    SCORED: tl.constexpr, STRAIGHT: tl.constexpr, WHOLE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    on = load_part(active_ptr, offsets, size, WHOLE) != 0
    if SCORED:
        on = on & (load_part(scores_ptr, offsets, size, WHOLE) >= TAU)
    total = tl.zeros((BLOCK,), tl.float32)
    for _ in range(0, SPLITS):
        total += load_part(sums_ptr, offsets, size, WHOLE)
        sums_ptr += SUMS
    if STRAIGHT:
        total = total * load_part(weight_ptr, offsets, size, WHOLE).to(tl.float32)
    result = tl.where(on, total, 0).to(out_ptr.dtype.element_ty)
    store_part(out_ptr, offsets, result, size, WHOLE)


# A SIZE known to be a multiple of 16 costs the rest of a layer registers that it does not have.
@triton.jit(do_not_specialize=["SIZE", "SPLITS"])
def filter_grad_kernel(
    sums_ptr, weight_ptr, scores_ptr, active_ptr, out_ptr, SIZE, SPLITS,
    SCORED: tl.constexpr, STRAIGHT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Add the sums of all splits; STRAIGHT takes the product with the weight."""
    start = tl.program_id(0).to(tl.int64) * BLOCK
    offsets = start + tl.arange(0, BLOCK)
    SUMS = tl.cdiv(SIZE, BLOCK) * BLOCK
    if start + BLOCK <= SIZE:
        filter_grad_part(
            sums_ptr, weight_ptr, scores_ptr, active_ptr, out_ptr, SPLITS, SUMS, offsets, SIZE,
            SCORED, STRAIGHT, True, BLOCK,
        )  # fmt: skip
    else:
        filter_grad_part(
            sums_ptr, weight_ptr, scores_ptr, active_ptr, out_ptr, SPLITS, SUMS, offsets, SIZE,
            SCORED, STRAIGHT, False, BLOCK,
        )  # fmt: skip


def split_steps(pixels: int, block: int, tiles: int) -> tuple[int, int]:
    """Return among how many programs the sum over `pixels` is split, and how many steps each has.

    A pure function of the shape: nothing about the device changes the order of a sum.
    """
    steps = triton.cdiv(pixels, block)
    each = max(triton.cdiv(steps, max(PROGRAMS // max(tiles, 1), 1)), LEAST_STEPS)
    return triton.cdiv(steps, each), each


def workspace(weight: Tensor, splits: int) -> Tensor:
    """Return space for sums, a row for each split, each in the memory order of the weight."""
    # Whole blocks, so that each row begins at a multiple of 16 bytes.
    row = triton.cdiv(weight.numel(), BLOCK) * BLOCK
    return torch.empty((splits, row), dtype=torch.float32, device=weight.device)


def filter_walk_arguments(walk: Walk) -> dict[str, int]:
    """Return the numbers of a walk of one phase that kernels over filters take."""
    passed_over = ("PHASES", "DILATION", "TAP")
    named = walk.arguments.items()
    return {name: size for name, size in named if not name.startswith(passed_over)}


def filter_sums(grad_y: Tensor, x: Tensor, weight: Tensor, walk: Walk, groups: int) -> Tensor:
    """Return the partial sums of dL/dw_eff, in the memory order of the dense weight."""
    filters, channels = grad_y.shape[1] // groups, x.shape[1] // groups
    taps = weight.shape[2] * weight.shape[3]
    flat = channels < LEAST_CHANNELS
    how = precision(x)
    tiles = TILES[how if x.dtype == torch.float32 else "half"]
    steps = triton.cdiv(walk.rows, LEAST_STEPS * tiles.tiles[0].k)
    tile = tiles.choose(filters, channels, groups * taps * steps, flat)
    columns = triton.cdiv(channels * taps, tile.n) if flat else triton.cdiv(channels, tile.n) * taps
    programs = triton.cdiv(filters, tile.m) * columns * groups
    splits, steps = split_steps(walk.rows, tile.k, programs)
    sums = workspace(weight, splits)
    launch(
        filter_sums_kernel,
        (programs * splits,),
        x.device,
        grad_y,
        x,
        sums,
        *grad_y.stride(),
        *x.stride(),
        *weight.stride(),
        FILTERS=filters,
        CHANNELS=channels,
        GROUPS=groups,
        PIXELS=walk.rows,
        STEPS=steps,
        SUMS=sums.shape[1],
        **filter_walk_arguments(walk),
        PLANAR=is_planar(x),
        FLAT=flat,
        PRECISION=how,
        **tile.constants,
        num_warps=tile.warps,
        num_stages=tile.stages,
    )
    return sums


def filter_grad(
    sums: Tensor,
    weight: Tensor,
    scores: Tensor | None,
    active: Tensor,
    out: Tensor,
    straight: bool,
) -> None:
    """Write to `out` what `sums` come to under the mask, all in the memory order of the weight."""
    launch(
        filter_grad_kernel,
        (triton.cdiv(weight.numel(), BLOCK),),
        weight.device,
        sums,
        weight,
        active if scores is None else scores,
        active,
        out,
        SIZE=weight.numel(),
        SPLITS=len(sums),
        SCORED=scores is not None,
        STRAIGHT=straight,
        BLOCK=BLOCK,
        num_warps=WARPS,
    )


def sums_signature(x: str, planar: bool) -> dict[str, str]:
    """Return the types of what kernels over filters take; one stride of each image is 1."""
    numbers = [
        *(f"stride_{tensor}{axis}" for tensor in "gx" for axis in ("nhc" if planar else "nhw")),
        *(f"stride_w{axis}" for axis in "ochw"),
        *("FILTERS", "CHANNELS", "GROUPS", "PIXELS", "STEPS", "SUMS"),
        *filter_walk_arguments(output_walk((1, 1, 1, 1), (1, 1), (1, 1), (0, 0), (1, 1))),
    ]
    pointers = {"grad_ptr": f"*{x}", "x_ptr": f"*{x}", "sums_ptr": "*fp32"}
    return pointers | dict.fromkeys(numbers, "i32")


def variants() -> Iterator[Variant]:
    """Yield the kernel of sums with every tile and layout, and that of gradients."""
    kinds = (("fp16", "half"), ("bf16", "half"), ("fp32", "tf32"), ("fp32", "ieee"))
    for (x, tiles), planar in itertools.product(kinds, (True, False)):
        for tile, flat in TILES[tiles].all():
            axis = "w" if planar else "c"
            constants = {
                f"stride_g{axis}": 1,
                f"stride_x{axis}": 1,
                "PLANAR": planar,
                "FLAT": flat,
                "PRECISION": "tf32" if tiles == "tf32" else "ieee",
                **tile.constants,
            }
            yield Variant(
                filter_sums_kernel,
                sums_signature(x, planar),
                constants,
                "exact" if tiles == "ieee" else "matmul",
                warps=tile.warps,
                stages=tile.stages,
            )
    ends = ((True, False), (False, False), (False, True))
    for weight, (scored, straight) in itertools.product(("fp32", "fp16", "bf16"), ends):
        arguments = {
            "sums_ptr": "*fp32",
            "weight_ptr": f"*{weight}",
            "scores_ptr": "*fp32" if scored else "*i1",
            "active_ptr": "*i1",
            "out_ptr": "*fp32" if straight else f"*{weight}",
            "SIZE": "i32",
            "SPLITS": "i32",
        }
        end = {"SCORED": scored, "STRAIGHT": straight, "BLOCK": BLOCK}
        yield Variant(filter_grad_kernel, arguments, end, "elementwise", threads=THREADS)

"""A matrix turned over, tile by tile: how a change of layout is computed."""

from __future__ import annotations

from gemkern.kernels.cpu.loops.tiles import turn_tile, turn_tile_padded, turn_tile_past_caches
from gemkern.kernels.cpu.loops.vectors import wait_for_stores
from gemkern.kernels.cpu.machine.compiling import njit
from gemkern.kernels.cpu.machine.lanes import BYTES, LANES, share_of
from numba import prange

# Rows and columns of a block, which one thread turns over: some lines of every row, so that a page
# of memory is read at one place for a while.
BLOCK = 64


def _over_tiles(turn_one):
    """Return the function that turns a matrix [rows, columns] over; steps are in bytes."""

    @njit
    def turn(source, source_step, rows, columns, target, target_step):
        for row in range(0, rows, LANES):
            for column in range(0, columns, LANES):
                turn_one(
                    source + row * source_step + column * BYTES, source_step,
                    min(LANES, rows - row), min(LANES, columns - column),
                    target + column * target_step + row * BYTES, target_step,
                )  # fmt: skip

    return turn


turn, turn_padded = _over_tiles(turn_tile), _over_tiles(turn_tile_padded)
turn_past_caches = _over_tiles(turn_tile_past_caches)


@njit(parallel=True, cache=True)
def turn_over(threads, source, rows, columns, target, streamed):
    """Write the transpose of a matrix float32 [rows, columns]; past the caches if streamed."""
    source_step, target_step = columns * BYTES, rows * BYTES
    down, across = (rows + BLOCK - 1) // BLOCK, (columns + BLOCK - 1) // BLOCK
    for thread in prange(threads):
        for number in range(*share_of(down * across, thread, threads)):
            # What a thread writes lies together.
            if rows < columns:
                j, i = divmod(number, down)
            else:
                i, j = divmod(number, across)
            row, column = i * BLOCK, j * BLOCK
            read = source + row * source_step + column * BYTES
            written = target + column * target_step + row * BYTES
            height, width = min(BLOCK, rows - row), min(BLOCK, columns - column)
            if streamed:
                turn_past_caches(read, source_step, height, width, written, target_step)
            else:
                turn(read, source_step, height, width, written, target_step)
        wait_for_stores()

"""How the work on a batch is cut into parts, chunks of images by bands of rows, dealt to threads.

Parts depend on shapes alone, and their sums are added up in one order, so that results do not
depend on the number of threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
from gemkern.kernels.cpu.machine.compiling import njit

# Rows of a band, about: those at its borders are read by both neighbours, unless one thread walks
# both. Where that makes fewer parts than keep threads busy, bands are smaller.
BAND, PARTS = 8, 16
# Parts for whose sake chunks of images are narrower than the cache allows, and vectors that they
# keep nevertheless.
FEWEST_PARTS, NARROWEST = 8, 8


def widest_chunk(vectors: int, rows: int, most: int) -> int:
    """Return of how many vectors of a batch a chunk is made, which the cache allows `most` of.

    The images of a pixel lie side by side: the more of them are read at once, the longer the runs
    of memory. But a part is no less than a row of a chunk.
    """
    chunks = -(-FEWEST_PARTS // max(rows, 1))
    return max(1, min(most, max(NARROWEST, vectors // chunks)))


def bands_of(rows: int, chunks: int) -> np.ndarray:
    """Return int64 [bands + 1], the first row of each band, and how many rows there are.

    Bands are a power of two, which most numbers of threads divide.
    """
    wanted = max(1, rows // BAND, -(-PARTS // max(chunks, 1)))
    most = 1 << max(rows.bit_length() - 1, 0)
    bands = min(1 << (wanted - 1).bit_length(), most)
    return np.array([rows * band // bands for band in range(bands + 1)], dtype=np.int64)


def dealt(chunks: int, bands: int, threads: int) -> Iterator[list[tuple[int, int, int]]]:
    """Yield what each thread makes: chunks, each with the first of its bands and behind the last.

    Threads take bands of all images where those can be shared out evenly, not images: the ones of a
    pixel lie side by side, and threads that write neighbours have what the processor fetches ahead
    taken from each other. That costs up to a third of the time.
    """
    if bands % threads == 0:
        share = bands // threads
        for thread in range(threads):
            yield [(chunk, thread * share, (thread + 1) * share) for chunk in range(chunks)]
        return
    parts = chunks * bands
    for thread in range(threads):
        begin, end = parts * thread // threads, parts * (thread + 1) // threads
        touched = range(begin // bands, -(-end // bands) if begin < end else 0)
        yield [
            (chunk, max(begin - chunk * bands, 0), min(end - chunk * bands, bands))
            for chunk in touched
        ]


def listed(
    chunks: int,
    bands: int,
    threads: int,
    columns: int,
    rows_of: Callable[[int, int, int], Iterable[tuple[int, ...]]],
) -> tuple[np.ndarray, np.ndarray]:
    """Return what threads make, row by row, and where the rows of each begin, and how many are.

    Args:
        rows_of: rows_of(chunk, first, last) yields the rows of bands first:last, of `columns`
            numbers.
    """
    rows: list[tuple[int, ...]] = []
    begins = [0]
    for of_thread in dealt(chunks, bands, threads):
        for share in of_thread:
            rows += rows_of(*share)
        begins.append(len(rows))
    return np.array(rows, np.int64).reshape(-1, columns), np.array(begins, np.int64)


@njit
def total_of(parts):
    """Return the sums over parts [parts, entries], in their order."""
    totals = np.zeros(parts.shape[1], np.float32)
    for part in parts:
        for entry in range(len(totals)):
            totals[entry] += part[entry]
    return totals

"""Lists of the entries that reach a pixel, made anew for each kind of pixels.

A pixel at a border is reached by some taps alone. Its list leaves the others out, and the entries
whose value is 0, so that the inner loops meet neither a test nor a padding.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from gemkern.kernels.cpu.conv2d_walk import NOWHERE
from numba import njit


class Entries(NamedTuple):
    """The entries of a pattern from the side that is written; arrays are int64 but for the labels.

    Attributes:
        labels: [nnz], what the lists hold of an entry, its value, say; 0 leaves it out.
        positions: [nnz], of the pattern.
        starts: [channels + 1], or [channels per group + 1] of the input channels.
        order: [nnz], the entries by input channel, or [0] if they are walked as they lie.
        by_input: whether the input is written, and `order` counts.
        targets, sources: channels of a group on the side that is written, that is read.
        divisor, modulus: position // divisor % modulus is the channel that is read: within its
            group where the output is written.
        taps, width: of the kernel, and along its width.
        read_blocks: [blocks + 1], bounds of the blocks of channels that are read together.
    """

    labels: np.ndarray
    positions: np.ndarray
    starts: np.ndarray
    order: np.ndarray
    by_input: bool
    targets: int
    sources: int
    divisor: int
    modulus: int
    taps: int
    width: int
    read_blocks: np.ndarray


@njit
def lower_bound(entries, first, last, channel):
    """Return the first place in first:last whose entry reads no channel below `channel`."""
    while first < last:
        middle = (first + last) // 2
        entry = entries.order[middle] if entries.by_input else middle
        if entries.positions[entry] // entries.divisor % entries.modulus < channel:
            first = middle + 1
        else:
            last = middle
    return first


@njit
def ranges_of(entries, first, last):
    """Return int64 [channels, 3] for first:last: first and last entry, first channel read."""
    ranges = np.empty((last - first, 3), np.int64)
    for number in range(last - first):
        group, channel = divmod(first + number, entries.targets)
        if entries.by_input:
            begin, end = entries.starts[channel], entries.starts[channel + 1]
            base = group * entries.sources
            ranges[number, 0] = lower_bound(entries, begin, end, base)
            ranges[number, 1] = lower_bound(entries, begin, end, base + entries.sources)
            ranges[number, 2] = 0
        else:
            ranges[number, 0] = entries.starts[first + number]
            ranges[number, 1] = entries.starts[first + number + 1]
            ranges[number, 2] = group * entries.sources
    return ranges


@njit
def block_of(entries, ranges, block):
    """Return the part of `ranges` that reads the channels of a block."""
    part = ranges.copy()
    blocks = len(entries.read_blocks) - 1
    for number in range(len(ranges)):
        begin, end = ranges[number, 0], ranges[number, 1]
        if block > 0:
            part[number, 0] = lower_bound(entries, begin, end, entries.read_blocks[block])
        if block + 1 < blocks:
            part[number, 1] = lower_bound(entries, begin, end, entries.read_blocks[block + 1])
    return part


@njit
def list_entries(entries, ranges, row_reach, column_reach, strides, offsets, listed, bounds):
    """List the entries of every range, once for each kind of columns.

    An entry's label goes to listed [kinds, room], and to offsets [kinds, room] the bytes from a
    pixel's base to what it reads; bounds [kinds, ranges + 1] says where the ranges begin. `strides`
    are the bytes from one channel, row and column of the source to the next.
    """
    divisor, modulus = np.uint64(entries.divisor), np.uint64(entries.modulus)
    taps, width = np.uint64(entries.taps), np.uint64(entries.width)
    kinds = len(column_reach)
    lengths = np.zeros(kinds, np.int64)
    bounds[:, 0] = 0
    for number in range(len(ranges)):
        for place in range(ranges[number, 0], ranges[number, 1]):
            entry = entries.order[place] if entries.by_input else place
            label = entries.labels[entry]
            position = np.uint64(entries.positions[entry])
            tap = position % taps
            row = row_reach[np.int64(tap // width)]
            if label == 0 or row == NOWHERE:
                continue
            column_tap = np.int64(tap % width)
            channel = ranges[number, 2] + np.int64(position // divisor % modulus)
            offset = channel * strides[0] + row * strides[1]
            for kind in range(kinds):
                # Written even where the tap does not reach: the next entry overwrites it.
                column = column_reach[kind, column_tap]
                length = lengths[kind]
                offsets[kind, length] = offset + column * strides[2]
                listed[kind, length] = label
                lengths[kind] = length + (column != NOWHERE)
        for kind in range(kinds):
            bounds[kind, number + 1] = lengths[kind]

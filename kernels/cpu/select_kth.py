"""The exact k-th smallest of many values by radix select, and the removal of the k lowest.

Named and called as `gemkern.kernels.reference.select_kth`, and equal to it (a zero `kth` has the
sign +, whatever zero it stands for). Each pass counts, among the entries whose keys begin as that
of the k-th does, the next bits: 11, 11 and 10. The passes follow Alabi et al., "Fast k-selection
algorithms for graphics processing units" (JEA 2012). What is not float32 is left to the reference.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from gemkern.kernels import reference
from gemkern.kernels.cpu.machine.compiling import njit
from gemkern.kernels.cpu.machine.keys import LEAST_KEY, bits_of, key_of
from gemkern.kernels.cpu.machine.lanes import BYTES
from gemkern.kernels.cpu.machine.memory import flags, floats, integers
from gemkern.kernels.cpu.machine.tables import address_of, share_of_layer, table, table_at
from gemkern.kernels.cpu.machine.threads import start_threads
from gemkern.kernels.cpu.threshold import float32
from numba import prange
from torch import Tensor

# Rows of the table.
VALUES, ACTIVE = 2, 3
# Keys are told apart by 11 bits at once.
BINS = 1 << 11


@njit(cache=True)
def count_digits(values, active, counts, known, key, shift, last):
    """Count the digits, up to `last`, at `shift` of active keys equal to `key` where `known`."""
    for i in range(values.size):
        k = key_of(values[i])
        if active[i] != 0 and k & known == key:
            counts[(k >> shift) & last] += 1


@njit(cache=True, parallel=True)
def count(parts, rows, known, key, shift, last):
    """Return the counts of digits over all of a table, int64 [BINS]."""
    counts = np.zeros((parts, BINS), np.int64)
    for part in prange(parts):
        for layer in range(rows.shape[1]):
            first, size = share_of_layer(rows, layer, part, parts)
            count_digits(
                floats(rows[VALUES, layer] + BYTES * first, size).view(np.uint32),
                flags(rows[ACTIVE, layer] + first, size),
                counts[part], known, key, shift, last,
            )  # fmt: skip
    return counts.sum(axis=0)


@njit(cache=True)
def rank(parts, rows, k):
    """Return the bits of the k-th smallest, and how many of its ties are among the k lowest."""
    if k == 0:
        return bits_of(LEAST_KEY), 0
    key, known, left = np.uint32(0), np.uint32(0), k
    for bit, width in ((21, 11), (10, 11), (0, 10)):
        shift, last = np.uint32(bit), np.uint32((1 << width) - 1)
        digits = count(parts, rows, known, key, shift, last)
        digit = 0
        while digit < last and digits[digit] < left:
            left -= digits[digit]
            digit += 1
        key |= np.uint32(digit) << shift
        known |= last << shift
    return bits_of(key), left


@njit(cache=True)
def rank_all(parts, of_layers, layers, k, kth, ties, ranks, together):
    """Write kth and ties of all layers `together`, or of each layer."""
    rows = table_at(of_layers, 2, layers)
    for i in range(ranks):
        of = rows if together else one_layer(rows, i)
        bits, left = rank(parts, of, integers(k, ranks)[i])
        floats(kth, ranks).view(np.uint32)[i] = bits
        integers(ties, ranks)[i] = left


@njit(cache=True)
def one_layer(rows, layer):
    """Return the table of one layer of a table."""
    one = rows[:, layer : layer + 1].copy()
    one[1, 0] = 0
    return one


@njit(cache=True)
def count_equal(values, active, kth):
    result = 0
    for i in range(values.size):
        result += (active[i] != 0) & (key_of(values[i]) == kth)
    return result


@njit(cache=True)
def clear_lowest(values, active, kth, ties):
    """Clear `active` below kth and at the first `ties` that equal it; return the ties left."""
    if ties <= 0:
        for i in range(values.size):
            active[i] &= key_of(values[i]) >= kth
        return 0
    for i in range(values.size):
        key = key_of(values[i])
        if key < kth:
            active[i] = 0
        elif key == kth and ties > 0 and active[i] != 0:
            active[i] = 0
            ties -= 1
    return ties


@njit(cache=True, parallel=True)
def remove(parts, rows, kth, ties):
    """Clear `active` for the lowest of all of a table; a part's ties are those left by others."""
    equal, ties = np.zeros(parts, np.int64), max(ties, 0)
    for part in prange(parts):
        for layer in range(rows.shape[1]):
            first, size = share_of_layer(rows, layer, part, parts)
            equal[part] += count_equal(
                floats(rows[VALUES, layer] + BYTES * first, size).view(np.uint32),
                flags(rows[ACTIVE, layer] + first, size),
                kth,
            )
    for part in prange(parts):
        left = ties - equal[:part].sum()
        for layer in range(rows.shape[1]):
            first, size = share_of_layer(rows, layer, part, parts)
            left = clear_lowest(
                floats(rows[VALUES, layer] + BYTES * first, size).view(np.uint32),
                flags(rows[ACTIVE, layer] + first, size),
                kth,
                left,
            )


@njit(cache=True)
def remove_all(parts, of_layers, layers, kth, ties, ranks, together):
    """Remove the lowest of all layers `together`, or of each layer."""
    rows = table_at(of_layers, 2, layers)
    for i in range(ranks):
        of = rows if together else one_layer(rows, i)
        bits = floats(kth, ranks).view(np.uint32)[i]
        remove(parts, of, key_of(bits), integers(ties, ranks)[i])


def select_kth(
    values: Sequence[Tensor], active: Sequence[Tensor], k: Tensor
) -> tuple[Tensor, Tensor]:
    if not float32(values):
        return reference.select_kth(values, active, k)
    values = [value.contiguous() for value in values]
    active = [on.contiguous() for on in active]
    k = k.contiguous()
    kth, ties = torch.empty_like(k, dtype=torch.float32), torch.empty_like(k)
    of_layers = table(values, active)
    rank_all(
        start_threads(), address_of(of_layers), len(values), k.data_ptr(), kth.data_ptr(),
        ties.data_ptr(), k.numel(), k.dim() == 0,
    )  # fmt: skip
    return kth, ties


def remove_lowest(
    values: Sequence[Tensor], active: Sequence[Tensor], kth: Tensor, ties: Tensor
) -> None:
    if not float32(values):
        reference.remove_lowest(values, active, kth, ties)
        return
    values = [value.contiguous() for value in values]
    worked_on = [on.contiguous() for on in active]
    kth, ties = kth.contiguous(), ties.contiguous()
    of_layers = table(values, worked_on)
    remove_all(
        start_threads(), address_of(of_layers), len(values), kth.data_ptr(), ties.data_ptr(),
        kth.numel(), kth.dim() == 0,
    )  # fmt: skip
    for on, cleared in zip(active, worked_on, strict=True):
        if cleared is not on:
            on.copy_(cleared)

"""Masks and effective weights of all layers in one parallel pass.

Named and called as `gemkern.kernels.reference.threshold`, and equal to it bit for bit. What is not
float32, and a change of the memory format, is left to the reference.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from gemkern.kernels import reference
from gemkern.kernels.cpu.machine.compiling import njit
from gemkern.kernels.cpu.machine.lanes import BYTES
from gemkern.kernels.cpu.machine.memory import flags, floats, number
from gemkern.kernels.cpu.machine.numerics import adopt, float_control
from gemkern.kernels.cpu.machine.tables import (
    address_of,
    alike,
    in_memory,
    share_of_layer,
    table,
    table_at,
)
from gemkern.kernels.cpu.machine.threads import start_threads
from gemkern.kernels.layouts import empty_as, same_order
from gemkern.kernels.reference.threshold import TAU
from numba import prange
from torch import Tensor

# Rows of the table.
OUT, ACTIVE, SCORES, WEIGHTS = 2, 3, 4, 5


@njit(cache=True)
def masks(out, active, scores, tau):
    for i in range(out.size):
        out[i] = (active[i] != 0) & (scores[i] >= tau)


@njit(cache=True)
def selected(out, active, scores, weights, tau):
    for i in range(out.size):
        out[i] = weights[i] if (active[i] != 0) & (scores[i] >= tau) else np.float32(0)


@njit(cache=True)
def selected_by_active(out, active, weights):
    for i in range(out.size):
        out[i] = weights[i] if active[i] != 0 else np.float32(0)


@njit(cache=True, parallel=True)
def threshold_all(threads, of_layers, layers, tau):
    rows = table_at(of_layers, 3, layers)
    control = float_control()
    for thread in prange(threads):
        before = adopt(control)
        for layer in range(layers):
            first, size = share_of_layer(rows, layer, thread, threads)
            masks(
                flags(rows[OUT, layer] + first, size),
                flags(rows[ACTIVE, layer] + first, size),
                floats(rows[SCORES, layer] + BYTES * first, size),
                np.float32(number(tau)),
            )
        adopt(before)


@njit(cache=True, parallel=True)
def select_all(threads, of_layers, layers, tau, scored):
    rows = table_at(of_layers, 4, layers)
    control = float_control()
    for thread in prange(threads):
        before = adopt(control)
        for layer in range(layers):
            first, size = share_of_layer(rows, layer, thread, threads)
            out = floats(rows[OUT, layer] + BYTES * first, size)
            active = flags(rows[ACTIVE, layer] + first, size)
            weights = floats(rows[WEIGHTS, layer] + BYTES * first, size)
            if scored:
                scores = floats(rows[SCORES, layer] + BYTES * first, size)
                selected(out, active, scores, weights, np.float32(number(tau)))
            else:
                selected_by_active(out, active, weights)
        adopt(before)


def threshold(
    scores: Sequence[Tensor] | None, active: Sequence[Tensor], tau: float | Tensor = TAU
) -> list[Tensor]:
    if scores is None or not float32(scores):
        return reference.threshold(scores, active, tau)
    scores, active = alike(scores, active)
    out = [empty_as(score, torch.bool) for score in scores]
    threads, held = start_threads(), in_memory(tau)
    of_layers = table(out, active, scores)
    threshold_all(threads, address_of(of_layers), len(out), held.data_ptr())
    return out


def effective_weight(
    weights: Sequence[Tensor],
    scores: Sequence[Tensor] | None,
    active: Sequence[Tensor],
    tau: float | Tensor = TAU,
    dtype: torch.dtype | None = None,
    memory_format: torch.memory_format = torch.preserve_format,
) -> list[Tensor]:
    narrow = dtype not in (None, torch.float32)
    if narrow or not float32(weights) or not (scores is None or float32(scores)):
        return reference.effective_weight(weights, scores, active, tau, dtype, memory_format)
    given = active if scores is None else scores
    like, active, scored = alike(weights, active, given)
    out = [
        torch.empty_like(weight, memory_format=memory_format)
        if weight.dim() == 4
        else torch.empty_like(weight)
        for weight in like
    ]
    if memory_format != torch.preserve_format and not all(map(same_order, out, like)):
        return reference.effective_weight(weights, scores, active, tau, dtype, memory_format)
    threads, held = start_threads(), in_memory(tau)
    of_layers = table(out, active, scored, like)
    select_all(threads, address_of(of_layers), len(out), held.data_ptr(), scores is not None)
    return out


def float32(tensors: Sequence[Tensor]) -> bool:
    """Return whether there are tensors, all of float32."""
    return len(tensors) > 0 and all(tensor.dtype == torch.float32 for tensor in tensors)

"""Which backend serves which operator: the one place that says so."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

BACKENDS = ("gpu", "cpu", "reference")


@dataclass(frozen=True)
class Entry:
    """The module that serves an operator, or the reason why the backend does not."""

    module: str | None = None
    reason: str = ""


NO_TRITON_KERNEL = Entry(reason="this version has no Triton kernel for it")
NO_NUMBA_KERNEL = Entry(reason="this version has no Numba kernel for it")


def _entries(reference: str, gpu: str | None = None, cpu: str | None = None) -> dict[str, Entry]:
    """Return who serves an operator: files of `kernels/reference/`, `gpu/` and `cpu/`."""
    return {
        "gpu": Entry(module=f"gemkern.kernels.gpu.{gpu}") if gpu else NO_TRITON_KERNEL,
        "cpu": Entry(module=f"gemkern.kernels.cpu.{cpu}") if cpu else NO_NUMBA_KERNEL,
        "reference": Entry(module=f"gemkern.kernels.reference.{reference}"),
    }


OPERATORS: dict[str, dict[str, Entry]] = {
    "threshold": _entries("threshold", gpu="threshold", cpu="threshold"),
    "effective_weight": _entries("threshold", gpu="threshold", cpu="threshold"),
    "straight_through": _entries("straight_through", gpu="straight_through"),
    "pack_mask": _entries("bits", gpu="bits"),
    "unpack_mask": _entries("bits", gpu="bits"),
    "select_kth": _entries("select_kth", gpu="select_kth", cpu="select_kth"),
    "remove_lowest": _entries("select_kth", gpu="select_kth", cpu="select_kth"),
    "popup_mask": _entries("popup", gpu="popup"),
    "popup_weight": _entries("popup", gpu="popup"),
    "masked_linear": _entries("masked_linear", gpu="ways"),
    "masked_linear_input_grad": _entries("masked_linear", gpu="ways"),
    "masked_linear_weight_grad": _entries("masked_linear", gpu="ways"),
    "masked_linear_score_grad": _entries("masked_linear", gpu="ways"),
    "masked_conv2d": _entries("masked_conv2d", gpu="ways"),
    "masked_conv2d_input_grad": _entries("masked_conv2d", gpu="ways"),
    "masked_conv2d_weight_grad": _entries("masked_conv2d", gpu="ways"),
    "masked_conv2d_score_grad": _entries("masked_conv2d", gpu="ways"),
    "sparse_linear": _entries("sparse_linear", cpu="sparse_linear"),
    "sparse_linear_backward": _entries("sparse_linear", cpu="sparse_linear"),
    "batch_last": _entries("batch_last", cpu="batch_last"),
    "contiguous": _entries("batch_last", cpu="batch_last"),
    "norm_sparse_conv2d": _entries("norm_sparse_conv2d", cpu="norm_sparse_conv2d"),
    "norm_sparse_conv2d_backward": _entries("norm_sparse_conv2d", cpu="norm_sparse_conv2d"),
    "normalise": _entries("normalise", cpu="normalise"),
    "normalise_backward": _entries("normalise", cpu="normalise"),
    "normalise_max_pool2d": _entries("normalise_max_pool2d", cpu="normalise_max_pool2d"),
    "normalise_max_pool2d_backward": _entries("normalise_max_pool2d", cpu="normalise_max_pool2d"),
    "batch_norm_relu": _entries("batch_norm_relu", cpu="batch_norm_relu"),
    "batch_norm_relu_backward": _entries("batch_norm_relu", cpu="batch_norm_relu"),
    "average_pool2d": _entries("pooling", cpu="pooling"),
    "average_pool2d_backward": _entries("pooling", cpu="pooling"),
    "max_pool2d": _entries("pooling", cpu="pooling"),
    "max_pool2d_backward": _entries("pooling", cpu="pooling"),
    "padded_shortcut": _entries("shortcut", cpu="shortcut"),
    "padded_shortcut_backward": _entries("shortcut", cpu="shortcut"),
    "score_step_sgd": _entries("score_step", gpu="score_step", cpu="score_step"),
    "score_step_adam": _entries("score_step", gpu="score_step", cpu="score_step"),
}


def load(operator: str, backend: str) -> Callable[..., Any]:
    """Import and return the function that serves `operator` on `backend`.

    Raises:
        LookupError: the table has no module for the pair; its `reason` says why.
    """
    module = OPERATORS[operator][backend].module
    if module is None:
        raise LookupError(f"{operator} on {backend}: {OPERATORS[operator][backend].reason}")
    return getattr(importlib.import_module(module), operator)

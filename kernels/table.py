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


def _reference_alone(file: str) -> dict[str, Entry]:
    return {
        "gpu": NO_TRITON_KERNEL,
        "cpu": NO_NUMBA_KERNEL,
        "reference": Entry(module=f"gemkern.kernels.reference.{file}"),
    }


OPERATORS: dict[str, dict[str, Entry]] = {
    "threshold": _reference_alone("threshold"),
    "threshold_packed": _reference_alone("threshold"),
    "effective_weight": _reference_alone("threshold"),
    "pack_mask": _reference_alone("bits"),
    "unpack_mask": _reference_alone("bits"),
    "select_kth": _reference_alone("select_kth"),
    "remove_lowest": _reference_alone("select_kth"),
    "masked_linear": _reference_alone("masked_linear"),
    "masked_linear_input_grad": _reference_alone("masked_linear"),
    "masked_linear_weight_grad": _reference_alone("masked_linear"),
    "masked_linear_score_grad": _reference_alone("masked_linear"),
    "masked_conv2d": _reference_alone("masked_conv2d"),
    "masked_conv2d_input_grad": _reference_alone("masked_conv2d"),
    "masked_conv2d_weight_grad": _reference_alone("masked_conv2d"),
    "masked_conv2d_score_grad": _reference_alone("masked_conv2d"),
    "score_step_sgd": _reference_alone("score_step"),
    "score_step_adam": _reference_alone("score_step"),
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

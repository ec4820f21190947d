"""Masked layers on the way that a measurement found faster.

Named and called as in `gemkern.kernels.reference`. There are two ways: `materialised` writes the
effective weight and leaves the product to cuBLAS or cuDNN; `masked_linear` and `masked_conv2d` mask
each tile of the weight as they load it. The committed table `ways.json` says for which device,
operator, dtype and number of rows the second is faster; what it does not name is materialised.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import torch
from gemkern.kernels.gpu import materialised
from torch import Tensor

TABLE = Path(__file__).with_name("ways.json")


class Row(NamedTuple):
    """One line of the table: in-kernel is faster here, up to `rows` rows of the product."""

    device: str
    operator: str
    dtype: str
    rows: int
    measured: str


def in_kernel_is_faster(operator: str, dtype: torch.dtype, rows: int, device: str) -> bool:
    """Return whether the table has `operator` mask its tiles, for `rows` rows on `device`."""
    return any(
        row.device == device
        and row.operator == operator
        and row.dtype == str(dtype).removeprefix("torch.")
        and rows <= row.rows
        for row in table()
    )


@cache
def table() -> tuple[Row, ...]:
    """Return the committed table."""
    rows = json.loads(TABLE.read_text(encoding="utf-8"))["in-kernel"]
    return tuple(Row(**row) for row in rows)


def _served(operator: str, rows_of: Callable[..., int]) -> Callable[..., Tensor]:
    first, second = operator.split("_")[:2]
    module = f"gemkern.kernels.gpu.{first}_{second}"

    def run(x: Tensor, *arguments: Any) -> Tensor:
        if in_kernel_is_faster(operator, x.dtype, rows_of(x, *arguments), _name(x.device)):
            return getattr(import_module(module), operator)(x, *arguments)
        return getattr(materialised, operator)(x, *arguments)

    run.__name__ = operator
    return run


@cache
def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _rows_of_features(x: Tensor, *arguments: Any) -> int:
    return math.prod(x.shape[:-1])


def _rows_of_images(images: Tensor, *arguments: Any) -> int:
    """Return the number of pixels of the images that a kernel takes first, x or grad_y."""
    return images.shape[0] * images.shape[2] * images.shape[3]


masked_linear = _served("masked_linear", _rows_of_features)
masked_linear_input_grad = _served("masked_linear_input_grad", _rows_of_features)
masked_linear_weight_grad = _served("masked_linear_weight_grad", _rows_of_features)
masked_linear_score_grad = _served("masked_linear_score_grad", _rows_of_features)
masked_conv2d = _served("masked_conv2d", _rows_of_images)
masked_conv2d_input_grad = _served("masked_conv2d_input_grad", _rows_of_images)
masked_conv2d_weight_grad = _served("masked_conv2d_weight_grad", _rows_of_images)
masked_conv2d_score_grad = _served("masked_conv2d_score_grad", _rows_of_images)

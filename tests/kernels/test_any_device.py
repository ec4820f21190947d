"""No operator of the reference reads a number on the host: the meta device has none to read."""

from __future__ import annotations

import pytest
import torch
from gemkern.kernels.geometry import Geometry
from gemkern.kernels.reference.norm_sparse_conv2d import NormSparse
from gemkern.kernels.reference.normalise import Norm
from gemkern.kernels.reference.pattern import Pattern
from gemkern.kernels.table import OPERATORS, load

META = torch.device("meta")
SHAPE = (6, 2, 3, 3)


def new(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device=META)


def off_host(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.empty((), dtype=dtype, device=META)


WEIGHT, ACTIVE = new(*SHAPE), new(*SHAPE, dtype=torch.bool)
GEOMETRY = Geometry((2, 2), (1, 1), (1, 1), 2)
X, Y = new(5, 4, 8, 8), new(5, 6, 4, 4)
COUNT = off_host(torch.int64)
KEPT = new(2, dtype=torch.int64)
ROWS, ROWS_OUT, MATRIX, MATRIX_ACTIVE = new(5, 4), new(5, 3), new(3, 4), new(3, 4).bool()

VALUES = new(7)


def pattern(*shape: int) -> Pattern:
    return Pattern(shape, new(shape[0] + 1, dtype=torch.int64), new(7, dtype=torch.int64))


CHANNELS = [new(4)] * 4
NORM = Norm(*CHANNELS)
WINDOWS = ((2, 2), (2, 2), (0, 0))
HALVES = new(5, 4, 4, 4)

ARGUMENTS = {
    "threshold": ([WEIGHT], [ACTIVE], off_host()),
    "effective_weight": ([WEIGHT], [WEIGHT], [ACTIVE], off_host(), torch.float16),
    "straight_through": ([WEIGHT], [WEIGHT], [ACTIVE]),
    "pack_mask": (ACTIVE,),
    "unpack_mask": (new(14, dtype=torch.uint8), SHAPE),
    "select_kth": ([WEIGHT, MATRIX], [ACTIVE, MATRIX_ACTIVE], COUNT),
    "remove_lowest": ([WEIGHT, MATRIX], [ACTIVE, MATRIX_ACTIVE], off_host(), COUNT),
    "popup_mask": ([WEIGHT, MATRIX], KEPT),
    "popup_weight": ([WEIGHT, MATRIX], [WEIGHT, MATRIX], KEPT, torch.float16),
    "masked_linear": (ROWS, MATRIX, MATRIX, MATRIX_ACTIVE, new(3)),
    "masked_linear_input_grad": (ROWS_OUT, MATRIX, MATRIX, MATRIX_ACTIVE),
    "masked_linear_weight_grad": (ROWS_OUT, ROWS, MATRIX, MATRIX, MATRIX_ACTIVE),
    "masked_linear_score_grad": (ROWS_OUT, ROWS, MATRIX, MATRIX_ACTIVE),
    "masked_conv2d": (X, WEIGHT, WEIGHT, ACTIVE, new(6), *GEOMETRY),
    "masked_conv2d_input_grad": (Y, X.shape, WEIGHT, WEIGHT, ACTIVE, *GEOMETRY),
    "masked_conv2d_weight_grad": (Y, X, WEIGHT, WEIGHT, ACTIVE, *GEOMETRY),
    "masked_conv2d_score_grad": (Y, X, WEIGHT, ACTIVE, *GEOMETRY),
    "batch_last": (X,),
    "contiguous": (ROWS.T,),
    "sparse_linear": (ROWS, VALUES, pattern(3, 4), new(3)),
    "sparse_linear_backward": (ROWS_OUT, ROWS, VALUES, pattern(3, 4), True, True),
    "norm_sparse_conv2d": (
        X, NORM._replace(residual=X), VALUES, pattern(*SHAPE), new(6), Y, True, True, GEOMETRY,
    ),
    "norm_sparse_conv2d_backward": (
        NormSparse(Y, X, new(6), new(6), X), Y, new(6), X, X, NORM, VALUES, pattern(*SHAPE), True,
        True, True, True, GEOMETRY,
    ),
    "normalise": (X, NORM._replace(residual=X)),
    "normalise_backward": (X, X, X, NORM, True),
    "normalise_max_pool2d": (X, NORM, *WINDOWS[:1], (3, 3)),
    "normalise_max_pool2d_backward": (
        HALVES[..., :2, :2], HALVES[..., :2, :2], HALVES[..., :2, :2].byte(), X, NORM, *WINDOWS[:1],
        (3, 3),
    ),
    "batch_norm_relu": (X, X, *CHANNELS, True, 0.1, 1e-5, True),
    "batch_norm_relu_backward": (X, X, X, *CHANNELS, True, True, True),
    "average_pool2d": (X, *WINDOWS, True),
    "average_pool2d_backward": (HALVES, X.shape, *WINDOWS, True),
    "max_pool2d": (X, *WINDOWS),
    "max_pool2d_backward": (HALVES, HALVES.byte(), X.shape, *WINDOWS),
    "padded_shortcut": (X, (2, 2), 1, 3),
    "padded_shortcut_backward": (Y, X.shape, (2, 2), 1),
    "score_step_sgd": ([WEIGHT], [ACTIVE], *[[WEIGHT]] * 4, off_host(), off_host(), 0.9, True),
    "score_step_adam": (
        [WEIGHT], [ACTIVE], *[[WEIGHT]] * 5, off_host(), off_host(), off_host(), 0.9, 0.999, 1e-8,
    ),
}  # fmt: skip


@pytest.mark.parametrize("operator", OPERATORS)
def test_no_number_is_read(operator: str) -> None:
    result = load(operator, "reference")(*ARGUMENTS[operator])
    made = [] if result is None else [result] if isinstance(result, torch.Tensor) else result
    assert all(tensor.device == META for tensor in made)


@pytest.mark.parametrize("operator", ["select_kth", "remove_lowest"])
def test_no_number_is_read_layer_by_layer(operator: str) -> None:
    values, active, *ranks = ARGUMENTS[operator]
    load(operator, "reference")(values, active, *[rank.expand(2) for rank in ranks])

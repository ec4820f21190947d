"""PyTorch operators over the kernels: gradients, checks, and the choice of a backend."""

from gemkern.ops.dispatch import availability
from gemkern.ops.masked import masked_conv2d, masked_linear
from gemkern.ops.masks import (
    effective_weight,
    pack_mask,
    threshold,
    threshold_packed,
    unpack_mask,
)
from gemkern.ops.popup import popup_mask, popup_weight
from gemkern.ops.selection import remove_lowest, select_kth
from gemkern.ops.steps import score_step_adam, score_step_sgd

__all__ = [
    "availability",
    "effective_weight",
    "masked_conv2d",
    "masked_linear",
    "pack_mask",
    "popup_mask",
    "popup_weight",
    "remove_lowest",
    "score_step_adam",
    "score_step_sgd",
    "select_kth",
    "threshold",
    "threshold_packed",
    "unpack_mask",
]

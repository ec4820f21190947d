"""PyTorch operators over the kernels: gradients, checks, and the choice of a backend."""

from gemkern.ops.batch_last import (
    average_pool2d,
    batch_norm_relu,
    max_pool2d,
    padded_shortcut,
)
from gemkern.ops.dispatch import availability
from gemkern.ops.layout import batch_last, contiguous, is_batch_last
from gemkern.ops.masked import masked_conv2d, masked_linear
from gemkern.ops.masks import (
    effective_weight,
    masked_weight,
    pack_mask,
    threshold,
    unpack_mask,
)
from gemkern.ops.norm_pool import normalise_max_pool2d
from gemkern.ops.norm_sparse import Norm, norm_sparse_conv2d, normalise, sparse_conv2d
from gemkern.ops.popup import popup_mask, popup_weight
from gemkern.ops.selection import remove_lowest, select_kth
from gemkern.ops.sparse import Pattern, pattern, sparse_linear
from gemkern.ops.steps import score_step_adam, score_step_sgd

__all__ = [
    "Norm",
    "Pattern",
    "availability",
    "average_pool2d",
    "batch_last",
    "batch_norm_relu",
    "contiguous",
    "effective_weight",
    "is_batch_last",
    "masked_conv2d",
    "masked_linear",
    "masked_weight",
    "max_pool2d",
    "norm_sparse_conv2d",
    "normalise",
    "normalise_max_pool2d",
    "pack_mask",
    "padded_shortcut",
    "pattern",
    "popup_mask",
    "popup_weight",
    "remove_lowest",
    "score_step_adam",
    "score_step_sgd",
    "select_kth",
    "sparse_conv2d",
    "sparse_linear",
    "threshold",
    "unpack_mask",
]

"""Every operator in readable PyTorch, for any float dtype and device: what others must match."""

from gemkern.kernels.reference.batch_last import batch_last, contiguous
from gemkern.kernels.reference.batch_norm_relu import batch_norm_relu, batch_norm_relu_backward
from gemkern.kernels.reference.bits import pack_mask, unpack_mask
from gemkern.kernels.reference.masked_conv2d import (
    masked_conv2d,
    masked_conv2d_input_grad,
    masked_conv2d_score_grad,
    masked_conv2d_weight_grad,
)
from gemkern.kernels.reference.masked_linear import (
    masked_linear,
    masked_linear_input_grad,
    masked_linear_score_grad,
    masked_linear_weight_grad,
)
from gemkern.kernels.reference.norm_sparse_conv2d import (
    norm_sparse_conv2d,
    norm_sparse_conv2d_backward,
)
from gemkern.kernels.reference.normalise import normalise, normalise_backward
from gemkern.kernels.reference.normalise_max_pool2d import (
    normalise_max_pool2d,
    normalise_max_pool2d_backward,
)
from gemkern.kernels.reference.pooling import (
    average_pool2d,
    average_pool2d_backward,
    max_pool2d,
    max_pool2d_backward,
)
from gemkern.kernels.reference.popup import popup_mask, popup_weight
from gemkern.kernels.reference.score_step import score_step_adam, score_step_sgd
from gemkern.kernels.reference.select_kth import remove_lowest, select_kth
from gemkern.kernels.reference.shortcut import padded_shortcut, padded_shortcut_backward
from gemkern.kernels.reference.sparse_linear import sparse_linear, sparse_linear_backward
from gemkern.kernels.reference.straight_through import straight_through
from gemkern.kernels.reference.threshold import effective_weight, threshold

__all__ = [
    "average_pool2d",
    "average_pool2d_backward",
    "batch_last",
    "batch_norm_relu",
    "batch_norm_relu_backward",
    "contiguous",
    "effective_weight",
    "masked_conv2d",
    "masked_conv2d_input_grad",
    "masked_conv2d_score_grad",
    "masked_conv2d_weight_grad",
    "masked_linear",
    "masked_linear_input_grad",
    "masked_linear_score_grad",
    "masked_linear_weight_grad",
    "max_pool2d",
    "max_pool2d_backward",
    "norm_sparse_conv2d",
    "norm_sparse_conv2d_backward",
    "normalise",
    "normalise_backward",
    "normalise_max_pool2d",
    "normalise_max_pool2d_backward",
    "pack_mask",
    "padded_shortcut",
    "padded_shortcut_backward",
    "popup_mask",
    "popup_weight",
    "remove_lowest",
    "score_step_adam",
    "score_step_sgd",
    "select_kth",
    "sparse_linear",
    "sparse_linear_backward",
    "straight_through",
    "threshold",
    "unpack_mask",
]

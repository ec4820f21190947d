"""The shortcut without parameters, for blocks that halve the image and double the channels.

Option A of He et al., "Deep Residual Learning for Image Recognition" (CVPR 2016), section 4.2.
"""

from __future__ import annotations

from gemkern.kernels.reference.batch_last import empty_batch_last
from torch import Tensor

Pair = tuple[int, int]
Shape = tuple[int, int, int, int]


def padded_shortcut(x: Tensor, stride: Pair, before: int, after: int) -> Tensor:
    """Return pixels of x, a stride apart from the first, with channels of zeros around its own.

    Args:
        x: [N, C, H, W], any dtype.
        stride: by height and width, at least 1.
        before, after: how many channels of zeros.

    Returns:
        [N, before + C + after, ceil(H / stride[0]), ceil(W / stride[1])], batch-last; as
        `F.pad(x[:, :, :: stride[0], :: stride[1]], (0, 0, 0, 0, before, after))`.
    """
    taken = x[:, :, :: stride[0], :: stride[1]]
    images, channels, *image = taken.shape
    y = empty_batch_last((images, before + channels + after, *image), x).zero_()
    y[:, before : before + channels] = taken
    return y


def padded_shortcut_backward(grad_y: Tensor, shape: Shape, stride: Pair, before: int) -> Tensor:
    """Return dL/dx of `shape` [N, C, H, W], batch-last, from grad_y, dL/dy."""
    channels = shape[1]
    grad_x = empty_batch_last(shape, grad_y).zero_()
    grad_x[:, :, :: stride[0], :: stride[1]] = grad_y[:, before : before + channels]
    return grad_x

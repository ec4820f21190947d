"""Mean and standard deviation of 8-bit images, exactly."""

from __future__ import annotations

import torch
from torch import Tensor

from gemkern.errors import GemkernError


def channel_statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return (mean, std) of each channel of uint8 images [N, C, H, W], pixels scaled to [0, 1].

    The standard deviation is the population's. Both come from a histogram of the 256 values in
    float64, so that no sum over millions of pixels is rounded on the way.

    Raises:
        GemkernError: a channel has the same value everywhere and cannot be normalised.
    """
    values = torch.arange(256, dtype=torch.float64) / 255
    means, stds = [], []
    for channel in range(images.shape[1]):
        counts = torch.bincount(images[:, channel].flatten(), minlength=256)
        if counts.count_nonzero() == 1:
            raise GemkernError(
                f"channel {channel} of the training images is {int(counts.argmax())} everywhere: "
                "a constant cannot be normalised, leave that channel out"
            )
        share = counts / counts.sum(dtype=torch.float64)
        mean = (share * values).sum()
        means.append(mean.item())
        stds.append((share * (values - mean).square()).sum().sqrt().item())
    return tuple(means), tuple(stds)

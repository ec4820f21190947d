"""Edge-popup: a layer keeps the weights whose scores are largest in magnitude.

Ramanujan et al., "What's Hidden in a Randomly Weighted Neural Network?" (CVPR 2020), section 3.
Of equal magnitudes the lowest index goes first, and NaN is larger than every number: what is kept
is what `remove_lowest` leaves.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from gemkern.kernels.reference.select_kth import remove_lowest, select_kth
from gemkern.kernels.reference.threshold import select
from torch import Tensor


def popup_mask(scores: Sequence[Tensor], kept: Tensor) -> list[Tensor]:
    """Return the bool mask of each layer: where |score| is among the `kept` largest of the layer.

    Args:
        scores: of one float dtype, per layer.
        kept: int64 [layers]; below 0 it counts as 0, beyond the layer's size as that.

    Returns:
        bool per layer, shaped and laid out as its scores.
    """
    magnitudes = [score.abs() for score in scores]
    masks = [torch.ones_like(score, dtype=torch.bool) for score in scores]
    sizes = [score.numel() for score in scores]
    k = torch.stack([(n - kept[i]).clamp(0, n) for i, n in enumerate(sizes)])
    remove_lowest(magnitudes, masks, *select_kth(magnitudes, masks, k))
    return masks


def popup_weight(
    weights: Sequence[Tensor],
    scores: Sequence[Tensor],
    kept: Tensor,
    dtype: torch.dtype | None = None,
) -> list[Tensor]:
    """Return each layer's weight where its `popup_mask` is on and +0.0 elsewhere.

    The result is in `dtype` (default: the weight's), laid out as the weight.
    """
    return [
        select(weight, mask).to(dtype or weight.dtype)
        for weight, mask in zip(weights, popup_mask(scores, kept), strict=True)
    ]

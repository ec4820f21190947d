"""The exact k-th smallest of many values, and the removal of exactly the k lowest.

Order: by value, then by lowest index (row-major within a tensor, tensors in order). NaN comes after
+inf; -0.0 equals 0.0. Nothing is read by the host.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def select_kth(
    values: Sequence[Tensor], active: Sequence[Tensor], k: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the k-th smallest value among active entries, and how many of its ties go.

    Args:
        values: tensors of one float dtype.
        active: bool, shaped as `values`; only entries that are on are ranked.
        k: int64, at most the number of active entries. Shape []: one rank over all tensors. Shape
            [len(values)]: a rank for each tensor.

    Returns:
        kth: the k-th smallest, of k's shape; -inf where k is 0.
        ties: int64 of k's shape: how many entries equal to `kth` are among the k lowest.
    """
    if k.dim() == 0:
        return _select(_flat(values), _flat(active), k)
    kths = k.new_empty(k.shape, dtype=values[0].dtype if values else torch.float32)
    ties = torch.empty_like(k)
    for i, (value, on) in enumerate(zip(values, active, strict=True)):
        kths[i], ties[i] = _select(value.reshape(-1), on.reshape(-1), k[i])
    return kths, ties


def remove_lowest(
    values: Sequence[Tensor], active: Sequence[Tensor], kth: Tensor, ties: Tensor
) -> None:
    """Clear `active`, in place, for exactly the k lowest that `select_kth` found.

    Those are the active entries below `kth` and the first `ties` of those equal to it.
    """
    if kth.dim() == 0:
        lowest = _lowest(_flat(values), _flat(active), kth, ties)
        chosen = lowest.split([on.numel() for on in active])
    else:
        chosen = tuple(
            _lowest(value.reshape(-1), on.reshape(-1), kth[i], ties[i])
            for i, (value, on) in enumerate(zip(values, active, strict=True))
        )
    for on, lowest in zip(active, chosen, strict=True):
        on.logical_and_(~lowest.view(on.shape))


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def _select(values: Tensor, active: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    # A first entry of -inf answers k = 0; the placeholder of what is not active sorts with NaN,
    # which only a rank beyond the active entries could reach.
    ranked = torch.where(active, values, torch.nan).sort().values
    kth = torch.cat([ranked.new_full((1,), -torch.inf), ranked]).gather(0, k.view(1)).view(())
    below = (active & _precedes(values, kth)).sum()
    return kth, k - torch.minimum(below, k)


def _lowest(values: Tensor, active: Tensor, kth: Tensor, ties: Tensor) -> Tensor:
    equal = active & ((values == kth) | (values.isnan() & kth.isnan()))
    return (active & _precedes(values, kth)) | (equal & (equal.cumsum(0) <= ties))


def _precedes(values: Tensor, kth: Tensor) -> Tensor:
    return (values < kth) | (kth.isnan() & ~values.isnan())

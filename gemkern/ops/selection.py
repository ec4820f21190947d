"""Which scores are the lowest, and their removal: on the device, with no host read."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gemkern.errors import GemkernError
from gemkern.ops.checks import FLOATS, check_changed, check_layers
from gemkern.ops.registration import register, register_in_place

_select_kth = register(
    "select_kth",
    "(Tensor[] values, Tensor[] active, Tensor k, str backend) -> (Tensor, Tensor)",
)
_remove_lowest = register_in_place(
    "remove_lowest",
    "(Tensor[] values, Tensor(a!)[] active, Tensor kth, Tensor ties, str backend) -> ()",
    mutates=("active",),
)


def select_kth(
    values: Sequence[Tensor], active: Sequence[Tensor], k: Tensor, backend: str | None = None
) -> tuple[Tensor, Tensor]:
    """Return the k-th smallest value among active entries, and how many of its ties belong to it.

    Order: by value, NaN last, then by lowest index (row-major in a tensor, tensors in order), so
    that `remove_lowest` removes exactly k.

    Args:
        values: one float dtype, per layer.
        active: bool per layer.
        k: int64, at most the number of active entries (unchecked: it is not read). Shape [] ranks
            all layers together, [layers] each by itself.

    Returns:
        kth, of k's shape (-inf where k is 0), and ties, int64: how many entries equal to kth are
        among the k lowest. Neither has a gradient.

    Raises:
        GemkernError: the lists, their tensors or k do not fit, or no backend can serve.
    """
    _check("select_kth", values, active)
    _check_rank("select_kth", "k", k, torch.int64, values)
    without = [value.detach() if value.requires_grad else value for value in values]
    return _select_kth(without, list(active), k, backend or "")


def remove_lowest(
    values: Sequence[Tensor],
    active: Sequence[Tensor],
    kth: Tensor,
    ties: Tensor,
    backend: str | None = None,
) -> None:
    """Clear `active`, in place, for the entries below kth and the first `ties` equal to it.

    Args:
        values, active: as given to `select_kth`.
        kth, ties: as returned by it.

    Raises:
        GemkernError: the lists or their tensors do not fit, or no backend can serve.
    """
    _check("remove_lowest", values, active)
    _check_rank("remove_lowest", "kth", kth, values[0].dtype, values)
    _check_rank("remove_lowest", "ties", ties, torch.int64, values)
    if kth.shape != ties.shape:
        raise GemkernError(
            f"remove_lowest: kth has shape {tuple(kth.shape)} and ties {tuple(ties.shape)}; "
            "give both as select_kth returned them"
        )
    for i, on in enumerate(active):
        check_changed(f"remove_lowest, layer {i}", "active", on)
    _remove_lowest(list(values), list(active), kth, ties, backend or "")


def _check(where: str, values: Sequence[Tensor], active: Sequence[Tensor]) -> None:
    check_layers(where, values=values, active=active)
    for i, value in enumerate(values):
        if value.dtype not in FLOATS or value.dtype != values[0].dtype:
            raise GemkernError(
                f"{where}: in layer {i}, values are {value.dtype}, and {values[0].dtype} in the "
                "first; give one float dtype"
            )


def _check_rank(
    where: str, name: str, rank: Tensor, dtype: torch.dtype, values: Sequence[Tensor]
) -> None:
    of_all, of_each = (), (len(values),)
    fits = rank.dtype == dtype and tuple(rank.shape) in (of_all, of_each)
    if not fits or rank.device != values[0].device:
        raise GemkernError(
            f"{where}: {name} is {rank.dtype} {tuple(rank.shape)} on {rank.device}; give {dtype} "
            f"on {values[0].device}, of shape {of_all} for all layers or {of_each} for each"
        )

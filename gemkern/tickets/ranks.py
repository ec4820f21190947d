"""What the ranks of DistributedDataParallel have to agree on: where a search begins, and its masks.

Gradients are those of all ranks, so what begins the same stays the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, distributed

from gemkern.errors import GemkernError
from gemkern.nn.buckets import holds_any, in_buckets
from gemkern.tensor_file import hash_tensor


def train_together(layers: Mapping[str, Any]) -> bool:
    """Return whether DistributedDataParallel trains `layers` together with those of other ranks."""
    bucketed = in_buckets()
    together = any(holds_any(layer, bucketed) for layer in layers.values())
    return together and distributed.get_world_size() > 1


@torch.no_grad()
def take_from_first(tensors: Iterable[Tensor]) -> None:
    """Give `tensors` the values that they have on the first rank."""
    for tensor in tensors:
        values = tensor.detach().contiguous()
        distributed.broadcast(values, 0)
        tensor.copy_(values)


def first_of(value: Any) -> Any:
    """Return what `value` is on the first rank."""
    values = [value]
    distributed.broadcast_object_list(values, 0)
    return values[0]


def check_masks(layers: Mapping[str, Any], when: str) -> None:
    """Check that every rank has the masks of the first.

    Raises:
        GemkernError: naming a rank and a layer that differ; on every rank.
    """
    own = {name: _fingerprint(layer.active) for name, layer in layers.items()}
    found: list[dict[str, str]] = [{}] * distributed.get_world_size()
    distributed.all_gather_object(found, own)
    for rank, theirs in enumerate(found):
        differ = [name for name in own if theirs.get(name) != found[0].get(name)]
        if differ:
            raise GemkernError(
                f"rank {rank} has another mask of layer {differ[0]!r} than rank 0 {when}: let all "
                "ranks take the same steps, each after a backward pass whose gradients are shared"
            )


def _fingerprint(mask: Tensor) -> str:
    digest = hashlib.sha256()
    hash_tensor(digest, "mask", mask)
    return digest.hexdigest()

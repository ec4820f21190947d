"""Parameters that DistributedDataParallel has put into buckets, which must keep their shape."""

from __future__ import annotations

import gc
from collections.abc import Iterable

from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

REASON = (
    "DistributedDataParallel has made buckets for its parameters as they are: change the model's "
    "form before it is wrapped, or delete the wrapper first"
)


def in_buckets() -> set[Tensor]:
    """Return all parameters that a wrapper which still lives has put into buckets."""
    if not distributed.is_available() or not distributed.is_initialized():
        return set()
    if _wrappers():
        # Those that nobody holds may be there still.
        gc.collect()
    return {parameter for wrapper in _wrappers() for parameter in wrapper.parameters()}


def holds_any(layer: nn.Module, parameters: Iterable[Tensor]) -> bool:
    """Return whether one of `parameters` is the layer's own."""
    own = set(layer.parameters(recurse=False))
    return not own.isdisjoint(parameters)


def _wrappers() -> list[DistributedDataParallel]:
    # A module knows of nothing around it.
    return [one for one in gc.get_objects() if issubclass(type(one), DistributedDataParallel)]

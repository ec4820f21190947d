"""The ranks of one training: processes that each take their share of every batch."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from safetensors.torch import load, save
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from gemkern.data.batches import Share
from gemkern.errors import GemkernError
from gemkern.experiments.settings import Settings
from gemkern.experiments.states import pack, unpack
from gemkern.training.forms import NEVER
from gemkern.training.synced_norms import sync_norms

Value = TypeVar("Value")


@dataclass(frozen=True)
class Ranks:
    """Which of the processes that train together this one is.

    Attributes:
        rank, count: this one's number, and how many there are.
        local: this one's number on its machine.
    """

    rank: int = 0
    count: int = 1
    local: int = 0

    @property
    def is_first(self) -> bool:
        """Whether this one reads and writes the files."""
        return self.rank == 0

    @property
    def share(self) -> Share:
        """The part of each batch that this one takes."""
        return Share(self.rank, self.count)

    def wrap(self, model: nn.Module) -> nn.Module:
        """Return what the forward pass of a training goes through."""
        if self.count == 1:
            return model
        return DistributedDataParallel(sync_norms(model))

    def of(self, settings: Settings) -> Settings:
        """Return the settings as ranks can have them: layers and steps keep their form."""
        if self.count == 1:
            return settings
        on_cuda = settings.device.startswith("cuda")
        device = f"cuda:{self.local}" if on_cuda else settings.device
        return settings.changed(accelerate=NEVER, graph=False, device=device)

    def from_first(self, make: Callable[[], Value]) -> Value:
        """Return what `make` returns on the first rank, or raise what it raises there."""
        if self.count == 1:
            return make()
        found: list[Any] = [None, None]
        if self.is_first:
            try:
                found[0] = make()
            except GemkernError as error:
                found[1] = error
        distributed.broadcast_object_list(found, 0, group=_host())
        if found[1] is not None:
            raise found[1]
        return found[0]

    def state_from_first(self, make: Callable[[], Any]) -> Any:
        """Return the state, tensors and plain values, that `make` returns on the first rank."""
        if self.count == 1:
            return make()

        def packed() -> tuple[Any, bytes]:
            tree, tensors = pack(make())
            return tree, save(tensors)

        tree, content = self.from_first(packed)
        return unpack(tree, load(content))

    def any(self, here: bool) -> bool:
        """Return whether it is so on any rank."""
        if self.count == 1:
            return here
        flag = torch.tensor(float(here))
        distributed.all_reduce(flag, distributed.ReduceOp.MAX, group=_host())
        return bool(flag)


ALONE = Ranks()


@contextmanager
def joined(device: str | None = None) -> Iterator[Ranks]:
    """Join the processes that `torchrun` started, while the body runs; else be alone.

    Ranks on CUDA devices talk by NCCL, others by gloo.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1 or not distributed.is_available():
        yield ALONE
        return
    on_cuda = torch.cuda.is_available() and (device is None or not device.startswith("cpu"))
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if on_cuda:
        torch.cuda.set_device(local)
    distributed.init_process_group("nccl" if on_cuda else "gloo")
    try:
        yield Ranks(distributed.get_rank(), count, local)
    finally:
        distributed.destroy_process_group()


_groups: dict[int, Any] = {}


def _host() -> Any:
    """Return the group in which ranks talk about what lies on the host."""
    if distributed.get_backend() == "gloo":
        return None
    world = id(distributed.group.WORLD)
    if world not in _groups:
        _groups.clear()
        _groups[world] = distributed.new_group(backend="gloo")
    return _groups[world]

"""Work that two processes do together, as the ranks of a process group."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed

RANKS = 2


def on_every_rank(work: Callable[[int], Any], folder: Path) -> list[Any]:
    """Return what `work`, a function of a module, returns on each rank; by way of `folder`."""
    with pytest.MonkeyPatch.context() as patch:
        # The host's name need not lead to an address of this machine.
        patch.setenv("GLOO_SOCKET_IFNAME", "lo")
        torch.multiprocessing.spawn(_on_one, (work, str(folder)), nprocs=RANKS)
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(RANKS)]


def _on_one(rank: int, work: Callable[[int], Any], folder: str) -> None:
    # What is not there in a minute does not come: the other rank has failed.
    distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meeting",
        rank=rank,
        world_size=RANKS,
        timeout=timedelta(minutes=1),
    )
    torch.save(work(rank), Path(folder) / f"{rank}.pt")
    distributed.barrier()
    # The end of a wrapper waits for threads that may wait for Python, and so for ever.
    os._exit(0)

"""Search a ticket under DistributedDataParallel: every rank takes its share of each batch.

    torchrun --nproc-per-node 2 examples/under_ddp.py

The search is made of the wrapped model, and its loop is that of one process. It begins where the
first rank does; after every freeze the ranks compare their masks. The first one saves the ticket,
to runs/under_ddp.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import distributed, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import gemkern as gk

DIGITS = gk.data.load("digits")


def build() -> nn.Sequential:
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.Conv2d(16, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU()),
        *(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(32 * 16, 10)),
    )


def mine(epochs: int = 6) -> gk.GemMiner:
    """Search with all ranks, which come to the same ticket."""
    model = build()  # each rank draws its own: wrapped, all have that of the first
    gk.convert(model, scores=True)
    parallel = DistributedDataParallel(model)
    miner = gk.GemMiner(parallel, 0.1, epochs, 1, optimizer="adam", lr=0.05, seed=0)
    data = TensorDataset(*map(torch.cat, zip(*DIGITS.evaluation("train"), strict=True)))
    sampler = DistributedSampler(data, seed=0)
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        for images, labels in DataLoader(data, 32, sampler=sampler, drop_last=True):
            F.cross_entropy(parallel(images), labels).backward()  # shares the gradients
            miner.step()
        miner.end_epoch()
    return miner


def main(folder: Path = Path("runs/under_ddp")) -> None:
    distributed.init_process_group("gloo")
    ticket = mine().ticket()
    digests = [""] * distributed.get_world_size()
    distributed.all_gather_object(digests, ticket.digest)
    if distributed.get_rank() == 0:
        print(f"{len(digests)} ranks came to {len(set(digests))} ticket: {ticket}")
        folder.mkdir(parents=True, exist_ok=True)
        ticket.save(folder / "digits.ticket.safetensors", replace=True)
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()

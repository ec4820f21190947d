"""Mine a ticket in a loop with accelerate, stop half-way and go on from accelerate's checkpoint.

    python examples/in_accelerate.py

accelerate loads what was registered after the model, which is the order that a search needs. The
search steps its optimiser itself: prepare the model and the loader, not the optimiser.
"""

from __future__ import annotations

import tempfile
from contextlib import suppress
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import gemkern as gk


class Interrupted(Exception):
    """The run has ended too early, as if the machine had been lost."""


def mine(
    folder: str | Path,
    epochs: int = 6,
    stop_after: int | None = None,
    resume: bool = False,
    accelerated: bool | str = False,
) -> gk.Ticket:
    """Return the ticket, or end after `stop_after` steps; `resume` goes on from the checkpoint."""
    # The order of the images is then a function of seed and epoch.
    order = DataLoaderConfiguration(use_seedable_sampler=True, data_seed=0)
    accelerator = Accelerator(cpu=True, dataloader_config=order)
    digits = gk.data.load("digits")
    data = TensorDataset(*map(torch.cat, zip(*digits.evaluation("train"), strict=True)))
    model = gk.models.build("resnet8", channels=1, image_size=8, seed=0)
    gk.convert(model, scores=True)
    model, loader = accelerator.prepare(model, DataLoader(data, 64, shuffle=True, drop_last=True))
    miner = gk.GemMiner(
        model, 0.05, epochs, 1, optimizer="adam", lr=0.05, seed=0, accelerated=accelerated
    )
    accelerator.register_for_checkpointing(miner)
    if resume:
        accelerator.load_state(max(Path(folder).iterdir()))
    steps = 0
    for epoch in range(miner.epoch, miner.epochs):
        loader.set_epoch(epoch)
        for images, labels in loader:
            accelerator.backward(F.cross_entropy(model(images), labels))
            miner.step()
            steps += 1
            if steps == stop_after:
                raise Interrupted
        miner.end_epoch()
        accelerator.save_state(Path(folder) / f"epoch-{miner.epoch:03}")
    return miner.ticket()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        with suppress(Interrupted):
            mine(folder, stop_after=70)
        ticket = mine(folder, resume=True)
        print(f"went on to a ticket of {ticket.density:.2%} of the weights")

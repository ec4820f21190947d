"""Find a ticket for a model of your own in a loop of your own, and finetune it accelerated.

    python examples/own_model.py

On the way the search is stopped and goes on, in a new model, from what was saved after an epoch. It
comes to the ticket of a search that nobody stopped. The ticket stays in runs/own_model.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

import gemkern as gk

IMAGES = torch.tensor(load_digits().images[:, None] / 16, dtype=torch.float32)
LABELS = torch.tensor(load_digits().target)
TRAINING, EPOCHS = 1500, 6


class Network(nn.Module):
    """Any model with convolutions or linear layers; its forward pass is its own."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(32, 32, 3, padding=1), nn.BatchNorm2d(32))
        self.head = nn.Linear(32 * 16, 10)

    def forward(self, images: Tensor) -> Tensor:
        x = self.first(images)
        return self.head(F.max_pool2d(F.relu(self.second(x) + x), 2).flatten(1))


def build() -> Network:
    torch.manual_seed(0)  # the same initial weights at every call
    return Network()


def batches(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the training images in an order that is a function of the epoch."""
    chance = torch.Generator().manual_seed(epoch)
    for some in torch.randperm(TRAINING, generator=chance).split(50):
        yield IMAGES[some], LABELS[some]


def mine(checkpoint: Path, stop_after: int = EPOCHS) -> gk.GemMiner:
    """Search for a ticket, or go on where `checkpoint` was saved; end after `stop_after` epochs."""
    model = build()
    gk.convert(model, scores=True)  # scores learn, weights stay as they were drawn
    miner = gk.GemMiner(model, 0.05, EPOCHS, freeze_every=1, optimizer="adam", lr=0.05, seed=0)
    if checkpoint.exists():
        state = torch.load(checkpoint)
        model.load_state_dict(state["model"])  # before that of the search
        miner.load_state_dict(state["miner"])
    for epoch in range(miner.epoch, stop_after):
        for images, labels in batches(epoch):
            F.cross_entropy(model(images), labels).backward()
            miner.step()
        miner.end_epoch()
        torch.save({"model": model.state_dict(), "miner": miner.state_dict()}, checkpoint)
    return miner


def finetune(ticket: gk.Ticket) -> float:
    """Train the weights that the ticket keeps; return the accuracy on images not seen before."""
    model = build()
    ticket.apply(model)  # masks on, initial weights, ready to train
    gk.accelerate(model)  # kernels that skip the zeros
    optimizer = gk.MaskedSGD(model, lr=0.1, momentum=0.9)  # made after accelerate
    for epoch in range(EPOCHS):
        for images, labels in batches(epoch):
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            optimizer.step()
    right = model.eval()(IMAGES[TRAINING:]).argmax(1) == LABELS[TRAINING:]
    return right.float().mean().item()


def main(folder: Path = Path("runs/own_model")) -> None:
    shutil.rmtree(folder, ignore_errors=True)  # what an earlier run left
    folder.mkdir(parents=True)
    mine(folder / "stopped.pt", stop_after=3)
    ticket = mine(folder / "stopped.pt").ticket()
    whole = mine(folder / "whole.pt").ticket()
    print(f"found {ticket}; without a stop the same: {whole.digest == ticket.digest}")
    ticket.save(folder / "digits.ticket.safetensors")
    accuracy = finetune(gk.Ticket.load(folder / "digits.ticket.safetensors"))
    print(f"finetuned, accelerated: {accuracy:.1%} of the test images are right")


if __name__ == "__main__":
    main()

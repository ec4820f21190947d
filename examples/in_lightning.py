"""Mine a ticket in Lightning's loop, stop half-way and go on from Lightning's own checkpoint.

    python examples/in_lightning.py

A callback carries the search: Lightning loads callbacks after the model, which is the order that a
search needs. The module's own `on_load_checkpoint` comes before the model.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import gemkern as gk


class Interrupted(Exception):
    """The run has ended too early, as if the machine had been lost."""


class Mining(lightning.Callback):
    """Carries the search and ends its epochs, and the run after `stop_after` steps."""

    def __init__(self, miner: gk.GemMiner, stop_after: int | None) -> None:
        self.miner, self.stop_after = miner, stop_after

    def state_dict(self) -> dict[str, Any]:
        return self.miner.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.miner.load_state_dict(state_dict)

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        if trainer.global_step == self.stop_after:
            raise Interrupted

    def on_train_epoch_end(self, *_: Any) -> None:
        # Lightning calls this before its own callback that saves.
        self.miner.end_epoch()


class Classifier(lightning.LightningModule):
    """A network whose scores learn; Lightning counts steps and accumulates gradients as ever."""

    def __init__(self, model: nn.Module, miner: gk.GemMiner) -> None:
        super().__init__()
        self.model, self.miner = model, miner

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        images, labels = batch
        return F.cross_entropy(self.model(images), labels)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.miner.optimizer

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Callable[[], Any]
    ) -> None:
        optimizer_closure()  # forward and backward pass
        self.miner.step()


def mine(
    folder: str | Path,
    epochs: int = 6,
    stop_after: int | None = None,
    resume: bool = False,
    accelerated: bool | str = False,
) -> gk.Ticket:
    """Return the ticket, or end after `stop_after` steps; `resume` goes on from the checkpoint."""
    model = gk.models.build("resnet8", channels=1, image_size=8, seed=0)
    gk.convert(model, scores=True)
    miner = gk.GemMiner(
        model, 0.05, epochs, 1, optimizer="adam", lr=0.05, seed=0, accelerated=accelerated
    )
    digits = gk.data.load("digits")
    data = TensorDataset(*map(torch.cat, zip(*digits.evaluation("train"), strict=True)))
    # Lightning tells it the epoch, of which the order of the images is then a function.
    sampler = DistributedSampler(data, num_replicas=1, rank=0, seed=0)
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        callbacks=[Mining(miner, stop_after), ModelCheckpoint(folder, save_last=True)],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(
        Classifier(model, miner),
        DataLoader(data, 64, sampler=sampler, drop_last=True),
        ckpt_path="last" if resume else None,
    )
    return miner.ticket()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        with suppress(Interrupted):
            mine(folder, stop_after=70)
        ticket = mine(folder, resume=True)
        print(f"went on to a ticket of {ticket.density:.2%} of the weights")

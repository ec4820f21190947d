"""Mine a ticket in the Trainer of transformers, stop half-way and go on from its own checkpoint.

    python examples/in_trainer.py

The search takes the place of the optimiser: Trainer steps it, saves it, and loads it after the
model, which is the order that a search needs. Trainer stops and goes on within an epoch, too.
"""

from __future__ import annotations

import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim.lr_scheduler import LRScheduler
from transformers import Trainer, TrainerCallback, TrainerState, TrainingArguments

import gemkern as gk


class Interrupted(Exception):
    """The run has ended too early, as if the machine had been lost."""


class Mining(torch.optim.Optimizer):
    """A search in the place of an optimiser, with the groups of the search's own."""

    def __init__(self, miner: gk.GemMiner) -> None:
        super().__init__(miner.optimizer.param_groups, {})
        self.miner = miner

    def step(self, closure: None = None) -> None:
        self.miner.step()

    def state_dict(self) -> dict[str, Any]:
        return self.miner.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.miner.load_state_dict(state_dict)
        self.param_groups = self.miner.optimizer.param_groups  # loading made new ones


class AsItIs(LRScheduler):
    """The learning rate that the search has set, which any other schedule would overwrite."""

    def get_lr(self) -> list[float]:
        return [group["lr"] for group in self.optimizer.param_groups]


class Epochs(TrainerCallback):
    """Ends the epochs of the search, and the run after `stop_after` steps."""

    def __init__(self, miner: gk.GemMiner, stop_after: int | None) -> None:
        self.miner, self.stop_after = miner, stop_after

    def on_step_end(self, args: Any, state: TrainerState, control: Any, **_: Any) -> None:
        # Trainer saves after this, and calls on_epoch_end later: the checkpoint of an epoch's last
        # step would not know that the epoch is over.
        if state.epoch.is_integer():
            self.miner.end_epoch()
        if state.global_step == self.stop_after:
            raise Interrupted


def loss(logits: Tensor, labels: Tensor, num_items_in_batch: Tensor) -> Tensor:
    """Return the mean over the batches that one step accumulates."""
    return F.cross_entropy(logits, labels, reduction="sum") / num_items_in_batch


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
    arguments = TrainingArguments(
        str(folder),
        num_train_epochs=epochs,
        per_device_train_batch_size=64,
        dataloader_drop_last=True,
        remove_unused_columns=False,
        max_grad_norm=0,  # there are no gradients to clip in a search, unless it is fused=False
        save_strategy="steps",
        save_steps=10,
        use_cpu=True,
        report_to="none",
    )
    train = gk.data.load("digits").evaluation("train")
    optimizer = Mining(miner)
    trainer = Trainer(
        model,
        arguments,
        train_dataset=[{"x": x, "labels": y} for some in train for x, y in zip(*some, strict=True)],
        compute_loss_func=loss,
        callbacks=[Epochs(miner, stop_after)],
        optimizers=(optimizer, AsItIs(optimizer)),
    )
    trainer.train(resume_from_checkpoint=resume)
    return miner.ticket()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        with suppress(Interrupted):
            mine(folder, stop_after=70)
        ticket = mine(folder, resume=True)
        print(f"went on to a ticket of {ticket.density:.2%} of the weights")

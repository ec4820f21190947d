"""Settings that find and finetune tickets of real images in a second."""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import Tensor

from gemkern.data import Split
from gemkern.experiments.settings import Settings
from gemkern.tickets import Ticket

SETTINGS = Settings(
    data="digits",
    data_dir=None,
    train_limit=128,
    model="resnet8",
    affine=False,
    mine_init="signed_constant",
    imp_init="kaiming_normal",
    smart_ratio_init="kaiming_normal",
    dense_init="kaiming_normal",
    density=0.3,
    batch_size=32,
    device="cpu",
    mine_epochs=3,
    freeze_every=1,
    score_optimizer="adam",
    score_lr=0.05,
    l2=1e-5,
    finetune_epochs=2,
    finetune_lr=0.1,
    finetune_schedule="cosine",
    weight_decay=1e-4,
    imp_epochs=1,
    imp_rewind="init",
    imp_lr=0.1,
    imp_prune=0.5,
    accelerate="never",
    autocast="none",
    graph=True,
    seeds_at_once=1,
)


def settings(**changes: Any) -> Settings:
    return dataclasses.replace(SETTINGS, **changes)


class Opened(Exception):
    """Somebody looked at a sealed split."""


class SealedSplit(Split):
    """A split at which nobody may look."""

    def __getattribute__(self, name: str) -> Any:
        if name in ("images", "labels"):
            raise Opened(name)
        return super().__getattribute__(name)


def sealed(split: Split) -> Split:
    return SealedSplit(split.images, split.labels)


def kept_by_layer(ticket: Ticket) -> dict[str, int]:
    return {layer: int(mask.sum()) for layer, mask in ticket.masks.items()}


def state(ticket: Ticket) -> dict[str, Tensor]:
    """Everything that a ticket with its own weights does to a model."""
    assert ticket.weights is not None
    masks = {f"mask of {layer}": mask for layer, mask in ticket.masks.items()}
    return {**masks, **ticket.weights}

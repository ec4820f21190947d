"""The whole network, trained by the recipe that finetunes tickets: what they are measured by."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from gemkern.tickets.entry import Entry, Start, option


@dataclass(frozen=True)
class DenseSettings:
    """The settings of dense training."""

    dense_init: str = option("kaiming_normal", "Initial weights of dense training.")


def untouched(start: Start) -> nn.Module:
    """Return the network as it is."""
    return start.fresh(start.seed)


ENTRY = Entry(untouched, colour="#000000", settings=DenseSettings, init="dense_init")

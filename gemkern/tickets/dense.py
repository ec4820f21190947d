"""The whole network, trained by the recipe that finetunes tickets: what they are measured by.

Nothing is removed::

    m = 1

Cost: nothing is searched, so all steps are those of finetuning. Float32 momentum for each weight.
"""

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

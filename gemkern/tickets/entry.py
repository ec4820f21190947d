"""What a method tells of itself, so that races, the command line and figures can have it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from gemkern.nn import convert
from gemkern.tickets.search import Search
from gemkern.tickets.ticket import Ticket
from gemkern.training.forms import Accelerated

Draw = Callable[[], Ticket]


def option(default: Any, help: str, *, epochs: bool = False) -> Any:
    """Return a field of a method's settings: its default, and its help on the command line.

    Args:
        epochs: it is a number of epochs, which a budget scales.
    """
    return field(default=default, metadata={"help": help, "epochs": epochs})


@dataclass(frozen=True)
class NoSettings:
    """The settings of a method that has none of its own."""


@dataclass(frozen=True)
class Start:
    """What a method starts from: one seed of a race.

    Attributes:
        own: the settings of the method.
        seed: of the initial weights and the data order.
        name: of the network.
        fresh: returns the network with the method's initial weights of a seed.
        density: the fraction of weights that was asked for.
        total: how many weights can be masked.
        weights: how many of them every ticket of the race keeps.
        weight_decay, schedule: of the training of weights, the same for all methods.
        ticket: what the method that this one `needs` found for the seed.
        accelerated: returns how a search is to be accelerated.
        batches: returns training batches, images and labels, in the order in which the seed trains
            on them, epoch after epoch without an end.
        redrawn: returns the network with weights drawn from a seed, where those of `fresh` come
            from a file; None where they do not.
    """

    own: Any
    seed: int
    name: str
    fresh: Callable[[int], nn.Module]
    density: float
    total: int
    weights: int
    weight_decay: float
    schedule: str
    accelerated: Callable[[], Accelerated]
    batches: Callable[[], Iterator[tuple[Tensor, Tensor]]]
    ticket: Ticket | None = None
    redrawn: Callable[[int], nn.Module] | None = None

    def converted(self, scores: bool = False) -> nn.Module:
        """Return the network with the initial weights of the seed, its layers masked ones."""
        model = self.fresh(self.seed)
        convert(model, scores=scores)
        return model


@dataclass(frozen=True)
class Entry:
    """A method, as the table of them holds it.

    Attributes:
        make: returns the search to run, a function that draws the ticket at once, or a network to
            train as it is; what cannot be is refused here.
        settings: a frozen dataclass of fields by `option`, named as no option of another method.
        colour: in figures.
        init: the option that names the initial weights; None for those of what it needs.
        needs: the method whose ticket, of the same seed, is where this one starts.
    """

    make: Callable[[Start], Search | Draw | nn.Module]
    colour: str
    settings: type = NoSettings
    init: str | None = None
    needs: str | None = None

"""Filter tickets: parts of the filters train apart, then the strongest whole filters remain.

LoFT, Wang et al., "LOFT: Finding Lottery Tickets through Filter-wise Training", AISTATS 2023,
Algorithm 1: in each round the filters of every layer but the last are dealt out at random to
workers; each trains the network that its filters make for a few local steps, then all filters are
put together again. Pruning of whole filters by their L1 norm: Li et al., ICLR 2017::

    w_eff = w where the filter is the worker's, else 0
    w = w of its worker after a round; of what is no filter the mean of all
    s = mean of |w| over a filter
    m = the last layer, the filter of the highest s of each other, then all others by s

each where there is room for it.

Cost: in each step of all workers' epochs a forward and a backward pass of dense layers.
Float32 momentum for each weight, and two copies of the network: as the round began, and as the
workers before have left it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from gemkern.errors import GemkernError
from gemkern.numbers import whole_number
from gemkern.tickets.entry import Entry, Start, option
from gemkern.tickets.randomness import generator
from gemkern.tickets.state import load_weights_state, weights_state
from gemkern.tickets.ticket import Ticket
from gemkern.tickets.weight_search import WeightSearch


class LoFT(WeightSearch):
    """Train the filters of `model` in parts, and keep whole filters.

    Workers take turns in one process, each from where the round began, which comes to what they
    would come to side by side. What is no filter (norms, the last layer) trains with each and is
    averaged. A filter's weights are all kept or all removed; the last layer, whose rows are the
    classes, is kept whole. The ticket holds the trained weights.

    Args:
        model: a converted model without scores.
        count: how many weights the ticket may keep; whole filters keep that many or a few less.
        epochs: length of the training of all workers together.
        workers: how many parts the filters are dealt out in.
        local_steps: steps of one turn of a worker.
        lr, momentum, weight_decay, schedule: of `gemkern.training.WeightTraining`.
        seed: deals out the filters.
        model_seed, name: of the initial weights and of the network, for the ticket.

    Raises:
        GemkernError: a plan that cannot be: the last layer alone has more weights than `count`.
    """

    def __init__(
        self,
        model: nn.Module,
        count: int,
        epochs: int,
        *,
        workers: int = 4,
        local_steps: int = 50,
        lr: float = 0.1,
        momentum: float = 0.9,
        weight_decay: float = 1e-4,
        schedule: str = "cosine",
        seed: int = 0,
        model_seed: int | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(
            model,
            epochs,
            method="loft",
            lr=lr,
            momentum=momentum,
            weight_decay=weight_decay,
            schedule=schedule,
            model_seed=model_seed,
            name=name,
        )
        self._count = whole_number("the number of weights", count)
        self._workers = whole_number("the number of workers", workers)
        self._local_steps = whole_number("the number of local steps", local_steps)
        self._seed = whole_number("the seed", seed)
        *_, last = self.layers.values()
        if self._workers < 1 or self._local_steps < 1:
            raise GemkernError(
                f"{workers} workers of {local_steps} local steps train nothing: give at least 1 "
                "of each"
            )
        if last.weight.numel() > self._count:
            raise GemkernError(
                f"the last layer has {last.weight.numel()} weights, which filter tickets keep, and "
                f"the ticket may keep {count}: raise the density"
            )
        self._round = self._worker = 0
        self._before: dict[str, Tensor] = {}
        self._gathered: dict[str, Tensor] = {}
        self._begin_round()
        self._begin(self._training.optimizer, accelerated=False)

    @property
    def capturable(self) -> bool:
        """Whether `learn` works on the same tensors, from the same numbers, to the end."""
        return False

    def state_dict(self) -> dict[str, Any]:
        """Return everything beside the model's state: place, training, and the round so far."""
        own = {
            "round": self._round,
            "worker": self._worker,
            "before": self._before,
            "gathered": self._gathered,
        }
        return {**super().state_dict(), **own}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state`; load the model's state first."""
        super().load_state_dict(state)
        self._round, self._worker = state["round"], state["worker"]
        self._before, self._gathered = state["before"], state["gathered"]
        self._deal()
        if self.epoch == self.epochs:
            self._let_go()

    def end_step(self) -> None:
        """Count the step; where it was a worker's last, let the next one begin.

        Raises:
            GemkernError: the search is over.
        """
        super().end_step()
        if self._steps % self._local_steps == 0:
            self._end_turn()

    def _begin_round(self) -> None:
        self._worker = 0
        self._before = _copy(weights_state(self.model))
        self._gathered = {}
        self._deal()

    def _deal(self) -> None:
        """Let each layer compute with the filters that are the worker's in this round."""
        stream = generator(f"filters of round {self._round}", self._seed)
        self._owners: dict[str, Tensor] = {}
        for name, layer in list(self.layers.items())[:-1]:
            filters = len(layer.weight)
            order = torch.randperm(filters, generator=stream) % self._workers
            self._owners[name] = order.to(layer.weight.device)
            layer.override = partial(_with_filters, self._owners[name], self._worker)

    def _end_turn(self) -> None:
        """Gather what the worker has learnt; the next begins where the round did."""
        for entry, value in weights_state(self.model).items():
            self._gather(entry, value)
        self._worker += 1
        self.optimizer.forget()
        if self._worker < self._workers:
            load_weights_state(self.model, self._before)
            self._deal()
        else:
            load_weights_state(self.model, self._gathered)
            self._round += 1
            self._begin_round()

    def _gather(self, entry: str, value: Tensor) -> None:
        owners = self._owners.get(entry.removesuffix(".weight"))
        so_far = self._gathered.get(entry, self._before[entry])
        if owners is not None and entry.endswith(".weight"):
            self._gathered[entry] = torch.where(
                _along(owners == self._worker, value), value, so_far
            )
        elif value.is_floating_point() and self._worker > 0:
            self._gathered[entry] = so_far + (value - so_far) / (self._worker + 1)
        else:
            self._gathered[entry] = value.clone()

    def _close_epoch(self) -> bool:
        self._check_numbers("weight", self._magnitudes())
        self._training.end_epoch()
        self.epoch += 1
        if self.epoch < self.epochs:
            return False
        if self._steps % self._local_steps:
            for entry, value in weights_state(self.model).items():
                self._gather(entry, value)
        if self._gathered:
            load_weights_state(self.model, self._gathered)
        self._let_go()
        for layer, mask in zip(self.layers.values(), self._strongest(), strict=True):
            layer.active.copy_(mask)
        self._zero_what_is_masked()
        return True

    def _let_go(self) -> None:
        for layer in self.layers.values():
            layer.override = None

    def _start(self) -> list[Tensor]:
        return list(self._owners.values())

    def _strongest(self) -> list[Tensor]:
        weights = [layer.weight.detach() for layer in self.layers.values()]
        return strongest_filters(weights, self._count)

    def _found(self) -> Ticket:
        return Ticket.from_model(self.model, method="loft", name=self._name, seed=self._model_seed)


def strongest_filters(weights: list[Tensor], count: int) -> list[Tensor]:
    """Return masks that keep whole filters (rows of a weight), at most `count` weights in all.

    The last weight is kept whole. Then comes the strongest filter of each layer, then all others,
    by mean magnitude; a filter for which there is no room is passed over. Of equal ones the first
    in the network goes first.
    """
    masks = [torch.zeros_like(weight, dtype=torch.bool) for weight in weights]
    masks[-1].fill_(True)
    room = count - weights[-1].numel()
    found = []
    for layer, weight in enumerate(weights[:-1]):
        strengths = weight.abs().flatten(1).mean(1).tolist()
        order = sorted(range(len(strengths)), key=lambda row: -strengths[row])
        # Not the strongest of its layer comes after those that are.
        found += [(place > 0, -strengths[row], layer, row) for place, row in enumerate(order)]
    for _, _, layer, row in sorted(found):
        size = weights[layer][row].numel()
        if size <= room:
            masks[layer][row] = True
            room -= size
    return masks


def _with_filters(owners: Tensor, worker: int, layer: Any, dtype: torch.dtype) -> Tensor:
    """Return the weight of a layer with the filters of all but one worker at zero."""
    kept = _along(owners == worker, layer.weight)
    return torch.where(kept, layer.weight, torch.zeros_like(layer.weight)).to(dtype)


def _along(filters: Tensor, weight: Tensor) -> Tensor:
    return filters.view(-1, *[1] * (weight.dim() - 1))


def _copy(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {entry: tensor.clone() for entry, tensor in state.items()}


@dataclass(frozen=True)
class LoFTSettings:
    """The settings of LoFT in a race."""

    loft_init: str = option("kaiming_normal", "Initial weights of LoFT.")
    loft_epochs: int = option(150, "Epochs of all workers together.", epochs=True)
    loft_workers: int = option(4, "Parts that the filters are dealt out in.")
    loft_local_steps: int = option(50, "Steps of a worker's turn.")
    loft_lr: float = option(0.1, "Learning rate of the first epoch of LoFT.")


def searched(start: Start) -> LoFT:
    """Return the search of LoFT, with at most as many weights as all tickets keep."""
    model, own = start.converted(), start.own
    return LoFT(
        model,
        start.weights,
        own.loft_epochs,
        workers=own.loft_workers,
        local_steps=own.loft_local_steps,
        lr=own.loft_lr,
        weight_decay=start.weight_decay,
        schedule=start.schedule,
        seed=start.seed,
        model_seed=start.seed,
        name=start.name,
    )


ENTRY = Entry(searched, colour="#C49C94", settings=LoFTSettings, init="loft_init")

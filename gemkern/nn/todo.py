"""What is still to be done to make an activation, and what layers learn of how it is used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from torch import Tensor


class Moments(NamedTuple):
    """Mean and biased variance of each channel, and the version of the tensor that has them."""

    mean: Tensor
    var: Tensor
    version: int


@dataclass
class Habit:
    """What a layer learnt of how its results are used; where it errs it costs time alone.

    Attributes:
        measures: whether a norm of the batch follows.
        skips: whether something beside the norm reads what the layer wrote.
        keeps: whether what the norm makes is read more than once.
    """

    measures: bool = True
    skips: bool = False
    keeps: bool = False


class Todo(Protocol):
    """What is still to be done to make an activation."""

    def reads(self) -> tuple[Any, ...]:
        """Return the activations that it will read, and other things."""

    def parts(self) -> tuple[Any, ...]:
        """Return all tensors that it is made of, and None."""

    def remake(self, *parts: Any) -> Tensor:
        """Return what it makes of other parts."""

    def run(self, value: Any, moments: bool) -> Tensor:
        """Return what it makes, and tell `value` what else came of it."""

"""What the optimisers of scores have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from gemkern.errors import GemkernError
from gemkern.optim.carrying import own_state, whole_state
from gemkern.optim.effective import attach, clear_leaf_grads, detach, leaf_grad, score_grad, write
from gemkern.optim.layers import Layers, MaskedLayer, grouped

LARGEST = torch.finfo(torch.float32).max
# Options of a group that a step reads on the device.
READ_ON_DEVICE = ("lr", "l2")


class ScoreOptimizer(torch.optim.Optimizer):
    """A PyTorch optimiser whose parameters are the scores of masked layers.

    Each layer's `active` is read when a step is taken, so freezing, and moving the model, count at
    once. A layer whose scores have no gradient is left alone.

    With `fused`, a step also writes the layers' next effective weights, and the layers compute with
    those: a whole training step has one launch of mask work. The gradient then arrives at the
    effective weight, where `step` takes its product with the weight; `scores.grad` stays None, so
    leave `fused` off to clip or read gradients or to use a GradScaler. Compiled models and
    distributed ones compute as if it were off.
    """

    def __init__(self, layers: Layers, defaults: dict[str, Any], fused: bool) -> None:
        self._layer_of: dict[Tensor, MaskedLayer] = {}
        self._fused = fused
        self._numbers: dict[tuple[Tensor, str], tuple[float, Tensor]] = {}
        groups = []
        for members, options in grouped(layers):
            groups.append({"params": [self._scores_of(layer) for layer in members], **options})
        super().__init__(groups, defaults)
        for group in self.param_groups:
            self._check(group)
        # Whatever another optimiser left there would keep the gradients from this one.
        detach(list(self._layer_of.values()))
        if fused:
            attach(list(self._layer_of.values()), self)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Move the scores by their gradients; return what `closure` returned, if one was given."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            layers = [layer for layer in self._layers(group) if _has_gradient(layer)]
            if layers and all(layer.scores.grad is None for layer in layers):
                self._fused_step(group, layers)
            elif layers:
                self._plain_step(group, layers)
        return loss

    @torch.no_grad()
    def refresh(self) -> None:
        """Bring what the device holds up to date after scores, active or options have changed.

        Only a captured graph needs it, which notices nothing: effective weights and the numbers of
        a step are written where they are.
        """
        for group in self.param_groups:
            for name in READ_ON_DEVICE:
                self._number(group, name)
            if self._fused:
                write(self._layers(group))

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients of scores and of effective weights."""
        super().zero_grad(set_to_none)
        clear_leaf_grads(list(self._layer_of.values()))

    def has_gradients(self) -> bool:
        """Return whether a gradient has arrived at any layer since the last step."""
        return any(map(_has_gradient, self._layer_of.values()))

    def has_learnt(self, layer: Any) -> bool:
        """Return whether a step has ever moved the scores of `layer`."""
        return bool(self.state.get(layer.scores))

    def release(self) -> None:
        """Let the layers compute by themselves again, as if `fused` had been off."""
        self._fused = False
        detach(list(self._layer_of.values()))

    def state_dict(self) -> dict[str, Any]:
        """Return the state; what is remembered of compressed layers is that of whole ones."""
        return whole_state(super().state_dict(), self, self._layer_of.values())

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load `state_dict`, from layers of either form."""
        super().load_state_dict(own_state(state_dict, self, self._layer_of.values()))

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_layer_of": self._layer_of, "_fused": self._fused}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._numbers = {}

    @abstractmethod
    def _step_group(
        self,
        group: dict[str, Any],
        scores: list[Tensor],
        active: list[Tensor],
        grads: list[Tensor],
        weights: list[Tensor] | None,
        effective: list[Tensor] | None,
    ) -> None: ...

    @abstractmethod
    def _check(self, group: dict[str, Any]) -> None: ...

    def _fused_step(self, group: dict[str, Any], layers: Sequence[Any]) -> None:
        """Step by the gradients of effective weights, and write the next ones."""
        leaves = [layer.effective.leaf for layer in layers]
        scores, active, weights = _operands(layers)
        self._step_group(group, scores, active, [leaf.grad for leaf in leaves], weights, leaves)
        for layer in layers:
            layer.effective.note_written(layer)
        clear_leaf_grads(layers)

    def _plain_step(self, group: dict[str, Any], layers: Sequence[Any]) -> None:
        """Step by the gradients of scores; if fused, make ready for effective weights."""
        scores, active, _ = _operands(layers)
        self._step_group(group, scores, active, [score_grad(one) for one in layers], None, None)
        clear_leaf_grads(layers)
        if self._fused:
            attach(layers, self)
            write(layers)

    def _layers(self, group: dict[str, Any]) -> list[Any]:
        return [self._layer_of[score] for score in group["params"]]

    def _number(self, group: dict[str, Any], name: str) -> Tensor:
        """Return an option of `group` on the device, filled only when it has changed."""
        value = group[name]
        if isinstance(value, Tensor):
            return value
        first = group["params"][0]
        written, number = self._numbers.get((first, name), (None, None))
        if number is None or number.device != first.device:
            number = torch.full((), value, dtype=first.dtype, device=first.device)
        elif written != value:
            number.fill_(value)
        self._numbers[first, name] = (value, number)
        return number

    def _memory(self, scores: list[Tensor], name: str) -> list[Tensor]:
        """Return what the optimiser remembers of `scores` under `name`, zero at first."""
        for score in scores:
            if name not in self.state[score]:
                self.state[score][name] = torch.zeros_like(score)
        return [self.state[score][name] for score in scores]

    def _scores_of(self, layer: MaskedLayer) -> Tensor:
        if layer.scores is None:
            raise GemkernError(
                f"{layer} has no scores to learn: convert the model with "
                "gemkern.convert(model, scores=True)"
            )
        self._layer_of[layer.scores] = layer
        return layer.scores


def check_range(name: str, value: Any, low: float, high: float = LARGEST) -> None:
    """Check that an option lies in [low, high); a tensor is taken on trust, unread.

    Raises:
        GemkernError: it does not.
    """
    if not isinstance(value, Tensor) and not low <= value < high:
        bounds = f"at least {low} that float32 holds" if high == LARGEST else f"in [{low}, {high})"
        raise GemkernError(f"the optimiser's {name} is {value}: give a number {bounds}")


def check_momentum(momentum: float, nesterov: bool) -> None:
    """Check that the momentum lies in [0, 1), and that nesterov has one to look ahead by.

    Raises:
        GemkernError: it does not.
    """
    check_range("momentum", momentum, 0.0, 1.0)
    if nesterov and momentum == 0:
        raise GemkernError("the optimiser's nesterov needs a momentum: give one above 0")


def _has_gradient(layer: Any) -> bool:
    return layer.scores.grad is not None or leaf_grad(layer) is not None


def _operands(layers: Sequence[Any]) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    return (
        [layer.scores for layer in layers],
        [layer.active for layer in layers],
        [layer.weight for layer in layers],
    )

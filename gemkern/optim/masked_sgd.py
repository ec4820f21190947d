"""SGD over weights under a fixed mask."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gemkern import ops
from gemkern.optim.carrying import own_state, whole_state
from gemkern.optim.effective import Noted, attach, clear_leaf_grads, detach, leaf_grad, write
from gemkern.optim.layers import Layers, MaskedLayer, grouped, is_masked
from gemkern.optim.score_optimizer import check_momentum, check_range


class MaskedSGD(torch.optim.SGD):
    """`torch.optim.SGD` whose masked weights, and their momentum, are exactly +0.0 after each step.

    Masks are the layers' `active`, read when a step is taken. Given a model, every other trainable
    parameter (bias, norm) learns too, and a model with no masked layer trains as with plain SGD.

    Once it is there, momentum stays where it is, for captured graphs of a step: `forget` and
    `load_state_dict` write to it.

    Args:
        layers: a model, masked layers, or groups {"layers": model or layers, "lr": ..., ...}.
        lr, momentum, weight_decay, nesterov: as in `torch.optim.SGD`.
        capturable: keep each group's learning rate in a 0-d tensor on the device, for captured
            graphs to read; change it in place. A step is then PyTorch's fused one, and writes the
            effective weights in the dtype that layers compute in, as a fused `ScoreOptimizer` does:
            gradients do not reach the weights of masked layers, and `refresh` is for what a graph
            does not notice.

    Raises:
        GemkernError: an option is out of its range.
    """

    # The momenta in the memory of a parameter.
    _momenta: tuple[str, ...] = ("momentum_buffer",)

    def __init__(
        self,
        layers: Layers,
        lr: float,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        capturable: bool = False,
    ) -> None:
        options: dict[str, Any] = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
        }
        self._layers: list[MaskedLayer] = []
        # The layers whose masked weights and momentum the last step left at zero, as they were.
        self._zeros: dict[MaskedLayer, Noted] = {}
        if isinstance(layers, nn.Module):
            groups: list[dict[str, Any]] = [{"params": self._adopt(layers.modules())}]
        else:
            groups = [{"params": self._adopt(members), **own} for members, own in grouped(layers)]
        for group in groups:
            _check({**options, **group})
        super().__init__(groups, **options, fused=capturable or None)
        # Whatever another optimiser left there would keep the gradients from this one.
        detach(self._layers)
        self._capturable = capturable
        self._join_layers()
        for group in self.param_groups if capturable else ():
            device = group["params"][0].device
            group["lr"] = torch.full((), group["lr"], dtype=torch.float32, device=device)
        self.refresh()

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take SGD's step, what is masked left out; return what `closure` returned, if given."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._take_gradients()
        # A captured graph would not notice that something is masked now.
        masked = [
            layer
            for layer in self._layers
            if self._capturable or not getattr(layer, "is_unmasked", False)
        ]
        # What is zero stays zero where its gradient is, which costs a pass in place of four.
        zero: list[MaskedLayer] = []
        others: list[MaskedLayer] = []
        for layer in masked:
            (zero if self._is_zero(layer) else others).append(layer)
        self._mask_gradients(zero)
        self._move()
        self._clear_masked(others)
        known = () if self._capturable else masked
        self._zeros = {layer: Noted((layer.weight, layer.active)) for layer in known}
        self.refresh()
        return loss

    def _move(self) -> None:
        """Move all parameters by their gradients."""
        super().step()

    @torch.no_grad()
    def refresh(self) -> None:
        """If capturable, write the effective weights anew after weights or masks have changed."""
        if self._capturable:
            attach(self._layers, self)
            write(self._layers)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients of parameters and of effective weights."""
        super().zero_grad(set_to_none)
        clear_leaf_grads(self._layers)

    @torch.no_grad()
    def forget(self) -> None:
        """Set all momentum to zero."""
        for memory in self.state.values():
            for name in self._momenta:
                if name in memory:
                    memory[name].zero_()
        self._zeros = {}

    def state_dict(self) -> dict[str, Any]:
        """Return the state; the momentum of compressed layers is that of whole ones."""
        return whole_state(super().state_dict(), self, self._layers)

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load `state_dict` into the tensors that are there; momentum it does not have is zero.

        It may come from layers of either form.
        """
        self._zeros = {}
        kept = [(group["lr"], group["fused"]) for group in self.param_groups]
        memories = dict(self.state)
        super().load_state_dict(own_state(state_dict, self, self._layers))
        for group, (rate, fused) in zip(self.param_groups, kept, strict=True):
            # A captured state may go on where nothing is captured, and the other way round.
            group["fused"], lr = fused, group["lr"]
            group["lr"] = rate.fill_(lr) if isinstance(rate, Tensor) else float(lr)
        for parameter, memory in memories.items():
            loaded = self.state[parameter]
            for name, buffer in list(memory.items()):
                if buffer.shape != parameter.shape:
                    # The layer has another form now.
                    buffer = memory[name] = torch.empty_like(parameter)
                buffer.copy_(loaded.get(name, torch.zeros_like(buffer)))
            self.state[parameter] = memory
        self._join_layers()

    def __getstate__(self) -> dict[str, Any]:
        own = {"_layers": self._layers, "_capturable": self._capturable}
        return {**super().__getstate__(), **own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._zeros = {}

    def _join_layers(self) -> None:
        """Let a step be one call over all layers."""
        for group in self.param_groups:
            # PyTorch does so on CUDA by itself; with nesterov it would write to the gradients.
            group["foreach"] = None if self._capturable or group["nesterov"] else True

    def _take_gradients(self) -> None:
        """Let the gradients of effective weights be those of the weights."""
        arrived = {layer: grad for layer in self._layers if (grad := leaf_grad(layer)) is not None}
        if arrived:
            grads = [torch.empty_like(layer.weight) for layer in arrived]
            torch._foreach_copy_(grads, list(arrived.values()))
            for layer, grad in zip(arrived, grads, strict=True):
                layer.weight.grad = grad if layer.weight.grad is None else layer.weight.grad + grad
            clear_leaf_grads(list(arrived))

    def _is_zero(self, layer: MaskedLayer) -> bool:
        """Return whether what is masked, weights and momentum, is known to be zero."""
        return layer in self._zeros and self._zeros[layer].still((layer.weight, layer.active))

    def _mask_gradients(self, layers: Sequence[MaskedLayer]) -> None:
        """Let the gradients of weights be +0.0 where they are masked, whoever changed them."""
        learning = [layer for layer in layers if layer.weight.grad is not None]
        if learning:
            grads: list[Any] = [layer.weight.grad for layer in learning]
            masked = ops.effective_weight(grads, None, [layer.active for layer in learning])
            for layer, grad in zip(learning, masked, strict=True):
                layer.weight.grad = grad

    def _clear_masked(self, layers: Sequence[MaskedLayer]) -> None:
        """Write +0.0 to what is masked, weights and momentum of `layers` at once."""
        pairs = [
            (tensor, layer.active)
            for layer in layers
            for tensor in (layer.weight, self.state.get(layer.weight, {}).get("momentum_buffer"))
            if tensor is not None
        ]
        if pairs:
            tensors, active = map(list, zip(*pairs, strict=True))
            torch._foreach_copy_(tensors, ops.effective_weight(tensors, None, active))

    def _adopt(self, modules: Iterable[Any]) -> list[Tensor]:
        """Remember the masked layers that learn; return the trainable parameters of all."""
        parameters: dict[Tensor, None] = {}
        for module in modules:
            if is_masked(module) and module.weight.requires_grad:
                self._layers.append(module)
            for parameter in module.parameters(recurse=False):
                if parameter.requires_grad:
                    parameters[parameter] = None
        return list(parameters)


def _check(options: dict[str, Any]) -> None:
    check_range("lr", options["lr"], 0.0)
    check_momentum(options["momentum"], options["nesterov"])
    check_range("weight_decay", options["weight_decay"], 0.0)

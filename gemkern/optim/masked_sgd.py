"""SGD over weights under a fixed mask."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from gemkern.optim.layers import Layers, MaskedLayer, grouped, is_masked
from gemkern.optim.score_optimizer import check_momentum, check_range


class MaskedSGD(torch.optim.SGD):
    """`torch.optim.SGD` whose masked weights, and their momentum, are exactly +0.0 after each step.

    Masks are the layers' `active`, read when a step is taken. Given a model, every other trainable
    parameter (bias, norm) learns too, and a model with no masked layer trains as with plain SGD.

    Args:
        layers: a model, masked layers, or groups {"layers": model or layers, "lr": ..., ...}.
        lr, momentum, weight_decay, nesterov: as in `torch.optim.SGD`.

    Raises:
        GemkernError: an option is out of its range.
    """

    def __init__(
        self,
        layers: Layers,
        lr: float,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
    ) -> None:
        options: dict[str, Any] = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
        }
        self._layers: list[MaskedLayer] = []
        if isinstance(layers, nn.Module):
            groups: list[dict[str, Any]] = [{"params": self._adopt(layers.modules())}]
        else:
            groups = [{"params": self._adopt(members), **own} for members, own in grouped(layers)]
        for group in groups:
            _check({**options, **group})
        super().__init__(groups, **options)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take SGD's step, then clear what is masked; return what `closure` returned, if given."""
        loss = super().step(closure)
        for layer in self._layers:
            masked = ~layer.active
            layer.weight.masked_fill_(masked, 0)
            buffer = self.state.get(layer.weight, {}).get("momentum_buffer")
            if buffer is not None:
                buffer.masked_fill_(masked, 0)
        return loss

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_layers": self._layers}

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

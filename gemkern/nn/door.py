"""The door of an accelerated model: whoever calls it gets plain tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from gemkern.nn.activations import Activation, laid_out
from gemkern.nn.containers import found, mapped


def open_door(model: nn.Module) -> None:
    """Let plain tensors leave `model`, once."""
    if _let_leave not in model._forward_hooks.values():
        model.register_forward_hook(_let_leave)


def close_doors(model: nn.Module) -> None:
    """Undo `open_door` for `model` and its parts."""
    for module in model.modules():
        _close(module)


def _let_leave(module: nn.Module, inputs: Any, output: Any) -> Any:
    if any(True for _ in found(Activation, output)):
        return mapped(laid_out, output)
    if not torch.compiler.is_compiling() and not _is_needed(module):
        # The parts were decelerated, which know of nothing around them.
        _close(module)
    return output


def _is_needed(model: nn.Module) -> bool:
    return any("whole_weight" in module._buffers for module in model.modules())


def _close(module: nn.Module) -> None:
    for key, hook in list(module._forward_hooks.items()):
        if hook is _let_leave:
            module._forward_hooks.pop(key, None)

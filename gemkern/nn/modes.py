"""How PyTorch computes at a moment: with gradients or not, and who watches what they save."""

from __future__ import annotations

from contextlib import ExitStack

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

Mode = tuple[bool, bool]


def mode() -> Mode:
    return torch.is_grad_enabled(), torch.is_inference_mode_enabled()


def waiting_allowed() -> bool:
    """Return whether gradients are saved as usual: a checkpoint counts what is saved, and when."""
    return torch._C._autograd._top_saved_tensors_default_hooks(False) is None


def as_it_was(then: Mode) -> ExitStack:
    """Return a context with another mode, in which nobody sees what gradients save."""
    stack = ExitStack()
    if not waiting_allowed():
        stack.enter_context(saved_tensors_hooks(_as_it_is, _as_it_is))
    if then != mode():
        grad, inference = then
        stack.enter_context(torch.inference_mode(inference))
        stack.enter_context(torch.set_grad_enabled(grad))
    return stack


def _as_it_is(tensor: Tensor) -> Tensor:
    return tensor

"""How a kernel becomes a PyTorch operator."""

from __future__ import annotations

from typing import Any

import torch
from torch._library.custom_ops import CustomOpDef

from gemkern.errors import GemkernError
from gemkern.kernels import reference
from gemkern.ops.dispatch import kernel


def register(operator: str, schema: str, mutates: tuple[str, ...] = ()) -> CustomOpDef:
    """Register gemkern::`operator`, whose last argument names the backend ("" to choose).

    Its fake implementation is the reference itself: plain PyTorch that reads no number on the host
    infers shapes, dtypes and strides by running on fake tensors.
    """

    def run(*arguments: Any) -> Any:
        *inputs, backend = arguments
        return kernel(operator, backend)(*inputs)

    def fake(*arguments: Any) -> Any:
        return getattr(reference, operator)(*arguments[:-1])

    registered = torch.library.custom_op(
        f"gemkern::{operator}", run, mutates_args=mutates, schema=schema
    )
    registered.register_fake(fake)
    return registered


def refuse_second_derivative(registered: CustomOpDef) -> None:
    """Let the gradient operator `registered` refuse to be differentiated."""

    def backward(ctx: Any, *grads: Any) -> Any:
        raise GemkernError(
            "masked layers are differentiable once: the straight-through estimator has no second "
            "derivative, so leave out create_graph=True"
        )

    registered.register_autograd(backward)

"""The fused score step beside the same step in plain PyTorch, on whatever device is there."""

from __future__ import annotations

from collections.abc import Callable

import torch

from gemkern import ops

# As many scores as ResNet-20 has, in as many layers.
LAYERS, SCORES = 20, 268_336
LEARNING_RATE, MOMENTUM, L2 = 0.1, 0.9, 5e-5
PLAIN, FUSED = "torch.optim.SGD", "score_step_sgd"


def score_steps(device: str = "cpu") -> dict[str, Callable[[], None]]:
    """Return both steps by name, after a first one of each whose results are compared.

    The plain step is PyTorch's SGD and a clamp to [0, 1]; it does not even keep frozen scores at 0.

    Raises:
        AssertionError: the fused step is wrong.
    """
    generator = torch.Generator().manual_seed(0)
    shape = (LAYERS, SCORES // LAYERS)
    whole = torch.rand(shape, generator=generator).to(device)
    grads = list(torch.randn(shape, generator=generator).to(device))
    active = list((torch.rand(shape, generator=generator) < 0.5).to(device))
    plain_scores = [layer.clone().requires_grad_() for layer in whole]
    fused_scores = [layer.clone() for layer in whole]
    # PyTorch's decay of w is the gradient of L2 * w ** 2.
    optimizer = torch.optim.SGD(
        plain_scores, lr=LEARNING_RATE, momentum=MOMENTUM, weight_decay=2 * L2
    )

    def plain() -> None:
        for score, grad in zip(plain_scores, grads, strict=True):
            score.grad = grad
        optimizer.step()
        with torch.no_grad():
            torch._foreach_clamp_min_(plain_scores, 0.0)
            torch._foreach_clamp_max_(plain_scores, 1.0)

    buffers = [torch.zeros_like(grad) for grad in grads]

    def fused() -> None:
        with torch.no_grad():
            ops.score_step_sgd(
                fused_scores, active, grads, buffers, None, None,
                lr=LEARNING_RATE, l2=L2, momentum=MOMENTUM, nesterov=False,
            )  # fmt: skip

    plain()
    fused()
    for found, expected, on in zip(fused_scores, plain_scores, active, strict=True):
        torch.testing.assert_close(found, torch.where(on, expected.detach(), 0.0))
    return {PLAIN: plain, FUSED: fused}

"""The fused score step beside the same step in plain PyTorch, on whatever device is there.

From the gradients of the effective weights: the straight-through product, L2, momentum, the step,
the clamp to [0, 1], frozen scores held at 0, and the next effective weights.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from gemkern import ops

# As many scores as ResNet-20 has, in as many layers.
LAYERS, SCORES = 20, 268_336
LEARNING_RATE, MOMENTUM, L2 = 0.1, 0.9, 5e-5
THRESHOLD = 0.5
PLAIN, FUSED = "torch.optim.SGD", "score_step_sgd"


def score_steps(device: str = "cpu") -> dict[str, Callable[[], None]]:
    """Return both steps by name, after a first one of each whose results are compared.

    Raises:
        AssertionError: the fused step is wrong.
    """
    generator = torch.Generator().manual_seed(0)
    shape = (LAYERS, SCORES // LAYERS)
    whole = torch.rand(shape, generator=generator).to(device)
    weights = list(torch.randn(shape, generator=generator).to(device))
    grads = list(torch.randn(shape, generator=generator).to(device))
    active = list((torch.rand(shape, generator=generator) < 0.5).to(device))
    frozen = [~on for on in active]
    plain_scores = [layer.clone().requires_grad_() for layer in whole]
    plain_effective = [torch.empty_like(weight) for weight in weights]
    # PyTorch's decay of w is the gradient of L2 * w ** 2.
    optimizer = torch.optim.SGD(
        plain_scores, lr=LEARNING_RATE, momentum=MOMENTUM, weight_decay=2 * L2
    )

    @torch.no_grad()
    def plain() -> None:
        for score, grad in zip(plain_scores, torch._foreach_mul(grads, weights), strict=True):
            score.grad = grad
        optimizer.step()
        torch._foreach_clamp_min_(plain_scores, 0.0)
        torch._foreach_clamp_max_(plain_scores, 1.0)
        for i, score in enumerate(plain_scores):
            score.masked_fill_(frozen[i], 0.0)
            plain_effective[i].copy_(torch.where(score >= THRESHOLD, weights[i], 0.0))

    scores = [layer.clone() for layer in whole]
    buffers = [torch.zeros_like(grad) for grad in grads]
    effective = [torch.empty_like(weight) for weight in weights]

    def fused() -> None:
        ops.score_step_sgd(
            scores, active, grads, buffers, weights, effective,
            lr=LEARNING_RATE, l2=L2, momentum=MOMENTUM, nesterov=False,
        )  # fmt: skip

    plain()
    fused()
    torch.testing.assert_close(scores, [score.detach() for score in plain_scores])
    for found, expected, score in zip(effective, plain_effective, scores, strict=True):
        # A score may round to the other side of the threshold.
        settled = (score - THRESHOLD).abs() > 1e-6
        assert torch.equal(found[settled], expected[settled]), "the effective weights are wrong"
    return {PLAIN: plain, FUSED: fused}

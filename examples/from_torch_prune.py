"""Take over a model that torch.nn.utils.prune has pruned, and finetune it accelerated.

    python examples/from_torch_prune.py

The zeros become masks, the outputs stay the same bits. Accelerated, sums are made in another order
and agree up to rounding. Finetuned, what was pruned is exactly zero, also in the plain model that
`unconvert` gives back.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import prune

import gemkern as gk

DIGITS = gk.data.load("digits")
AS_THEY_ARE: Any = {"mean": DIGITS.mean, "std": DIGITS.std, "augment": gk.data.Augment()}
AMOUNT = 0.9


def build() -> nn.Sequential:
    """Return a network of plain layers, with the same weights at every call."""
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU()),
        *(nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(64 * 16, 10)),
    )


def train(model: nn.Module, optimizer: torch.optim.Optimizer, epochs: int) -> None:
    """Train whatever `optimizer` moves."""
    model.train()
    for epoch in range(epochs):
        for images, labels in gk.data.batches(DIGITS.train, 64, seed=0, epoch=epoch, **AS_THEY_ARE):
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            optimizer.step()


def prune_for_good(model: nn.Module) -> None:
    """Set the smallest weights of all layers together to zero, by PyTorch's own means."""
    layers = [one for one in model.modules() if isinstance(one, nn.Conv2d | nn.Linear)]
    places = [(layer, "weight") for layer in layers]
    prune.global_unstructured(places, prune.L1Unstructured, amount=AMOUNT)
    for layer, name in places:
        prune.remove(layer, name)  # the zeros go into the weight, the hook goes


def outputs(model: nn.Module) -> Tensor:
    """Return what the model says of the test images."""
    model.eval()
    with torch.no_grad():
        return torch.cat([model(images) for images, _ in DIGITS.evaluation("test")])


def main() -> None:
    model = build()
    train(model, torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9), epochs=3)
    print(f"trained: {gk.training.evaluate(model, DIGITS):.1%} of the test images are right")
    prune_for_good(model)
    print(f"pruned: {gk.training.evaluate(model, DIGITS):.1%}")

    pruned = outputs(model)
    gk.convert(model)  # masked layers, which share the weights of the plain ones
    gk.mask_zeros(model)  # what is zero is masked for good
    print(f"density {gk.density(model):.1%}, the same bits: {torch.equal(outputs(model), pruned)}")
    gk.accelerate(model)
    close = torch.allclose(outputs(model), pruned, rtol=1e-4, atol=1e-4)
    print(f"accelerated, the same up to rounding: {close}")

    train(model, gk.MaskedSGD(model, lr=0.05, momentum=0.9), epochs=5)
    finetuned = gk.training.evaluate(model, DIGITS)
    gk.unconvert(model)  # plain layers again, in place
    weights = [one.weight for one in model if isinstance(one, nn.Conv2d | nn.Linear)]
    zeros = sum(int((weight == 0).sum()) for weight in weights)
    share = zeros / sum(weight.numel() for weight in weights)
    print(f"finetuned: {finetuned:.1%}, and {share:.1%} of the weights are zero")


if __name__ == "__main__":
    main()

"""Say edge-popup, as code in the style of hidden-networks has it, with gemkern; then Gem-Miner.

    python examples/from_hidden_networks.py

By hand, such code has layers with scores over weights that stay, keeps the top k of |scores| in
each layer, and lets gradients go straight through the choice. `gk.convert` and `EdgePopup` say the
same, load its checkpoints, and choose the same weights. Gem-Miner takes its place by one line.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import gemkern as gk
from gemkern.tickets import EdgePopup

DIGITS = gk.data.load("digits")
AS_THEY_ARE: Any = {"mean": DIGITS.mean, "std": DIGITS.std, "augment": gk.data.Augment()}
DENSITY, EPOCHS, LR = 0.3, 6, 0.1


def top_k(scores: Tensor) -> Tensor:
    """Return 1 for the largest |scores| and 0 for the others, with the gradient of |scores|."""
    magnitudes = scores.abs()
    kept = magnitudes.flatten().argsort(stable=True)[-round(DENSITY * scores.numel()) :]
    mask = torch.zeros(scores.numel()).index_fill(0, kept, 1).view_as(scores)
    return mask + (magnitudes - magnitudes.detach())


class PopupConv2d(nn.Conv2d):
    """A convolution by hand: the weight is a signed constant and stays, the scores learn."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options, bias=False)
        scale = math.sqrt(2 / self.weight[0].numel())
        self.weight = nn.Parameter(self.weight.detach().sign() * scale, requires_grad=False)
        self.scores = nn.Parameter(torch.empty_like(self.weight))
        nn.init.kaiming_uniform_(self.scores, a=math.sqrt(5))

    def forward(self, input: Tensor) -> Tensor:
        return F.conv2d(input, self.weight * top_k(self.scores), None, self.stride, self.padding)


def build(conv: Callable[..., nn.Module]) -> nn.Sequential:
    """Return a network of convolutions of one kind, with norms that do not learn."""
    torch.manual_seed(0)
    return nn.Sequential(
        *(conv(1, 32, 3, padding=1), nn.BatchNorm2d(32, affine=False), nn.ReLU()),
        *(conv(32, 64, 3, padding=1), nn.BatchNorm2d(64, affine=False), nn.ReLU()),
        *(conv(64, 10, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    )


def learn(model: nn.Module, step: Callable[[], Any], end_epoch: Callable[[], Any]) -> str:
    """Run the loop, which is the same for all; return which share of the test images is right."""
    for epoch in range(EPOCHS):
        for images, labels in gk.data.batches(DIGITS.train, 64, seed=0, epoch=epoch, **AS_THEY_ARE):
            model.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            step()
        end_epoch()
    return f"{gk.training.evaluate(model, DIGITS):.1%}"


SEARCHES: dict[str, Callable[[nn.Module], Any]] = {
    "EdgePopup": lambda model: EdgePopup(model, DENSITY, EPOCHS, lr=LR, weight_decay=1e-4),
    "GemMiner": lambda model: gk.GemMiner(model, DENSITY, EPOCHS, 1, optimizer="adam", seed=0),
}


def main() -> None:
    model = build(PopupConv2d)
    checkpoint = {name: one.clone() for name, one in model.state_dict().items()}
    scores = {name: model.get_submodule(name).scores for name in ("0", "3", "6")}
    sgd = torch.optim.SGD(scores.values(), lr=LR, momentum=0.9, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(sgd, EPOCHS)
    print(f"by hand: {learn(model, sgd.step, schedule.step)}")
    for name, make in SEARCHES.items():
        model = build(partial(nn.Conv2d, bias=False))
        gk.convert(model, scores=True)  # weights stay, scores learn
        model.load_state_dict(checkpoint)  # its names are the same
        search = make(model)
        found, ticket = learn(model, search.step, search.end_epoch), search.ticket()
        same = sum(int((ticket.masks[layer] == top_k(one)).sum()) for layer, one in scores.items())
        print(f"{name}: {found}, chooses as by hand: {same / search.total:.2%}")
        ticket.apply(model)  # weights learn, the mask stays
        masked_sgd = gk.MaskedSGD(model, lr=LR, momentum=0.9)
        print(f"finetuned: {learn(model, masked_sgd.step, lambda: None)}, {ticket}")


if __name__ == "__main__":
    main()

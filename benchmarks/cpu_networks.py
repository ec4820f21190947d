"""What the CPU benchmarks train: networks, their masks, and one step of each contender.

The sparse step runs on `gemkern.accelerate` and `gemkern.MaskedSGD`, the dense one on PyTorch
alone. A step is forward, loss, backward, optimiser and every conversion of the layout.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import gemkern as gk
from gemkern.models import build
from gemkern.models.initial import initialise, norm_layer
from gemkern.models.resnet import cifar_resnet
from gemkern.optim import masked_layers

TICKET = Path(__file__).resolve().parent / "results" / "resnet20-ticket-densities.json"
DENSITY, BATCH = 0.0144, 128
CHANNELS, CLASSES, IMAGE_SIZE = 3, 10, 32
BLOCKS_OF_RESNET20 = 3
# ResNet-20 with more channels: how many its first stage has.
WIDER = {"resnet20-2x": 32, "resnet20-4x": 64}
INIT, SEED = "kaiming_normal", 0
LEARNING_RATE, MOMENTUM = 0.01, 0.9
LAYOUTS = {"contiguous": torch.contiguous_format, "channels-last": torch.channels_last}
SPARSE = "sparse"
# Relative, of the loss and of a layer's gradient: a ReLU near 0 may fall to either side.
TOLERANCE = 5e-2
# Of the largest gradient of a layer: so thin a network passes next to nothing to its first layers.
NOISE = 1e-4
Step = Callable[[], float]


@dataclass(frozen=True)
class Case:
    """What is trained; `masks` says where the random masks of the layers have their density from.

    "uniform" gives every layer `density`. "ticket" gives each that of the same layer of a ticket
    that Gem-Miner found, whose density as a whole is `density`.
    """

    network: str
    density: float = DENSITY
    batch: int = BATCH
    masks: str = "uniform"
    image_size: int = IMAGE_SIZE


def network(case: Case) -> nn.Module:
    """Return the dense network with its initial weights; its batch norms learn scale and shift."""
    if case.network not in WIDER:
        return build(
            case.network, classes=CLASSES, image_size=case.image_size, affine=True, init=INIT,
            seed=SEED,
        )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(SEED)
        norm, width = norm_layer(affine=True), WIDER[case.network]
        model = cifar_resnet(BLOCKS_OF_RESNET20, CHANNELS, CLASSES, norm, width)
        initialise(model, INIT)
    return model


def masked_network(case: Case) -> nn.Module:
    """Return the network under its masks, not yet accelerated."""
    generator = torch.Generator().manual_seed(SEED)
    model = network(case)
    gk.convert(model)
    densities = ticket_densities() if case.masks == "ticket" else {}
    for name, layer in masked_layers(model).items():
        density = densities.get(name, case.density)
        layer.active.copy_(torch.rand(layer.active.shape, generator=generator) < density)
        layer.weight.data.masked_fill_(~layer.active, 0)
    return model


def ticket_densities() -> dict[str, float]:
    """Return the density of each layer of the ticket, by the layer's name."""
    return json.loads(TICKET.read_text(encoding="utf-8"))["layer_density"]


def batch_of(case: Case) -> tuple[Tensor, Tensor]:
    """Return images [batch, 3, size, size] and labels."""
    generator = torch.Generator().manual_seed(SEED)
    size = case.batch, CHANNELS, case.image_size, case.image_size
    x = torch.randn(size, generator=generator)
    return x, torch.randint(CLASSES, (case.batch,), generator=generator)


class Trainer:
    """A model with its optimiser; `contender` is "sparse" or one of LAYOUTS."""

    def __init__(self, case: Case, contender: str) -> None:
        options = {"lr": LEARNING_RATE, "momentum": MOMENTUM}
        self.optimizer: torch.optim.Optimizer
        if contender == SPARSE:
            self.model = gk.accelerate(masked_network(case))
            self.optimizer = gk.MaskedSGD(self.model, **options)
            self.layout = torch.contiguous_format
        else:
            self.layout = LAYOUTS[contender]
            self.model = network(case).to(memory_format=self.layout)
            self.optimizer = torch.optim.SGD(self.model.parameters(), **options)

    def on(self, x: Tensor, labels: Tensor) -> Step:
        """Return the step on these images, laid out as the model's weights."""
        x = x.contiguous(memory_format=self.layout)

        def step() -> float:
            loss = F.cross_entropy(self.model(x), labels)
            loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
            return loss.item()

        return step


def steps_of(case: Case) -> dict[str, Step]:
    """Return the step of every contender, by name, after a check of the sparse one.

    Raises:
        AssertionError: the sparse step is wrong.
    """
    check(case)
    x, labels = batch_of(case)
    return {name: Trainer(case, name).on(x, labels) for name in (SPARSE, *LAYOUTS)}


def check(case: Case) -> None:
    """Compare loss and gradients of the accelerated network with those of the one it is made from.

    Raises:
        AssertionError: they differ.
    """
    x, labels = batch_of(case)
    model = masked_network(case)
    fast = gk.accelerate(copy.deepcopy(model))
    losses = {}
    for one in (model, fast):
        loss = F.cross_entropy(one(x), labels)
        loss.backward()
        losses[one] = loss.detach()
    _assert_near("loss", losses[fast], losses[model])
    layers, fast_layers = masked_layers(model), masked_layers(fast)
    largest = max(layer.weight.grad.norm().item() for layer in layers.values())
    for name, layer in layers.items():
        found = fast_layers[name].spread(fast_layers[name].weight.grad)
        _assert_near(f"gradient of {name}", found, layer.weight.grad, NOISE * largest)


def _assert_near(what: str, found: Tensor, expected: Tensor, noise: float = 0.0) -> None:
    error = (found - expected).norm().item()
    bound = TOLERANCE * expected.norm().item() + noise
    assert error <= bound, f"the sparse step's {what} is wrong: off by {error}, bound {bound}"

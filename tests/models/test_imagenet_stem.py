"""ResNets with ImageNet's stem: torchvision's function, every layer with a mask."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torchvision_names import TorchvisionResNet, layers_of, vary

import gemkern as gk
from gemkern.errors import GemkernError
from gemkern.models import build
from gemkern.optim import masked_layers

# Name, whether its blocks are bottlenecks, classes, weights with and without the shortcuts'.
NETWORKS = (
    ("tiny_resnet18", False, 200, 11_269_312, 11_097_280),
    ("resnet50", True, 1000, 25_502_912, 22_734_016),
)
DTYPES = (torch.float64, torch.float32)
NAMES = [(name, deep) for name, deep, *_ in NETWORKS]


def images(size: int = 64, count: int = 2) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("name", "deep"), NAMES)
def test_it_computes_what_torchvisions_does(name: str, deep: bool, training: bool) -> None:
    ours = build(name, classes=7, image_size=64, init="kaiming_normal", seed=0).double()
    theirs = TorchvisionResNet(deep, 7, affine=False, bias=False).double()
    for layer, other in zip(layers_of(ours), layers_of(theirs), strict=True):
        other.weight.data.copy_(layer.weight.data)
    for model in (ours, theirs):
        vary(model)
        model.train(training)
    found, expected = ours(images().double()), theirs(images().double())
    assert expected.shape == (2, 7)
    assert (found - expected).abs().max() < 1e-12 * expected.abs().max()


@pytest.mark.parametrize(("name", "deep", "classes", "weights", "counted"), NETWORKS)
def test_every_layer_is_masked_and_so_are_shortcuts(
    name: str, deep: bool, classes: int, weights: int, counted: int
) -> None:
    with torch.device("meta"):
        model = build(name, classes=classes, image_size=64)
        report = gk.convert(model)
    assert report.covered == report.parameters == weights
    layers = masked_layers(model)
    shortcuts = [layer for one, layer in layers.items() if ".shortcut." in one]
    assert len(shortcuts) == (4 if deep else 3)
    assert weights - sum(layer.active.numel() for layer in shortcuts) == counted


@pytest.mark.parametrize(("name", "deep"), NAMES)
def test_a_mining_step_reaches_the_scores_of_shortcuts(name: str, deep: bool) -> None:
    model = build(name, classes=5, image_size=32, seed=0)
    gk.convert(model, scores=True)
    model(images(32, count=4)).square().sum().backward()
    for one, layer in masked_layers(model).items():
        assert layer.scores is not None
        assert layer.scores.grad is not None
        assert layer.scores.grad.any(), one


@pytest.mark.parametrize(("name", "deep"), NAMES)
def test_accelerated_it_is_as_exact(name: str, deep: bool) -> None:
    model = build(name, classes=5, image_size=32, affine=True, init="kaiming_normal", seed=0)
    gk.convert(model)
    stream = torch.Generator().manual_seed(0)
    for layer in masked_layers(model).values():
        layer.active.copy_(torch.rand(layer.active.shape, generator=stream) < 0.05)
    x = images(32, count=4)
    exact, plain = (copy.deepcopy(model).to(dtype)(x.to(dtype)) for dtype in DTYPES)
    error = (gk.accelerate(model)(x) - exact).abs().max()
    assert error <= 10 * (plain - exact).abs().max()


@pytest.mark.parametrize(("name", "deep"), NAMES)
@pytest.mark.parametrize(("size", "left"), [(17, 1), (32, 1), (33, 2), (64, 2), (224, 7)])
def test_images_of_any_size_are_halved_five_times(
    size: int, left: int, name: str, deep: bool
) -> None:
    with torch.device("meta"):
        model = build(name, channels=1, classes=3, image_size=size)
        sides: list[tuple[int, ...]] = []
        for part in ("conv", "pool", "stages.0", "stages.1", "stages.2", "stages.3"):
            watch(model.get_submodule(part), sides)
        assert model(torch.empty(2, 1, size, size)).shape == (2, 3)
    assert sides[-1] == (left, left)
    assert len(set(sides)) == 5, "the first stage has no stride, every other part halves"


def watch(part: nn.Module, sides: list[tuple[int, ...]]) -> None:
    part.register_forward_hook(lambda module, args, y: sides.append(tuple(y.shape[2:])))


@pytest.mark.parametrize(("name", "deep"), NAMES)
def test_an_image_too_small_to_halve_so_often_is_refused(name: str, deep: bool) -> None:
    with pytest.raises(GemkernError, match=f"{name} halves its images too often for 16 pixels"):
        build(name, image_size=16)

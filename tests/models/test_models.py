"""The networks: their sizes are the paper's, their weights a function of the seed."""

from __future__ import annotations

import copy
import math
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import gemkern as gk
from gemkern.errors import GemkernError
from gemkern.models import NAMES, build
from gemkern.models.initial import INITS
from gemkern.optim import masked_layers

# Name, classes, layers that can be masked, weights in them.
SIZES = (
    ("resnet8", 10, 8, 74_800),
    ("resnet20", 10, 20, 268_336),
    ("resnet32", 100, 32, 467_632),
    ("resnet18", 10, 21, 11_164_352),
    ("tiny_resnet18", 200, 21, 11_269_312),
    ("resnet50", 1000, 54, 25_502_912),
    ("vgg16", 10, 14, 14_715_584),
    ("wide_resnet28_2", 10, 29, 1_463_984),
    ("mobilenet_v2", 10, 58, 2_261_824),
    ("conv4", 10, 7, 2_425_024),
)
SMALL = ("resnet8", "mobilenet_v2", "conv4", "wide_resnet28_2")
SIGNED = "signed_constant"
DTYPES = (torch.float64, torch.float32)
POOL = 0
VGG16 = (64, 64, POOL, 128, 128, POOL, *3 * (256,), POOL, *3 * (512,), POOL, *3 * (512,), POOL)


def layers_of(model: nn.Module) -> list[nn.Conv2d | nn.Linear]:
    return [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]


def weights_of(model: nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


@pytest.mark.parametrize(("name", "classes", "layers", "weights"), SIZES)
def test_sizes_are_the_papers(name: str, classes: int, layers: int, weights: int) -> None:
    with torch.device("meta"):
        model = build(name, classes=classes)
    found = layers_of(model)
    assert len(found) == layers
    assert sum(layer.weight.numel() for layer in found) == weights
    assert sum(parameter.numel() for parameter in model.parameters()) == weights
    assert all(layer.bias is None for layer in found)
    assert model(torch.empty(2, 3, 32, 32, device="meta")).shape == (2, classes)


def test_every_name_has_its_size_here() -> None:
    assert sorted(NAMES) == sorted(name for name, *_ in SIZES)


@pytest.mark.parametrize("name", NAMES)
def test_small_grey_images(name: str) -> None:
    sizes = (28, 8) if name in ("resnet8", "resnet20") else (28,)
    for size in sizes:
        with torch.device("meta"):
            model = build(name, channels=1, classes=7, image_size=size)
            assert model(torch.empty(2, 1, size, size)).shape == (2, 7)


@pytest.mark.parametrize("name", ["resnet8", "wide_resnet28_2", "mobilenet_v2"])
def test_strides_halve_the_image_as_told(name: str) -> None:
    model = build(name, seed=0)
    seen: list[torch.Size] = []
    last = layers_of(model)[-2]
    last.register_forward_hook(lambda module, args, y: seen.append(y.shape[2:]))
    model(torch.randn(2, 3, 32, 32))
    expected = {"resnet8": (8, 8), "wide_resnet28_2": (8, 8), "mobilenet_v2": (4, 4)}
    assert seen == [expected[name]]


def authors_vgg16(model: nn.Module, x: Tensor) -> Tensor:
    """Return what the authors' VGG-16, whose classifier is a 1x1 convolution, makes of x."""
    *convolutions, classifier = (layer.weight for layer in layers_of(model))
    weights = iter(convolutions)
    for width in VGG16:
        if width == POOL:
            x = F.max_pool2d(x, 2)
        else:
            x = F.conv2d(x, next(weights), padding=1)
            x = F.relu(F.batch_norm(x, None, None, training=True))
    return F.conv2d(x, classifier[:, :, None, None]).flatten(1)


def test_vgg16_is_the_authors() -> None:
    model = build("vgg16", seed=0).double()
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)).double()
    assert (model(x) - authors_vgg16(model, x)).abs().max() < 1e-13


def test_an_accelerated_vgg16_pools_as_often() -> None:
    model = build("vgg16", affine=True, init="kaiming_normal", seed=0)
    gk.convert(model)
    stream = torch.Generator().manual_seed(0)
    for layer in masked_layers(model).values():
        layer.active.copy_(torch.rand(layer.active.shape, generator=stream) < 0.05)
    x = torch.randn(4, 3, 32, 32, generator=stream)
    exact, plain = (copy.deepcopy(model).to(dtype)(x.to(dtype)) for dtype in DTYPES)
    error = (gk.accelerate(model)(x) - exact).abs().max()
    assert error <= 10 * (plain - exact).abs().max()


@pytest.mark.parametrize(("size", "poolings"), [(16, 4), (28, 4), (31, 4), (32, 5), (64, 5)])
def test_vgg16_pools_while_there_is_more_than_a_pixel(size: int, poolings: int) -> None:
    with torch.device("meta"):
        model, other = build("vgg16", image_size=size), build("vgg16")
        assert model(torch.empty(2, 3, size, size)).shape == (2, 10)
    assert sum(isinstance(module, nn.MaxPool2d) for module in model.modules()) == poolings
    assert model.state_dict().keys() == other.state_dict().keys()


@pytest.mark.parametrize("init", INITS)
def test_a_seed_decides_the_weights_and_nothing_else(init: str) -> None:
    state = torch.get_rng_state()
    first = weights_of(build("resnet8", init=init, seed=3))
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(5)
    assert torch.equal(weights_of(build("resnet8", init=init, seed=3)), first)
    assert not torch.equal(weights_of(build("resnet8", init=init, seed=4)), first)


def test_without_a_seed_the_global_state_decides() -> None:
    torch.manual_seed(5)
    first, second = weights_of(build("resnet8")), weights_of(build("resnet8"))
    torch.manual_seed(5)
    assert torch.equal(weights_of(build("resnet8")), first)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("name", SMALL)
def test_signed_constants(name: str) -> None:
    for layer in layers_of(build(name, seed=0)):
        weight = layer.weight.detach()
        fan_in = weight.numel() // weight.shape[0]
        size = torch.tensor(math.sqrt(2.0 / fan_in))
        assert torch.equal(weight.abs(), size.expand_as(weight))
        positive = (weight > 0).double().mean().item()
        assert abs(positive - 0.5) < 4 * 0.5 / math.sqrt(weight.numel())


@pytest.mark.parametrize(("init", "zero"), [("signed_constant", 1), ("signed_constant_authors", 0)])
def test_a_weight_drawn_as_zero_gets_a_sign_or_stays(init: str, zero: int) -> None:
    weight = torch.tensor([[-3.0, 0.0], [-0.0, 2.0]])
    INITS[init](weight)
    assert torch.equal(weight, torch.tensor([[-1.0, zero], [zero, 1.0]]))
    theirs, ours = (weights_of(build("resnet8", init=one, seed=0)) for one in (init, SIGNED))
    assert torch.equal(theirs, ours), "no weight is drawn as 0 here"


@pytest.mark.parametrize("name", SMALL)
def test_kaiming_normal(name: str) -> None:
    for layer in layers_of(build(name, init="kaiming_normal", seed=0)):
        weight = layer.weight.detach().double()
        expected = math.sqrt(2.0 * weight.shape[0] / weight.numel())
        error = 5 / math.sqrt(2 * weight.numel())
        assert weight.std(correction=0) / expected == pytest.approx(1, abs=error)
        assert abs(weight.mean()) / expected < 5 / math.sqrt(weight.numel())
        assert weight.abs().max() > 1.5 * expected


@pytest.mark.parametrize("name", NAMES)
def test_every_weight_gets_a_gradient(name: str) -> None:
    # Those with ImageNet's stem take no smaller ones.
    size = 17 if name in ("tiny_resnet18", "resnet50") else 16
    model = build(name, image_size=size, affine=True, init="kaiming_normal", seed=0)
    torch.manual_seed(0)
    model(torch.randn(4, 3, size, size)).square().sum().backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
        assert parameter.grad.any(), key


@pytest.mark.parametrize("affine", [True, False])
def test_affine_norms(affine: bool) -> None:
    for name in NAMES:
        with torch.device("meta"):
            norms = [m for m in build(name, affine=affine).modules() if type(m) is nn.BatchNorm2d]
        assert bool(norms) is (name != "conv4")
        assert all(norm.affine is affine for norm in norms)


def test_errors() -> None:
    for call, sentence in (
        (lambda: build("resnet9"), r"no model is called 'resnet9': choose one of resnet8, resnet"),
        (
            lambda: build("resnet8", init="zeros"),
            r"no initialisation is called 'zeros': choose one of signed_constant, kaiming_normal",
        ),
        (
            lambda: build("vgg16", image_size=8),
            r"vgg16 halves its images too often for 8 pixels: give images of at least 16 pixels",
        ),
        (lambda: build("conv4", classes=0), r"3 input channels and 0 classes: give at least 1"),
        (lambda: build("conv4", channels=0), r"0 input channels and 10 classes: give at least 1"),
    ):
        with pytest.raises(GemkernError, match=sentence):
            call()


def test_threads_that_build_at_once_draw_what_each_would_alone() -> None:
    def weights(seed: int) -> Tensor:
        return build("resnet8", seed=seed, init="kaiming_normal").classifier.weight.detach()

    seeds = range(8)
    alone = [weights(seed) for seed in seeds]
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            for _ in range(3):
                for one, expected in zip(pool.map(weights, seeds), alone, strict=True):
                    assert torch.equal(one, expected)
    finally:
        sys.setswitchinterval(before)

"""Shortcuts without parameters in accelerated models: one operator where it is the same."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import gemkern as gk
from gemkern import ops
from gemkern.models import build
from gemkern.optim import masked_layers

Shorten = Callable[[Tensor], Tensor]


def images(batch: int = 20) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, 3, 7, 8, generator=generator, requires_grad=True)


class Shortened(nn.Module):
    """A convolution, and what `shorten` makes of it."""

    def __init__(self, shorten: Shorten) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.shorten = shorten

    def forward(self, x: Tensor) -> Tensor:
        return self.shorten(self.conv(x))


class Before(Shortened):
    """What `shorten` makes of the images, and a convolution."""

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.shorten(x))


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Return the results of the operator, as they are made."""
    made: list[Tensor] = []
    run = ops.padded_shortcut

    def counted(*arguments: Any) -> Tensor:
        made.append(run(*arguments))
        return made[-1]

    monkeypatch.setattr(ops, "padded_shortcut", counted)
    return made


def pair(model: nn.Module, density: float = 0.1) -> tuple[nn.Module, nn.Module]:
    """Return a model with random masks, and one that is accelerated."""
    gk.convert(model)
    generator = torch.Generator().manual_seed(0)
    for layer in masked_layers(model).values():
        layer.active.copy_(torch.rand(layer.active.shape, generator=generator) < density)
    return model, gk.accelerate(copy.deepcopy(model))


def results_of(model: nn.Module, batch: int = 20) -> tuple[Tensor, ...]:
    """Return output and gradient of the images."""
    x = images(batch)
    y = model(x)
    weights = torch.linspace(-1, 1, y.numel()).view(y.shape)
    return y.detach(), *torch.autograd.grad((y * weights).sum(), x)


def assert_same(model: nn.Module, fast: nn.Module, batch: int = 20) -> None:
    for plain, ours in zip(results_of(model, batch), results_of(fast, batch), strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-3, atol=1e-4)


def test_residual_networks_use_the_operator(calls: list[Tensor]) -> None:
    model, fast = pair(build("resnet8", seed=0, affine=True, image_size=8), density=0.2)
    assert_same(model, fast)
    assert [tuple(made.shape) for made in calls] == [(20, 32, 4, 4), (20, 64, 2, 2)]
    assert all(map(ops.is_batch_last, calls))


ONE_OPERATOR: dict[str, Shorten] = {
    "as in ResNets": lambda x: F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4)),
    "odd": lambda x: F.pad(x[:, :, ::3, :], [0, 0, 0, 0, 0, 5]),
    "in words": lambda x: F.pad(input=x[:, :, ::2, ::1], pad=(0,) * 6, mode="constant", value=0.0),
    "by position": lambda x: F.pad(x[:, :, :, ::9], (0, 0, 0, 0, 1, 0), "constant", None),
    "added": lambda x: (
        F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4)) + x.repeat(1, 2, 1, 1)[..., :4, :4]
    ),
    "counted": lambda x: F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, x.shape[1] // 2, 4)),
    "a step counted": lambda x: F.pad(x[:, :, :: x.shape[1] // 4, ::2], (0, 0, 0, 0, 4, 4)),
    "shared": lambda x: _padded_and_added(x[:, :, ::2, ::2]),
}

OTHER: dict[str, Shorten] = {
    "ones": lambda x: F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4), value=1.0),
    "mirrored": lambda x: F.pad(x[:, :, ::2, ::2], (1, 0, 0, 1), mode="reflect"),
    "edges of volumes": lambda x: F.pad(
        x.unsqueeze(-1)[:, :, ::2, ::2], (0, 0, 0, 0, 1, 1), mode="replicate"
    ),
    "pixels": lambda x: F.pad(x[:, :, ::2, ::2], (1, 0, 0, 0, 4, 4)),
    "fewer channels": lambda x: F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, -1, 4)),
    "images": lambda x: F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 1, 1, 0, 2)),
    "rows alone": lambda x: F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0)),
    "the second row on": lambda x: F.pad(x[:, :, 1::2, ::2], (0, 0, 0, 0, 4, 4)),
    "up to a column": lambda x: F.pad(x[:, :, ::2, :5:2], (0, 0, 0, 0, 4, 4)),
    "channels": lambda x: F.pad(x[:, ::2, ::2, ::2], (0, 0, 0, 0, 4, 4)),
    "every second image": lambda x: F.pad(x[::2, :, ::2, ::2], (0, 0, 0, 0, 4, 4)),
    "three slices": lambda x: F.pad(x[:, :, ::2], (0, 0, 0, 0, 4, 4)),
    "the last two": lambda x: F.pad(x[..., ::2, ::2], (0, 0, 0, 0, 4, 4)),
    "one row": lambda x: F.pad(x[:, :, 0], (0, 0, 0, 4)),
    "no slice": lambda x: F.pad(x, (0, 0, 0, 0, 4, 4)),
    "one image": lambda x: F.pad(x[3], (0, 0, 0, 0, 4, 4)),
}  # fmt: skip


def _padded_and_added(taken: Tensor) -> Tensor:
    return F.pad(taken, (0, 0, 0, 0, 8, 0)) + taken.repeat(1, 2, 1, 1)


@pytest.mark.parametrize("name", ONE_OPERATOR)
def test_a_slice_and_its_channels_of_zeros_are_one(name: str, calls: list[Tensor]) -> None:
    assert_same(*pair(Shortened(ONE_OPERATOR[name])))
    assert len(calls) == 1


@pytest.mark.parametrize("name", OTHER)
def test_other_slices_and_pads_stay_what_they_are(name: str, calls: list[Tensor]) -> None:
    assert_same(*pair(Shortened(OTHER[name])))
    assert not calls


@pytest.mark.parametrize("batch", [1, 20])
@pytest.mark.parametrize(
    "shorten",
    [
        lambda x: F.pad(x[:, :, ::2, ::3], (0, 0, 0, 0, 1, 0))[:, 1:],
        lambda x: F.pad(x, (0, 0, 0, 0, 1, 0))[:, 1:],
    ],
)
def test_what_is_not_batch_last_stays_as_it_is(
    shorten: Shorten, batch: int, calls: list[Tensor]
) -> None:
    model, fast = pair(Before(shorten))
    assert_same(model, fast, batch)
    assert not calls


def test_what_is_no_batch_of_images_stays_as_it_is(calls: list[Tensor]) -> None:
    volumes = ONE_OPERATOR["odd"]
    model, fast = pair(Shortened(lambda x: volumes(x.unsqueeze(-1))))
    assert_same(model, fast)
    assert not calls

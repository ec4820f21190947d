"""Accelerated models pool with a norm what the norm makes for a pooling alone."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from accelerated_models import images, network, results_of, sparse
from torch import Tensor, nn

import gemkern as gk
from gemkern import ops


def watch_poolings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that will hold the names of the poolings and norms that are called."""
    called: list[str] = []
    for name in ("normalise_max_pool2d", "normalise", "batch_norm_relu", "max_pool2d"):
        run = getattr(ops, name)

        def noted(*args: Any, run: Any = run, name: str = name, **named: Any) -> Any:
            called.append(name)
            return run(*args, **named)

        monkeypatch.setattr(ops, name, noted)
    return called


@pytest.mark.parametrize("training", [True, False])
def test_a_norm_and_the_pooling_behind_it_are_one_pass(
    monkeypatch: pytest.MonkeyPatch, training: bool
) -> None:
    model = network("vgg16").train(training)
    exact = results_of(copy.deepcopy(model).double(), images(0, 16).double())
    plain = results_of(copy.deepcopy(model), images(0, 16))
    fast, called = gk.accelerate(model), watch_poolings(monkeypatch)
    found = results_of(fast, images(0, 16))
    # The last norm ends in the global pooling.
    assert called == ["normalise_max_pool2d"] * 4 + ["normalise"]
    for one, other, true in zip(found, plain, exact, strict=True):
        allowed = 10 * (other - true).abs().max() + 1e-4 * true.abs().max()
        assert (one - true).abs().max() <= allowed


class Pooled(nn.Module):
    """A norm of a convolution with a pooling behind it, and what else may read the norm."""

    def __init__(self, shared: bool, residual: bool, **windows: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.norm, self.pool = nn.BatchNorm2d(8), nn.MaxPool2d(**windows)
        self.last = nn.Conv2d(8, 5, 1)
        self.shared, self.residual = shared, residual

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        z = torch.relu(self.norm(x) + x) if self.residual else torch.relu(self.norm(x))
        y = self.last(self.pool(z)).sum((2, 3))
        return y + z.sum((1, 2, 3))[:, None] if self.shared else y


POOLED = {
    "alone": ({"kernel_size": (3, 2), "stride": (4, 2)}, True),
    "shared": ({"kernel_size": 2, "shared": True}, False),
    "residual": ({"kernel_size": 2, "residual": True}, False),
    "padded": ({"kernel_size": 2, "padding": 1}, False),
    "overlapping": ({"kernel_size": (2, 3), "stride": 2}, False),
}


@pytest.mark.parametrize("name", POOLED)
def test_a_pooling_takes_the_norm_that_it_can(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    how, taken = POOLED[name]
    model = sparse(Pooled(**{"shared": False, "residual": False, **how}), 0.24)
    expected = results_of(copy.deepcopy(model), images(0))
    fast, called = gk.accelerate(model), watch_poolings(monkeypatch)
    # In the first step the layers learn who reads them.
    state = copy.deepcopy(fast.state_dict())
    fast(images(0))
    fast.load_state_dict(state)
    called.clear()
    found = results_of(fast, images(0))
    assert ("normalise_max_pool2d" in called) == taken
    assert ("max_pool2d" in called) == (not taken)
    for one, true in zip(found, expected, strict=True):
        torch.testing.assert_close(one, true, rtol=1e-3, atol=1e-4 * float(true.abs().max()))

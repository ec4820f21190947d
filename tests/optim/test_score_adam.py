"""ScoreAdam: torch.optim.Adam with L2, its step counted on the device."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from gemkern.errors import GemkernError
from gemkern.nn import MaskedLinear
from gemkern.optim import ScoreAdam


def make_layer() -> MaskedLinear:
    layer = MaskedLinear(6, 4, scores=True)
    with torch.no_grad():
        layer.scores.uniform_(0.4, 0.6, generator=torch.Generator().manual_seed(0))
    return layer


@pytest.mark.parametrize(("betas", "eps"), [((0.9, 0.999), 1e-8), ((0.5, 0.9), 1e-2)])
@pytest.mark.parametrize("l2", [0.0, 0.05])
def test_away_from_the_bounds_it_is_adam(betas: tuple[float, float], eps: float, l2: float) -> None:
    layers = [make_layer(), make_layer()]
    twins = [nn.Parameter(layer.scores.detach().clone()) for layer in layers]
    ours = ScoreAdam(layers, lr=0.01, betas=betas, eps=eps, l2=l2)
    theirs = torch.optim.Adam(twins, 0.01, betas, eps, weight_decay=2 * l2)
    generator = torch.Generator().manual_seed(1)
    for _ in range(6):
        for layer, twin in zip(layers, twins, strict=True):
            layer.scores.grad = torch.randn(4, 6, generator=generator)
            twin.grad = layer.scores.grad.clone()
        ours.step()
        theirs.step()
    for layer, twin in zip(layers, twins, strict=True):
        torch.testing.assert_close(layer.scores, twin, rtol=2e-6, atol=1e-7)


def test_the_step_is_counted_on_the_device_and_kept() -> None:
    layer = make_layer()
    optimizer = ScoreAdam([layer])
    for _ in range(3):
        layer.scores.grad = torch.ones_like(layer.scores)
        optimizer.step()
    state = optimizer.state_dict()["state"][0]
    assert sorted(state) == ["exp_avg", "exp_avg_sq", "step"]
    assert state["step"].device == layer.scores.device
    assert state["step"].item() == 3


def test_a_learning_rate_on_the_device() -> None:
    layer, twin = make_layer(), make_layer()
    for each, lr in ((layer, torch.tensor(0.02)), (twin, 0.02)):
        each.scores.grad = torch.ones_like(each.scores)
        ScoreAdam([each], lr=lr).step()
    assert torch.equal(layer.scores, twin.scores)
    assert not torch.equal(layer.scores, make_layer().scores)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"lr": -1}, r"the optimiser's lr is -1: give a number at least 0\.0"),
        ({"betas": (1.0, 0.9)}, r"the optimiser's beta1 is 1\.0: give a number in \[0\.0, 1\.0\)"),
        ({"betas": (0.9, -0.1)}, r"the optimiser's beta2 is -0\.1"),
        ({"eps": -1e-8}, r"the optimiser's eps is -1e-08"),
        ({"l2": -1.0}, r"the optimiser's l2 is -1\.0"),
    ],
)
def test_errors(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(GemkernError, match=sentence):
        ScoreAdam([make_layer()], **options)

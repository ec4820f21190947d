"""Sign-In's step is SGD's over both factors, on layers of either form, whoever changes a weight."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

import gemkern as gk
from gemkern.errors import GemkernError
from gemkern.nn import MaskedLinear
from gemkern.optim import SignInSGD
from gemkern.optim.sign_in import split
from gemkern.training import WeightTraining

LR, MOMENTUM, DECAY = 0.1, 0.9, 0.01


def layer(density: float = 0.5, seed: int = 0) -> MaskedLinear:
    torch.manual_seed(seed)
    made = MaskedLinear(7, 5)
    with torch.no_grad():
        made.active.copy_(torch.rand(5, 7) < density)
        made.weight.mul_(made.active)
    return made


def batches(steps: int = 6) -> list[Tensor]:
    numbers = torch.Generator().manual_seed(1)
    return [torch.randn(4, 7, generator=numbers) for _ in range(steps)]


def train(model: nn.Module, optimizer: SignInSGD, inputs: list[Tensor]) -> None:
    for x in inputs:
        model(x).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("beta", [1.0, 0.01])
def test_a_step_is_that_of_sgd_over_both_factors(beta: float) -> None:
    model = layer()
    m, w = (one.double().detach().requires_grad_() for one in split(model.weight, beta))
    bias = model.bias.double().detach().requires_grad_()
    plain = torch.optim.SGD([m, w, bias], LR, MOMENTUM, weight_decay=DECAY)
    for x in batches():
        y = nn.functional.linear(x.double(), m * w * model.active, bias)
        y.square().sum().backward()
        plain.step()
        plain.zero_grad()
    train(model, SignInSGD(model, LR, MOMENTUM, DECAY, beta), batches())
    expected = m * w * model.active
    assert torch.allclose(model.weight.double(), expected, rtol=1e-4, atol=1e-6)
    assert torch.allclose(model.bias.double(), bias, rtol=1e-4, atol=1e-6)
    assert torch.equal(model.weight == 0, ~model.active)


def test_factors_are_split_as_they_are_defined() -> None:
    weight = torch.tensor([0.0, -0.0, 1e-20, -0.3, 2.0, 1e4])
    m, w = split(weight, 0.5)
    assert (m > 0).all()
    assert torch.allclose(m * w, weight)
    assert torch.allclose((m.double() ** 2 - w.double() ** 2)[:5], torch.tensor(0.5).double())


def test_a_sign_changes_that_a_plain_product_keeps() -> None:
    """Balanced factors (beta near 0) slow down towards 0; Sign-In goes through."""
    ends = []
    for beta in (1e-6, 1.0):
        model = MaskedLinear(1, 1, bias=False)
        with torch.no_grad():
            model.weight.fill_(0.5)
        optimizer = SignInSGD(model, 0.05, beta=beta)
        for _ in range(60):
            (model(torch.ones(1, 1)) + 0.5).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        ends.append(model.weight.item())
    assert ends[0] > -0.01
    assert ends[1] == pytest.approx(-0.5, abs=0.01)


def test_rescaling_moves_no_weight() -> None:
    model = layer()
    optimizer = SignInSGD(model, LR, MOMENTUM)
    train(model, optimizer, batches())
    before = model.weight.detach().clone()
    scale = optimizer.state[model.weight]["factor_m"] ** 2
    optimizer.rescale()
    assert torch.equal(model.weight, before)
    assert not torch.allclose(optimizer.state[model.weight]["factor_m"] ** 2, scale)


def test_weights_that_somebody_changed_are_split_anew() -> None:
    model, fresh = layer(), layer(seed=1)
    fresh.active.copy_(model.active)
    optimizer = SignInSGD(model, LR)
    train(model, optimizer, batches())
    model.load_state_dict(fresh.state_dict())
    train(model, optimizer, batches(1))
    train(fresh, SignInSGD(fresh, LR), batches(1))
    assert torch.equal(model.weight, fresh.weight)


def test_a_state_goes_on_to_the_same_bits() -> None:
    model = layer()
    optimizer = SignInSGD(model, LR, MOMENTUM, DECAY)
    train(model, optimizer, batches(3))
    other = copy.deepcopy(model)
    resumed = SignInSGD(other, LR, MOMENTUM, DECAY)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for one, its in ((model, optimizer), (other, resumed)):
        train(one, its, batches(3))
    assert torch.equal(model.weight, other.weight)
    resumed.load_state_dict(optimizer.state_dict())
    optimizer.forget()
    assert not any(
        optimizer.state[model.weight][name].any()
        for name in ("momentum_buffer", "momentum_buffer_w")
    )


def test_compressed_layers_learn_as_whole_ones() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1),
        nn.Flatten(), nn.Linear(8 * 16, 4),
    )  # fmt: skip
    gk.convert(net)
    for one in gk.masked_layers(net).values():
        one.active.copy_(torch.rand_like(one.weight) < 0.2)
    weights = []
    for choice in ("never", "always"):
        model = copy.deepcopy(net)
        training = WeightTraining(model, 4, lr=0.01, sign_in=2, accelerated=choice)
        numbers = torch.Generator().manual_seed(3)
        for _ in range(4):
            for _ in range(3):
                x = torch.randn(4, 3, 4, 4, generator=numbers)
                model(x).square().mean().backward()
                training.step()
            training.end_epoch()
        weights.append(model.state_dict())
    for name, expected in weights[0].items():
        if name.endswith("weight"):
            active = weights[0][name.replace("weight", "active")]
            assert torch.allclose(weights[1][name] * active, expected * active, atol=1e-5), name


@pytest.mark.parametrize("beta", [0.0, -1.0, math.inf, math.nan])
def test_a_scale_that_cannot_be_is_refused(beta: float) -> None:
    with pytest.raises(GemkernError, match="beta is"):
        SignInSGD(layer(), LR, beta=beta)


def test_no_nesterov() -> None:
    with pytest.raises(GemkernError, match="Sign-In has no Nesterov momentum"):
        WeightTraining(layer(), 3, sign_in=1, nesterov=True)

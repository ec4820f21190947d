"""ScoreSGD: torch.optim.SGD with L2, kept in [0, 1], and what is frozen stays 0."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from host_reads import host_reads
from torch import nn

from gemkern.errors import GemkernError
from gemkern.nn import MaskedLinear, convert
from gemkern.optim import ScoreAdam, ScoreSGD

OPTIMIZERS = (lambda of: ScoreSGD(of, lr=0.1, l2=0.01), lambda of: ScoreAdam(of, lr=0.1, l2=0.01))


def make_model(seed: int = 0) -> nn.Sequential:
    """Return two scored linear layers, a third of their scores frozen."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    convert(model, scores=True)
    for layer in (model[0], model[2]):
        layer.active.copy_(torch.rand(layer.active.shape) < 0.67)
    return model


def learn(model: nn.Module, optimizer: Any, steps: int, seed: int = 1) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(5, 6, generator=generator)).square().sum().backward()
        optimizer.step()


def scores_of(model: Any) -> list[torch.Tensor]:
    return [model[0].scores.detach().clone(), model[2].scores.detach().clone()]


def assert_same(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> None:
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.9, False), (0.9, True)])
@pytest.mark.parametrize("l2", [0.0, 0.05])
def test_away_from_the_bounds_it_is_sgd(momentum: float, nesterov: bool, l2: float) -> None:
    layer = MaskedLinear(6, 4, scores=True)
    with torch.no_grad():
        layer.scores.uniform_(0.4, 0.6, generator=torch.Generator().manual_seed(0))
    twin = nn.Parameter(layer.scores.detach().clone())
    ours = ScoreSGD([layer], lr=0.01, momentum=momentum, l2=l2, nesterov=nesterov)
    theirs = torch.optim.SGD([twin], 0.01, momentum, weight_decay=2 * l2, nesterov=nesterov)
    generator = torch.Generator().manual_seed(1)
    for _ in range(6):
        layer.scores.grad = torch.randn(4, 6, generator=generator)
        twin.grad = layer.scores.grad.clone()
        ours.step()
        theirs.step()
    torch.testing.assert_close(layer.scores, twin, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("make", OPTIMIZERS)
def test_scores_stay_in_bounds_and_frozen_ones_at_zero(make: Any) -> None:
    model = make_model()
    optimizer = make(model)
    for param in optimizer.param_groups[0]["params"]:
        param.grad = 10 * torch.randn_like(param)
    for step in range(3):
        learn(model, optimizer, 2, seed=step)
        model[0].active[step] = False
        optimizer.step()
        for layer in (model[0], model[2]):
            frozen = ~layer.active
            for kept in (layer.scores, *optimizer.state[layer.scores].values()):
                if kept.dim():
                    assert torch.equal(kept[frozen], torch.zeros(int(frozen.sum())))
            assert layer.scores.min() >= 0
            assert layer.scores.max() <= 1
    reached = torch.cat([layer.scores[layer.active] for layer in (model[0], model[2])])
    assert (reached == 0).any()
    assert (reached > 0).any()


def test_the_clamp_at_one() -> None:
    layer = MaskedLinear(2, 1, scores=True)
    layer.scores.grad = torch.tensor([[-50.0, 50.0]])
    ScoreSGD([layer]).step()
    assert layer.scores.tolist() == [[1.0, 0.0]]


@pytest.mark.parametrize("kind", [ScoreSGD, ScoreAdam])
def test_groups_have_options_of_their_own(kind: Any) -> None:
    model = make_model()
    groups = [{"layers": [model[0]], "lr": 0.0}, {"layers": model[2]}]
    optimizer = kind(groups, lr=0.3)
    before = scores_of(model)
    learn(model, optimizer, 1)
    on = model[0].active
    assert torch.equal(model[0].scores[on], before[0][on])
    assert not torch.equal(model[2].scores[model[2].active], before[1][model[2].active])
    assert [group["lr"] for group in optimizer.param_groups] == [0.0, 0.3]


@pytest.mark.parametrize("kind", [ScoreSGD, ScoreAdam])
def test_schedulers_drive_the_learning_rate(kind: Any) -> None:
    optimizer = kind(make_model(), lr=0.4)
    scheduler: Any = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 4)
    rates = []
    for _ in range(4):
        optimizer.step()
        scheduler.step()
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([0.341421, 0.2, 0.058579, 0.0], abs=1e-6)
    model = make_model()
    optimizer = kind(model, lr=0.4)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [1], gamma=0.0)
    learn(model, optimizer, 1)
    scheduler.step()
    before = scores_of(model)
    learn(model, optimizer, 1)
    assert_same(scores_of(model), before)


@pytest.mark.parametrize("make", OPTIMIZERS)
@pytest.mark.parametrize("way", ["state_dict", "deepcopy", "pickle"])
def test_a_copy_goes_on_to_the_bit(make: Any, way: str) -> None:
    model = make_model()
    optimizer = make(model)
    learn(model, optimizer, 3)
    if way == "state_dict":
        twin = make_model(seed=9)
        twin.load_state_dict(model.state_dict())
        other = make(twin)
        other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    elif way == "deepcopy":
        twin, other = copy.deepcopy((model, optimizer))
    else:
        twin, other = pickle.loads(pickle.dumps((model, optimizer)))
    reached = scores_of(model)
    twin[0].active[1] = model[0].active[1] = False
    learn(twin, other, 3, seed=2)
    assert_same(scores_of(model), reached)
    assert not torch.equal(twin[0].scores, reached[0])
    learn(model, optimizer, 3, seed=2)
    assert_same(scores_of(twin), scores_of(model))
    assert not twin[0].scores[1].any()


@pytest.mark.parametrize("make", OPTIMIZERS)
def test_scores_without_a_gradient_are_left_alone(make: Any) -> None:
    model = make_model()
    optimizer = make(model)
    before = scores_of(model)
    optimizer.step()
    assert_same(scores_of(model), before)
    model[2].scores.grad = torch.ones_like(model[2].scores)
    optimizer.step()
    assert torch.equal(model[0].scores, before[0])
    assert not torch.equal(model[2].scores, before[1])
    assert optimizer.step(lambda: 17) == 17


@pytest.mark.parametrize("make", OPTIMIZERS)
def test_a_replaced_mask_counts_at_once(make: Any) -> None:
    model = make_model()
    optimizer = make(model)
    learn(model, optimizer, 1)
    model[0].active = torch.zeros_like(model[0].active)
    learn(model, optimizer, 1)
    assert not model[0].scores.any()
    assert model[2].scores.any()


@pytest.mark.parametrize("make", OPTIMIZERS)
def test_a_step_reads_no_number(make: Any) -> None:
    model = make_model()
    optimizer = make(model)
    learn(model, optimizer, 1)
    assert not host_reads(optimizer.step)
    assert host_reads(lambda: model[0].scores.sum().item())


def test_a_closure_is_called_with_gradients_on() -> None:
    model = make_model()
    optimizer = ScoreSGD(model)
    before = scores_of(model)

    def closure() -> torch.Tensor:
        loss = model(torch.ones(1, 6)).square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() > 0
    assert not torch.equal(model[2].scores, before[1])


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"lr": -0.1}, r"the optimiser's lr is -0\.1: give a number at least 0\.0"),
        ({"lr": float("nan")}, r"the optimiser's lr is nan"),
        ({"momentum": 1.0}, r"the optimiser's momentum is 1\.0: give a number in \[0\.0, 1\.0\)"),
        ({"l2": -1.0}, r"the optimiser's l2 is -1\.0"),
        ({"momentum": 0.0, "nesterov": True}, r"nesterov needs a momentum: give one above 0"),
    ],
)
def test_errors(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(GemkernError, match=sentence):
        ScoreSGD(make_model(), **options)
    with pytest.raises(GemkernError, match=sentence):
        ScoreSGD([{"layers": make_model(), **options}])

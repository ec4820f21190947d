"""Learning-rate schedules are pure functions."""

from __future__ import annotations

import pytest
import torch

from gemkern.errors import GemkernError
from gemkern.training import RATES, rate


def test_cosine_follows_pytorch() -> None:
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=7)
    for epoch in range(7):
        assert rate("cosine")(epoch, 7) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-12)
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize(
    ("epochs", "first", "second"),
    [(150, 80, 120), (160, 80, 120), (200, 100, 150), (300, 150, 250), (100, 50, 80), (30, 15, 20)],
)
def test_multistep_drops_at_the_papers_milestones(epochs: int, first: int, second: int) -> None:
    factors = [rate("multistep")(epoch, epochs) for epoch in range(epochs)]
    expected = [1.0] * first + [0.1] * (second - first) + [0.01] * (epochs - second)
    assert factors == pytest.approx(expected)


def test_constant_stays() -> None:
    assert [rate("constant")(epoch, 3) for epoch in range(4)] == [1.0] * 4


@pytest.mark.parametrize("name", RATES)
def test_past_the_end_the_last_value_stays(name: str) -> None:
    assert rate(name)(12, 10) == rate(name)(10, 10) == pytest.approx(rate(name)(11, 10))


def test_an_unknown_schedule_is_named() -> None:
    with pytest.raises(GemkernError, match=r"'linear': choose one of constant, cosine, multistep"):
        rate("linear")

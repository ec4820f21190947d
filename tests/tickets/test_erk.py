"""Erdos-Renyi-Kernel: layer densities by the formula, exact counts, random positions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from tiny_search import TOTAL, assert_same_state, network
from torch import nn

import gemkern as gk
from gemkern.errors import GemkernError
from gemkern.experiments.laboratory import Laboratory, rehearse
from gemkern.experiments.settings import Settings
from gemkern.models import build
from gemkern.optim import masked_layers
from gemkern.tickets import METHODS, erk_counts, erk_ticket

SHAPES = {
    "one layer": [(10, 20)],
    "resnet": [(16, 3, 3, 3), *[(16, 16, 3, 3)] * 6, (32, 16, 3, 3), (32, 32, 3, 3), (10, 64)],
    # A classifier and a stem that fill up one after the other.
    "uneven": [(64, 1, 1, 1), (64, 3, 3, 3), (512, 512, 3, 3), (4096, 512), (10, 4096), (2, 10)],
    "depthwise": [(32, 3, 3, 3), (32, 1, 3, 3), (64, 32, 1, 1), (64, 1, 3, 3), (100, 64)],
}
COUNTED = [(name, density) for name in SHAPES for density in (0.0144, 0.1, 0.5, 0.95)]


def densities(shapes: Sequence[tuple[int, ...]], count: int) -> list[float]:
    """The formula in float64; the densest layer that is above 1 is made dense, one at a time."""
    raw = [
        (s[1] + s[0] + s[2] + s[3]) / (s[1] * s[0] * s[2] * s[3])
        if len(s) == 4
        else (s[1] + s[0]) / (s[1] * s[0])
        for s in shapes
    ]
    sizes = [math.prod(shape) for shape in shapes]
    dense: set[int] = set()
    while True:
        free = [i for i in range(len(raw)) if i not in dense]
        left = count - sum(sizes[i] for i in dense)
        factor = left / sum(raw[i] * sizes[i] for i in free)
        above = [i for i in free if factor * raw[i] > 1.0 + 1e-12]
        if not above:
            return [1.0 if i in dense else factor * raw[i] for i in range(len(raw))]
        dense.add(max(above, key=lambda i: raw[i]))


@pytest.mark.parametrize(("name", "density"), COUNTED)
def test_counts_follow_the_formula_and_add_up(name: str, density: float) -> None:
    shapes = SHAPES[name]
    sizes = [math.prod(shape) for shape in shapes]
    count = round(density * sum(sizes))
    counts = erk_counts(shapes, count)
    assert sum(counts) == count
    expected = densities(shapes, count)
    for kept, size, of_layer in zip(counts, sizes, expected, strict=True):
        assert 1 <= kept <= size
        if of_layer == 1.0:
            assert kept == size
        elif of_layer * size > 1.0:
            assert abs(kept - of_layer * size) < 1.0 + 1e-6


def test_what_a_dense_layer_leaves_makes_the_next_one_dense() -> None:
    shapes = [(1, 4), (4, 4), (40, 40)]
    # In proportion to 5, 8 and 80 the first would keep 9.7 of 4, and the second 15.6 of 16; without
    # the first, the second would keep 16.1.
    assert erk_counts(shapes, 181) == [4, 16, 161]
    assert densities(shapes, 181)[:2] == [1.0, 1.0]
    # 15.9 and 159.1.
    assert erk_counts(shapes, 179) == [4, 16, 159]


def test_by_hand() -> None:
    # In proportion to 4 + 3 + 3 + 2 = 12 and 3 + 16 = 19, of 62: 24 and 38.
    assert erk_counts([(4, 2, 3, 3), (3, 16)], 62) == [24, 38]
    # A rest of 12/31 and one of 19/31.
    assert erk_counts([(4, 2, 3, 3), (3, 16)], 63) == [24, 39]
    # The second would keep 61.3 of 48.
    assert erk_counts([(4, 2, 3, 3), (3, 16)], 100) == [52, 48]
    assert erk_counts([(4, 2, 3, 3), (3, 16)], 120) == [72, 48]


@pytest.mark.parametrize("count", range(1, 40))
def test_no_layer_is_empty_if_there_are_enough_weights(count: int) -> None:
    shapes = [(1, 2), (1, 2), (1, 1), (300, 200), (2, 1), (100, 100)]
    counts = erk_counts(shapes, count)
    assert sum(counts) == count
    assert sum(kept > 0 for kept in counts) == min(count, len(shapes))


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("density", [0.0144, 0.1, 0.9])
def test_uniform_densities(name: str, density: float) -> None:
    sizes = [math.prod(shape) for shape in SHAPES[name]]
    count = round(density * sum(sizes))
    counts = erk_counts(SHAPES[name], count, "uniform")
    assert sum(counts) == count
    for kept, size in zip(counts, sizes, strict=True):
        assert abs(kept - count / sum(sizes) * size) < 1.0 or kept == 1


def converted() -> nn.Module:
    model = network()
    gk.convert(model)
    return model


def test_a_ticket_has_the_counts_at_random_places_and_the_weights_of_the_model() -> None:
    model = converted()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    ticket = erk_ticket(model, 80, seed=3, name="tiny", model_seed=7)
    shapes = [tuple(mask.shape) for mask in ticket.masks.values()]
    assert shapes == [(4, 2, 3, 3), (3, 64)]
    assert [int(mask.sum()) for mask in ticket.masks.values()] == erk_counts(shapes, 80)
    assert (ticket.method, ticket.model, ticket.seed) == ("erk", "tiny", 7)
    assert_same_state(model.state_dict(), before)
    assert ticket.weights is not None
    assert torch.equal(ticket.weights["4.weight"], before["4.weight"])
    same, other = (erk_ticket(model, 80, seed=seed) for seed in (3, 4))
    assert_same_state(dict(same.masks), dict(ticket.masks))
    assert not torch.equal(other.masks["4"], ticket.masks["4"])


@pytest.mark.parametrize("density", [0.1, 0.0144])
def test_a_fraction_is_a_number_of_weights(density: float) -> None:
    model = build("resnet8", seed=0, channels=1, image_size=8)
    gk.convert(model)
    total = sum(layer.active.numel() for layer in masked_layers(model).values())
    fraction, number = (
        erk_ticket(model, kept, seed=0) for kept in (density, round(density * total))
    )
    assert fraction.weights_left == round(density * total)
    assert_same_state(dict(fraction.masks), dict(number.masks))
    assert not fraction.empty_layers


def test_a_compressed_model_counts_as_the_whole_one() -> None:
    model = converted()
    model[4].active.view(-1)[::2] = False
    whole = erk_ticket(model, 0.3, seed=0)
    model[4].compress()
    assert_same_state(dict(erk_ticket(model, 0.3, seed=0).masks), dict(whole.masks))


@pytest.mark.parametrize("kept", [0, -1, TOTAL + 1, 0.0, 1.0, 1.5, "0.3"])
def test_what_cannot_be_kept_is_refused(kept: float) -> None:
    with pytest.raises(GemkernError, match=r"give|lower"):
        erk_ticket(converted(), kept, seed=0)


def test_an_unknown_distribution_is_refused() -> None:
    with pytest.raises(GemkernError, match="over layers is called 'even': choose one of erk, uni"):
        erk_counts([(2, 2)], 2, "even")


@pytest.mark.parametrize("distribution", ["erk", "uniform"])
def test_a_race_draws_as_many_weights_as_all_tickets_keep(distribution: str) -> None:
    laboratory = Laboratory(Settings.of({"erk_distribution": distribution, "density": 0.05}))
    start = laboratory.start("erk", seed=2)
    draw = METHODS["erk"].make(start)
    assert callable(draw)
    ticket = draw()
    assert isinstance(ticket, gk.Ticket)
    assert ticket.weights_left == start.weights
    shapes = [tuple(mask.shape) for mask in ticket.masks.values()]
    counts = [int(mask.sum()) for mask in ticket.masks.values()]
    assert counts == erk_counts(shapes, start.weights, distribution)
    assert METHODS["erk"].init == "erk_init"


def test_a_rehearsal_refuses_a_distribution_that_there_is_not() -> None:
    laboratory = Laboratory(Settings.of({"erk_distribution": "even"}))
    with pytest.raises(GemkernError, match="is called 'even'"):
        rehearse(laboratory, ["erk"])

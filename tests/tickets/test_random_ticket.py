import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_search import TOTAL, active, network, same_bits

import gemkern as gk
from gemkern.errors import GemkernError
from gemkern.tickets import Ticket, random_ticket, smart_ratio_counts, smart_ratio_ticket
from gemkern.tickets.random_ticket import random_mask


def ticket():
    model = network()
    gk.convert(model)
    masks = {"0": torch.zeros(4, 2, 3, 3, dtype=torch.bool), "4": torch.ones(3, 64).bool()}
    masks["0"][0, 0] = True
    masks["4"][1:] = False
    return Ticket.from_model(model, method="test", masks=masks, name="tiny", seed=4)


def test_a_random_ticket_has_the_same_counts_at_other_places():
    original = ticket()
    drawn = random_ticket(original, seed=0)
    assert [int(mask.sum()) for mask in drawn.masks.values()] == [9, 64]
    assert not any(torch.equal(drawn.masks[name], original.masks[name]) for name in drawn.masks)
    assert drawn.method == "random"
    assert (drawn.model, drawn.seed, drawn.checksum) == ("tiny", 4, original.checksum)
    assert drawn.weights is original.weights


def test_positions_are_a_function_of_the_seed():
    one, same, other = (random_ticket(ticket(), seed=seed).masks["0"] for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_every_position_is_drawn_equally_often():
    stream = torch.Generator().manual_seed(0)
    drawn = sum(random_mask(torch.Size((2, 3)), 2, stream).long() for _ in range(600))
    assert drawn.sum() == 1200
    assert ((drawn - 200).abs() < 60).all()


def test_smart_ratio_of_three_layers_by_hand():
    # Densities before the last layer are as 12 to 6; the last keeps 30 %.
    assert smart_ratio_counts([100, 100, 100], 0.4) == [60, 30, 30]
    # Rounding leaves one weight over: the first layer with room takes it.
    assert smart_ratio_counts([100, 100, 100], 0.4034) == [61, 30, 30]
    # The first layer overflows: what it cannot take goes to the second, then to the last.
    assert smart_ratio_counts([10, 100, 100], 0.5) == [10, 65, 30]
    assert smart_ratio_counts([100, 100, 100], 0.9) == [100, 100, 70]


@given(
    sizes=st.lists(st.integers(1, 5_000), min_size=2, max_size=12),
    density=st.floats(0.01, 0.99),
)
@settings(max_examples=100, deadline=None)
def test_smart_ratio_counts_add_up_and_fit(sizes, density):
    target = round(density * sum(sizes))
    if target - round(0.3 * sizes[-1]) < 1:
        return
    counts = smart_ratio_counts(sizes, density)
    assert sum(counts) == target
    assert all(0 <= count <= size for count, size in zip(counts, sizes, strict=True))


def test_a_smart_ratio_ticket_for_a_model():
    model = network()
    gk.convert(model)
    drawn = smart_ratio_ticket(model, 0.3, seed=0, name="tiny", model_seed=7)
    counts = [int(mask.sum()) for mask in drawn.masks.values()]
    assert counts == smart_ratio_counts([72, 192], 0.3)
    assert sum(counts) == round(0.3 * TOTAL)
    assert (drawn.method, drawn.model, drawn.seed) == ("smart-ratio", "tiny", 7)
    assert all(mask.all() for mask in active(model).values())
    assert same_bits(drawn.weights["0.weight"], network().state_dict()["0.weight"])


@pytest.mark.parametrize(
    ("sizes", "density", "message"),
    [
        ([100], 0.5, "has 1"),
        ([100, 1000], 0.1, "300 weights, leave nothing"),
        ([100, 100], 0.0, "density 0"),
    ],
)
def test_smart_ratios_that_cannot_be_are_refused(sizes, density, message):
    with pytest.raises(GemkernError, match=message):
        smart_ratio_counts(sizes, density)

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_search import TOTAL, active, network, same_bits
from torch import nn

import gemkern as gk
from gemkern.errors import GemkernError
from gemkern.models import build
from gemkern.tickets import Ticket, random_ticket, smart_ratio_counts, smart_ratio_ticket
from gemkern.tickets.random_ticket import random_mask
from gemkern.tickets.randomness import generator


def ticket():
    model = network()
    gk.convert(model)
    masks = {"0": torch.zeros(4, 2, 3, 3, dtype=torch.bool), "4": torch.ones(3, 64).bool()}
    masks["0"][0, 0] = True
    masks["4"][1:] = False
    return Ticket.from_model(model, method="test", masks=masks, name="tiny", seed=4)


def three_layers():
    model = nn.Sequential(*(nn.Linear(10, 10, bias=False) for _ in range(3)))
    gk.convert(model)
    return model


def layers_of_vgg16():
    with torch.device("meta"):
        model = build("vgg16")
    return [one for one in model.modules() if isinstance(one, nn.Conv2d | nn.Linear)]


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


def test_purposes_draw_numbers_of_their_own():
    one, same, other, weights = (
        torch.rand(8, generator=stream)
        for stream in (
            generator("scores", 3),
            generator("scores", 3),
            generator("shuffle", 3),
            torch.Generator().manual_seed(3),
        )
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert not torch.equal(one, weights)


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


def test_smart_ratio_of_vgg_by_hand():
    # Densities before the last layer are as 12 / 1 to 6 / 4.
    assert smart_ratio_counts([100, 100, 100], 0.4, vgg=True) == [80, 10, 30]
    assert smart_ratio_counts([100, 100, 100], 0.4034, vgg=True) == [81, 10, 30]
    assert smart_ratio_counts([10, 100, 100], 0.5, vgg=True) == [10, 65, 30]


def test_smart_ratios_of_vgg16_are_the_authors():
    sizes = [layer.weight.numel() for layer in layers_of_vgg16()]
    density = 0.02
    terms = [((14 - k + 1) ** 2 + (14 - k + 1)) / k**2 for k in range(1, 14)]
    shares = [term * size for term, size in zip(terms, sizes, strict=False)]
    scale = (density * sum(sizes) - 0.3 * sizes[-1]) / sum(shares)
    densities = [scale * term for term in terms]
    # What overflows in the first layers goes to the next ones.
    spare, expected = 0.0, []
    for part, size in zip(densities, sizes, strict=False):
        spare += part * size
        expected.append(min(spare, size) if part >= 1 or spare > part * size else part * size)
        spare -= expected[-1]
    counts = smart_ratio_counts(sizes, density, vgg=True)
    assert counts[:-1] == pytest.approx(expected, abs=14)
    assert counts[:2] == sizes[:2], "the first layers are full"
    assert counts[-1] == round(0.3 * sizes[-1])


@pytest.mark.parametrize(
    ("name", "given", "vgg"),
    [
        ("vgg16", {}, True),
        ("resnet20", {}, False),
        (None, {}, False),
        ("vgg16", {"vgg": False}, False),
        ("plain", {"vgg": True}, True),
    ],
)
def test_a_network_called_vgg_has_the_ratios_of_vgg(name, given, vgg):
    model = three_layers()
    drawn = smart_ratio_ticket(model, 0.4, seed=0, name=name, **given)
    sizes = [mask.numel() for mask in drawn.masks.values()]
    counts = [int(mask.sum()) for mask in drawn.masks.values()]
    assert counts == smart_ratio_counts(sizes, 0.4, vgg=vgg)
    assert counts != smart_ratio_counts(sizes, 0.4, vgg=not vgg)


def test_a_class_called_vgg_has_the_ratios_of_vgg():
    class MyVGG(nn.Sequential):
        pass

    drawn = smart_ratio_ticket(MyVGG(*three_layers()), 0.4, seed=0)
    assert [int(mask.sum()) for mask in drawn.masks.values()] == smart_ratio_counts(
        [100, 100, 100], 0.4, vgg=True
    )


@given(
    sizes=st.lists(st.integers(1, 5_000), min_size=2, max_size=12),
    density=st.floats(0.01, 0.99),
    vgg=st.booleans(),
)
@settings(max_examples=100, deadline=None)
def test_smart_ratio_counts_add_up_and_fit(sizes, density, vgg):
    target = round(density * sum(sizes))
    if target - round(0.3 * sizes[-1]) < 1:
        return
    counts = smart_ratio_counts(sizes, density, vgg=vgg)
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

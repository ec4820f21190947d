"""RigL and SET: masks that move, layer by layer, while their counts stay."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from tiny_dynamic import (
    DENSITIES,
    KINDS,
    STEPS,
    batch,
    converted,
    momenta,
    plain,
    run,
    run_step,
    search_of,
    weights_of,
)
from tiny_search import active, assert_same_state, same_bits
from torch import Tensor, nn
from torch.nn import functional as F

import gemkern as gk
from gemkern.errors import GemkernError
from gemkern.experiments.laboratory import Laboratory, rehearse
from gemkern.experiments.settings import Settings
from gemkern.optim import masked_layers
from gemkern.tickets import METHODS, erk_ticket
from gemkern.tickets.randomness import generator
from gemkern.tickets.state import weights_state


def smallest_dropped(weight: Tensor, mask: Tensor, k: int) -> Tensor:
    """Return the mask without the k active weights of the smallest magnitude, by sorting."""
    places = mask.flatten().nonzero().flatten()
    order = weight.flatten()[places].abs().argsort(stable=True)
    kept = mask.flatten().clone()
    kept[places[order[:k]]] = False
    return kept.view(mask.shape)


def largest_grown(kept: Tensor, growth: Tensor, k: int) -> Tensor:
    """Return `kept` and the k other places where `growth` is the largest, by sorting."""
    places = (~kept).flatten().nonzero().flatten()
    order = growth.flatten()[places].argsort(descending=True, stable=True)
    mask = kept.flatten().clone()
    mask[places[order[:k]]] = True
    return mask.view(kept.shape)


def dense_gradients(model: nn.Module, taken: int) -> dict[str, Tensor]:
    """Return the gradients of a network that knows of no masks and has the same weights."""
    reference = plain()
    reference.load_state_dict(weights_state(model))
    images, labels = batch(taken)
    F.cross_entropy(reference(images), labels).backward()
    return {name: reference.get_submodule(name).weight.grad for name in masked_layers(model)}


def assert_moved(
    search: Any,
    before: tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]],
    expected: dict[str, Tensor],
) -> None:
    """Check masks, and that but for what was dropped or is new, weights and momentum stayed."""
    masks, weights, memories = before
    zero = torch.zeros(())
    for name, layer in search.layers.items():
        assert torch.equal(layer.active, expected[name]), name
        stayed = layer.active & masks[name]
        for now, then in (
            (layer.weight.detach(), weights[name]),
            (momenta(search)[name], memories[name]),
        ):
            assert same_bits(now, torch.where(stayed, then, zero)), name


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("density", DENSITIES)
def test_it_is_sparse_from_the_first_step_by_the_masks_of_a_random_ticket(
    kind: str, density: float
) -> None:
    model = converted()
    ticket = erk_ticket(model, density, seed=1)
    initial = copy.deepcopy(model.state_dict())
    search = search_of(kind, model, density)
    assert_same_state(active(model), dict(ticket.masks))
    assert search.weights_left == round(density * search.total)
    for name, layer in search.layers.items():
        zero = torch.zeros(())
        started = torch.where(layer.active, initial[f"{name}.weight"], zero)
        assert same_bits(layer.weight.detach(), started)


@pytest.mark.parametrize("density", DENSITIES)
def test_rigl_drops_the_smallest_and_grows_where_the_dense_gradient_is_largest(
    density: float,
) -> None:
    model = converted()
    search = search_of("rigl", model, density, epochs=4, alpha=0.5)
    moved: list[int] = []
    for taken in range(4 * STEPS):
        before = active(model), weights_of(search), momenta(search) if taken else {}
        others = {
            name: tensor.clone()
            for name, tensor in model.named_parameters()
            if name.removesuffix(".weight") not in search.layers
        }
        # Epochs 0, 1 and 2 have updates; one that is due in the next epoch counts as of its last.
        epoch = (taken - 1) // STEPS
        if taken and taken % 3 == 0 and epoch < 3:
            moved.append(taken)
            gradients = dense_gradients(model, taken)
            fraction = 0.25 * (1 + math.cos(math.pi * epoch / 3))
            expected = {}
            for name, mask in before[0].items():
                k = math.floor(fraction * int(mask.sum()) + 1e-9)
                kept = smallest_dropped(before[1][name], mask, k)
                expected[name] = largest_grown(kept, gradients[name].abs(), k)
            run_step(model, search, taken)
            assert_moved(search, before, expected)
            assert any(not torch.equal(mask, expected[name]) for name, mask in before[0].items())
            for name, tensor in others.items():
                assert same_bits(dict(model.named_parameters())[name], tensor), "no step of SGD"
        else:
            run_step(model, search, taken)
            assert_same_state(active(model), before[0])
            assert not torch.equal(model.classifier.weight, before[1]["classifier"])
    assert moved == [3, 6, 9, 12, 15]


@pytest.mark.parametrize("density", DENSITIES)
def test_set_drops_the_smallest_and_grows_at_random_places(density: float) -> None:
    model, witness = converted(), converted()
    search = search_of("set", model, density, epochs=4, alpha=0.4)
    # The same steps without updates.
    still = search_of("set", witness, density, epochs=4, every=10**9)
    moved: list[int] = []
    for taken in range(4 * STEPS):
        witness.load_state_dict(model.state_dict())
        still.load_state_dict(copy.deepcopy(search.state_dict()))
        masks = active(model)
        run_step(witness, still, taken)
        before = masks, weights_of(still), momenta(still)
        run_step(model, search, taken)
        if (taken + 1) % 3 == 0 and taken // STEPS < 3:
            moved.append(taken)
            stream = generator(f"growth after step {taken + 1}", 1)
            expected = {}
            for name, mask in masks.items():
                k = math.floor(0.4 * int(mask.sum()) + 1e-9)
                kept = smallest_dropped(before[1][name], mask, k)
                drawn = torch.rand(mask.shape, generator=stream)
                expected[name] = largest_grown(kept, drawn, k)
            assert_moved(search, before, expected)
        else:
            assert_same_state(model.state_dict(), witness.state_dict())
    assert moved == [2, 5, 8, 11, 14]


def grown_by_set(seed: int, noise: int) -> list[Tensor]:
    """Return what grows in a layer in two updates that begin from the same masks."""
    torch.manual_seed(noise)
    model = converted()
    search = search_of("set", model, every=2, seed=seed)
    masks = erk_ticket(model, 0.1, seed=0).masks
    name = "stages.2.0.conv2"
    grown = []
    for taken in range(4):
        if taken % 2 == 0:
            for other, layer in search.layers.items():
                layer.active.copy_(masks[other])
            search._zero_what_is_masked()
        run_step(model, search, taken)
        torch.rand(3)
        if taken % 2 == 1:
            grown.append(active(model)[name] & ~masks[name])
    return grown


def test_growth_of_set_depends_on_the_seed_and_the_step_alone() -> None:
    one, same, other = grown_by_set(0, 5), grown_by_set(0, 6), grown_by_set(1, 5)
    assert all(map(torch.equal, one, same))
    assert all(grown.any() for grown in one)
    assert not torch.equal(one[0], other[0]), "another seed"
    assert not torch.equal(one[0], one[1]), "another step"
    search = search_of("set", converted(), every=2, seed=0)
    drawn = []
    for search._steps in (2, 4, 2):
        drawn.append(search._drawn()[0])
    assert not torch.equal(drawn[0], drawn[1]), "another step, whatever else is different"
    assert torch.equal(drawn[0], drawn[2])


def test_set_grows_everywhere_with_the_same_chance() -> None:
    model = converted()
    search = search_of("set", model, alpha=1.0, every=1, lr=0.0, epochs=200, end=1.0)
    layer = model.get_submodule("stages.2.0.conv2")
    visits = torch.zeros(layer.active.shape)
    for taken in range(300):
        search._steps = taken + 1
        search._move(1.0, search._drawn())
        visits += layer.active
    chance = int(layer.active.sum()) / layer.active.numel()
    spread = math.sqrt(300 * chance * (1 - chance))
    assert visits.mean() == pytest.approx(300 * chance)
    assert visits.std() == pytest.approx(spread, rel=0.05)
    # By rows and by columns too: means of many places.
    for dims in ((1, 2, 3), (0, 2, 3), (0, 1)):
        means = visits.mean(dims)
        of_each = spread / math.sqrt(visits.numel() / means.numel())
        assert (means - 300 * chance).abs().max() < 5 * of_each


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("density", DENSITIES)
def test_counts_stay_and_what_is_masked_is_zero_after_each_step(kind: str, density: float) -> None:
    model = converted()
    search = search_of(kind, model, density, every=2, weight_decay=0.1)
    counts = {name: int(mask.sum()) for name, mask in active(model).items()}
    first = active(model)
    for taken in range(4 * STEPS):
        run_step(model, search, taken)
        assert {name: int(mask.sum()) for name, mask in active(model).items()} == counts
        for name, layer in search.layers.items():
            for tensor in (layer.weight.detach(), momenta(search)[name]):
                gone = tensor[~layer.active]
                assert same_bits(gone, torch.zeros_like(gone))
    assert any(not torch.equal(mask, first[name]) for name, mask in active(model).items())
    ticket = search.ticket()
    assert ticket.method == kind
    assert_same_state(dict(ticket.masks), active(model))
    assert ticket.weights is not None
    assert_same_state(dict(ticket.weights), weights_state(model))


def test_a_layer_that_is_dense_keeps_its_weights() -> None:
    model = converted()
    search = search_of("rigl", model, 0.5)
    full = [layer for layer in search.layers.values() if layer.active.all()]
    assert full
    assert len(full) < len(search.layers)
    run(model, search, last=3)
    before = [(layer.weight.detach().clone(), layer.active.clone()) for layer in full]
    run_step(model, search, 3)
    for layer, (weight, mask) in zip(full, before, strict=True):
        assert torch.equal(layer.active, mask)
        assert same_bits(layer.weight.detach(), weight)


class WithUnused(nn.Module):
    """A network with a layer that its forward pass leaves out."""

    def __init__(self) -> None:
        super().__init__()
        self.used = plain()
        self.unused = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.used(x)


def test_a_layer_that_no_gradient_reaches_stays_as_it_is() -> None:
    model = WithUnused()
    gk.convert(model)
    search = search_of("rigl", model)
    before = active(model)
    run(model, search, last=4)
    after = active(model)
    assert torch.equal(after["unused"], before["unused"])
    assert any(not torch.equal(mask, before[name]) for name, mask in after.items())


def test_a_search_of_rigl_ends_without_a_trace() -> None:
    model = converted()
    search = search_of("rigl", model, end=1.0, every=2)
    run(model, search, last=4 * STEPS - 1)
    images, labels = batch(0)
    F.cross_entropy(model(images), labels).backward()
    search.step()
    assert all(layer.override is not None for layer in search.layers.values()), "the next moves"
    search.end_epoch()
    assert all(layer.override is None for layer in search.layers.values())
    assert search.ticket().weights_left == search.weights_left


def test_between_two_steps_the_network_computes_as_it_is() -> None:
    """Also where the next step sees gradients everywhere, as in a validation between epochs."""
    model = converted()
    search = search_of("rigl", model, every=5)
    run(model, search, last=5)
    assert model.conv.override is not None
    images, _ = batch(99)
    model.eval()
    with torch.inference_mode():
        seen = model(images)
        other = plain().eval()
        other.load_state_dict(weights_state(model))
        torch.testing.assert_close(seen, other(images))


@pytest.mark.parametrize("kind", KINDS)
def test_no_graph_of_its_steps_is_captured(kind: str) -> None:
    assert not search_of(kind, converted()).capturable


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"density": 1.0}, "density 1 is not a fraction"),
        ({"density": 1e-9}, None),
        ({"alpha": 0.0}, "alpha of {} is 0: give a fraction"),
        ({"alpha": 1.5}, "alpha of {} is 1.5: give a fraction"),
        ({"end": 0.0}, "end of {} is 0: give a fraction"),
        ({"every": 0}, "steps between updates is 0: give at least"),
        ({"seed": 0.5}, "the seed is 0.5: give a whole number"),
        ({"schedule": "steep"}, "no schedule is called 'steep'"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(
    kind: str, options: dict[str, Any], message: str | None
) -> None:
    if message is None:
        assert search_of(kind, converted(), **options).weights_left == 1
        return
    with pytest.raises(GemkernError, match=message.format(kind)):
        search_of(kind, converted(), **options)


def test_rigl_has_steps_that_move_weights() -> None:
    with pytest.raises(GemkernError, match="between updates is 1: give at least 2"):
        search_of("rigl", converted(), every=1)


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_with_masks_or_scores_is_refused(kind: str) -> None:
    model = converted()
    model.classifier.active[0, 0] = False
    with pytest.raises(GemkernError, match=f"has masks already and {kind} draws its own: give"):
        search_of(kind, model)
    scored = plain()
    gk.convert(scored, scores=True)
    with pytest.raises(GemkernError, match=f"learns scores where {kind} learns weights"):
        search_of(kind, scored)


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_without_a_gradient_is_refused(kind: str) -> None:
    model = converted()
    search = search_of(kind, model)
    for taken in range(4):
        with pytest.raises(GemkernError, match="epoch 1 has no gradient to learn from"):
            search.step()
        run_step(model, search, taken)


@pytest.mark.parametrize("kind", KINDS)
def test_a_nan_weight_is_named(kind: str) -> None:
    model = converted()
    search = search_of(kind, model)
    run(model, search, last=STEPS - 1)
    F.cross_entropy(model(batch(0)[0] * torch.nan), batch(0)[1]).backward()
    search.step()
    with pytest.raises(GemkernError, match=r"has a weight that is NaN.*epoch 1"):
        search.end_epoch()


@pytest.mark.parametrize("kind", KINDS)
def test_a_race_keeps_as_many_weights_as_all_tickets(kind: str) -> None:
    chosen = {f"{kind}_epochs": 3, f"{kind}_every": 7, f"{kind}_alpha": 0.2, f"{kind}_end": 0.5}
    laboratory = Laboratory(Settings.of({"density": 0.05, **chosen}))
    start = laboratory.start(kind, seed=2)
    search: Any = METHODS[kind].make(start)
    assert isinstance(search, KINDS[kind])
    assert search.epochs == 3
    assert search.weights_left == start.weights
    assert rehearse(laboratory, [kind]) == {kind: 3}
    with pytest.raises(GemkernError, match=f"alpha of {kind} is 2"):
        rehearse(Laboratory(Settings.of({f"{kind}_alpha": 2.0})), [kind])

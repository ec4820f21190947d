"""Gradual magnitude pruning: the density follows its ramp, and the smallest weights go."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from recorded_graphs import RecordedGraphs
from tiny_search import STEPS, TOTAL, active, assert_same_state, network, same_bits
from torch import Tensor, nn
from torch.nn import functional as F

import gemkern as gk
from gemkern.data import Augment, Dataset, Split
from gemkern.errors import GemkernError
from gemkern.experiments.laboratory import Laboratory, rehearse
from gemkern.experiments.settings import Settings
from gemkern.models import build
from gemkern.optim import masked_layers, whole_shape
from gemkern.tickets import METHODS, GradualMagnitude
from gemkern.tickets.magnitude import pruning_epochs, ramp_weights_left
from gemkern.tickets.state import weights_state
from gemkern.training import graphs, train, weights

DENSITIES = [0.1, 0.0144]


def resnet() -> nn.Module:
    model = build("resnet8", seed=0, channels=1, image_size=8, affine=True, init="kaiming_normal")
    gk.convert(model)
    return model


def tiny() -> nn.Module:
    model = network()
    gk.convert(model)
    return model


def search_of(model: nn.Module, density: float = 0.1, epochs: int = 6, **options: Any) -> Any:
    return GradualMagnitude(model, density, epochs, **{"lr": 0.05, **options})


def run_step(model: nn.Module, search: Any, epoch: int, step: int) -> None:
    stream = torch.Generator().manual_seed(10 * epoch + step)
    labels = torch.arange(6) % 3
    channels = whole_shape(next(iter(masked_layers(model).values())))[1]
    images = torch.randn(6, channels, *((8, 8) if channels == 1 else (4, 4)), generator=stream)
    F.cross_entropy(model(images + labels.view(-1, 1, 1, 1)), labels).backward()
    search.step()


def run_epoch(model: nn.Module, search: Any, epoch: int, first: int = 0) -> None:
    for step in range(first, STEPS):
        run_step(model, search, epoch, step)
    search.end_epoch()


def flat(tensors: Any) -> Tensor:
    return torch.cat([one.detach().flatten() for one in tensors])


@pytest.mark.parametrize("density", DENSITIES)
@pytest.mark.parametrize(("ramp", "exponent"), [("cubic", 3), ("linear", 1)])
def test_the_density_follows_its_ramp(density: float, ramp: str, exponent: int) -> None:
    model = resnet()
    search = search_of(model, density, 8, ramp=ramp)
    total = search.total
    for epoch in range(8):
        run_epoch(model, search, epoch)
        # Equation 1 with t0 = 0, s_i = 0 and n = 6 prunings, at the ends of the first six epochs.
        t = min(epoch + 1, 6)
        final = 1 - density
        sparsity = final + (0 - final) * (1 - t / 6) ** exponent
        assert search.weights_left == pytest.approx((1 - sparsity) * total, abs=1.01)
        assert search.weights_left == sum(int(mask.sum()) for mask in active(model).values())
    assert search.weights_left == round(density * total)
    assert search.ticket().weights_left == round(density * total)


def test_counts_of_ramps_are_exact() -> None:
    assert ramp_weights_left(1000, 0, 4) == [422, 125, 16, 0]
    assert ramp_weights_left(1000, 200, 4, "linear") == [800, 600, 400, 200]
    assert ramp_weights_left(10**15 + 1, 1, 2) == [1 + 10**15 // 8, 1]
    with pytest.raises(GemkernError, match="no ramp is called 'steep': choose one of cubic, lin"):
        ramp_weights_left(10, 1, 2, "steep")


@pytest.mark.parametrize(
    ("epochs", "every", "end", "planned"),
    [
        (8, 1, 0.75, [1, 2, 3, 4, 5, 6]),
        (8, 1, 1.0, [1, 2, 3, 4, 5, 6, 7, 8]),
        (8, 4, 0.75, [4]),
        (100, 10, 0.29, [10, 20]),
        (10, 1, 0.3, [1, 2, 3]),
        (1, 1, 0.75, [1]),
        (5, 5, 0.75, [5]),
    ],
)
def test_prunings_end_with_their_fraction_of_the_epochs(
    epochs: int, every: int, end: float, planned: list[int]
) -> None:
    assert pruning_epochs(epochs, every, end) == planned


@pytest.mark.parametrize("density", DENSITIES)
def test_the_smallest_magnitudes_of_the_whole_network_go(density: float) -> None:
    model = resnet()
    search = search_of(model, density, 4, end=1.0)
    layers = list(masked_layers(model).values())
    plan = ramp_weights_left(search.total, round(density * search.total), 4)
    for epoch, left in enumerate(plan):
        for step in range(STEPS):
            run_step(model, search, epoch, step)
        was_active = flat(layer.active for layer in layers)
        magnitudes = flat(layer.weight for layer in layers).abs()
        search.end_epoch()
        magnitudes[~was_active] = -1.0
        expected = torch.zeros_like(was_active)
        expected[magnitudes.argsort(descending=True)[:left]] = True
        assert torch.equal(flat(layer.active for layer in layers), expected)
        assert not (expected & ~was_active).any(), "what is gone stays away"


def test_what_is_masked_is_zero_after_each_step_and_the_rest_trains_on() -> None:
    model = resnet()
    search = search_of(model, weight_decay=0.1)
    for epoch in range(search.epochs):
        for step in range(STEPS):
            run_step(model, search, epoch, step)
            for layer in masked_layers(model).values():
                momentum = search.optimizer.state[layer.weight]["momentum_buffer"]
                for tensor in (layer.weight.detach(), momentum):
                    gone = tensor[~layer.active]
                    assert same_bits(gone, torch.zeros_like(gone))
        before = [
            (layer.weight.detach().clone(), search.optimizer.state[layer.weight])
            for layer in masked_layers(model).values()
        ]
        memories = [memory["momentum_buffer"].clone() for _, memory in before]
        search.end_epoch()
        for layer, (weight, memory), old in zip(
            masked_layers(model).values(), before, memories, strict=True
        ):
            zero = torch.zeros(())
            assert same_bits(layer.weight.detach(), torch.where(layer.active, weight, zero))
            assert same_bits(memory["momentum_buffer"], torch.where(layer.active, old, zero))


def test_the_ticket_holds_the_trained_weights() -> None:
    model = tiny()
    initial = copy.deepcopy(model.state_dict())
    search = search_of(model, model_seed=3, name="tiny")
    for epoch in range(search.epochs):
        run_epoch(model, search, epoch)
    ticket = search.ticket()
    assert (ticket.method, ticket.model, ticket.seed) == ("magnitude", "tiny", 3)
    assert ticket.weights is not None
    assert_same_state(dict(ticket.weights), weights_state(model))
    assert_same_state(dict(ticket.masks), active(model))
    assert not torch.equal(ticket.weights["4.bias"], initial["4.bias"])


@pytest.mark.parametrize("density", DENSITIES)
def test_accelerated_it_comes_to_the_same_weights(density: float) -> None:
    plain, fast = resnet(), resnet()
    searches = [
        search_of(plain, density, 4, lr=0.01),
        search_of(fast, density, 4, lr=0.01, accelerated="always"),
    ]
    for epoch in range(4):
        for model, search in zip((plain, fast), searches, strict=True):
            run_epoch(model, search, epoch)
        assert searches[0].weights_left == searches[1].weights_left
        compressed = [layer.is_compressed for layer in masked_layers(fast).values()]
        assert compressed == [epoch < 3] * len(compressed)
    theirs, ours = (search.ticket() for search in searches)
    kept, found = (flat(ticket.masks.values()) for ticket in (theirs, ours))
    # Sums are made in another order: a weight near the border may fall on the other side.
    assert (found & kept).sum() >= 0.98 * kept.sum()
    assert ours.weights is not None
    assert theirs.weights is not None
    for name, mask in theirs.masks.items():
        both = mask & ours.masks[name]
        weight, other = (ticket.weights[f"{name}.weight"][both] for ticket in (ours, theirs))
        torch.testing.assert_close(weight, other, rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize("choice", ["never", "always"])
@pytest.mark.parametrize("stop", [(0, 1), (1, 0), (2, 2), (4, 0), (5, 1)])
def test_a_search_resumes_to_the_same_bits(choice: str, stop: tuple[int, int]) -> None:
    def start() -> tuple[nn.Module, Any]:
        model = resnet()
        return model, search_of(model, 0.0144, accelerated=choice)

    def finish(model: nn.Module, search: Any) -> gk.Ticket:
        run_epoch(model, search, stop[0], stop[1])
        for epoch in range(stop[0] + 1, search.epochs):
            run_epoch(model, search, epoch)
        return search.ticket()

    model, search = start()
    for epoch in range(stop[0]):
        run_epoch(model, search, epoch)
    for step in range(stop[1]):
        run_step(model, search, stop[0], step)
    saved = copy.deepcopy((model.state_dict(), search.state_dict()))
    straight = finish(model, search)

    again, resumed = start()
    again.load_state_dict(saved[0])
    resumed.load_state_dict(saved[1])
    found = finish(again, resumed)
    assert_same_state(dict(found.masks), dict(straight.masks))
    assert_same_state(again.state_dict(), model.state_dict())


@pytest.fixture
def images() -> Dataset:
    stream = torch.Generator().manual_seed(0)

    def split(count: int) -> Split:
        pixels = torch.randint(0, 255, (count, 2, 4, 4), generator=stream, dtype=torch.uint8)
        return Split(pixels, torch.randint(3, (count,), generator=stream))

    return Dataset(
        name="noise",
        classes=3,
        train=split(60),
        validation=split(6),
        test=split(6),
        mean=(0.5, 0.5),
        std=(0.3, 0.3),
        augment=Augment(crop_padding=0, flip=False),
    )


def test_captured_once_it_learns_to_the_bits_of_eager_steps(
    images: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = RecordedGraphs()
    monkeypatch.setattr(graphs, "graphs_on", lambda device: recorder)
    monkeypatch.setattr(weights, "on_cuda", lambda model: True)
    tickets = []
    for graph in (False, True):
        model = tiny()
        search = search_of(model, 0.2, 4)
        train(model, search, images, batch_size=10, seed=0, graph=graph)
        tickets.append(search.ticket())
    assert (recorder.captures, recorder.replays) == (1, 4 * 6 - graphs.WARM_UPS)
    assert_same_state(dict(tickets[0].masks), dict(tickets[1].masks))
    assert_same_state(dict(tickets[0].weights), dict(tickets[1].weights))


def test_a_nan_weight_is_named() -> None:
    model = tiny()
    search = search_of(model)
    run_step(model, search, 0, 0)
    model[0].weight.detach()[0, 0, 0, 0] = torch.nan
    with pytest.raises(GemkernError, match=r"layer '0' has a weight that is NaN.*epoch 1"):
        search.end_epoch()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ramp": "steep"}, "no ramp is called 'steep'"),
        ({"end": 0.0}, "pruning cannot end at the fraction 0 of"),
        ({"end": 1.1}, "pruning cannot end at the fraction 1.1 of"),
        ({"every": 7}, "pruning every 7 epochs never happens in a training of 6"),
        ({"every": 0}, "epochs between prunings is 0: give at least 1"),
        ({"density": 1.0}, "density 1 is not a fraction"),
        ({"schedule": "steep"}, "no schedule is called 'steep'"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(GemkernError, match=message):
        search_of(tiny(), **options)


def test_scores_are_refused() -> None:
    model = network()
    gk.convert(model, scores=True)
    with pytest.raises(GemkernError, match="learns scores where gradual magnitude pruning learns"):
        search_of(model)


def test_it_plans_from_what_is_active() -> None:
    model = tiny()
    model[0].active.view(-1)[:22] = False
    model[4].active.view(-1)[:42] = False
    search = search_of(model, 0.1, 4, ramp="linear", end=1.0)
    left = []
    for epoch in range(4):
        run_epoch(model, search, epoch)
        left.append(search.weights_left)
    target = round(0.1 * TOTAL)
    assert left == [round(target + (200 - target) * way) for way in (0.75, 0.5, 0.25, 0)]


def test_a_race_keeps_as_many_weights_as_all_tickets() -> None:
    chosen = {"magnitude_epochs": 3, "magnitude_every": 2, "magnitude_ramp": "linear"}
    laboratory = Laboratory(Settings.of({"density": 0.05, **chosen}))
    start = laboratory.start("magnitude", seed=2)
    search: Any = METHODS["magnitude"].make(start)
    assert isinstance(search, GradualMagnitude)
    assert search.epochs == 3
    assert rehearse(laboratory, ["magnitude"]) == {"magnitude": 3}
    for epoch in range(3):
        run_step(search.model, search, epoch, 0)
        search.end_epoch()
    assert search.ticket().weights_left == start.weights
    with pytest.raises(GemkernError, match="every 5 epochs never happens"):
        rehearse(Laboratory(Settings.of({**chosen, "magnitude_every": 5})), ["magnitude"])

import copy

import pytest
import torch
from tiny_search import (
    TOTAL,
    active,
    assert_same_state,
    batches,
    count,
    network,
    run,
    run_epoch,
    run_step,
    same_bits,
)
from torch.nn import functional as F

import gemkern as gk
from gemkern.errors import GemkernError
from gemkern.optim import masked_layers
from gemkern.tickets import GemMiner, Ticket, freeze_epochs, weights_left
from gemkern.training.rates import cosine


def converted(seed=0):
    model = network(seed)
    gk.convert(model, scores=True)
    return model


def miner_of(model, density=0.1, epochs=6, freeze_every=1, **options):
    return GemMiner(model, density, epochs, freeze_every, **{"seed": 1, "model_seed": 1, **options})


def scores(model):
    return {name: layer.scores.detach().clone() for name, layer in masked_layers(model).items()}


def set_scores(model, values):
    start = 0
    for layer in masked_layers(model).values():
        size = layer.scores.numel()
        layer.scores.detach().copy_(values[start : start + size].reshape(layer.scores.shape))
        start += size


def flat(tensors):
    return torch.cat([tensor.flatten() for tensor in tensors.values()])


@pytest.mark.parametrize("rule", ["authors", "paper"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_each_freeze_leaves_exactly_the_planned_number(rule, optimizer):
    model = converted()
    miner = miner_of(model, epochs=7, freeze_every=2, rule=rule, optimizer=optimizer)
    planned = dict(
        zip(freeze_epochs(7, 2, rule), weights_left(TOTAL, 0.1, 7, 2, rule), strict=True)
    )
    left = TOTAL
    for epoch in range(7):
        run_epoch(model, miner, epoch)
        left = planned.get(epoch, left)
        assert count(active(model)) == miner.weights_left == left
        assert miner.density == left / TOTAL
    assert miner.ticket().weights_left == left


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_fused_mining_finds_the_same_ticket(optimizer):
    plain, fused = converted(), converted()
    miners = [
        miner_of(model, optimizer=optimizer, l2=1e-3, fused=model is fused)
        for model in (plain, fused)
    ]
    for epoch in range(6):
        for model, miner in zip((plain, fused), miners, strict=True):
            run_epoch(model, miner, epoch)
        assert_same_state(plain.state_dict(), fused.state_dict())
        for layer in masked_layers(fused).values():
            # Freezes count at once; after the last epoch nothing of the search is left.
            exact = gk.ops.effective_weight([layer.weight], [layer.scores], [layer.active])[0]
            assert (
                layer.effective is None if epoch == 5 else torch.equal(layer.effective.leaf, exact)
            )
    assert_same_state(*(dict(miner.ticket().masks) for miner in miners))


def test_accelerated_mining_compresses_and_returns():
    plain, fast = converted(), converted()
    miners = [
        miner_of(
            model,
            optimizer="adam",
            lr=0.05,
            fused=True,
            accelerated="always" if model is fast else "never",
        )
        for model in (plain, fast)
    ]
    for epoch in range(6):
        for model, miner in zip((plain, fast), miners, strict=True):
            run_epoch(model, miner, epoch)
        assert miners[0].weights_left == miners[1].weights_left
        compressed = [layer.is_compressed for layer in masked_layers(fast).values()]
        assert compressed == [epoch < 5] * 2
    ours, theirs = miners[1].ticket(), miners[0].ticket()
    assert ours.checksum == theirs.checksum
    assert ours.weights_left == theirs.weights_left
    kept = flat(theirs.masks)
    # Sums are made in another order: a score near the border may fall on the other side.
    assert (flat(ours.masks) & kept).sum() >= 0.8 * kept.sum()


def test_frozen_weights_never_come_back():
    model = converted()
    miner = miner_of(model)
    before = active(model)
    for epoch in range(6):
        run_epoch(model, miner, epoch)
        now = active(model)
        assert not any((now[name] & ~before[name]).any() for name in now)
        before = now


def test_mining_moves_scores_and_no_weight():
    model = converted()
    weights = {name: p.clone() for name, p in model.named_parameters() if "scores" not in name}
    miner = miner_of(model)
    drawn = scores(model)
    run(model, miner)
    assert not torch.equal(flat(scores(model)), flat(drawn))
    for name, weight in weights.items():
        assert same_bits(model.get_parameter(name), weight)


def test_the_ticket_holds_the_initial_weights_and_the_mined_statistics():
    model, initial = converted(), network().state_dict()
    miner = miner_of(model, name="tiny")
    run(model, miner)
    ticket = miner.ticket()
    assert (ticket.method, ticket.model, ticket.seed) == ("gem-miner", "tiny", 1)
    assert ticket.weights is not None
    assert list(ticket.weights) == list(initial)
    for entry in ("0.weight", "1.weight", "1.bias", "4.weight", "4.bias"):
        assert same_bits(ticket.weights[entry], initial[entry])
    assert same_bits(ticket.weights["1.running_mean"], model[1].running_mean)
    assert not same_bits(ticket.weights["1.running_mean"], initial["1.running_mean"])


def test_a_step_clears_every_gradient():
    model = converted()
    run_step(model, miner_of(model), next(batches(0)))
    assert all(parameter.grad is None for parameter in model.parameters())


def test_one_seed_one_ticket():
    tickets = []
    for seed in (1, 1, 2):
        model = converted()
        miner = miner_of(model, seed=seed)
        run(model, miner)
        tickets.append(flat(miner.ticket().masks))
    assert torch.equal(tickets[0], tickets[1])
    assert not torch.equal(tickets[0], tickets[2])


def test_scores_are_not_the_numbers_that_the_weights_are_made_of():
    model = converted()
    miner_of(model, seed=5)
    drawn = flat(scores(model))
    repeated = torch.rand(TOTAL, generator=torch.Generator().manual_seed(5))
    assert not torch.isin(drawn, repeated).any()
    assert ((drawn >= 0) & (drawn < 1)).all()
    assert 0.4 < drawn.mean() < 0.6


def test_without_a_seed_the_scores_stay():
    model = converted()
    before = scores(model)
    miner_of(model, seed=None)
    assert torch.equal(flat(scores(model)), flat(before))


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("steps", [0, 2])
def test_a_search_resumes_to_the_same_bits(optimizer, steps):
    def start():
        model = converted()
        return model, miner_of(model, optimizer=optimizer, l2=1e-3)

    def finish(model, miner):
        for batch in list(batches(3))[steps:]:
            run_step(model, miner, batch)
        miner.end_epoch()
        for epoch in range(4, 6):
            run_epoch(model, miner, epoch)
        return miner.ticket()

    model, miner = start()
    for epoch in range(3):
        run_epoch(model, miner, epoch)
    for batch in list(batches(3))[:steps]:
        run_step(model, miner, batch)
    saved = copy.deepcopy((model.state_dict(), miner.state_dict()))
    straight = finish(model, miner)

    resumed_model, resumed = start()
    resumed_model.load_state_dict(saved[0])
    resumed.load_state_dict(saved[1])
    assert resumed.epoch == 3
    assert_same_state(dict(finish(resumed_model, resumed).masks), dict(straight.masks))
    assert_same_state(resumed_model.state_dict(), model.state_dict())


def test_the_lowest_scores_of_the_whole_network_freeze():
    model = converted()
    miner = miner_of(model, density=0.5, epochs=2, lr=0.0, momentum=0.0)
    values = torch.rand(TOTAL, generator=torch.Generator().manual_seed(0))
    values[:72] *= 0.5
    set_scores(model, values)
    run(model, miner)
    expected = torch.ones(TOTAL, dtype=torch.bool)
    expected[values.argsort()[: TOTAL // 2]] = False
    assert torch.equal(flat(active(model)), expected)


def test_ties_freeze_by_lowest_index():
    model = converted()
    miner = miner_of(model, density=0.5, epochs=2, lr=0.0, momentum=0.0)
    set_scores(model, torch.full((TOTAL,), 0.75))
    run(model, miner)
    assert torch.equal(flat(active(model)), torch.arange(TOTAL) >= TOTAL // 2)


def test_the_authors_ties_freeze_every_score_up_to_the_last():
    model = converted()
    miner = miner_of(model, density=0.5, epochs=2, lr=0.0, momentum=0.0, ties="authors")
    set_scores(model, torch.where(torch.arange(TOTAL) < 200, 0.25, 0.75))
    run(model, miner)
    assert torch.equal(flat(active(model)), torch.arange(TOTAL) >= 200)


def test_the_authors_ties_may_not_take_everything():
    model = converted()
    miner = miner_of(model, density=0.5, epochs=2, lr=0.0, momentum=0.0, ties="authors")
    set_scores(model, torch.ones(TOTAL))
    with pytest.raises(GemkernError, match=r"tie at 1.*ties=\"exact\""):
        run(model, miner)


def test_the_paper_keeps_what_is_active_and_rounds_to_one():
    values = torch.where(torch.arange(TOTAL) < 100, 0.25, 0.75)
    values[-1] = 0.5
    for keep, expected in [("active", TOTAL // 2 + 66), ("rounded", TOTAL - 100)]:
        model = converted()
        miner = miner_of(model, density=0.75, epochs=2, lr=0.0, momentum=0.0, keep=keep)
        set_scores(model, values)
        run(model, miner)
        assert miner.ticket().weights_left == expected
        assert bool(miner.ticket().masks["4"][-1, -1])


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize(("half", "on"), [("up", [1, 1, 0]), ("down", [1, 0, 0])])
def test_a_half_is_rounded_as_told(half, on, fused):
    model = torch.nn.Sequential(torch.nn.Linear(3, 1, bias=False))
    gk.convert(model, scores=True)
    layer, unit = model[0], torch.eye(3)
    torch.nn.init.ones_(layer.weight)
    # Each step takes a quarter from every score.
    options = {"lr": 0.25, "momentum": 0.0, "half": half, "keep": "rounded", "fused": fused}
    miner = miner_of(model, density=0.5, epochs=3, seed=None, schedule="constant", **options)
    layer.scores.detach().copy_(torch.tensor([[1.5, 1.0, 0.75]]))
    for _ in range(2):
        model(torch.ones(1, 3)).sum().backward()
        miner.step()
    assert layer.mask().flatten().tolist() == model(unit).flatten().tolist() == on
    if fused:
        assert layer.effective.read(layer, torch.float32) is not None, "written in one launch"
    layer.scores.detach().copy_(torch.tensor([[0.75, 0.5, 0.25]]))
    miner.end_epoch()
    assert layer.mask().flatten().tolist() == model(unit).flatten().tolist() == on


@pytest.mark.parametrize("half", ["up", "down"])
def test_halves_that_are_there_at_first_are_rounded_too(half):
    model = converted()
    set_scores(model, torch.where(torch.arange(TOTAL) < 100, 0.5, 0.75))
    miner_of(model, seed=None, half=half)
    masks = torch.cat([layer.mask().flatten() for layer in masked_layers(model).values()])
    assert int(masks.sum()) == (TOTAL if half == "up" else TOTAL - 100)


@pytest.mark.parametrize("accelerated", ["never", "always"])
def test_without_halves_their_rounding_changes_nothing(accelerated):
    up, down = converted(), converted()
    for half, model in (("up", up), ("down", down)):
        run(model, miner_of(model, half=half, fused=True, accelerated=accelerated))
    assert_same_state(up.state_dict(), down.state_dict())


def test_rounding_everything_away_is_no_ticket():
    model = converted()
    miner = miner_of(model, epochs=2, lr=0.0, momentum=0.0, keep="rounded")
    set_scores(model, torch.full((TOTAL,), 0.25))
    run(model, miner)
    with pytest.raises(GemkernError, match="keeps no weight"):
        miner.ticket()


@pytest.mark.parametrize(("optimizer", "lr"), [("sgd", 0.1), ("adam", 0.01)])
def test_the_learning_rate_follows_the_schedule(optimizer, lr):
    model = converted()
    miner = miner_of(model, optimizer=optimizer, l2=0.25)
    for epoch in range(6):
        group = miner.state_dict()["optimizer"]["param_groups"][0]
        assert group["lr"] == pytest.approx(lr * cosine(epoch, 6))
        assert group["l2"] == 0.25
        run_epoch(model, miner, epoch)


def test_a_nan_score_is_named():
    model = converted()
    miner = miner_of(model)
    run_epoch(model, miner, 0)
    run_step(model, miner, next(batches(1)))
    model[4].scores.detach()[0, 0] = torch.nan
    before = active(model)
    with pytest.raises(GemkernError, match=r"layer '4' has a score that is NaN.*epoch 2"):
        miner.end_epoch()
    assert_same_state(active(model), before)


def test_a_search_ends():
    model = converted()
    miner = miner_of(model, epochs=2)
    run_epoch(model, miner, 0)
    with pytest.raises(GemkernError, match="1 of 2 epochs"):
        miner.ticket()
    run_epoch(model, miner, 1)
    for late in (miner.step, miner.end_epoch):
        with pytest.raises(GemkernError, match="over after its 2 epochs"):
            late()


def test_a_model_needs_scores():
    model = network()
    gk.convert(model)
    with pytest.raises(GemkernError, match=r"layer '0'.*convert\(model, scores=True\)"):
        miner_of(model)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimizer": "rmsprop"}, "sgd, adam"),
        ({"ties": "reference"}, "exact, authors"),
        ({"keep": "all"}, "active, rounded"),
        ({"half": "even"}, "up, down"),
        ({"rule": "mine"}, "authors, paper"),
        ({"schedule": "linear"}, "constant, cosine, multistep"),
        ({"density": 1.0}, "density 1"),
        ({"freeze_every": 6}, "never happens"),
    ],
)
def test_wrong_options_are_refused_before_scores_are_drawn(options, message):
    model = converted()
    before = scores(model)
    with pytest.raises(GemkernError, match=message):
        miner_of(model, **options)
    assert torch.equal(flat(scores(model)), flat(before))


def test_the_loop_that_users_write(tmp_path):
    model, fresh_model = network(), network()
    gk.convert(model, scores=True)
    loader = list(batches(0))
    miner = gk.GemMiner(model, density=0.1, epochs=4, freeze_every=1)
    for _epoch in range(4):
        for x, y in loader:
            F.cross_entropy(model(x), y).backward()
            miner.step()
        miner.end_epoch()
    ticket = miner.ticket()
    ticket.save(tmp_path / "tiny.ticket.safetensors")
    gk.Ticket.load(tmp_path / "tiny.ticket.safetensors").apply(fresh_model)
    assert isinstance(ticket, Ticket)
    assert count(active(fresh_model)) == weights_left(TOTAL, 0.1, 4, 1)[-1]

import copy

import pytest
import torch
from tiny_search import (
    STEPS,
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

import gemkern as gk
from gemkern.errors import GemkernError
from gemkern.optim import masked_layers
from gemkern.tickets import IMP, imp_weights_left
from gemkern.tickets.state import checksum, weights_state
from gemkern.training import WeightTraining

WEIGHTS = ("0.weight", "4.weight")
OTHERS = (
    "1.weight",
    "1.bias",
    "1.running_mean",
    "1.running_var",
    "1.num_batches_tracked",
    "4.bias",
)


def converted(seed=0):
    model = network(seed)
    gk.convert(model)
    return model


def imp_of(model, density=0.3, epochs=2, **options):
    return IMP(model, density, epochs, **options)


def masked(weight, mask):
    return torch.where(mask, weight, torch.zeros_like(weight))


def lr(imp):
    return imp.state_dict()["training"]["optimizer"]["param_groups"][0]["lr"]


def momentum_buffers(training):
    return {
        index: entry["momentum_buffer"].clone()
        for index, entry in training["optimizer"]["state"].items()
    }


@pytest.mark.parametrize("rewind", ["init", 1, "learning-rate"])
def test_accelerated_rounds_find_a_ticket_of_the_same_weights(rewind):
    plain, fast = converted(), converted()
    searches = [
        imp_of(model, rewind=rewind, accelerated="always" if model is fast else "never")
        for model in (plain, fast)
    ]
    for epoch in range(searches[0].epochs):
        for model, imp in zip((plain, fast), searches, strict=True):
            run_epoch(model, imp, epoch)
        assert searches[0].weights_left == searches[1].weights_left
        compressed = [layer.is_compressed for layer in masked_layers(fast).values()]
        assert compressed == [epoch < searches[1].epochs - 1] * 2
    theirs, ours = (imp.ticket() for imp in searches)
    assert ours.weights_left == theirs.weights_left
    # To the beginning; later moments were trained, on sums in another order.
    assert (ours.checksum == theirs.checksum) == (rewind == "init")
    kept = torch.cat([mask.flatten() for mask in theirs.masks.values()])
    found = torch.cat([mask.flatten() for mask in ours.masks.values()])
    # Sums are made in another order: a weight near the border may fall on the other side.
    assert (found & kept).sum() >= 0.9 * kept.sum()
    for name in WEIGHTS:
        torch.testing.assert_close(ours.weights[name], theirs.weights[name], rtol=1e-3, atol=1e-4)


def test_each_round_leaves_exactly_the_planned_number():
    model = converted()
    imp = imp_of(model)
    planned = imp_weights_left(TOTAL, 0.3)
    assert imp.rounds == len(planned)
    assert imp.epochs == 2 * len(planned)
    for index, left in enumerate(planned):
        run_epoch(model, imp, 2 * index)
        assert imp.weights_left == (planned[index - 1] if index else TOTAL)
        run_epoch(model, imp, 2 * index + 1)
        assert imp.weights_left == count(active(model)) == left
    assert imp.density == round(0.3 * TOTAL) / TOTAL
    assert imp.ticket().weights_left == round(0.3 * TOTAL)


def test_rewinding_to_init_gives_the_initial_weights_times_the_mask_to_the_bit():
    model, initial = converted(), network().state_dict()
    imp = imp_of(model)
    for epoch in range(imp.epochs):
        run_epoch(model, imp, epoch)
        if imp.epoch % 2:
            assert not same_bits(model[4].bias, initial["4.bias"])
            continue
        for entry, mask in zip(WEIGHTS, active(model).values(), strict=True):
            assert same_bits(model.state_dict()[entry], masked(initial[entry], mask))
        for entry in OTHERS:
            assert same_bits(model.state_dict()[entry], initial[entry])
        assert not any(map(torch.any, momentum_buffers(imp.state_dict()["training"]).values()))
        assert lr(imp) == 0.1


@pytest.mark.parametrize("step", [1, STEPS, STEPS + 1])
def test_rewinding_to_a_step_gives_that_moment_to_the_bit(step):
    witness = converted()
    training = WeightTraining(witness, 3)
    for taken in range(step):
        run_step(witness, training, list(batches(taken // STEPS))[taken % STEPS])
        if (taken + 1) % STEPS == 0:
            training.end_epoch()

    model = converted()
    imp = imp_of(model, epochs=3, rewind=step)
    for epoch in range(3):
        run_epoch(model, imp, epoch)

    then, now = witness.state_dict(), model.state_dict()
    for entry, mask in zip(WEIGHTS, active(model).values(), strict=True):
        assert same_bits(now[entry], masked(then[entry], mask))
    for entry in OTHERS:
        assert same_bits(now[entry], then[entry])
    resumed = imp.state_dict()["training"]
    assert resumed["epoch"] == training.epoch == step // STEPS
    assert lr(imp) == training.state_dict()["optimizer"]["param_groups"][0]["lr"]
    expected, found = momentum_buffers(training.state_dict()), momentum_buffers(resumed)
    assert list(found) == list(expected)
    for index in found:
        assert same_bits(found[index], expected[index])


def test_every_round_rewinds_to_the_same_moment():
    model = converted()
    imp = imp_of(model, rewind=2)
    rewound = []
    for epoch in range(imp.epochs):
        run_epoch(model, imp, epoch)
        if imp.epoch % 2 == 0:
            rewound.append((model[4].bias.detach().clone(), imp.state_dict()["training"]))
            rewound[-1] = copy.deepcopy(rewound[-1])
    first_bias, first = rewound[0]
    for bias, training in rewound[1:]:
        assert same_bits(bias, first_bias)
        for index, buffer in momentum_buffers(training).items():
            assert same_bits(buffer, momentum_buffers(first)[index])


def test_learning_rate_rewinding_keeps_the_trained_weights():
    model = converted()
    imp = imp_of(model, rewind="learning-rate")
    run_epoch(model, imp, 0)
    for batch in batches(1):
        run_step(model, imp, batch)
    trained = copy.deepcopy(model.state_dict())
    assert lr(imp) == pytest.approx(0.05)
    imp.end_epoch()
    for entry, mask in zip(WEIGHTS, active(model).values(), strict=True):
        assert same_bits(model.state_dict()[entry], masked(trained[entry], mask))
    for entry in OTHERS:
        assert same_bits(model.state_dict()[entry], trained[entry])
    assert lr(imp) == 0.1
    assert not any(map(torch.any, momentum_buffers(imp.state_dict()["training"]).values()))


@pytest.mark.parametrize("rewind", ["init", "learning-rate"])
def test_the_largest_magnitudes_of_the_whole_network_remain(rewind):
    model = converted()
    imp = imp_of(model, epochs=1, rewind=rewind)
    for index, left in enumerate(imp_weights_left(TOTAL, 0.3)):
        for batch in batches(index):
            run_step(model, imp, batch)
        was_active = torch.cat([mask.flatten() for mask in active(model).values()])
        magnitudes = torch.cat([model.state_dict()[entry].abs().flatten() for entry in WEIGHTS])
        assert not magnitudes[~was_active].any()
        imp.end_epoch()
        expected = torch.zeros(TOTAL, dtype=torch.bool)
        expected[magnitudes.argsort(descending=True)[:left]] = True
        assert torch.equal(torch.cat([mask.flatten() for mask in active(model).values()]), expected)


@pytest.mark.parametrize("rewind", ["init", "learning-rate", 2])
def test_momentum_and_weight_decay_revive_no_weight(rewind):
    model = converted()
    imp = imp_of(model, rewind=rewind, momentum=0.9, weight_decay=0.1)
    zero = torch.zeros(())
    for epoch in range(imp.epochs):
        for batch in batches(epoch):
            run_step(model, imp, batch)
            for layer in masked_layers(model).values():
                pruned = layer.weight.detach()[~layer.active]
                assert same_bits(pruned, zero.expand_as(pruned))
        imp.end_epoch()


def test_the_ticket_holds_the_weights_of_the_rewind_point():
    model, initial = converted(), network().state_dict()
    imp = imp_of(model, model_seed=3, name="tiny")
    run(model, imp)
    ticket = imp.ticket()
    assert (ticket.method, ticket.model, ticket.seed) == ("imp", "tiny", 3)
    assert_same_state(dict(ticket.weights), dict(initial))
    assert ticket.checksum == checksum(initial, ("0", "4"))
    assert_same_state(dict(ticket.masks), active(model))


def test_the_ticket_of_learning_rate_rewinding_holds_the_trained_weights():
    model = converted()
    imp = imp_of(model, rewind="learning-rate")
    run(model, imp)
    assert_same_state(dict(imp.ticket().weights), weights_state(model))


@pytest.mark.parametrize("rewind", ["init", "learning-rate", 2, 4])
@pytest.mark.parametrize("stop", [0, 1, 2, 5])
def test_a_search_resumes_to_the_same_bits(rewind, stop):
    def start():
        model = converted()
        return model, imp_of(model, rewind=rewind)

    def finish(model, imp):
        for batch in list(batches(stop))[1:]:
            run_step(model, imp, batch)
        imp.end_epoch()
        for epoch in range(stop + 1, imp.epochs):
            run_epoch(model, imp, epoch)
        return imp.ticket()

    model, imp = start()
    for epoch in range(stop):
        run_epoch(model, imp, epoch)
    run_step(model, imp, next(batches(stop)))
    saved = copy.deepcopy((model.state_dict(), imp.state_dict()))
    straight = finish(model, imp)

    resumed_model, resumed = start()
    resumed_model.load_state_dict(saved[0])
    resumed.load_state_dict(saved[1])
    found = finish(resumed_model, resumed)
    assert_same_state(dict(found.masks), dict(straight.masks))
    assert_same_state(dict(found.weights), dict(straight.weights))
    assert_same_state(resumed_model.state_dict(), model.state_dict())


def test_a_rewind_step_beyond_the_first_round_is_refused():
    model = converted()
    imp = imp_of(model, rewind=2 * STEPS)
    run_epoch(model, imp, 0)
    before = active(model)
    with pytest.raises(GemkernError, match="step 6: the first round had 6 steps"):
        run_epoch(model, imp, 1)
    assert_same_state(active(model), before)


def test_a_nan_weight_is_named():
    model = converted()
    imp = imp_of(model)
    run_step(model, imp, next(batches(0)))
    model[0].weight.detach()[0, 0, 0, 0] = torch.nan
    with pytest.raises(GemkernError, match=r"layer '0' has a weight that is NaN.*epoch 1"):
        imp.end_epoch()


def test_a_search_ends():
    model = converted()
    imp = imp_of(model, density=0.5, epochs=1)
    with pytest.raises(GemkernError, match="0 of 4 epochs"):
        imp.ticket()
    run(model, imp)
    for late in (imp.step, imp.end_epoch):
        with pytest.raises(GemkernError, match="over after its 4 epochs"):
            late()


def test_a_model_with_scores_is_refused():
    model = network()
    gk.convert(model, scores=True)
    with pytest.raises(GemkernError, match=r"layer '0' learns scores.*convert\(model\)"):
        imp_of(model)


@pytest.mark.parametrize("rewind", ["start", -1, 1.5])
def test_an_unknown_rewinding_is_refused(rewind):
    with pytest.raises(GemkernError, match="cannot rewind"):
        imp_of(converted(), rewind=rewind)

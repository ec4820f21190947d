"""MaskedSGD: torch.optim.SGD under fixed masks, whose masked weights are exactly +0.0."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from host_reads import host_reads
from torch import Tensor, nn

from gemkern import ops
from gemkern.errors import GemkernError
from gemkern.nn import convert
from gemkern.optim import MaskedSGD

OPTIONS = (
    {"lr": 0.1},
    {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1},
    {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
)


def dense() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 3, bias=False))


def masked(density: float = 0.6) -> nn.Sequential:
    model = dense()
    convert(model)
    for layer in (model[0], model[3]):
        layer.active.copy_(torch.rand(layer.active.shape) < density)
    return model


def learn(model: nn.Module, optimizer: Any, steps: int, seed: int = 1) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(5, 6, generator=generator)).square().sum().backward()
        optimizer.step()


def is_positive_zero(tensor: Tensor) -> bool:
    return bool((tensor == 0).all() and not torch.signbit(tensor).any())


def assert_same(ours: nn.Module, theirs: nn.Module) -> None:
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("convert_it", [True, False])
def test_with_nothing_masked_it_is_sgd_to_the_bit(
    options: dict[str, Any], convert_it: bool
) -> None:
    model, twin = dense(), dense()
    if convert_it:
        convert(model)
    learn(model, MaskedSGD(model, **options), 4)
    learn(twin, torch.optim.SGD(twin.parameters(), **options), 4)
    assert_same(model, twin)
    assert not torch.equal(model[0].bias, dense()[0].bias)


@pytest.mark.parametrize("options", OPTIONS)
def test_masked_weights_and_momentum_are_zero_after_each_step(options: dict[str, Any]) -> None:
    model = masked()
    with torch.no_grad():
        model[0].weight[~model[0].active] = -0.0
        model[3].weight[~model[3].active] = float("nan")
    optimizer = MaskedSGD(model, **options)
    before = copy.deepcopy(model)
    for step in range(4):
        learn(model, optimizer, 1, seed=step)
        for layer in (model[0], model[3]):
            assert is_positive_zero(layer.weight[~layer.active])
            buffer = optimizer.state[layer.weight].get("momentum_buffer")
            assert (buffer is None) == ("momentum" not in options)
            if buffer is not None:
                assert is_positive_zero(buffer[~layer.active])
                assert buffer[layer.active].any()
        model[0].active[step] = False
    changed = zip(model.named_parameters(), before.parameters(), strict=True)
    assert all(not torch.equal(ours, old) for (_, ours), old in changed)


@pytest.mark.parametrize("options", OPTIONS)
def test_what_is_not_masked_follows_sgd(options: dict[str, Any]) -> None:
    model = masked()
    twin = dense()
    for ours, theirs in ((model[0], twin[0]), (model[3], twin[3])):
        with torch.no_grad():
            theirs.weight.mul_(ours.active)
        theirs.weight.register_hook(ours.active.mul)
    learn(model, MaskedSGD(model, **options), 4)
    learn(twin, torch.optim.SGD(twin.parameters(), **options), 4)
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("nesterov", [True, False])
def test_a_step_leaves_the_gradients(nesterov: bool) -> None:
    model = masked()
    optimizer = MaskedSGD(model, lr=0.1, momentum=0.9)
    optimizer.load_state_dict(MaskedSGD(model, 0.1, 0.9, nesterov=nesterov).state_dict())
    learn(model, optimizer, 2)
    grads = [parameter.grad.clone() for parameter in model.parameters()]
    optimizer.step()
    for parameter, grad in zip(model.parameters(), grads, strict=True):
        assert torch.equal(parameter.grad, grad)


def test_a_replaced_mask_counts_at_once() -> None:
    model = masked()
    optimizer = MaskedSGD(model, 0.1, 0.9)
    learn(model, optimizer, 1)
    model[0].active = torch.zeros_like(model[0].active)
    learn(model, optimizer, 1)
    assert is_positive_zero(model[0].weight)
    assert is_positive_zero(optimizer.state[model[0].weight]["momentum_buffer"])


def test_parameters_that_do_not_learn_are_left_alone() -> None:
    model = masked()
    model[0].requires_grad_(False)
    model[1].bias.requires_grad_(False)
    before = copy.deepcopy(model)
    optimizer = MaskedSGD(model, 0.1, 0.9, weight_decay=0.1)
    learn(model, optimizer, 2)
    for part in ("0.weight", "0.bias", "1.bias"):
        assert torch.equal(model.get_parameter(part), before.get_parameter(part))
    assert not torch.equal(model[1].weight, before[1].weight)
    assert len(optimizer.state_dict()["state"]) == 2


def test_groups_and_schedulers() -> None:
    model = masked()
    optimizer = MaskedSGD([{"layers": model[0], "lr": 0.0}, {"layers": [model[3]]}], lr=0.2)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [1], gamma=0.0)
    before = copy.deepcopy(model)
    learn(model, optimizer, 1)
    on = model[0].active
    assert torch.equal(model[0].weight[on], before[0].weight[on])
    assert is_positive_zero(model[0].weight[~on])
    assert torch.equal(model[1].weight, before[1].weight), "in no group"
    assert not torch.equal(model[3].weight, before[3].weight)
    scheduler.step()
    reached = copy.deepcopy(model)
    learn(model, optimizer, 1)
    assert_same(model, reached)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(MaskedSGD(model, lr=0.4), 2)
    cosine.optimizer.step()
    cosine.step()
    assert cosine.get_last_lr() == pytest.approx([0.2])


@pytest.mark.parametrize("way", ["state_dict", "deepcopy", "pickle"])
def test_a_copy_goes_on_to_the_bit(way: str) -> None:
    model = masked()
    optimizer = MaskedSGD(model, **OPTIONS[1])
    learn(model, optimizer, 2)
    if way == "state_dict":
        twin = masked(density=1.0)
        twin.load_state_dict(model.state_dict())
        other = MaskedSGD(twin, **OPTIONS[1])
        other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    elif way == "deepcopy":
        twin, other = copy.deepcopy((model, optimizer))
    else:
        twin, other = pickle.loads(pickle.dumps((model, optimizer)))
    reached = copy.deepcopy(model)
    twin[0].active[2] = model[0].active[2] = False
    learn(twin, other, 2, seed=2)
    assert_same(model, reached)
    learn(model, optimizer, 2, seed=2)
    assert_same(twin, model)
    assert is_positive_zero(twin[0].weight[2])


def test_a_closure_and_no_host_reads() -> None:
    model = masked()
    optimizer = MaskedSGD(model, 0.1, 0.9)

    def closure() -> Tensor:
        loss = model(torch.ones(1, 6)).square().sum()
        loss.backward()
        return loss

    before = model[3].weight.detach().clone()
    losses = []
    assert not host_reads(lambda: losses.append(optimizer.step(closure)))
    assert losses[0] > 0
    assert not torch.equal(model[3].weight, before)


@pytest.mark.parametrize("options", OPTIONS)
def test_capturable_it_takes_the_same_steps(options: dict[str, Any]) -> None:
    model, twin = masked(), masked()
    optimizer = MaskedSGD(model, **options, capturable=True)
    learn(model, optimizer, 2)
    learn(twin, MaskedSGD(twin, **options), 2)
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)
    reached = copy.deepcopy(model)
    optimizer.param_groups[0]["lr"].zero_()
    learn(model, optimizer, 1)
    assert_same(model, reached)


def linear_calls(monkeypatch: pytest.MonkeyPatch) -> list[torch.dtype]:
    """Return a list to which every mask that a layer applies itself adds its dtype."""
    calls: list[torch.dtype] = []
    operator = ops.masked_weight

    def counted(*args: Any) -> Tensor:
        calls.append(args[-1])
        return operator(*args)

    monkeypatch.setattr(ops, "masked_weight", counted)
    return calls


@pytest.mark.parametrize("autocast", [False, True])
def test_capturable_layers_compute_with_what_the_step_wrote(
    autocast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = masked()
    optimizer = MaskedSGD(model, **OPTIONS[1], capturable=True)
    calls = linear_calls(monkeypatch)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        learn(model, optimizer, 3)
    assert len(calls) == 2, "no effective weight before the first step"
    for layer in (model[0], model[3]):
        leaf = layer.effective.leaf
        assert leaf.dtype == (torch.bfloat16 if autocast else torch.float32)
        assert torch.equal(leaf, layer.weight.to(leaf.dtype))
        assert is_positive_zero(leaf[~layer.active])
        assert leaf.grad is None


def test_capturable_it_notices_other_changes() -> None:
    model = masked()
    optimizer = MaskedSGD(model, **OPTIONS[1], capturable=True)
    learn(model, optimizer, 2)
    leaf = model[0].effective.leaf
    with torch.no_grad():
        model[0].weight.mul_(2)
    model[3].active[:] = False
    x = torch.ones(2, 6)
    plain = copy.deepcopy(model)
    assert plain[0].effective is None
    assert torch.equal(model(x), plain(x))
    optimizer.refresh()
    assert model[0].effective.leaf is leaf
    assert torch.equal(leaf, torch.where(model[0].active, model[0].weight, 0))
    assert torch.equal(model(x), plain(x))


def test_capturable_gradients_are_cleared_and_add_up() -> None:
    model, twin = masked(), masked()
    optimizers = [MaskedSGD(one, **OPTIONS[1], capturable=one is model) for one in (model, twin)]
    for one, optimizer in zip((model, twin), optimizers, strict=True):
        learn(one, optimizer, 2)
        one(torch.ones(5, 6)).sum().backward()
        optimizer.zero_grad()
        for step in range(2):
            if step:
                # What was written ceases to hold: this gradient reaches the weight.
                one[0].weight.detach().mul_(1)
            one(torch.full((5, 6), float(step))).square().sum().backward()
        optimizer.step()
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_capturable_copies_learn_on_alone() -> None:
    model = masked()
    optimizer = MaskedSGD(model, **OPTIONS[1], capturable=True)
    learn(model, optimizer, 2)
    twin, other = copy.deepcopy((model, optimizer))
    learn(twin, other, 2, seed=2)
    assert twin[0].effective.leaf is not model[0].effective.leaf
    learn(model, optimizer, 2, seed=2)
    assert_same(twin, model)


def test_another_optimiser_gets_its_gradients() -> None:
    model = masked()
    learn(model, MaskedSGD(model, **OPTIONS[1], capturable=True), 2)
    learn(model, MaskedSGD(model, **OPTIONS[1]), 1)
    assert model[0].effective is None
    model(torch.ones(1, 6)).sum().backward()
    assert model[0].weight.grad is not None


def test_capturable_groups_have_rates_of_their_own() -> None:
    model = masked()
    groups = [{"layers": model[0], "lr": 0.0}, {"layers": [model[3]]}]
    optimizer = MaskedSGD(groups, lr=0.25, capturable=True)
    rates = [group["lr"] for group in optimizer.param_groups]
    assert [rate.item() for rate in rates] == [0.0, 0.25]
    assert all(rate.dtype == torch.float32 and rate.dim() == 0 for rate in rates)


def test_a_loaded_state_is_written_where_the_old_one_is() -> None:
    model = masked()
    optimizer = MaskedSGD(model, **OPTIONS[2], capturable=True)
    fresh = copy.deepcopy(optimizer.state_dict())
    learn(model, optimizer, 2)
    moved = copy.deepcopy(optimizer.state_dict())
    kept = [memory["momentum_buffer"] for memory in optimizer.state.values()]
    rate = optimizer.param_groups[0]["lr"]
    optimizer.param_groups[0]["lr"].fill_(0.5)
    for state, empty in ((fresh, True), (moved, False)):
        optimizer.load_state_dict(state)
        now = [memory["momentum_buffer"] for memory in optimizer.state.values()]
        assert all(ours is theirs for ours, theirs in zip(now, kept, strict=True))
        assert optimizer.param_groups[0]["lr"] is rate
        assert rate.item() == pytest.approx(0.1)
        assert empty == (not any(buffer.any() for buffer in now))
    loaded = [memory["momentum_buffer"] for memory in moved["state"].values()]
    assert all(torch.equal(a, b) for a, b in zip(now, loaded, strict=True))
    optimizer.forget()
    assert not any(buffer.any() for buffer in now)


@pytest.mark.parametrize("capturable", [True, False])
def test_a_state_goes_on_where_rates_are_kept_in_another_way(capturable: bool) -> None:
    model, twin = masked(), masked()
    optimizer = MaskedSGD(model, **OPTIONS[1], capturable=capturable)
    learn(model, optimizer, 2)
    twin.load_state_dict(model.state_dict())
    other = MaskedSGD(twin, **{**OPTIONS[1], "lr": 0.7}, capturable=not capturable)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    (group,) = other.param_groups
    assert isinstance(group["lr"], Tensor) is bool(group["fused"]) is not capturable
    assert float(group["lr"]) == pytest.approx(0.1)
    learn(model, optimizer, 2, seed=2)
    learn(twin, other, 2, seed=2)
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"lr": -0.1}, r"the optimiser's lr is -0\.1: give a number at least 0\.0"),
        ({"momentum": 1.5}, r"the optimiser's momentum is 1\.5: give a number in \[0\.0, 1\.0\)"),
        ({"weight_decay": -1.0}, r"the optimiser's weight_decay is -1\.0"),
        ({"nesterov": True}, r"the optimiser's nesterov needs a momentum: give one above 0"),
    ],
)
def test_errors(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(GemkernError, match=sentence):
        MaskedSGD(masked(), **{"lr": 0.1, **options})
    with pytest.raises(GemkernError, match=sentence):
        MaskedSGD([{"layers": masked(), **options}], lr=0.1)


def meddle_with_gradients(model: nn.Module, optimizer: MaskedSGD) -> None:
    for parameter in model.parameters():
        parameter.grad.add_(1.0)


def meddle_with_new_gradients(model: nn.Module, optimizer: MaskedSGD) -> None:
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, torch.inf)


def meddle_with_weights(model: nn.Module, optimizer: MaskedSGD) -> None:
    with torch.no_grad():
        model[0].weight.add_(1.0)
        model[3].weight.sub_(1.0)


def meddle_with_masks(model: nn.Module, optimizer: MaskedSGD) -> None:
    model[0].active[:, ::2] = False


def meddle_with_momentum(model: nn.Module, optimizer: MaskedSGD) -> None:
    state = copy.deepcopy(optimizer.state_dict())
    for memory in state["state"].values():
        memory["momentum_buffer"].add_(1.0)
    optimizer.load_state_dict(state)


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize(
    "meddle",
    [
        meddle_with_gradients,
        meddle_with_new_gradients,
        meddle_with_weights,
        meddle_with_masks,
        meddle_with_momentum,
    ],
)
def test_what_is_masked_stays_zero_whoever_meddles(meddle: Any, nesterov: bool) -> None:
    model = masked()
    options = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01, "nesterov": nesterov}
    optimizer = MaskedSGD(model, **options)
    learn(model, optimizer, 2)
    for _ in range(2):
        model(torch.randn(5, 6)).square().mean().backward()
        meddle(model, optimizer)
        optimizer.step()
        optimizer.zero_grad()
        for layer in (model[0], model[3]):
            memory = optimizer.state.get(layer.weight, {}).get("momentum_buffer")
            for tensor in (layer.weight.detach(), memory):
                if tensor is not None:
                    hidden = tensor[~layer.active]
                    assert torch.equal(hidden, torch.zeros_like(hidden))
                    assert not hidden.signbit().any()

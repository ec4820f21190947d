"""Accelerated models: the function, the training and the state of the model that they were."""

from __future__ import annotations

import copy
import pickle
import sys
from typing import Any

import pytest
import torch
from accelerated_models import images, network, results_of, sparse
from torch import Tensor, nn
from torch.nn import functional as F

import gemkern as gk
from gemkern import ops
from gemkern.models import build
from gemkern.optim import MaskedSGD, masked_layers


class Mixed(nn.Module):
    """What networks are built of, in the spellings that people use."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.block = nn.Sequential(
            nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True)
        )
        self.second = nn.BatchNorm2d(8, affine=False, track_running_stats=False)
        self.third = nn.BatchNorm2d(8, momentum=None)
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        self.average = nn.AvgPool2d(2)
        self.ceiling = nn.MaxPool2d(2, ceil_mode=True)
        self.shift = nn.Parameter(torch.linspace(-1, 1, 8).view(1, 8, 1, 1))
        self.classifier = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(torch.relu(self.norm(self.stem(x))), (1, 0, 0, 2))[:, :, 1:-1, 1:]
        x = self.pool(self.block(x) + x)
        x = F.relu(x + self.second(x), inplace=True)
        x = torch.relu(self.norm(x) + self.shift)
        x = self.third(self.second(x).add(x)).relu()
        x = F.adaptive_avg_pool2d(self.ceiling(self.average(x)), 1)
        return self.classifier(torch.flatten(x, 1))


MODELS = {
    **{name: lambda name=name: network(name) for name in ("resnet8", "wide_resnet28_2", "conv4")},
    "vgg16": lambda: network("vgg16"),
    "mobilenet_v2": lambda: network("mobilenet_v2", density=0.14),
    "mixed": lambda: sparse(Mixed(), 0.24),
}


def size_of(name: str) -> int:
    return {"vgg16": 16, "mobilenet_v2": 16, "mixed": 12}.get(name, 8)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("training", [True, False])
def test_what_is_rewritten_is_exact(
    name: str, training: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # In float64, which the reference serves: nothing is left to rounding.
    monkeypatch.setattr(sys.modules["gemkern.nn.accelerate"], "_why_unserved", lambda layer: "")
    model = MODELS[name]().train(training).double()
    fast = gk.accelerate(copy.deepcopy(model))
    x = images(0, size_of(name)).double()
    for ours, exact in zip(results_of(fast, x), results_of(model, x), strict=True):
        torch.testing.assert_close(ours, exact, rtol=1e-9, atol=1e-9)


# Where channels are nearly constant their norms amplify all rounding: MobileNet is not here.
@pytest.mark.parametrize("name", [name for name in MODELS if name != "mobilenet_v2"])
@pytest.mark.parametrize("training", [True, False])
def test_it_computes_and_learns_the_same(name: str, training: bool) -> None:
    model = MODELS[name]().train(training)
    fast, wide = copy.deepcopy(model), copy.deepcopy(model).double()
    assert gk.accelerate(fast) is fast
    x = images(0, size_of(name))
    exact = results_of(wide, x.double())
    for ours, plain, true in zip(results_of(fast, x), results_of(model, x), exact, strict=True):
        allowed = 10 * (plain - true).abs().max() + 1e-4 * true.abs().max()
        assert (ours - true).abs().max() <= allowed


def test_a_hundred_steps_follow_the_dense_model() -> None:
    model = network("resnet8", density=0.1)
    fast = gk.accelerate(copy.deepcopy(model))
    losses = []
    for one in (model, fast):
        optimizer = MaskedSGD(one, lr=0.02, momentum=0.9, weight_decay=1e-4)
        losses.append([])
        for step in range(100):
            x = images(step % 4)
            loss = F.cross_entropy(one(x), torch.arange(20) % 5)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses[-1].append(loss.item())
    assert losses[0][-1] < losses[0][0] / 2
    torch.testing.assert_close(losses[1][:10], losses[0][:10], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(losses[1], losses[0], rtol=0.1, atol=0.05)


class SamePadding(nn.Module):
    """A block that is added to before its norm, its padding given in words."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding="same", bias=False)
        self.second = nn.Conv2d(8, 8, 3, padding="same", bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.last = nn.Conv2d(8, 4, 3, padding="same", bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.last(F.relu(self.norm(self.second(x) + x)))


def test_a_sum_before_a_norm_may_follow_padding_in_words() -> None:
    torch.manual_seed(0)
    model = sparse(SamePadding(), 0.24)
    x = images(0)
    expected = copy.deepcopy(model)(x)
    torch.testing.assert_close(gk.accelerate(model)(x), expected, rtol=1e-4, atol=1e-5)


def test_the_layout_is_batch_last_throughout(monkeypatch: pytest.MonkeyPatch) -> None:
    fast = gk.accelerate(network("resnet8"))
    seen: list[bool] = []
    convolve = ops.norm_sparse_conv2d

    def watched(x: Tensor, *args: Any, norm: Any = None, **named: Any) -> Any:
        made = convolve(x, *args, norm=norm, **named)
        known = [x, made.y, made.z, None if norm is None else norm.residual]
        seen.append(all(ops.is_batch_last(one) for one in known if one is not None))
        return made

    monkeypatch.setattr(ops, "norm_sparse_conv2d", watched)
    fast(ops.batch_last(images(0)))
    assert seen == [True] * 7


def test_norms_between_convolutions_cost_no_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("resnet8", "wide_resnet28_2"):
        fast, calls = gk.accelerate(network(name)), []
        for operator in ("normalise", "batch_norm_relu"):
            run = getattr(ops, operator)

            def counted(*args: Any, run: Any = run, calls: Any = calls, **named: Any) -> Any:
                calls.append(run)
                return run(*args, **named)

            monkeypatch.setattr(ops, operator, counted)
        # In the first step the layers learn who reads them.
        fast(images(0)).sum().backward()
        calls.clear()
        fast(images(0)).sum().backward()
        # The last one ends in the global pooling.
        assert len(calls) == 1
        monkeypatch.undo()


def test_decelerating_undoes_it() -> None:
    model = network("resnet8")
    fast = copy.deepcopy(model)
    gk.accelerate(fast)
    assert fast.state_dict().keys() == model.state_dict().keys()
    assert all(layer.is_compressed for layer in masked_layers(fast).values())
    assert gk.decelerate(fast) is fast
    assert not any(layer.is_compressed for layer in masked_layers(fast).values())
    assert torch.equal(fast.eval()(images(0)), model.eval()(images(0)))
    gk.decelerate(model)


def test_it_follows_train_and_eval() -> None:
    model = network("resnet8")
    fast = gk.accelerate(copy.deepcopy(model))
    for one in (model, fast):
        one.train()(images(0))
        one.eval()
    assert torch.equal(model.norm.num_batches_tracked, fast.norm.num_batches_tracked)
    torch.testing.assert_close(fast(images(1)), model(images(1)), rtol=1e-3, atol=1e-4)


def test_copies_are_models_of_their_own() -> None:
    fast = gk.accelerate(network("resnet8"))
    twin = copy.deepcopy(fast)
    before = fast(images(0)).detach()
    for parameter in twin.parameters():
        parameter.data.zero_()
    assert not twin(images(0)).any()
    fast.eval()
    assert twin.training
    assert torch.equal(fast.train()(images(0)), before)


def test_it_compresses_further_when_called_again() -> None:
    model = network("resnet8", density=0.1)
    gk.accelerate(model)
    before = sum(layer.weight.numel() for layer in masked_layers(model).values())
    for layer in masked_layers(model).values():
        layer.active[::2] = False
    gk.accelerate(model)
    after = sum(layer.weight.numel() for layer in masked_layers(model).values())
    assert 0 < after < 0.6 * before


def test_layers_above_break_even_stay_dense_and_are_named() -> None:
    model = network("resnet8")
    layer = model.stages[2][0].conv2
    layer.active.fill_(True)
    report = gk.acceleration(model)
    assert list(report.left) == ["stages.2.0.conv2"]
    assert "above the break-even density" in report.left["stages.2.0.conv2"]
    fast = gk.accelerate(copy.deepcopy(model))
    assert not fast.stages[2][0].conv2.is_compressed
    torch.testing.assert_close(fast(images(0)), model(images(0)), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("density", "expected"), [(0.49, True), (0.51, False)])
def test_an_early_layer_may_hold_half_in_a_network_that_is_sparse(
    density: float, expected: bool
) -> None:
    model = network("resnet8")
    early = model.stages[0][0].conv1
    early.active.view(-1)[: int(density * early.active.numel())] = True
    early.active.view(-1)[int(density * early.active.numel()) :] = False
    fast = gk.accelerate(copy.deepcopy(model))
    assert fast.stages[0][0].conv1.is_compressed is expected


def test_another_policy_serves_what_is_dense() -> None:
    model = network("resnet8", density=1.0)
    assert len(gk.acceleration(model).left) == len(masked_layers(model)) - 2, "few inputs"
    policy = gk.nn.Policy(break_even=1.0)
    assert not gk.acceleration(model, policy).left
    fast = gk.accelerate(copy.deepcopy(model), policy)
    torch.testing.assert_close(fast(images(0)), model(images(0)), rtol=1e-3, atol=1e-4)


def test_a_dense_model_has_nothing_to_accelerate() -> None:
    model = build("resnet18", seed=0, image_size=8)
    with pytest.raises(gk.GemkernError, match=r"nothing to accelerate \(no masked layer\)"):
        gk.accelerate(model)
    gk.convert(model)
    # Those with so few inputs to an output that they are served at any density.
    assert gk.acceleration(model).converted == ["conv", "stages.1.0.shortcut.0"]


def test_other_dtypes_stay_dense() -> None:
    model = network("resnet8").double()
    with pytest.raises(gk.GemkernError, match=r"its weight is torch\.float64"):
        gk.accelerate(model)


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) if x.sum() > 0 else x


def test_a_forward_pass_that_depends_on_data_is_followed() -> None:
    model = sparse(Branching())
    fast = gk.accelerate(copy.deepcopy(model))
    for x in (images(0).abs(), -images(0).abs()):
        torch.testing.assert_close(fast(x), model(x))


def test_an_accelerated_model_becomes_plain() -> None:
    model = network("resnet8").eval()
    fast = gk.accelerate(copy.deepcopy(model))
    gk.unconvert(fast)
    assert not masked_layers_of(fast)
    torch.testing.assert_close(fast(images(0)), model(images(0)), rtol=1e-4, atol=1e-5)
    fast.conv.weight.data.zero_()
    assert not torch.allclose(fast(images(0)), model(images(0)))


def masked_layers_of(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, gk.MaskedConv2d)]


def test_a_ticket_of_an_accelerated_model() -> None:
    model = network("resnet8")
    plain = gk.Ticket.from_model(model, method="test")
    fast = gk.accelerate(copy.deepcopy(model))
    ticket = gk.Ticket.from_model(fast, method="test")
    assert ticket.checksum == plain.checksum
    assert all(torch.equal(ticket.masks[name], mask) for name, mask in plain.masks.items())
    ticket.apply(fast)
    assert torch.equal(fast.eval()(images(0)), model.eval()(images(0)))


def test_it_survives_a_pickle() -> None:
    fast = gk.accelerate(network("resnet8"))
    twin = pickle.loads(pickle.dumps(fast))
    assert torch.equal(twin(images(0)), fast(images(0)))


def test_hooks_are_called_as_ever() -> None:
    model = network("resnet8")
    called: list[str] = []
    model.norm.register_forward_hook(lambda *_: called.append("norm"))
    model.stages[1][0].conv1.register_forward_hook(lambda *_: called.append("conv"))
    fast = gk.accelerate(copy.deepcopy(model))
    torch.testing.assert_close(fast(images(0)), model(images(0)), rtol=1e-3, atol=1e-4)
    assert called == ["norm", "conv"] * 2


def test_windows_too_large_for_a_byte_stay_pytorchs() -> None:
    model = sparse(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.MaxPool2d(17)))
    fast = gk.accelerate(copy.deepcopy(model))
    x = images(0, 17)
    torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-5)

"""Compressed layers where something else is on: inference mode, autocast, tracing, transforms."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from accelerated_models import images, network, sparse
from torch import Tensor, nn
from torch.func import functional_call
from torch.optim.lr_scheduler import LambdaLR

import gemkern as gk
from gemkern.optim import MaskedSGD, is_masked, masked_layers


def pair(name: str = "resnet8") -> tuple[nn.Module, nn.Module]:
    model = network(name)
    return gk.accelerate(copy.deepcopy(model)), model


def compressed(layer: Any) -> Any:
    layer.active.copy_(torch.rand(layer.active.shape) < 0.3)
    layer.compress()
    return layer


def test_what_is_accelerated_in_inference_mode_trains() -> None:
    model = network("resnet8")
    with torch.inference_mode():
        gk.accelerate(model)
        model(images(0))
    optimizer = MaskedSGD(model, lr=0.1, momentum=0.9)
    LambdaLR(optimizer, lambda step: 1.0)
    before = [one.detach().clone() for one in model.parameters()]
    model(images(0)).square().sum().backward()
    optimizer.step()
    assert not any(
        torch.equal(one, other) for one, other in zip(model.parameters(), before, strict=True)
    )
    with torch.inference_mode():
        gk.decelerate(model)
    model(images(0)).sum().backward()


def test_one_value_for_a_channel_is_pytorchs_error() -> None:
    model = sparse(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)), 0.2)
    gk.accelerate(model)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match="Expected more than 1 value per channel when training"):
        model(images(0, 3)[:1])
    for entry in ("1.running_mean", "1.running_var"):
        assert torch.equal(model.state_dict()[entry], before[entry])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (gk.MaskedConv2d(3, 4, 3), (2, 3, 5, 5)),
        (gk.MaskedConv2d(3, 4, 3), (3, 5, 5)),
        (gk.MaskedLinear(6, 4), (5, 6)),
        (gk.MaskedLinear(6, 4), (2, 5, 6)),
        (gk.MaskedLinear(6, 4, bias=False), (6,)),
    ],
)
def test_autocast_gives_the_dtype_of_dense_layers(
    layer: Any, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    layer.expand()
    twin, x = copy.deepcopy(layer), torch.randn(shape, dtype=dtype)
    layer.compress()
    with torch.autocast("cpu", torch.bfloat16):
        ours, theirs = layer(x), twin(x)
    assert ours.dtype == theirs.dtype == torch.bfloat16
    torch.testing.assert_close(ours + 0, theirs, rtol=0.02, atol=0.02)
    (ours + 0).float().square().sum().backward()
    assert layer.weight.grad.dtype == torch.float32


def test_an_accelerated_model_trains_under_autocast() -> None:
    fast, model = pair()
    with torch.autocast("cpu", torch.bfloat16):
        ours, theirs = fast(images(0)), model(images(0))
    assert ours.dtype == theirs.dtype
    torch.testing.assert_close(ours, theirs, rtol=0.1, atol=0.1)
    ours.float().square().sum().backward()
    assert all(layer.weight.grad.any() for layer in masked_layers(fast).values())


@pytest.mark.parametrize("inputs", [0, 6])
@pytest.mark.parametrize("lead", [(), (0,), (1,), (5,), (2, 3), (2, 0), (0, 3), (2, 3, 4)])
def test_linear_layers_take_inputs_of_any_dimensions(inputs: int, lead: tuple[int, ...]) -> None:
    layer = compressed(gk.MaskedLinear(inputs, 4))
    twin = copy.deepcopy(layer)
    twin.expand()
    x = torch.randn(*lead, inputs)
    ours, theirs = layer(x), twin(x)
    assert ours.shape == theirs.shape
    torch.testing.assert_close(ours + 0, theirs, rtol=1e-5, atol=1e-6)
    for y in (ours, theirs):
        y.square().sum().backward()
    grad = layer.spread(layer.weight.grad)
    torch.testing.assert_close(grad, twin.weight.grad, rtol=1e-5, atol=1e-6)


def test_convolutions_take_no_images() -> None:
    layer = compressed(gk.MaskedConv2d(3, 4, 3))
    y = layer(torch.randn(0, 3, 5, 5))
    assert y.shape == (0, 4, 3, 3)
    y.sum().backward()
    assert not layer.weight.grad.any()


def test_a_weight_that_a_forward_reads_is_flat() -> None:
    """As the documentation of compressed layers says; it is whole again when decelerated."""
    layer = compressed(gk.MaskedLinear(6, 4))
    assert layer.weight.shape == (int(layer.active.sum()),)
    assert layer.spread(layer.weight).shape == layer.whole_shape == (4, 6)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (gk.MaskedConv2d(3, 4, 3, padding=1), (4, 3, 5, 5)),
        (gk.MaskedLinear(6, 4), (5, 6)),
        (gk.MaskedLinear(6, 4), (2, 5, 6)),
    ],
)
@pytest.mark.parametrize("scores", [True, False])
def test_a_compressed_layer_compiles_whole(
    layer: Any, shape: tuple[int, ...], scores: bool
) -> None:
    torch._dynamo.reset()
    layer = type(layer)(*((3, 4, 3) if layer.weight.dim() != 2 else (6, 4)), scores=scores)
    compressed(layer)
    run = torch.compile(layer, fullgraph=True, backend="aot_eager")
    x = torch.randn(shape)
    for _ in range(2):
        torch.testing.assert_close(run(x), layer(x) + 0)
    run(x).square().sum().backward()
    learns = layer.scores if scores else layer.weight
    compiled, learns.grad = learns.grad, None
    layer(x).square().sum().backward()
    torch.testing.assert_close(compiled, learns.grad)
    # The mask holds where it changes.
    layer.active.fill_(False)
    expected = layer(x) + 0
    torch.testing.assert_close(run(x), expected)


def test_an_accelerated_model_compiles_whole() -> None:
    torch._dynamo.reset()
    fast, model = pair()
    run = torch.compile(fast, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(run(images(0)), model(images(0)), rtol=1e-3, atol=1e-4)
    run(images(0)).square().sum().backward()


@pytest.mark.parametrize("strict", [True, False])
def test_an_accelerated_model_is_exported(strict: bool) -> None:
    fast, model = (one.eval() for one in pair())
    batch = torch.export.Dim("batch", min=2)
    program = torch.export.export(
        fast, (images(0),), dynamic_shapes=({0: batch},), strict=strict
    ).module()
    for x in (images(1), images(2)[:7]):
        torch.testing.assert_close(program(x), model(x), rtol=1e-3, atol=1e-4)


def test_tracing_is_refused() -> None:
    fast, model = (one.eval() for one in pair())
    traced = torch.jit.trace(model, images(0))
    assert torch.equal(traced(images(1)), model(images(1)))
    for one, x in ((fast, images(0)), (fast.classifier, torch.randn(3, 64))):
        with pytest.raises(gk.GemkernError, match=r"torch\.jit\.trace would keep the weights of"):
            torch.jit.trace(one, x)
    torch.testing.assert_close(fast(images(0)), model(images(0)), rtol=1e-3, atol=1e-4)


def transformed(model: nn.Module, way: str) -> Any:
    parameters = {name: one.detach() for name, one in model.named_parameters()}

    def loss(given: dict[str, Tensor]) -> Tensor:
        return functional_call(model, given, (images(0),)).square().mean()

    if way == "jvp":
        return torch.func.jvp(model, (images(0),), (images(1),))
    return {"grad": torch.func.grad, "jacrev": torch.func.jacrev}[way](loss)(parameters)


@pytest.mark.parametrize("way", ["grad", "jacrev", "jvp"])
@pytest.mark.parametrize("accelerated", [True, False])
def test_transforms_of_functions_are_refused(way: str, accelerated: bool) -> None:
    model = pair()[0 if accelerated else 1].eval()
    with pytest.raises(gk.GemkernError, match=r"no derivative under the transforms of torch\.func"):
        transformed(model, way)


def test_to_ask_what_is_masked_runs_no_parametrization() -> None:
    layer = nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4))
    vector = layer.parametrizations.weight[0]._u.clone()
    for _ in range(3):
        assert not is_masked(layer)
        with pytest.raises(gk.GemkernError, match="nothing to mask"):
            masked_layers(layer)
    assert torch.equal(layer.parametrizations.weight[0]._u, vector)


@pytest.mark.parametrize("register", ["spectral_norm", "weight_norm"])
def test_a_computed_weight_stays_dense(register: str) -> None:
    model = sparse(nn.Sequential(nn.Linear(80, 8), nn.Linear(8, 8)), 0.1)
    getattr(nn.utils.parametrizations, register)(model[0])
    report = gk.acceleration(model)
    assert report.converted == ["1"]
    assert "its weight is computed" in report.left["0"]
    expected = model(torch.ones(2, 80))
    torch.testing.assert_close(gk.accelerate(model.eval())(torch.ones(2, 80)), expected)


def test_a_masked_linear_layer_gives_no_view() -> None:
    for shape in ((2, 3, 5), (3, 5), (5,)):
        layer = gk.MaskedLinear(5, 4)
        y = layer(torch.randn(shape)).relu_()
        y.sum().backward()
        assert layer.weight.grad.shape == (4, 5)

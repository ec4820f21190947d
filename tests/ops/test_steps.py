"""Score steps through the operators: the reference to the bit, in place, on the device."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from gemkern.kernels import reference
from host_reads import host_reads
from torch import Tensor

from gemkern import GemkernError, ops

SHAPES = ((7, 5), (0,), (4, 2, 3, 3))
LR, L2, STEPS = 0.1, 0.003, 3

Layers = list[Tensor]

either_step = pytest.mark.parametrize("kind", ["sgd", "nesterov", "adam"])
every_number = pytest.mark.parametrize(
    ("kind", "name"),
    [("sgd", "lr"), ("sgd", "l2"), ("adam", "lr"), ("adam", "l2"), ("adam", "step")],
)
both_dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


@dataclass
class Model:
    """What a step reads and changes; of the two memories SGD uses the first."""

    scores: Layers
    active: Layers
    grads: Layers
    memories: list[Layers]
    weights: Layers | None = None
    effective: Layers | None = None

    def changed(self) -> Layers:
        return [*self.scores, *self.memories[0], *self.memories[1], *(self.effective or ())]


def make_model(weighted: bool, next_dtype: torch.dtype | None = None, dtype=torch.float32) -> Model:
    generator = torch.Generator().manual_seed(0)

    def layers(draw: Callable[..., Tensor]) -> Layers:
        return [draw(shape, generator=generator, dtype=dtype) for shape in SHAPES]

    return Model(
        scores=layers(torch.rand),
        active=[on < 0.7 for on in layers(torch.rand)],
        grads=layers(torch.randn),
        memories=[layers(torch.rand), layers(torch.rand)],
        weights=layers(torch.randn) if weighted else None,
        effective=[torch.ones(shape, dtype=next_dtype) for shape in SHAPES] if next_dtype else None,
    )


def step(model: Model, kind: str, **changed: Any) -> None:
    given = {
        "scores": model.scores,
        "active": model.active,
        "grads": model.grads,
        "weights": model.weights,
        "effective": model.effective,
        "lr": LR,
        "l2": L2,
    }
    if kind == "adam":
        given |= dict(zip(("exp_avgs", "exp_avg_sqs"), model.memories, strict=True)) | {"step": 2}
        ops.score_step_adam(**{**given, **changed})
    else:
        given |= {"buffers": model.memories[0], "nesterov": kind == "nesterov"}
        ops.score_step_sgd(**{**given, **changed})


def step_by_reference(model: Model, kind: str) -> None:
    layers, rest = (model.scores, model.active, model.grads), (model.weights, model.effective)
    if kind == "adam":
        numbers = (LR, L2, 2, 0.9, 0.999, 1e-8)
        reference.score_step_adam(*layers, *model.memories, *rest, *numbers)
    else:
        numbers = (LR, L2, 0.9, kind == "nesterov")
        reference.score_step_sgd(*layers, model.memories[0], *rest, *numbers)


def same(one: Layers, other: Layers) -> bool:
    return all(a.numpy().tobytes() == b.numpy().tobytes() for a, b in zip(one, other, strict=True))


@either_step
@both_dtypes
@pytest.mark.parametrize(
    ("weighted", "next_dtype"),
    [(False, None), (True, None), (True, torch.float32), (True, torch.float16)],
)
@pytest.mark.parametrize("backend", [None, "reference"])
def test_every_bit_is_that_of_the_reference(kind, dtype, weighted, next_dtype, backend) -> None:
    model, twin, start = (make_model(weighted, next_dtype, dtype) for _ in range(3))
    for _ in range(STEPS):
        step(model, kind, backend=backend)
        step_by_reference(twin, kind)
    assert same(model.changed(), twin.changed())
    assert not same(model.scores, start.scores)
    assert same(model.grads, start.grads)
    assert same(model.weights or [], start.weights or [])


@either_step
def test_the_next_effective_weights_are_those_of_the_operator(kind: str) -> None:
    model = make_model(weighted=True, next_dtype=torch.float16)
    step(model, kind)
    expected = ops.effective_weight(model.weights, model.scores, model.active, dtype=torch.float16)
    assert same(model.effective, expected)


@pytest.mark.parametrize(
    ("kind", "defaults"),
    [
        ("sgd", {"l2": 0.0, "momentum": 0.9, "nesterov": False}),
        ("adam", {"l2": 0.0, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8}),
    ],
)
def test_what_is_left_out_is_what_the_signature_says(kind: str, defaults: dict) -> None:
    given, left_out = make_model(weighted=False), make_model(weighted=False)
    layers = [(m.scores, m.active, m.grads, *m.memories) for m in (given, left_out)]
    if kind == "adam":
        ops.score_step_adam(*layers[0], lr=LR, step=2, **defaults)
        ops.score_step_adam(*layers[1], lr=LR, step=2)
    else:
        ops.score_step_sgd(*layers[0][:4], lr=LR, **defaults)
        ops.score_step_sgd(*layers[1][:4], lr=LR)
    assert same(given.changed(), left_out.changed())


@either_step
def test_the_tensors_given_are_the_ones_that_change(kind: str) -> None:
    model = make_model(weighted=True, next_dtype=torch.float32)
    storages = [tensor.data_ptr() for tensor in model.changed()]
    turned = model.scores[0].t().contiguous()
    model.scores[0] = turned.t()
    before = turned.clone()
    step(model, kind)
    assert [t.data_ptr() for t in model.changed()][1:] == storages[1:]
    assert not torch.equal(turned, before)


@either_step
@both_dtypes
@pytest.mark.parametrize("tensor_dtype", [torch.float32, torch.float64])
def test_numbers_on_the_device_give_the_bits_of_plain_ones(kind, dtype, tensor_dtype) -> None:
    plain, on_device = make_model(True, dtype=dtype), make_model(True, dtype=dtype)
    lr, l2 = 0.125, 0.25
    numbers = {"lr": lr, "l2": l2} | ({"step": 3} if kind == "adam" else {})
    tensors = {name: torch.tensor(n, dtype=tensor_dtype) for name, n in numbers.items()}
    step(plain, kind, **numbers)
    step(on_device, kind, **tensors)
    assert same(plain.changed(), on_device.changed())


@every_number
def test_a_tensor_is_read_at_every_step(kind: str, name: str) -> None:
    number = torch.tensor(1.0)
    results = []
    for value in (1.0, 2.0):
        number.fill_(value)
        model, twin = make_model(weighted=False), make_model(weighted=False)
        step(model, kind, **{name: number})
        step(twin, kind, **{name: value})
        assert same(model.changed(), twin.changed())
        results.append(model.scores)
    assert not same(*results)


@either_step
@pytest.mark.parametrize("give", [float, torch.tensor])
def test_no_number_is_read(kind: str, give: Callable[[float], Any]) -> None:
    model = make_model(weighted=True, next_dtype=torch.float16)
    numbers = {"lr": give(LR), "l2": give(L2)} | ({"step": give(2.0)} if kind == "adam" else {})
    assert not host_reads(lambda: step(model, kind, **numbers))


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("sgd", "scores"),
        ("sgd", "buffers"),
        ("sgd", "effective"),
        ("adam", "scores"),
        ("adam", "exp_avgs"),
        ("adam", "exp_avg_sqs"),
        ("adam", "effective"),
    ],
)
def test_a_backward_pass_notices_the_change(kind: str, name: str) -> None:
    model = make_model(weighted=True, next_dtype=torch.float32)
    changed = {
        "scores": model.scores,
        "buffers": model.memories[0],
        "exp_avgs": model.memories[0],
        "exp_avg_sqs": model.memories[1],
        "effective": model.effective,
    }[name]
    product = torch.ones(SHAPES[0], requires_grad=True) * changed[0]
    step(model, kind)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.sum().backward()


@either_step
def test_scores_and_weights_that_learn_step_without_a_graph(kind: str) -> None:
    model, twin = make_model(weighted=True), make_model(weighted=True)
    for tensor in (*model.scores, *model.weights):
        tensor.requires_grad_()
    step(model, kind)
    step(twin, kind)
    assert all(p.is_leaf for p in model.scores)
    assert not any(state.requires_grad for state in model.memories[0])
    assert same([p.detach() for p in model.scores], twin.scores)


WHERE = {"sgd": "score_step_sgd", "adam": "score_step_adam"}
LISTS = {
    "sgd": ("active", "grads", "buffers", "weights", "effective"),
    "adam": ("active", "grads", "exp_avgs", "exp_avg_sqs", "weights", "effective"),
}
EVERY_LIST = [(kind, name) for kind, names in LISTS.items() for name in names]


def refused(kind: str, message: str, **changed: Any) -> None:
    model = make_model(weighted=True, next_dtype=torch.float32)
    before = copy.deepcopy(model)
    with pytest.raises(GemkernError, match=f"^{WHERE[kind]}: {message}"):
        step(model, kind, **changed)
    assert same(model.changed(), before.changed())


@pytest.mark.parametrize(("kind", "name"), EVERY_LIST)
def test_every_list_has_a_tensor_like_the_scores_for_every_layer(kind: str, name: str) -> None:
    layers = [torch.ones(shape, dtype=torch.bool) for shape in SHAPES]
    if name != "active":
        layers = [layer.float() for layer in layers]
    refused(kind, f"{name} is a tensor; give a list", **{name: layers[0]})
    refused(kind, f"scores has 3 layers and {name} 2; give one tensor", **{name: layers[:2]})
    found = rf"in layer 1, {name} is \(7, 5\) on cpu and scores \(0,\) on cpu; make them alike"
    refused(kind, found, **{name: [layers[0], layers[0], layers[2]]})
    found = rf"in layer 2, {name} is \(4, 2, 3, 3\) on meta and scores \(4, 2, 3, 3\) on cpu"
    refused(kind, found, **{name: [*layers[:2], layers[2].to("meta")]})


@pytest.mark.parametrize("kind", WHERE)
def test_active_is_bool(kind: str) -> None:
    layers = [torch.ones(shape) for shape in SHAPES]
    refused(kind, "in layer 0, active is torch.float32; give bool tensors", active=layers)


@pytest.mark.parametrize("kind", WHERE)
def test_effective_weights_need_weights(kind: str) -> None:
    refused(kind, "effective weights are wanted without weights; give both", weights=None)


@pytest.mark.parametrize(
    ("kind", "name"),
    [("sgd", "scores"), ("sgd", "buffers"), ("adam", "exp_avgs"), ("adam", "exp_avg_sqs")],
)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_scores_and_memories_share_one_wide_dtype(kind: str, name: str, dtype) -> None:
    layers = [torch.ones(shape) for shape in SHAPES[:2]] + [torch.ones(SHAPES[2], dtype=dtype)]
    message = f"scores and what is remembered of them are {dtype} and torch.float32; keep all in"
    refused(kind, message, **{name: layers})


@pytest.mark.parametrize("kind", WHERE)
@pytest.mark.parametrize("name", ["grads", "weights", "effective"])
def test_gradients_and_weights_are_floats(kind: str, name: str) -> None:
    layers = [torch.ones(shape) for shape in SHAPES[:2]] + [torch.ones(SHAPES[2]).long()]
    given = {"weights": [torch.ones(shape) for shape in SHAPES], name: layers}
    refused(kind, "a gradient or a weight is torch.int64; give float dtypes", **given)


@every_number
def test_a_number_is_one_number_beside_the_scores(kind: str, name: str) -> None:
    wanted = "give a number, or a 0-d tensor on cpu"
    refused(kind, rf"{name} is \(1,\) on cpu; {wanted}", **{name: torch.ones(1)})
    refused(kind, rf"{name} is \(\) on meta; {wanted}", **{name: torch.ones((), device="meta")})

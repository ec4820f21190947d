"""Every operator keeps PyTorch's contract: schema, shapes unseen, gradients, compile, export."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from gemkern.kernels.table import OPERATORS
from operator_samples import SAMPLES
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_leaves, tree_map_only

from gemkern import ops

IN_PLACE = ("remove_lowest", "score_step_sgd", "score_step_adam")
PAIRS = [(operator, sample) for operator, samples in SAMPLES.items() for sample in samples]
NEW_TENSORS = [pair for pair in PAIRS if pair[0] not in IN_PLACE]

Numbers = Callable[..., Tensor]


def overload(operator: str) -> Any:
    return getattr(torch.ops.gemkern, operator).default


def listed(result: Any) -> list[Tensor]:
    return [result] if isinstance(result, Tensor) else list(result)


def test_every_operator_of_the_table_is_registered_and_has_samples() -> None:
    registered = {name.split("::")[1].split(".")[0]
                  for name in torch._C._dispatch_get_all_op_names()
                  if name.startswith("gemkern::")}  # fmt: skip
    assert registered == set(OPERATORS) == set(SAMPLES)


@pytest.mark.parametrize(("operator", "sample"), PAIRS)
def test_opcheck(operator: str, sample: str) -> None:
    torch.library.opcheck(overload(operator), copy.deepcopy(SAMPLES[operator][sample]))


def run_unseen(operator: str, arguments: Any) -> Any:
    """Run the operator on tensors that have shapes and strides, but no numbers."""
    with FakeTensorMode() as mode:
        return overload(operator)(*tree_map_only(Tensor, mode.from_tensor, arguments))


@pytest.mark.parametrize(("operator", "sample"), NEW_TENSORS)
def test_shapes_strides_and_dtypes_are_known_without_numbers(operator: str, sample: str) -> None:
    arguments = SAMPLES[operator][sample]
    unseen = listed(run_unseen(operator, arguments))
    for expected, made in zip(listed(overload(operator)(*arguments)), unseen, strict=True):
        if expected is None:
            assert made is None
            continue
        assert (made.shape, made.dtype) == (expected.shape, expected.dtype)
        assert made.stride() == expected.stride()


@pytest.mark.parametrize("operator", IN_PLACE)
def test_what_changes_in_place_needs_no_numbers_and_returns_nothing(operator: str) -> None:
    for arguments in SAMPLES[operator].values():
        assert run_unseen(operator, arguments) is None


@pytest.mark.parametrize("operator", OPERATORS)
def test_the_name_of_a_backend_is_the_last_argument(operator: str) -> None:
    *_, last = overload(operator)._schema.arguments
    assert (last.name, str(last.type)) == ("backend", "str")


def make_conv2d(draw: Numbers) -> tuple[Any, ...]:
    return draw(2, 4, 6, 5), draw(6, 2, 3, 3), draw(6, 2, 3, 3), draw(6, 2, 3, 3) > 0, draw(6)


def run_conv2d(*operands: Tensor) -> Tensor:
    return ops.masked_conv2d(*operands, stride=2, padding=1, groups=2)


def make_linear(draw: Numbers) -> tuple[Any, ...]:
    return draw(2, 4, 5), draw(3, 5), draw(3, 5), draw(3, 5) > 0, draw(3)


def make_layers(draw: Numbers) -> tuple[list[Tensor], list[Tensor]]:
    return [draw(4, 3), draw(5)], [draw(4, 3) > -1, draw(5) > -1]


def make_masks(draw: Numbers) -> tuple[Any, ...]:
    return *make_layers(draw), draw()


def make_weights(draw: Numbers) -> tuple[Any, ...]:
    return [draw(4, 3), draw(5)], *make_layers(draw), draw()


def run_packing(mask: Tensor) -> tuple[Tensor, Tensor]:
    packed = ops.pack_mask(mask)
    return packed, ops.unpack_mask(packed, mask.shape)


def make_ranking(draw: Numbers) -> tuple[Any, ...]:
    return *make_layers(draw), draw().abs().mul(3).long()


def run_removal(values: list[Tensor], active: list[Tensor], k: Tensor) -> list[Tensor]:
    ops.remove_lowest(values, active, *ops.select_kth(values, active, k))
    return active


def make_popup(draw: Numbers) -> tuple[Any, ...]:
    return *(([draw(4, 3), draw(5)]) for _ in range(2)), draw(2).abs().mul(2).ceil().long()


def make_step(draw: Numbers) -> tuple[Any, ...]:
    scores, active = make_layers(draw)
    others = [[draw(4, 3), draw(5)] for _ in range(5)]
    others[2] = [square.abs() for square in others[2]]
    return scores, active, *others, draw().abs() / 10, draw().abs() / 10, draw().abs().ceil() + 1


def run_sgd(scores, active, grads, buffers, _, weights, effective, lr, l2, step) -> list[Tensor]:
    layers = (scores, active, grads, buffers, weights, effective)
    ops.score_step_sgd(*layers, lr=lr, l2=l2, nesterov=True)
    return [*scores, *buffers, *effective]


def run_adam(scores, active, grads, means, squares, weights, effective, lr, l2, step):
    layers = (scores, active, grads, means, squares, weights, effective)
    ops.score_step_adam(*layers, lr=lr, l2=l2, step=step)
    return [*scores, *means, *squares, *effective]


PATTERN = ops.pattern(torch.arange(24).reshape(3, 2, 2, 2) % 3 == 0)
PATTERN_LINEAR = ops.pattern(torch.arange(15).reshape(3, 5) % 2 == 0)


def make_sparse_conv2d(draw: Numbers) -> tuple[Any, ...]:
    return draw(2, 2, 6, 5), draw(8), draw(3)


def run_sparse_conv2d(x: Tensor, values: Tensor, bias: Tensor) -> Tensor:
    return ops.sparse_conv2d(x, values, PATTERN, bias, stride=2, padding=1)


def make_norm(draw: Numbers) -> tuple[Any, ...]:
    return draw(4, 3, 2, 2), draw(4, 3, 2, 2), draw(3), draw(3), draw(3), draw(3).abs()


def make_norm_pool(draw: Numbers) -> tuple[Any, ...]:
    return draw(4, 3, 5, 4), draw(3), draw(3).abs() + 0.1, draw(3), draw(3)


def run_norm_pool(x: Tensor, *statistics: Tensor) -> Tensor:
    return ops.normalise_max_pool2d(x, ops.Norm(*statistics), 2)


COMPILED: dict[str, tuple[Callable[..., Any], Callable[[Numbers], tuple[Any, ...]]]] = {
    "masked_conv2d": (run_conv2d, make_conv2d),
    "masked_linear": (ops.masked_linear, make_linear),
    "sparse_conv2d": (run_sparse_conv2d, make_sparse_conv2d),
    "sparse_linear": (
        lambda x, values: ops.sparse_linear(x, values, PATTERN_LINEAR),
        lambda draw: (draw(4, 5), draw(8)),
    ),
    "batch_norm_relu": (ops.batch_norm_relu, make_norm),
    "normalise_max_pool2d": (run_norm_pool, make_norm_pool),
    "max_pool2d": (lambda x: ops.max_pool2d(x, 2), lambda draw: (draw(2, 3, 4, 4),)),
    "average_pool2d": (lambda x: ops.average_pool2d(x, 2), lambda draw: (draw(2, 3, 4, 4),)),
    "batch_last": (ops.batch_last, lambda draw: (draw(4, 3, 5, 2),)),
    "contiguous": (lambda x: ops.contiguous(x.T), lambda draw: (draw(4, 3),)),
    "padded_shortcut": (
        lambda x: ops.padded_shortcut(x, 2, 1, 2),
        lambda draw: (draw(2, 3, 5, 4),),
    ),
    "threshold": (ops.threshold, make_masks),
    "effective_weight": (ops.effective_weight, make_weights),
    "pack and unpack": (run_packing, lambda draw: (draw(3, 5) > 0,)),
    "select_kth": (ops.select_kth, make_ranking),
    "remove_lowest": (run_removal, make_ranking),
    "popup_mask": (lambda _, *given: ops.popup_mask(*given), make_popup),
    "popup_weight": (ops.popup_weight, make_popup),
    "score_step_sgd": (run_sgd, make_step),
    "score_step_adam": (run_adam, make_step),
}


def numbers(seed: int) -> Numbers:
    generator = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.randn(shape, generator=generator)


def same(one: Any, other: Any) -> bool:
    return all(map(torch.equal, listed(one), listed(other)))


@pytest.mark.parametrize("name", COMPILED)
def test_compiled_is_eager_bit_for_bit_and_new_numbers_need_no_new_graph(name: str) -> None:
    torch._dynamo.reset()
    run, make = COMPILED[name]
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(run, fullgraph=True, backend=counter)
    results = []
    for seed in range(3):
        results.append(run(*make(numbers(seed))))
        assert same(compiled(*make(numbers(seed))), results[-1])
    assert counter.frame_count == 1
    assert not same(results[0], results[1])


@pytest.mark.parametrize(
    "name",
    [
        "masked_conv2d",
        "masked_linear",
        "effective_weight",
        "popup_weight",
        "sparse_conv2d",
        "sparse_linear",
        "normalise_max_pool2d",
        "max_pool2d",
        "average_pool2d",
        "batch_last",
        "contiguous",
        "padded_shortcut",
    ],
)
def test_compiled_gradients_are_eager_ones(name: str) -> None:
    torch._dynamo.reset()
    run, make = COMPILED[name]
    gradients = []
    for call in (run, torch.compile(run, fullgraph=True, backend="aot_eager")):
        operands = make(numbers(0))
        learning = [t for t in tree_leaves(operands) if t.is_floating_point()]
        outputs = listed(call(*tree_map_only(Tensor, require, operands)))
        sum(y.square().sum() for y in outputs).backward()
        gradients.append([leaf.grad for leaf in learning if leaf.dim()])
    assert all(grad is not None for grad in gradients[0])
    assert same(*gradients)


def require(tensor: Tensor) -> Tensor:
    return tensor.requires_grad_() if tensor.is_floating_point() and tensor.dim() else tensor


class Everything(nn.Module):
    """A forward pass through operators that make tensors, on numbers of its own."""

    def __init__(self) -> None:
        super().__init__()
        conv, linear = make_conv2d(numbers(0)), make_linear(numbers(1))
        for index, (of_conv, of_linear) in enumerate(zip(conv[1:], linear[1:], strict=True)):
            self.register_buffer(f"conv{index}", of_conv)
            self.register_buffer(f"linear{index}", of_linear)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        y = run_conv2d(x, self.conv0, self.conv1, self.conv2, self.conv3)
        layers = [self.linear1, self.conv1], [self.linear2, self.conv2]
        (effective, _) = ops.effective_weight([self.linear0, self.conv0], *layers)
        z = ops.masked_linear(
            y.mean((2, 3))[:, :5], effective, self.linear1, self.linear2, self.linear3
        )
        packed = ops.pack_mask(self.linear2)
        kth, ties = ops.select_kth(*layers, ops.threshold(*layers)[0].sum())
        kept = ties.repeat(2)
        (popped, _), masks = (
            ops.popup_weight(*layers[:1] * 2, kept),
            ops.popup_mask(layers[0], kept),
        )
        pooled = ops.average_pool2d(ops.max_pool2d(ops.batch_norm_relu(x), 2), 2)
        pooled = ops.batch_last(ops.contiguous(ops.padded_shortcut(pooled, 1, 1, 1)))
        sparse = ops.sparse_conv2d(x[:, :2], self.conv0.flatten()[:8], PATTERN).sum()
        sparse = (
            sparse
            + ops.sparse_linear(
                y.flatten(1)[:, :5], self.linear0[0, 0].repeat(8), PATTERN_LINEAR
            ).sum()
        )
        measured = ops.norm_sparse_conv2d(
            x[:, :2], self.conv0.flatten()[:8], PATTERN, keep=True, moments=True
        )
        statistics = ops.Norm(measured.mean, measured.var)
        sparse = sparse + ops.normalise(measured.y, statistics).sum() + measured.z.sum()
        sparse = sparse + ops.normalise_max_pool2d(measured.y, statistics, 2).sum()
        kth = kth + popped.sum() + masks[0].sum() + pooled.sum() + sparse
        return y, z, ops.unpack_mask(packed, (3, 5)), ops.pack_mask(self.conv2), kth, ties


def test_export_keeps_the_operators_and_a_free_batch() -> None:
    model = Everything()
    x = make_conv2d(numbers(2))[0]
    program = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    called = {str(node.target) for node in program.graph.nodes if "gemkern" in str(node.target)}
    gradients = {op for op in OPERATORS if op.endswith(("_grad", "_backward"))}
    gradients |= {"straight_through"}
    assert called == {f"gemkern.{op}.default" for op in {*OPERATORS} - gradients - {*IN_PLACE}}
    for batch in (x, torch.cat([x, x + 1])):
        assert same(program.module()(batch), model(batch))


class Removal(nn.Module):
    """Removes the k lowest of its values."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("values", torch.arange(6.0).flip(0))
        self.register_buffer("active", torch.ones(6, dtype=torch.bool))

    def forward(self, k: Tensor) -> Tensor:
        run_removal([self.values], [self.active], k)
        return self.active.sum()


def test_export_keeps_a_change_in_place() -> None:
    program = torch.export.export(Removal(), (torch.tensor(1),)).module()
    assert [program(torch.tensor(k)).item() for k in (2, 3)] == [4, 1]
    assert program.active.tolist() == [True] + [False] * 5

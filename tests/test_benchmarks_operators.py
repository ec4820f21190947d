"""The benchmarks of single operators time what is right, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from benchmarks import bench_cpu, bench_layers, bench_operators, operators
from benchmarks.bench_layers import Shape
from benchmarks.cpu_layers import Layer
from benchmarks.gpu.exactness import WrongResult
from benchmarks.operators import AUTHORS, COMPILED, DENSE, EAGER, OURS

NETWORK = {"network": "resnet20"}
CONV, LINEAR = {"shape": Shape(4, 4)}, {"shape": Shape(8)}
IMAGE = {"channels": 4, "size": 4}
LAYER = {"layer": Layer("small", 8, 8, 4)}
Contender = tuple[Callable[..., None], str, dict[str, Any]]
MASKS: list[Contender] = [
    (bench, contender, NETWORK)
    for bench, contenders in (
        (bench_operators.bench_threshold, (OURS, AUTHORS, EAGER)),
        (bench_operators.bench_effective_weight, (OURS, AUTHORS, EAGER)),
        (bench_operators.bench_network_score_step, (OURS, AUTHORS, EAGER)),
        (bench_operators.bench_edge_popup, (OURS, AUTHORS, bench_operators.TOPK)),
        (bench_operators.bench_freeze, (OURS, AUTHORS, bench_operators.SORT, bench_operators.TOPK)),
    )
    for contender in contenders
]
LAYERS: list[Contender] = [
    (bench, contender, of)
    for bench, contenders, of in (
        (bench_layers.bench_masked_layer, (OURS, AUTHORS, EAGER, DENSE), CONV),
        (bench_layers.bench_masked_layer, (OURS, AUTHORS, EAGER, DENSE), LINEAR),
        (bench_layers.bench_norm_relu, (OURS, "contiguous", "channels-last"), IMAGE),
        (bench_layers.bench_norm_pool, (OURS, bench_layers.APART, "channels-last"), IMAGE),
        (bench_layers.bench_pooling, (OURS, "channels-last"), {**IMAGE, "kind": "average"}),
        (bench_layers.bench_pooling, (OURS, "contiguous"), {**IMAGE, "kind": "maximum"}),
        (
            bench_layers.bench_shortcut,
            (OURS, bench_layers.KEPT, "contiguous", "channels-last"),
            IMAGE,
        ),
    )
    for contender in contenders
]


class Noted:
    """A `benchmark` fixture that runs nothing, and notes that it was asked to."""

    group = ""
    timed = 0

    def pedantic(self, work: Callable[[], object], **options: object) -> None:
        self.timed += 1


@pytest.fixture
def noted(monkeypatch: pytest.MonkeyPatch) -> Noted:
    monkeypatch.setattr(operators, "compiled", lambda function: function)
    monkeypatch.setattr(bench_operators, "compiled", lambda function: function)
    monkeypatch.setattr(bench_layers, "compiled", lambda function: function)
    monkeypatch.setattr(bench_layers, "BATCH", 4)
    return Noted()


@pytest.mark.parametrize(("bench", "contender", "of"), [*MASKS, *LAYERS])
def test_what_is_right_is_timed(
    bench: Callable[..., None], contender: str, of: dict[str, Any], noted: Noted
) -> None:
    bench(noted, contender=contender, **of)
    assert noted.timed == 1
    assert noted.group


def spoil(of: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a function give 1.01 times what it gave, or the opposite of a mask."""
    right = getattr(of, name)

    def wrong(values: Any) -> Any:
        if isinstance(values, torch.Tensor):
            return ~values if values.dtype == torch.bool else 1.01 * values
        if callable(values):
            return lambda: wrong(values())
        return type(values)(map(wrong, values))

    monkeypatch.setattr(of, name, lambda *given, **options: wrong(right(*given, **options)))


SPOILT = [
    (bench_operators.bench_threshold, OURS, NETWORK, bench_operators.ops, "threshold"),
    (bench_operators.bench_threshold, EAGER, NETWORK, bench_operators.base, "eager_threshold"),
    (bench_operators.bench_threshold, AUTHORS, NETWORK, bench_operators.base.AuthorsMask, "mask"),
    (bench_operators.bench_effective_weight, OURS, NETWORK, bench_operators.ops,
     "effective_weight"),
    (bench_operators.bench_effective_weight, AUTHORS, NETWORK, bench_operators.base.AuthorsMask,
     "forward"),
    (bench_operators.bench_network_score_step, AUTHORS, NETWORK, bench_operators.base.AuthorsMask,
     "mask"),
    (bench_operators.bench_network_score_step, EAGER, NETWORK, bench_operators.base,
     "eager_threshold"),
    (bench_operators.bench_edge_popup, OURS, NETWORK, bench_operators.ops, "popup_weight"),
    (bench_operators.bench_edge_popup, AUTHORS, NETWORK, bench_operators.base, "sorted_popup"),
    (bench_operators.bench_freeze, OURS, NETWORK, bench_operators.ops, "select_kth"),
    (bench_layers.bench_masked_layer, OURS, CONV, bench_layers.ops, "masked_conv2d"),
    (bench_layers.bench_masked_layer, OURS, LINEAR, bench_layers.ops, "masked_linear"),
    (bench_layers.bench_masked_layer, AUTHORS, CONV, bench_layers.AuthorsMask, "forward"),
    (bench_layers.bench_masked_layer, DENSE, LINEAR, bench_layers, "_with_gradients"),
    (bench_layers.bench_norm_relu, OURS, IMAGE, bench_layers, "our_norm_relu"),
    (bench_layers.bench_norm_pool, OURS, IMAGE, bench_layers, "our_norm_pool"),
    (bench_layers.bench_pooling, OURS, {**IMAGE, "kind": "maximum"}, bench_layers.ops,
     "max_pool2d"),
    (bench_layers.bench_pooling, OURS, {**IMAGE, "kind": "average"}, bench_layers.ops,
     "average_pool2d"),
    (bench_layers.bench_shortcut, OURS, IMAGE, bench_layers.ops, "padded_shortcut"),
    (bench_layers.bench_shortcut, bench_layers.KEPT, IMAGE, bench_layers, "kept_padded_slice"),
]  # fmt: skip


@pytest.mark.parametrize(("bench", "contender", "of", "where", "name"), SPOILT)
def test_what_is_wrong_is_not_timed(
    bench: Callable[..., None],
    contender: str,
    of: dict[str, Any],
    where: Any,
    name: str,
    noted: Noted,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spoil(where, name, monkeypatch)
    with pytest.raises((AssertionError, WrongResult)):
        bench(noted, contender=contender, **of)
    assert noted.timed == 0


def test_a_fused_step_that_does_nothing_is_not_timed(
    noted: Noted, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = bench_operators.ops.score_step_sgd

    def idle(*lists: Any, backend: str = "auto", **options: Any) -> None:
        if backend == "reference":
            right(*lists, backend=backend, **options)

    monkeypatch.setattr(bench_operators.ops, "score_step_sgd", idle)
    for bench, of in (
        (bench_operators.bench_network_score_step, {"contender": OURS, **NETWORK}),
        (bench_operators.bench_score_step, {"contender": bench_operators.FUSED}),
    ):
        with pytest.raises(AssertionError):
            bench(noted, **of)
    assert noted.timed == 0


def test_a_dense_result_in_another_layout_is_compared(
    noted: Noted, monkeypatch: pytest.MonkeyPatch
) -> None:
    which, contender = "forward", "channels_last"
    right = bench_cpu.calls(LAYER["layer"], bench_cpu.DENSITY)
    bench_cpu.bench_sparse_convolution(noted, which=which, contender=contender, **LAYER)
    assert noted.timed == 1
    spoilt = {**right[which], contender: lambda: 1.01 * right[which][contender]()}
    monkeypatch.setattr(bench_cpu, "calls", lambda layer, density: {which: spoilt})
    with pytest.raises(AssertionError):
        bench_cpu.bench_sparse_convolution(noted, which=which, contender=contender, **LAYER)
    assert noted.timed == 1


def test_a_compiler_may_be_missing_but_nothing_else() -> None:
    def broken() -> None:
        raise RuntimeError("no compiler")

    with pytest.raises(pytest.skip.Exception, match="does not work here: RuntimeError: no comp"):
        operators.first_result(COMPILED, broken)
    with pytest.raises((RuntimeError, pytest.skip.Exception)) as raised:
        operators.first_result(EAGER, broken)
    assert raised.type is RuntimeError


def test_a_benchmark_has_as_many_rounds_as_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[int] = []

    class Counting(Noted):
        def pedantic(self, work: Callable[[], object], rounds: int) -> None:
            found.append(rounds)

    for seconds, wanted in ((1.0, operators.LEAST), (0.02, 25), (1e-6, operators.MOST)):
        clock = iter((0.0, seconds))
        monkeypatch.setattr(operators.time, "perf_counter", lambda clock=clock: next(clock))
        operators.timed(Counting(), int)
        assert found.pop() == wanted

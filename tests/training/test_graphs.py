"""Captured steps give the bits of eager ones, whatever happens between them."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from recorded_graphs import RecordedGraphs
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import gemkern as gk
from gemkern.data import Dataset
from gemkern.errors import GemkernError
from gemkern.optim import masked_layers
from gemkern.training import (
    EpochStats,
    Method,
    Trainee,
    WeightTraining,
    graphs,
    train,
    train_together,
    weights,
)
from gemkern.training.graphs import WARM_UPS

BATCH, STEPS = 16, 6
Maker = Callable[[nn.Module], Any]


def dense(network: nn.Module) -> Method:
    return WeightTraining(network, 4, lr=0.05, nesterov=True)


def half_masked(network: nn.Module) -> Method:
    gk.convert(network)
    network[0].active.view(-1)[::2] = False
    return WeightTraining(network, 4, lr=0.05)


def mined(**options: Any) -> Maker:
    def make(network: nn.Module) -> Method:
        gk.convert(network, scores=True)
        return gk.GemMiner(network, 0.3, 4, 1, **{"seed": 0, "l2": 1e-3, "lr": 0.05, **options})

    return make


def pruned(rewind: str | int) -> Maker:
    def make(network: nn.Module) -> Method:
        gk.convert(network)
        return gk.IMP(network, 0.4, 2, prune=0.4, rewind=rewind)

    return make


METHODS = {
    "dense": dense,
    "half masked": half_masked,
    "SGD, fused": mined(),
    "SGD": mined(fused=False),
    "Adam, fused": mined(optimizer="adam"),
    "Adam": mined(optimizer="adam", fused=False),
    "authors' ties": mined(ties="authors"),
    "authors' halves": mined(half="down"),
    "IMP to init": pruned("init"),
    "IMP to a warm-up": pruned(2),
    "IMP to a replay": pruned(STEPS + 2),
    "IMP, learning rate": pruned("learning-rate"),
}


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> RecordedGraphs:
    """Let the CPU's steps be captured, and weights be trained as they are on a CUDA device."""
    recorder = RecordedGraphs()
    monkeypatch.setattr(graphs, "graphs_on", lambda device: recorder)
    monkeypatch.setattr(weights, "on_cuda", lambda model: True)
    return recorder


@pytest.fixture
def with_dropout(network: nn.Module) -> nn.Module:
    return nn.Sequential(*network[:4], nn.Dropout(0.25), network[4])


@pytest.fixture(autouse=True)
def _same_random_numbers() -> Iterator[None]:
    with torch.random.fork_rng([]):
        yield


def state_of(model: nn.Module, method: Any) -> list[Tensor]:
    """Everything that is learnt, and everything that is remembered of it."""
    leaves = tree_leaves((model.state_dict(), method.state_dict()))
    return [leaf.detach().clone() for leaf in leaves if isinstance(leaf, Tensor)]


def run(
    network: nn.Module, dataset: Dataset, make: Maker, **options: Any
) -> tuple[list[float], list[Tensor]]:
    """Train a copy of `network` and return the losses and the state at the end."""
    model = copy.deepcopy(network)
    method = make(model)
    stats: list[EpochStats] = []
    torch.manual_seed(3)
    fixed = {"batch_size": BATCH, "on_epoch": stats.append}
    train(model, method, dataset, **{"seed": 0, **fixed, **options})
    return [epoch.loss for epoch in stats], [*state_of(model, method), torch.get_rng_state()]


def assert_same(ours: tuple[Any, list[Tensor]], theirs: tuple[Any, list[Tensor]]) -> None:
    assert ours[0] == theirs[0]
    assert len(ours[1]) == len(theirs[1])
    assert all(torch.equal(a, b) for a, b in zip(ours[1], theirs[1], strict=True))


@pytest.mark.parametrize("autocast", [None, torch.bfloat16])
@pytest.mark.parametrize("name", METHODS)
def test_captured_once_it_learns_to_the_bits_of_eager_steps(
    network: nn.Module,
    stripes: Dataset,
    recorded: RecordedGraphs,
    name: str,
    autocast: torch.dtype | None,
) -> None:
    make = METHODS[name]
    eager = run(network, stripes, make, graph=False, autocast=autocast)
    assert (recorded.warm_ups, recorded.captures, recorded.replays) == (0, 0, 0)
    captured = run(network, stripes, make, autocast=autocast)
    assert_same(captured, eager)
    steps = STEPS * len(eager[0])
    replays = steps - WARM_UPS
    assert (recorded.warm_ups, recorded.captures, recorded.replays) == (WARM_UPS, 1, replays)


@pytest.mark.parametrize("name", METHODS)
def test_a_graph_of_masks_fills_no_more_than_one_of_plain_weights(
    network: nn.Module, stripes: Dataset, recorded: RecordedGraphs, name: str
) -> None:
    run(network, stripes, dense)
    plain = recorded.fills
    run(network, stripes, METHODS[name])
    assert recorded.fills <= plain


def test_captured_steps_draw_new_random_numbers(
    with_dropout: nn.Module, stripes: Dataset, recorded: RecordedGraphs
) -> None:
    eager = run(with_dropout, stripes, dense, graph=False)
    assert_same(run(with_dropout, stripes, dense), eager)
    assert recorded.captures == 1


def places(model: nn.Module, method: Any) -> dict[str, int]:
    """Where everything lies that a step reads or writes, by name."""
    optimizer = (
        getattr(method, "_optimizer", None) or getattr(method, "_training", method).optimizer
    )
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    for name, layer in masked_layers(model).items():
        if layer.effective is not None:
            tensors[f"effective weight of {name}"] = layer.effective.leaf
    for index, memory in enumerate(optimizer.state.values()):
        tensors |= {f"{entry} of {index}": tensor for entry, tensor in memory.items()}
    tensors |= {
        f"{entry} of group": value
        for entry, value in optimizer.param_groups[0].items()
        if isinstance(value, Tensor)
    }
    numbers = getattr(optimizer, "_numbers", {})
    tensors |= {entry: number for (_, entry), (_, number) in numbers.items()}
    return {name: tensor.data_ptr() for name, tensor in tensors.items()}


@pytest.mark.parametrize("name", [name for name in METHODS if name != "dense"])
def test_nothing_that_a_step_touches_moves(
    network: nn.Module, stripes: Dataset, recorded: RecordedGraphs, name: str
) -> None:
    method = METHODS[name](network)
    seen: list[dict[str, int]] = []

    def look(stats: EpochStats) -> None:
        seen.append(places(network, method))

    train(network, method, stripes, batch_size=BATCH, seed=0, on_epoch=look)
    first, *others = seen
    rewinds = name.startswith("IMP")
    assert len(seen) == (4 if not rewinds else method.epochs)
    assert any("of 0" in place for place in first)
    assert any(place.startswith("lr") for place in first)
    assert ("effective weight of 0" in first) == (name not in ("SGD", "Adam"))
    for later in others[: len(others) if rewinds else -1]:
        assert later == first


class FailedGraphs(RecordedGraphs):
    """Captures that fail: after `operators` of them, or at the end of all."""

    def __init__(self, operators: int | None) -> None:
        super().__init__()
        self._left = operators

    def capture(self, call: Callable[[], None]) -> Callable[[], None]:
        def interrupted() -> None:
            if self._left is None:
                call()
                try:
                    raise RuntimeError("the capture\nwas invalidated")
                finally:
                    raise RuntimeError("so there is nothing to end")
            with Interruption(self._left):
                call()

        return super().capture(interrupted)


class Interruption(torch.utils._python_dispatch.TorchDispatchMode):
    def __init__(self, after: int) -> None:
        super().__init__()
        self._left = after

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._left -= 1
        if self._left < 0:
            raise RuntimeError("the capture\nwas invalidated")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("operators", [0, 30, 50, 62, None])
@pytest.mark.parametrize("name", ["dense", "SGD, fused", "Adam", "IMP to a replay"])
def test_a_capture_that_fails_leaves_no_trace_but_a_warning(
    with_dropout: nn.Module,
    stripes: Dataset,
    recorded: RecordedGraphs,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    name: str,
    operators: int | None,
) -> None:
    eager = run(with_dropout, stripes, METHODS[name], graph=False)
    failing = FailedGraphs(operators)
    monkeypatch.setattr(graphs, "graphs_on", lambda device: failing)
    with caplog.at_level(logging.WARNING, "gemkern"):
        assert_same(run(with_dropout, stripes, METHODS[name]), eager)
    assert (failing.captures, failing.replays) == (1, 0)
    (record,) = caplog.records
    assert record.getMessage() == (
        "gemkern: training goes on without a CUDA graph of its step "
        "(RuntimeError: the capture was invalidated)"
    )


def test_a_capture_that_takes_the_random_numbers_with_it_is_an_error(
    network: nn.Module, stripes: Dataset, recorded: RecordedGraphs, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Spoiling(FailedGraphs):
        def capture(self, call: Callable[[], None]) -> Callable[[], None]:
            monkeypatch.setattr(torch, "rand", no_numbers)
            return super().capture(call)

    def no_numbers(*shape: int, **options: Any) -> Tensor:
        raise RuntimeError("Offset increment outside graph capture encountered unexpectedly.")

    monkeypatch.setattr(graphs, "graphs_on", lambda device: Spoiling(30))
    with pytest.raises(
        GemkernError, match=r"the capture was invalidated\), and since then PyTorch"
    ):
        run(network, stripes, dense)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("graph", [True, False])
def test_together_each_learns_what_it_learns_alone(
    network: nn.Module, stripes: Dataset, recorded: RecordedGraphs, name: str, graph: bool
) -> None:
    trainees, stats = [], []
    for seed in (0, 1, 2):
        model = copy.deepcopy(network)
        learnt: list[EpochStats] = []
        trainees.append(Trainee(model, METHODS[name](model), seed, learnt.append))
        stats.append(learnt)
    train_together(trainees, stripes, batch_size=BATCH, graph=graph)
    assert (recorded.captures, recorded.widest) == ((1, 3) if graph else (0, 0))
    for trainee, learnt in zip(trainees, stats, strict=True):
        alone = run(network, stripes, METHODS[name], seed=trainee.seed, graph=False)
        together = [epoch.loss for epoch in learnt], state_of(trainee.model, trainee.method)
        assert_same(together, (alone[0], alone[1][:-1]))
    assert len({epochs[0].loss for epochs in stats}) == 3, "the seeds can be told apart"


def test_together_a_capture_that_fails_fails_for_all(
    network: nn.Module, stripes: Dataset, recorded: RecordedGraphs, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = FailedGraphs(62 + 73)
    monkeypatch.setattr(graphs, "graphs_on", lambda device: failing)
    models = [copy.deepcopy(network) for _ in range(2)]
    trainees = [Trainee(model, dense(model), seed) for seed, model in enumerate(models)]
    train_together(trainees, stripes, batch_size=BATCH)
    assert (failing.captures, failing.replays) == (1, 0)
    for trainee in trainees:
        _, alone = run(network, stripes, dense, seed=trainee.seed, graph=False)
        assert_same((0, state_of(trainee.model, trainee.method)), (0, alone[:-1]))


def test_together_none_is_captured_where_one_cannot_be(
    network: nn.Module, stripes: Dataset, recorded: RecordedGraphs
) -> None:
    models = [copy.deepcopy(network) for _ in range(2)]
    makers = (mined(), mined(accelerated=True))
    trainees = [Trainee(model, make(model), 0) for model, make in zip(models, makers, strict=True)]
    train_together(trainees, stripes, batch_size=BATCH)
    assert recorded.captures == recorded.warm_ups == 0


def test_a_step_that_reads_the_device_is_not_captured(
    stripes: Dataset, network: nn.Module, recorded: RecordedGraphs, caplog: pytest.LogCaptureFixture
) -> None:
    class Reading(nn.ReLU):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) if x.sum() > -1 else x

    reading = nn.Sequential(*network[:2], Reading(), *network[3:])
    eager = run(network, stripes, dense, graph=False)
    assert_same(run(reading, stripes, dense), eager)
    assert (recorded.captures, recorded.replays) == (1, 0)
    assert "_local_scalar_dense" in caplog.text


@pytest.mark.parametrize(
    "make",
    [
        mined(accelerated=True),
        lambda network: (
            gk.convert(network),
            gk.IMP(network, 0.4, 2, prune=0.4, accelerated=True),
        )[1],
    ],
)
def test_accelerated_searches_are_not_captured(
    network: nn.Module,
    stripes: Dataset,
    recorded: RecordedGraphs,
    caplog: pytest.LogCaptureFixture,
    make: Maker,
) -> None:
    run(network, stripes, make)
    assert (recorded.warm_ups, recorded.captures) == (0, 0)
    (record,) = caplog.records
    assert "without a CUDA graph of its step (it changes what" in record.getMessage()


def test_on_a_cpu_there_is_nothing_to_say(
    network: nn.Module, stripes: Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    method = half_masked(network)
    assert not method.capturable
    train(network, method, stripes, batch_size=BATCH, seed=0)
    assert not caplog.records


def test_a_number_of_the_host_would_be_noticed(
    network: nn.Module,
    stripes: Dataset,
    recorded: RecordedGraphs,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def make(network: nn.Module) -> Method:
        method = half_masked(network)
        monkeypatch.setattr(method, "capturable", True)
        return method

    monkeypatch.setattr(weights, "on_cuda", lambda model: False)
    losses, _ = run(network, stripes, make, graph=False)
    replayed, _ = run(network, stripes, make)
    assert replayed[0] == losses[0]
    assert replayed[2] != losses[2]

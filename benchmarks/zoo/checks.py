"""What is asked of a network of the zoo; every question is answered, whatever fails.

python -m benchmarks.zoo.checks NET SECONDS     one network, in a process of its own: a JSON line
"""

from __future__ import annotations

import copy
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median

import torch
from torch import nn

import gemkern as gk
from benchmarks.cpu_timing import Call, interleaved, spread
from benchmarks.zoo.nets import NETS, Net
from benchmarks.zoo.trio import SEED, Trio, called, fresh, leaves_of, loss_of, sparse
from gemkern.nn import is_accelerated
from gemkern.optim import masked_layers

DENSITY = 0.0144
# Of a search both epochs end in a freeze, and the first of them leaves an eighth of the weights.
EPOCHS, STEPS = 2, 2
# Of the steps that are timed: numbers stay what they are.
LEARNING_RATE, MOMENTUM = 1e-6, 0.9
ACCELERATED, MASKED, PLAIN = "accelerated", "masked", "plain"
OK = "ok"


@dataclass
class Row:
    """What was found of a network.

    Attributes:
        parameters: how many it has, and `masked` the fraction of them that gk.convert masks.
        unmasked: kinds of modules that hold other weights than vectors, and how many of each.
        dense: masked layers that gk.accelerate leaves dense, and why.
        answers: to each question "ok", or in a sentence what went wrong.
        errors: the largest relative ones of the accelerated network and of the dense one.
        times: medians of a training step in milliseconds, `spreads` their quartiles.
    """

    net: str
    side: int
    batch: int
    parameters: int = 0
    masked: float = 0.0
    unmasked: dict[str, int] = field(default_factory=dict)
    dense: dict[str, str] = field(default_factory=dict)
    answers: dict[str, str] = field(default_factory=dict)
    errors: dict[str, tuple[float, float]] = field(default_factory=dict)
    times: dict[str, float] = field(default_factory=dict)
    spreads: dict[str, tuple[float, float]] = field(default_factory=dict)

    def ask(self, question: str, check: Callable[[], object]) -> None:
        """Note the answer to a question."""
        try:
            check()
            self.answers[question] = OK
        except Exception as error:
            self.answers[question] = sentence(error)

    def is_ok(self, *questions: str) -> bool:
        return all(self.answers.get(question) == OK for question in questions)


def examine(net: Net, seconds: float) -> Row:
    """Ask a network everything; its speed in `seconds`, if they are not 0 and it is right."""
    row, found = Row(net.title, net.side, net.batch), []
    row.ask("convert", lambda: _convert(row, net))
    if not row.is_ok("convert"):
        return row
    row.ask("output", lambda: _outputs(row, net))
    row.ask("step", lambda: _steps(row, net))
    row.ask("switch", lambda: _switches(row, net))
    row.ask("mine", lambda: found.append(mined(net)))
    if found:
        row.ask("ticket", lambda: _ticket(net, found[0]))
    if seconds and row.is_ok("output", "step"):
        row.ask("speed", lambda: _time(row, net, seconds))
    return row


def mined(net: Net) -> gk.Ticket:
    """Return the ticket of a short search, all of which runs accelerated.

    Raises:
        AssertionError: it does not, or computes something else than dense.
    """
    model = fresh(net)
    gk.convert(model, scores=True)
    miner = gk.GemMiner(
        model,
        DENSITY,
        EPOCHS,
        freeze_every=1,
        rule="paper",
        optimizer="adam",
        seed=SEED,
        name=net.name,
        accelerated="always",
    )
    for epoch in range(EPOCHS):
        for step in range(STEPS):
            loss_of(called(net, model, epoch * STEPS + step)[1].values()).backward()
            miner.step()
        assert epoch == 0 or is_accelerated(model), f"it stays dense: {why_dense(model)}"
        miner.end_epoch()
    return miner.ticket()


def why_dense(model: nn.Module) -> str:
    left = gk.acceleration(model).left
    return "; ".join(f"{name}: {reason}" for name, reason in left.items())


def sentence(error: Exception) -> str:
    """Return in one line what an exception says, and its kind where it is not one of ours."""
    said = " ".join(str(error).split())
    ours = isinstance(error, gk.GemkernError | AssertionError)
    return said if ours else f"{type(error).__name__}: {said}"


def _convert(row: Row, net: Net) -> None:
    model = fresh(net)
    row.parameters = sum(one.numel() for one in model.parameters())
    report = gk.convert(model)
    masked = sum(layer.weight.numel() for layer in masked_layers(model).values())
    row.masked = masked / row.parameters
    left = [model.get_submodule(name) for name in report.left]
    row.unmasked = dict(Counter(_kind(module) for module in left if _holds_weights(module)))


def _holds_weights(module: nn.Module) -> bool:
    return any(one.dim() > 1 for one in module.parameters(recurse=False))


def _kind(module: nn.Module) -> str:
    """Return a module's kind, and the library of it: timm has a Linear of its own."""
    kind = type(module)
    return f"{kind.__module__.partition('.')[0]}.{kind.__name__}"


def _outputs(row: Row, net: Net) -> None:
    model = sparse(net, DENSITY)
    row.dense = gk.acceleration(model).left
    trio = Trio(net, model)
    try:
        trio.outputs(training=False)
        trio.outputs(training=True)
    finally:
        row.errors["output"] = trio.error, trio.rounding


def _steps(row: Row, net: Net) -> None:
    """Take more than one: from the first, layers learn how their results are used."""
    trio = Trio(net, sparse(net, DENSITY))
    try:
        for seed in range(STEPS):
            trio.step(seed)
    finally:
        row.errors["step"] = trio.error, trio.rounding


def _switches(row: Row, net: Net) -> None:
    trio = Trio(net, sparse(net, DENSITY))
    try:
        for training in (True, False):
            trio.outputs(training)
        trio.step()
        trio.outputs(training=False)
        trio.decelerate()
        trio.outputs(training=False)
    finally:
        row.errors["switch"] = trio.error, trio.rounding


def _ticket(net: Net, ticket: gk.Ticket) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ticket.safetensors"
        ticket.save(path)
        loaded = gk.Ticket.load(path)
    model = fresh(net)
    loaded.apply(model)
    for name, layer in masked_layers(model).items():
        assert torch.equal(layer.active, ticket.masks[name]), f"{name} has another mask"
    trio = Trio(net, model)
    trio.outputs(training=False)


def _time(row: Row, net: Net, seconds: float) -> None:
    model = sparse(net, DENSITY)
    plain = copy.deepcopy(model)
    gk.unconvert(plain)
    fast = gk.accelerate(copy.deepcopy(model))
    steps = {
        ACCELERATED: _training(net, fast, gk.MaskedSGD(fast, LEARNING_RATE, MOMENTUM)),
        MASKED: _training(net, model, gk.MaskedSGD(model, LEARNING_RATE, MOMENTUM)),
        PLAIN: _training(net, plain, torch.optim.SGD(plain.parameters(), LEARNING_RATE, MOMENTUM)),
    }
    times = interleaved(steps, seconds)
    row.times = {name: median(one) for name, one in times.items()}
    row.spreads = {name: spread(one) for name, one in times.items()}


def _training(net: Net, model: nn.Module, optimizer: torch.optim.Optimizer) -> Call:
    x = net.inputs(net.batch)

    def step() -> None:
        loss_of(leaves_of(model(x))).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


if __name__ == "__main__":
    torch.set_flush_denormal(True)
    print(json.dumps(asdict(examine(NETS[sys.argv[1]], float(sys.argv[2])))))

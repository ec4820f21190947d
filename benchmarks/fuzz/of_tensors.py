"""Fuzzers of the readers of tickets, weights and checkpoints."""

from __future__ import annotations

import contextlib
import functools
import io
import warnings
from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st
from rich.console import Console
from torch import Tensor, nn

from benchmarks.fuzz.child import reading
from benchmarks.fuzz.hunt import Fuzzer
from benchmarks.fuzz.laying import lay
from benchmarks.fuzz.tensor_files import WHOLE, Spoiled, plain, spoiled_files, stored, written
from gemkern import ops
from gemkern.data import Augment, Dataset, Split
from gemkern.errors import GemkernError
from gemkern.experiments.checkpoints import FILE as CHECKPOINT
from gemkern.experiments.job import Job, job
from gemkern.experiments.job_folder import JobFolder
from gemkern.experiments.laboratory import Laboratory
from gemkern.experiments.ranks import ALONE
from gemkern.experiments.running import begun
from gemkern.experiments.settings import Settings
from gemkern.experiments.states import pack
from gemkern.experiments.work import Work
from gemkern.models import load_weights
from gemkern.nn import convert
from gemkern.optim import masked_layers
from gemkern.report import overlap_table, ticket_table
from gemkern.tickets import Ticket
from gemkern.tickets.ticket import FILE as TICKET

LAYERS = ("0", "4")


def network() -> nn.Module:
    """Return a convolution and a classifier of images of 8 x 8."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10)
        )


@functools.cache
def whole_ticket() -> Ticket:
    """Return a ticket of the network."""
    model = network()
    convert(model)
    stream = torch.Generator().manual_seed(1)
    for layer in masked_layers(model).values():
        layer.active.copy_(torch.rand(layer.active.shape, generator=stream) < 0.25)
    return Ticket.from_model(model, method="gem-miner", name="tiny", seed=0)


def ticket_inputs() -> st.SearchStrategy[Spoiled]:
    """Return what becomes of a ticket's file."""
    return spoiled_files("mask/0", "mask/4", "weight/0.weight", "weight/9", "other")


def try_ticket(value: Spoiled, folder: Path) -> None:
    """Write the ticket, load it, show it and apply it."""
    whole = whole_ticket()
    header = {
        "layers": {name: list(mask.shape) for name, mask in whole.masks.items()},
        "model": whole.model,
        "method": whole.method,
        "seed": whole.seed,
        "density": whole.density,
        "checksum": whole.checksum,
    }
    assert whole.weights is not None
    tensors = {f"mask/{name}": ops.pack_mask(mask) for name, mask in whole.masks.items()}
    tensors |= {f"weight/{name}": weight for name, weight in whole.weights.items()}
    lay(folder, {"t": written(TICKET, header, stored(tensors), value)})
    with reading():
        ticket = Ticket.load(folder / "t")
        console = Console(file=io.StringIO(), width=110)
        console.print(ticket_table(ticket))
        if (
            all(
                one.shape == whole.masks[name].shape
                for name, one in ticket.masks.items()
                if name in whole.masks
            )
            and ticket.masks.keys() == whole.masks.keys()
        ):
            console.print(overlap_table(ticket, whole))
        ticket.apply(network())


def weights_inputs() -> st.SearchStrategy[Spoiled]:
    """Return what becomes of a file of weights."""
    return spoiled_files("0.weight", "1.bias", "conv1.weight", "layer1.0.bn1.bias", "fc.weight")


def try_weights(value: Spoiled, folder: Path) -> None:
    """Write the weights, and let a network begin with them."""
    lay(folder, {"w": plain(stored(dict(network().state_dict())), value)})
    with reading():
        load_weights(network(), folder / "w")


METHODS = ("gem-miner", "imp", "dense")
SETTINGS = {
    "data": "own:data", "model": "own:network", "density": 0.3, "batch_size": 16,
    "mine_epochs": 3, "freeze_every": 1, "finetune_epochs": 2, "imp_epochs": 1,
    "imp_rewind": "init", "imp_prune": 0.5, "accelerate": "never",
}  # fmt: skip


@functools.cache
def laboratory() -> Laboratory:
    """Return where the network is trained on noise."""
    stream = torch.Generator().manual_seed(2)

    def split(count: int) -> Split:
        images = torch.randint(0, 256, (count, 1, 8, 8), generator=stream, dtype=torch.uint8)
        return Split(images, torch.arange(count) % 10)

    data = Dataset("noise", 10, split(40), split(10), split(10), (0.5,), (0.3,), Augment())
    return Laboratory(Settings.of(SETTINGS), data=data, build=network)


class _Kept(Exception):
    """A checkpoint was due."""


@functools.cache
def checkpoint(method: str) -> tuple[Job, Any, dict[str, Tensor]]:
    """Return the job of a method, and what is in its checkpoint after a few steps."""
    work = Work(job(laboratory().settings, method, [0]), laboratory())
    looks = iter(range(100))

    def keep() -> None:
        raise _Kept

    with contextlib.suppress(_Kept):
        work.run(lambda: next(looks) > 3, keep)
    return work.job, *pack(work.state_dict())


def checkpoint_inputs() -> st.SearchStrategy[tuple[str, Spoiled]]:
    """Return a method, and what becomes of its checkpoint."""
    return st.tuples(st.sampled_from(METHODS), spoiled_files("0", "1.models", "x"))


def try_checkpoint(value: tuple[str, Spoiled], folder: Path) -> None:
    """Write the checkpoint, and go on with it."""
    method, spoiled = value
    own, tree, tensors = checkpoint(method)
    header = {"job": own.hash, "state": tree}
    content = written(CHECKPOINT, header, stored(tensors), spoiled)
    lay(folder, {"checkpoint-000001.safetensors": content})
    JobFolder.create(folder, own)
    with reading(), warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        work = begun(lambda: Work(own, laboratory()), JobFolder(folder), ALONE)
        work.records()
        work.state_dict()
    passed = [str(one.message) for one in said if "checkpoint" in str(one.message)]
    if passed:
        # What is passed over is refused, and the job begins anew.
        raise GemkernError(passed[0])


FUZZERS = (
    Fuzzer("ticket", try_ticket, ticket_inputs, WHOLE),
    Fuzzer("weights", try_weights, weights_inputs, WHOLE),
    Fuzzer("checkpoint", try_checkpoint, checkpoint_inputs, ("imp", WHOLE)),
)

"""What is in a run folder or a ticket, for somebody who comes later."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.table import Table
from rich.text import Text
from torch import Tensor

from gemkern.errors import GemkernError
from gemkern.experiments.job import Job
from gemkern.experiments.job_folder import JobFolder
from gemkern.experiments.run_folder import JOBS, RunFolder
from gemkern.report.console import NONE
from gemkern.tickets import Ticket


def jobs_table(folder: RunFolder) -> Table:
    """One row a job: how far it is, and how it stands."""
    table = _table("", "method", "seeds", "state", "phase", "epochs", "density\n%", "validation\n%")
    for job in folder.jobs():
        table.add_row(*map(Text, _job_cells(folder, job)))
    return table


def ticket_table(ticket: Ticket) -> Table:
    """One row a layer: what remains, and which channels are dead."""
    table = _table(
        f"{ticket.method} of {ticket.model}, {_seed(ticket)}: {ticket.weights_left} weights, "
        f"{100 * ticket.density:.2f} %",
        *("layer", "shape", "weights", "density\n%", "dead\noutputs", "dead\ninputs"),
    )
    for name, mask in ticket.masks.items():
        outputs, inputs = dead_channels(mask)
        cells = (
            name,
            "x".join(map(str, mask.shape)),
            str(int(mask.sum())),
            f"{100 * ticket.layer_density[name]:.2f}",
            f"{outputs} of {mask.shape[0]}",
            f"{inputs} of {mask.shape[1]}",
        )
        table.add_row(*map(Text, cells))
    return table


def overlap_table(one: Ticket, other: Ticket) -> Table:
    """How much two tickets of one network have in common, layer by layer and in all.

    *Common* divides the weights that both keep by those of the smaller one; *chance* is what two
    random masks of these densities would have in common.

    Raises:
        GemkernError: they are not of one network.
    """
    if {k: v.shape for k, v in one.masks.items()} != {k: v.shape for k, v in other.masks.items()}:
        raise GemkernError(
            f"the tickets of {one.model} and {other.model} have different layers: compare two of "
            "one network"
        )
    table = _table("in common", "layer", "weights", "common\n%", "chance\n%")
    pairs = [(name, mask, other.masks[name]) for name, mask in one.masks.items()]
    for name, mask, theirs in pairs:
        both, least = int((mask & theirs).sum()), int(min(mask.sum(), theirs.sum()))
        chance = int(max(mask.sum(), theirs.sum())) / mask.numel()
        table.add_row(*map(Text, _overlap_cells(name, both, least, chance)))
    both = sum(int((mask & theirs).sum()) for _, mask, theirs in pairs)
    chance = max(one.density, other.density)
    least = min(one.weights_left, other.weights_left)
    table.add_row(*map(Text, _overlap_cells("all", both, least, chance)))
    return table


def dead_channels(mask: Tensor) -> tuple[int, int]:
    """Return how many outputs nothing reaches, and how many inputs nothing reads, in a layer."""
    outputs = mask.flatten(1).any(1)
    inputs = mask.transpose(0, 1).flatten(1).any(1)
    return int((~outputs).sum()), int((~inputs).sum())


def _job_cells(folder: RunFolder, job: Job) -> Sequence[str]:
    own, state = JobFolder(folder.path / JOBS / job.name), folder.state_of(job)
    epochs = own.epochs() if state != "waiting" else []
    seeds = ", ".join(map(str, job.seeds))
    said = f"failed: {own.failure()}" if state == "failed" else state
    if not epochs:
        return job.method, seeds, said, NONE, "0", NONE, NONE
    last = epochs[-1]
    validation = f"{100 * last.validation_accuracy:.2f}"
    density = f"{100 * last.density:.2f}"
    return job.method, seeds, said, last.phase, str(len(epochs)), density, validation


def _overlap_cells(name: str, both: int, least: int, chance: float) -> Sequence[str]:
    common = f"{100 * both / least:.2f}" if least else NONE
    return name, f"{both} of {least}", common, f"{100 * chance:.2f}"


def _seed(ticket: Ticket) -> str:
    return "no seed" if ticket.seed is None else f"seed {ticket.seed}"


def _table(title: str, *headers: str) -> Table:
    table = Table(title=Text(title) if title else None, title_justify="left", box=box.SIMPLE_HEAD)
    for header in headers:
        table.add_column(header, justify="left" if header == headers[0] else "right")
    return table

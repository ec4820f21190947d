"""What is in a run folder or a ticket, for somebody who comes later."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from rich import box
from rich.table import Table
from torch import Tensor

from gemkern.errors import GemkernError
from gemkern.experiments.records import EpochRecord, Failure
from gemkern.experiments.run_folder import RunFolder
from gemkern.report.cells import cell
from gemkern.report.console import NONE
from gemkern.tickets import Ticket


def jobs_table(folder: RunFolder) -> Table:
    """One row a job: how it stands, and how far it is; below, why jobs failed.

    Density and validation are means over the seeds that train together.

    Raises:
        GemkernError: a file of the run is damaged.
    """
    table = _table("method", "seeds", "state", "phase", "epochs", "density\n%", "validation\n%")
    whys = []
    for job in folder.jobs():
        own, state = folder.look_at(job), folder.state_of(job)
        seeds = ", ".join(map(str, job.seeds))
        table.add_row(*map(cell, (job.method, seeds, state, *_progress(own.epochs()))))
        if state == "failed":
            whys.append(Failure(job.method, job.seeds, own.failure()).sentence)
    table.caption = cell("\n".join(whys)) if whys else None
    return table


def ticket_table(ticket: Ticket) -> Table:
    """One row a layer: what remains, and how many of its channels are dead."""
    table = _table("layer", "shape", "weights", "density\n%", "dead\noutputs", "dead\ninputs")
    seed = "no seed" if ticket.seed is None else f"seed {ticket.seed}"
    table.title = cell(
        f"{ticket.method} of {ticket.model}, {seed}: "
        f"{ticket.weights_left} weights, {100 * ticket.density:.2f} %"
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
        table.add_row(*map(cell, cells))
    return table


def overlap_table(one: Ticket, other: Ticket) -> Table:
    """How much two tickets of one network have in common, layer by layer and in all.

    *Common* divides the weights that both keep by those of the smaller one; *chance* is what two
    masks would have in common that keep as many weights of each layer, drawn at random.

    Raises:
        GemkernError: they are not of one network.
    """
    if {k: v.shape for k, v in one.masks.items()} != {k: v.shape for k, v in other.masks.items()}:
        raise GemkernError(
            f"the tickets of {one.model} and {other.model} have different layers: compare two of "
            "one network"
        )
    table = _table("layer", "weights\nin common", "common\n%", "chance\n%")
    all_both, all_by_chance = 0, 0.0
    for name, mask in one.masks.items():
        mine, theirs = int(mask.sum()), int(other.masks[name].sum())
        both, by_chance = int((mask & other.masks[name]).sum()), mine * theirs / mask.numel()
        table.add_row(*map(cell, _overlap_cells(name, both, min(mine, theirs), by_chance)))
        all_both += both
        all_by_chance += by_chance
    least = min(one.weights_left, other.weights_left)
    table.add_row(*map(cell, _overlap_cells("all", all_both, least, all_by_chance)))
    return table


def dead_channels(mask: Tensor) -> tuple[int, int]:
    """Return how many outputs nothing reaches, and how many inputs nothing reads, in a layer.

    A mask does not tell groups: where a convolution has some, an input counts as dead if it is so
    in every group.
    """
    outputs = mask.flatten(1).any(1)
    inputs = mask.transpose(0, 1).flatten(1).any(1)
    return int((~outputs).sum()), int((~inputs).sum())


def _progress(epochs: Sequence[EpochRecord]) -> tuple[str, str, str, str]:
    """Return phase, number of epochs, density and validation."""
    if not epochs:
        return NONE, "0", NONE, NONE
    last = {record.seed: record for record in epochs}.values()
    density = fmean(record.density for record in last)
    validation = fmean(record.validation_accuracy for record in last)
    return epochs[-1].phase, str(len(epochs)), f"{100 * density:.2f}", f"{100 * validation:.2f}"


def _overlap_cells(name: str, both: int, least: int, by_chance: float) -> Sequence[str]:
    shares = (f"{100 * count / least:.2f}" if least else NONE for count in (both, by_chance))
    return name, f"{both} of {least}", *shares


def _table(first: str, *numbers: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, title_justify="left", caption_justify="left")
    # A name is folded where there is no room for it, never cut.
    table.add_column(first, overflow="fold")
    for header in numbers:
        table.add_column(header, justify="right", no_wrap=True)
    return table

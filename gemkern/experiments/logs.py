"""Where else epochs are written: JSON lines are always there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from gemkern.errors import GemkernError
from gemkern.experiments.records import EpochRecord

Log = Callable[[EpochRecord], None]
EVENTS = "tensorboard"


@contextmanager
def jsonl(folder: Path) -> Iterator[Log]:
    """Write nothing more than the run does."""
    yield lambda record: None


@contextmanager
def tensorboard(folder: Path) -> Iterator[Log]:
    """Write event files for TensorBoard into `folder`, a run for each method, seed and phase.

    A run that is killed loses no epoch that has ended; one that goes on with a checkpoint takes the
    place of what was trained after it.

    Raises:
        GemkernError: tensorboard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise GemkernError(
            "tensorboard is not installed: pip install gemkern[tensorboard], or leave --log out"
        ) from error
    writers: dict[str, SummaryWriter] = {}

    def log(record: EpochRecord) -> None:
        name = f"{record.method}/seed{record.seed}/{record.phase}"
        if name not in writers:
            path = str(folder / EVENTS / name)
            writers[name] = SummaryWriter(path, purge_step=record.epoch)
        for value in ("density", "loss", "validation_accuracy", "step_ms"):
            writers[name].add_scalar(value, getattr(record, value), record.epoch)
        writers[name].flush()

    try:
        yield log
    finally:
        for writer in writers.values():
            writer.close()


LOGS: dict[str, Callable[[Path], AbstractContextManager[Log]]] = {
    "jsonl": jsonl,
    "tensorboard": tensorboard,
}

"""Where else epochs are written: JSON lines are always there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from gemkern.errors import GemkernError
from gemkern.experiments.records import EpochRecord

Log = Callable[[EpochRecord], None]
EVENTS = "tensorboard"


@contextmanager
def jsonl(folder: Path) -> Iterator[Log]:
    """Write nothing more than the run does."""
    yield lambda record: None


def summary_writer() -> Any:
    """Return TensorBoard's writer.

    Raises:
        GemkernError: tensorboard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise GemkernError(
            "tensorboard is not installed: pip install gemkern[tensorboard], or leave --log out"
        ) from error
    return SummaryWriter


@contextmanager
def tensorboard(folder: Path) -> Iterator[Log]:
    """Write event files for TensorBoard into `folder`, a run for each method, seed and phase.

    A run that is killed loses no epoch that has ended; one that goes on with a checkpoint takes the
    place of what was trained after it.

    Raises:
        GemkernError: tensorboard is not installed, or its files cannot be written.
    """
    open_writer = summary_writer()
    writers: dict[str, Any] = {}

    def log(record: EpochRecord) -> None:
        name = f"{record.method}/seed{record.seed}/{record.phase}"
        try:
            if name not in writers:
                path = str(folder / EVENTS / name)
                writers[name] = open_writer(path, purge_step=record.epoch)
            for value in ("density", "loss", "validation_accuracy", "step_ms"):
                writers[name].add_scalar(value, getattr(record, value), record.epoch)
            writers[name].flush()
        except OSError as error:
            raise GemkernError(
                f"could not write {folder / EVENTS}: {error.strerror or error}; "
                "free some space, or leave --log out"
            ) from error

    try:
        yield log
    finally:
        for writer in writers.values():
            writer.close()


LOGS: dict[str, Callable[[Path], AbstractContextManager[Log]]] = {
    "jsonl": jsonl,
    "tensorboard": tensorboard,
}

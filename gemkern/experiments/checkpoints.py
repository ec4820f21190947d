"""Checkpoints of a job: the last two, each whole or absent, and nothing in them is ever run."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gemkern import tensor_file
from gemkern.errors import GemkernError
from gemkern.experiments.states import pack, unpack

FILE = tensor_file.Kind("checkpoint", 1, "a run", "the one before it is used, if there is one")
KEPT = 2
NAME = re.compile(r"checkpoint-(\d+)\.safetensors")


class Checkpoints:
    """The checkpoints in a folder.

    Args:
        folder: where they lie; made when the first is written.
        job: the hash of the job whose they are; those of another are refused.
    """

    def __init__(self, folder: Path, job: str) -> None:
        self._folder, self._job = folder, job

    def save(self, state: dict[str, Any]) -> None:
        """Write the next checkpoint, then remove all but the last two.

        Raises:
            GemkernError: it cannot be written.
        """
        tree, tensors = pack(state)
        found = self._found()
        number = 1 + (found[-1][0] if found else 0)
        path = self._folder / f"checkpoint-{number:06}.safetensors"
        tensor_file.write(path, FILE, {"job": self._job, "state": tree}, tensors)
        for _, older in found[: 1 - KEPT]:
            older.unlink(missing_ok=True)

    def states(self) -> Iterator[dict[str, Any]]:
        """Yield the states of the checkpoints that are whole, the last one first.

        A warning names each that is damaged, of another version or of another job.
        """
        for _, path in reversed(self._found()):
            try:
                yield self._read(path)
            except GemkernError as error:
                warnings.warn(str(error), stacklevel=2)

    def clear(self) -> None:
        """Remove all checkpoints."""
        for _, path in self._found():
            path.unlink(missing_ok=True)

    def _found(self) -> list[tuple[int, Path]]:
        named = [(NAME.fullmatch(path.name), path) for path in self._folder.glob("checkpoint-*")]
        return sorted((int(match[1]), path) for match, path in named if match)

    def _read(self, path: Path) -> dict[str, Any]:
        header, tensors = tensor_file.read(path, FILE)
        if header.get("job") != self._job:
            raise GemkernError(
                f"the checkpoint file {path} is that of another job: it is passed over"
            )
        try:
            state = unpack(header["state"], tensors)
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise FILE.damaged(path, f"its state is not whole ({error})") from error
        if not isinstance(state, dict):
            raise FILE.damaged(path, "its state is not whole (it is no dictionary)")
        return state

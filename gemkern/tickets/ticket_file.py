"""The file of a ticket: safetensors with a JSON header, and a digest by which any damage shows."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from gemkern.errors import GemkernError
from gemkern.files import write_atomically

FORMAT = 1
HEADER, DIGEST = "gemkern.ticket", "digest"

StrPath: TypeAlias = str | os.PathLike[str]


def write(path: StrPath, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write `header` (plain JSON values) and `tensors` to `path`, whole or not at all.

    Equal content makes equal bytes.

    Raises:
        GemkernError: the file cannot be written.
    """
    on_host = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps({"format": FORMAT, **header})
    whole = {**on_host, DIGEST: torch.tensor(_digest(text, on_host), dtype=torch.uint8)}
    write_atomically(path, lambda temporary: _save(whole, temporary, text))


def read(path: StrPath) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the header and the tensors, on the CPU, as they were written.

    Raises:
        GemkernError: `path` is missing, no ticket, of another format version, or damaged.
    """
    try:
        with safe_open(Path(path), framework="pt") as file:
            metadata = file.metadata() or {}
            names = file.keys()
            tensors = {name: file.get_tensor(name).clone() for name in names}
    except FileNotFoundError as error:
        raise GemkernError(f"there is no ticket file {path}: check the path") from error
    except (OSError, SafetensorError) as error:
        raise damaged(path, f"it cannot be read as safetensors ({error})") from error
    header = _header(path, metadata)
    digest = tensors.pop(DIGEST, None)
    if digest is None or digest.tolist() != _digest(metadata[HEADER], tensors):
        raise damaged(path, "its content does not match its digest")
    return header, tensors


def damaged(path: StrPath, what: str) -> GemkernError:
    """Return the error for a ticket file that is not what was written."""
    return GemkernError(
        f"the ticket file {path} is damaged: {what}; copy it again or make the ticket again"
    )


def hash_tensor(digest: Any, name: str, tensor: Tensor) -> None:
    """Feed a hashlib object with a tensor's name, dtype, shape and row-major bytes."""
    digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
    digest.update(_bytes(tensor))


def _save(tensors: dict[str, Tensor], path: Path, header: str) -> None:
    try:
        save_file(tensors, path, metadata={HEADER: header})
    except SafetensorError as error:
        # What the operating system refused (a full disk) comes out of safetensors as its own error.
        raise OSError(str(error)) from error


def _bytes(tensor: Tensor) -> np.ndarray:
    whole = tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
    return whole.reshape(-1).view(torch.uint8).numpy()


def _header(path: StrPath, metadata: Mapping[str, str]) -> dict[str, Any]:
    if HEADER not in metadata:
        raise GemkernError(
            f"{path} is not a ticket file of gemkern: give a file that Ticket.save wrote"
        )
    try:
        header = json.loads(metadata[HEADER])
    except json.JSONDecodeError as error:
        raise damaged(path, f"its header is not JSON ({error})") from error
    if not isinstance(header, dict):
        raise damaged(path, "its header is not a JSON object")
    version = header.pop("format", None)
    if version != FORMAT:
        raise GemkernError(
            f"the ticket file {path} has format version {version} where version {FORMAT} is read "
            "here: update gemkern or make the ticket again"
        )
    return header


def _digest(text: str, tensors: Mapping[str, Tensor]) -> list[int]:
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        hash_tensor(digest, name, tensors[name])
    return list(digest.digest())

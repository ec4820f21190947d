"""Files of tensors and plain values: safetensors with a JSON header, and a digest by which any
damage shows."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from gemkern.errors import GemkernError
from gemkern.files import check_regular, write_atomically

DIGEST, DIGEST_BYTES = "digest", 32

StrPath: TypeAlias = str | os.PathLike[str]


@dataclass(frozen=True)
class Kind:
    """What a file is: a word for messages, a version of its content, and where else to get it."""

    word: str
    version: int
    writer: str
    remedy: str

    @property
    def header(self) -> str:
        """The key of the header in the metadata of safetensors."""
        return f"gemkern.{self.word}"

    def damaged(self, path: StrPath, what: str) -> GemkernError:
        """Return the error for a file that is not what was written."""
        return GemkernError(f"the {self.word} file {path} is damaged: {what}; {self.remedy}")


def write(
    path: StrPath, kind: Kind, header: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> None:
    """Write `header` (plain JSON values) and `tensors` to `path`, whole or not at all.

    Equal content makes equal bytes.

    Raises:
        GemkernError: the file cannot be written.
    """
    on_host = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps({"format": kind.version, **header})
    whole = {**on_host, DIGEST: torch.tensor(digest_of(text, on_host), dtype=torch.uint8)}
    write_atomically(path, lambda temporary: _save(whole, temporary, {kind.header: text}))


def read(path: StrPath, kind: Kind) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the header and the tensors, on the CPU, as they were written.

    Raises:
        GemkernError: `path` is missing, of another kind or version, or damaged.
    """
    try:
        check_regular(path)
        with safe_open(Path(path), framework="pt") as file:
            metadata = file.metadata() or {}
            names = file.keys()
            tensors = {name: file.get_tensor(name).clone() for name in names}
    except FileNotFoundError as error:
        raise GemkernError(f"there is no {kind.word} file {path}: check the path") from error
    except GemkernError:
        raise
    except Exception as error:  # damaged files make safetensors raise nearly anything
        raise kind.damaged(path, f"it cannot be read as safetensors ({error})") from error
    header = _header(path, kind, metadata)
    digest = tensors.pop(DIGEST, torch.empty(0))
    is_whole = digest.shape == (DIGEST_BYTES,)
    if not is_whole or digest.tolist() != digest_of(metadata[kind.header], tensors):
        raise kind.damaged(path, "its content does not match its digest")
    return header, tensors


def hash_tensor(digest: Any, name: str, tensor: Tensor) -> None:
    """Feed a hashlib object with a tensor's name, dtype, shape and row-major bytes."""
    digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
    digest.update(_bytes(tensor))


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Return whether two tensors are of one dtype and shape, and the same to the bit."""
    alike = one.dtype == other.dtype and one.shape == other.shape
    return alike and np.array_equal(_bytes(one), _bytes(other))


def _save(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    try:
        save_file(tensors, path, metadata=metadata)
    except SafetensorError as error:
        # What the operating system refused (a full disk) comes out of safetensors as its own error.
        raise OSError(str(error)) from error


def _bytes(tensor: Tensor) -> np.ndarray:
    whole = tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
    return whole.reshape(-1).view(torch.uint8).numpy()


def _header(path: StrPath, kind: Kind, metadata: Mapping[str, str]) -> dict[str, Any]:
    if kind.header not in metadata:
        raise GemkernError(
            f"{path} is not a {kind.word} file of gemkern: give a file that {kind.writer} wrote"
        )
    try:
        header = json.loads(metadata[kind.header])
    except (ValueError, RecursionError) as error:
        raise kind.damaged(path, f"its header is not JSON ({error})") from error
    if not isinstance(header, dict):
        raise kind.damaged(path, "its header is not a JSON object")
    version = header.pop("format", None)
    if version != kind.version:
        raise GemkernError(
            f"the {kind.word} file {path} has format version {version} where version "
            f"{kind.version} is read here: update gemkern or make the {kind.word} again"
        )
    return header


def digest_of(text: str, tensors: Mapping[str, Tensor]) -> list[int]:
    """Return the SHA-256 of the text of a header and of tensors, byte by byte."""
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        hash_tensor(digest, name, tensors[name])
    return list(digest.digest())

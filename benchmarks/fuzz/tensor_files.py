"""Files of safetensors, written by hand, so that their headers can lie."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import safetensors.torch
import torch
from hypothesis import strategies as st
from torch import Tensor

from benchmarks.fuzz.mutations import Change, Edit, changed, changes, edited, edits, text_of
from gemkern import tensor_file

# Bits of a number of each dtype of the format.
BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "I16": 16, "U16": 16,
    "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32, "F64": 64, "I64": 64, "U64": 64,
    "C64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip
NAMES = {
    torch.float32: "F32", torch.uint8: "U8", torch.int64: "I64", torch.bool: "BOOL",
    torch.float64: "F64", torch.int32: "I32",
    torch.uint32: "U32", torch.uint64: "U64", torch.bfloat16: "BF16", torch.float16: "F16",
}  # fmt: skip


class Stored(NamedTuple):
    """A tensor as the format has it."""

    dtype: str
    shape: list[int]
    content: bytes


class Other(NamedTuple):
    """What becomes of a tensor: `drop`, another `name`, `dtype` or `shape`, or other `numbers`."""

    kind: str
    place: int
    name: str
    dtype: str
    shape: list[int]


class Spoiled(NamedTuple):
    """What becomes of a file.

    Attributes:
        header: of our own header.
        tensors: of tensors; the format's header still says the truth.
        format: of the format's header.
        edits: of its bytes.
        is_honest: whether the digest is that of what is written.
    """

    header: list[Change]
    tensors: list[Other]
    format: list[Change]
    edits: list[Edit]
    is_honest: bool = True


WHOLE = Spoiled([], [], [], [])


def spoiled_files(*names: str) -> st.SearchStrategy[Spoiled]:
    """Return what becomes of files of tensors that may be called by `names`."""
    other = st.builds(
        Other,
        st.sampled_from(("drop", "name", "dtype", "shape", "numbers")),
        st.integers(0, 40),
        st.sampled_from((*names, "", "digest", "mask/", "a\nb", "\x1b[2J")) | st.text(max_size=5),
        st.sampled_from(tuple(BITS)),
        st.lists(st.sampled_from((0, 1, 2, 3, 4, 8, 9, 64)), max_size=5),
    )
    # Where one part is spoiled, the others mostly are whole, so that what reads them is reached.
    nothing: st.SearchStrategy[list[Any]] = st.just([])
    return st.builds(
        Spoiled,
        nothing | nothing | changes(2),
        nothing | nothing | st.lists(other, max_size=2),
        nothing | nothing | nothing | changes(2),
        nothing | nothing | nothing | edits(2),
        st.sampled_from((*[True] * 9, False)),
    )


def stored(tensors: dict[str, Tensor]) -> dict[str, Stored]:
    """Return tensors as the format has them."""
    return {
        name: Stored(NAMES[one.dtype], list(one.shape), one.contiguous().numpy().tobytes())
        for name, one in tensors.items()
    }


def written(
    kind: tensor_file.Kind, header: Any, tensors: dict[str, Stored], spoiled: Spoiled
) -> bytes:
    """Return a file of gemkern after all that becomes of it."""
    text = text_of(changed({"format": kind.version, **header}, spoiled.header))
    return _file(_others(tensors, spoiled.tensors), {kind.header: text}, text, spoiled)


def plain(tensors: dict[str, Stored], spoiled: Spoiled) -> bytes:
    """Return a file of nothing but tensors after all that becomes of it."""
    return edited(_bytes(_others(tensors, spoiled.tensors), {}, spoiled.format), spoiled.edits)


def _others(tensors: dict[str, Stored], done: Sequence[Other]) -> dict[str, Stored]:
    found = dict(tensors)
    for one in done:
        name = list(found)[one.place % len(found)] if found else one.name
        own = found.pop(name, Stored("F32", [], b""))
        if one.kind == "name":
            found[one.name] = own
        elif one.kind == "dtype":
            found[name] = _numbers(one.dtype, own.shape)
        elif one.kind == "shape":
            found[name] = _numbers(own.dtype, one.shape)
        elif one.kind == "numbers":
            found[name] = _numbers(own.dtype, own.shape)
    return found


def _numbers(dtype: str, shape: list[int]) -> Stored:
    count = math.prod(shape) * BITS[dtype] // 8
    return Stored(
        dtype, shape, np.random.default_rng(count).integers(0, 2, count, np.uint8).tobytes()
    )


def _file(
    tensors: dict[str, Stored], metadata: dict[str, str], text: str, spoiled: Spoiled
) -> bytes:
    """Return the file, with the digest of what of it can be read."""
    digest = Stored("U8", [tensor_file.DIGEST_BYTES], bytes(tensor_file.DIGEST_BYTES))
    whole = tensors if tensor_file.DIGEST in tensors else {**tensors, tensor_file.DIGEST: digest}
    content = _bytes(whole, metadata, spoiled.format)
    if spoiled.is_honest and whole is not tensors:
        try:
            found = safetensors.torch.load(content)
            found.pop(tensor_file.DIGEST)
            truth = bytes(tensor_file.digest_of(text, found))
            whole[tensor_file.DIGEST] = digest._replace(content=truth)
            content = _bytes(whole, metadata, spoiled.format)
        except Exception:
            # Of what cannot be read there is none.
            pass
    return edited(content, spoiled.edits)


def _bytes(tensors: dict[str, Stored], metadata: dict[str, str], done: Sequence[Change]) -> bytes:
    entries: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    place = 0
    for name, one in tensors.items():
        offsets = [place, place := place + len(one.content)]
        entries[name] = {"dtype": one.dtype, "shape": one.shape, "data_offsets": offsets}
    text = text_of(changed(entries, done)) if done else json.dumps(entries)
    header = text.encode(errors="surrogatepass")
    return (
        struct.pack("<Q", len(header)) + header + b"".join(one.content for one in tensors.values())
    )

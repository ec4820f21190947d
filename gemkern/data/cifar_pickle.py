"""The Python layout of CIFAR: pickled dictionaries, read without running anything they say.

An ordinary unpickler calls whatever a file names. The official files name three things, the parts
of a NumPy array; here these three become inert records of their arguments, and any other name is
refused.
"""

from __future__ import annotations

import io
import pickle
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from gemkern.data.files import damaged

_ARRAY_PARTS = {
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
}


class _Inert:
    """Stands where the file asks for an array or a dtype, and only remembers what it was given."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _InertUnpickler(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str) -> Any:
        if (module_name, global_name) in _ARRAY_PARTS:
            return _Inert
        raise pickle.UnpicklingError(f"it asks for {module_name}.{global_name}")


def decode_pickle(
    content: bytes, path: Path, remedy: str, *, label_key: bytes, pixels: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return images uint8 [N, pixels] and integer labels [N] of one official file.

    Args:
        label_key: the entry that lists the labels, b"labels" or b"fine_labels".

    Raises:
        GemkernError: damaged, not the official dictionary, or a pickle that asks for anything else.
    """
    expected = f"the official dictionary with b'data' and {label_key!r}"
    try:
        batch = _InertUnpickler(io.BytesIO(content), encoding="bytes").load()
        images = _array(batch[b"data"])
        labels = np.array(batch[label_key])
    except Exception as error:  # damaged bytes make the unpickler raise nearly anything
        found = f"an error ({type(error).__name__}: {error})"
        raise damaged(path, expected, found, remedy) from error
    if images.ndim != 2 or images.shape[1] != pixels:
        expected = f"rows of {pixels} pixels"
        raise damaged(path, expected, f"the shape {list(images.shape)}", remedy)
    if labels.shape != images.shape[:1] or labels.dtype.kind != "i":
        expected = f"one whole-number label for each of {len(images)} images"
        found = f"{labels.dtype} labels of the shape {list(labels.shape)}"
        raise damaged(path, expected, found, remedy)
    return images, labels


def _array(record: _Inert) -> np.ndarray:
    """Return the uint8 array that `record` describes; any other content raises."""
    _version, shape, dtype, is_fortran, body = record.state
    if dtype.arguments[0] != b"u1":
        raise TypeError(f"the pixels have dtype {dtype.arguments[0]!r}")
    if prod(shape) != len(body):
        raise ValueError(f"{len(body)} pixels do not fill the shape {shape}")
    return np.frombuffer(body, np.uint8).reshape(shape, order="F" if is_fortran else "C")

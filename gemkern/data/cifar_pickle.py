"""The Python layout of CIFAR: pickled dictionaries, read without running anything they say.

An unpickler calls what a file names, and makes what it asks for: a few bytes can ask for gigabytes,
or for a day. Here `pickletools` of the standard library takes a file apart, and the few operations
of a dictionary of numbers, strings and arrays are done by hand: the time and the memory they take
grow with the file alone, and arrays are inert records until all is read.
"""

from __future__ import annotations

import pickletools
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gemkern.data.files import damaged
from gemkern.errors import GemkernError

# The official files have up to 300,000.
MOST_OPERATIONS = 2**20
LONGEST_NAME = 200
# NumPy 2 calls its rooms anew.
_NUMPY = ("numpy.core", "numpy._core")
_GLOBALS = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
    *((f"{core}.multiarray", "_reconstruct") for core in _NUMPY),
    *((f"{core}.numeric", "_frombuffer") for core in _NUMPY),
}
_PIXELS, _LABELS = ("u1",), ("u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8")


class _Name(NamedTuple):
    """Something that a file names, by module and name."""

    module: str
    name: str


class _Called:
    """What a file wants to be called, which nobody calls; and the state that it gives it."""

    def __init__(self, name: _Name, arguments: tuple[Any, ...]) -> None:
        self.name, self.arguments = name, arguments
        self.state: Any = None


_MARK = object()


def decode_pickle(
    content: bytes, path: Path, remedy: str, *, label_key: bytes, pixels: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return images uint8 [N, pixels] and labels int64 [N] of one official file.

    Files that were pickled again, by NumPy 2 too, are read as well: keys may be text, labels an
    array.

    Args:
        label_key: the entry that lists the labels, b"labels" or b"fine_labels".

    Raises:
        GemkernError: damaged, not the official dictionary, or a pickle that asks for anything else.
    """
    expected = f"the official dictionary with b'data' and {label_key!r}"
    try:
        batch = _loaded(content)
        images = _array(_entry(batch, b"data"), _PIXELS)
        labels = _whole_numbers(_entry(batch, label_key))
    except Exception as error:  # damaged bytes make what reads them raise nearly anything
        found = f"an error ({error if isinstance(error, GemkernError) else _told(error)})"
        raise damaged(path, expected, found, remedy) from error
    if images.ndim != 2 or images.shape[1] != pixels:
        expected = f"rows of {pixels} pixels"
        raise damaged(path, expected, f"the shape {list(images.shape)}", remedy)
    if labels.shape != images.shape[:1] or not len(labels):
        expected = f"one label for each of {len(images)} images"
        raise damaged(path, expected, f"labels of the shape {list(labels.shape)}", remedy)
    return images, labels


def _loaded(content: bytes) -> Any:
    """Return what a pickle describes: plain values, names and `_Called`.

    Raises:
        GemkernError: it asks for what no such file needs.
    """
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    argument: Any
    for number, (operation, argument, _) in enumerate(pickletools.genops(content)):
        name = operation.name
        if number >= MOST_OPERATIONS:
            raise GemkernError(f"it has more than {MOST_OPERATIONS} operations")
        if name in _PUSHED:
            stack.append(_PUSHED[name] if argument is None else argument)
        elif name in _EMPTY:
            stack.append(_EMPTY[name]())
        elif name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            memo[len(memo) if name == "MEMOIZE" else argument] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name in _DONE:
            _DONE[name](stack)
        elif name == "GLOBAL":
            stack.append(_name(*argument.split(" ", 1)))
        elif name == "STOP":
            return stack.pop()
        elif name not in ("PROTO", "FRAME"):
            raise GemkernError(f"it asks for {name}, which no such file needs")
    raise GemkernError("it does not end")


def _name(module: Any, name: Any) -> _Name:
    module, name = _text(module), _text(name)
    if (module, name) not in _GLOBALS:
        raise GemkernError(f"it asks for {module[:80]}.{name[:80]}")
    return _Name(module, name)


def _stack_global(stack: list[Any]) -> None:
    name, module = stack.pop(), stack.pop()
    stack.append(_name(module, name))


def _reduce(stack: list[Any]) -> None:
    arguments, name = stack.pop(), stack.pop()
    if not isinstance(name, _Name) or not isinstance(arguments, tuple):
        raise GemkernError("it calls what it has not named")
    stack.append(_Called(name, arguments))


def _build(stack: list[Any]) -> None:
    state, called = stack.pop(), stack[-1]
    called.state = state


def _set_item(stack: list[Any]) -> None:
    value, key = stack.pop(), stack.pop()
    _set(stack[-1], [key, value])


def _append(stack: list[Any]) -> None:
    value, sequence = stack.pop(), stack[-1]
    _extend(sequence, [value])


def _extend(sequence: Any, values: list[Any]) -> None:
    if type(sequence) is not list:
        raise GemkernError("it adds to what is no list")
    sequence += values


def _set(mapping: Any, items: list[Any]) -> None:
    if type(mapping) is not dict:
        raise GemkernError("it has an entry of what is no dictionary")
    for key, value in zip(items[::2], items[1::2], strict=True):
        # What is no string may be tuples within tuples, which take for ever to hash.
        mapping[_text(key)] = value


def _since_mark(stack: list[Any]) -> list[Any]:
    place = len(stack) - 1
    while stack[place] is not _MARK:
        place -= 1
    found = stack[place + 1 :]
    del stack[place:]
    return found


def _set_items(stack: list[Any]) -> None:
    items = _since_mark(stack)
    _set(stack[-1], items)


def _appends(stack: list[Any]) -> None:
    values = _since_mark(stack)
    _extend(stack[-1], values)


def _tuple(count: int) -> Any:
    def build(stack: list[Any]) -> None:
        found = tuple(stack[-count:])
        del stack[-count:]
        stack.append(found)

    return build


_PUSHED = {
    "NONE": None,
    "NEWTRUE": True,
    "NEWFALSE": False,
    "MARK": _MARK,
    **dict.fromkeys(("BININT", "BININT1", "BININT2", "LONG1")),
    **dict.fromkeys(("SHORT_BINSTRING", "BINSTRING", "SHORT_BINUNICODE", "BINUNICODE")),
    **dict.fromkeys(("SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8")),
}
_EMPTY = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}
_DONE = {
    "STACK_GLOBAL": _stack_global,
    "REDUCE": _reduce,
    "BUILD": _build,
    "SETITEM": _set_item,
    "SETITEMS": _set_items,
    "APPEND": _append,
    "APPENDS": _appends,
    "TUPLE": lambda stack: stack.append(tuple(_since_mark(stack))),
    "TUPLE1": _tuple(1),
    "TUPLE2": _tuple(2),
    "TUPLE3": _tuple(3),
}


def _entry(batch: Any, key: bytes) -> Any:
    """Return an entry of the dictionary, whose names Python 2 wrote as bytes and 3 as text."""
    if not isinstance(batch, dict):
        raise GemkernError("it holds no dictionary")
    if key.decode() not in batch:
        raise GemkernError(f"it has no entry {key!r}")
    return batch[key.decode()]


def _whole_numbers(labels: Any) -> np.ndarray:
    if isinstance(labels, _Called):
        return _array(labels, _LABELS).astype(np.int64)
    if not isinstance(labels, list) or not all(type(label) is int for label in labels):
        raise GemkernError("its labels are no list of whole numbers")
    return np.array(labels, np.int64)


def _array(called: Any, kinds: tuple[str, ...]) -> np.ndarray:
    """Return the array that `called` describes, of one of `kinds` of numbers."""
    if not isinstance(called, _Called):
        raise GemkernError("an array is no array")
    if called.name.name == "_frombuffer":
        body, dtype, shape, order = called.arguments
    else:
        _version, shape, dtype, is_fortran, body = called.state
        order = "F" if is_fortran else "C"
    kind = _text(dtype.arguments[0])
    if kind not in kinds:
        raise GemkernError(f"an array has the dtype {kind[:20]}")
    content = _bytes(body)
    numbers = np.dtype(_text(dtype.state[1]) + kind)
    if len(shape) > 2 or not all(type(side) is int for side in shape):
        raise GemkernError("an array has no shape of rows")
    if prod(shape) * numbers.itemsize != len(content):
        raise GemkernError(f"{len(content)} bytes do not fill an array of its shape")
    by_columns = _text(order) == "F"
    return np.frombuffer(content, numbers).reshape(shape, order="F" if by_columns else "C")


def _bytes(written: Any) -> bytes:
    """Return bytes, as Python 2 wrote them, as Python 3 does, or as that does for Python 2."""
    if isinstance(written, _Called) and written.name.name == "encode":
        written, _ = written.arguments
    if isinstance(written, str):
        return written.encode("latin1")
    if not isinstance(written, (bytes, bytearray)):
        raise GemkernError("what should be bytes is none")
    return bytes(written)


def _text(written: Any) -> str:
    """Return a name, whether it was written as text or as bytes."""
    if isinstance(written, str):
        return written
    encoded = isinstance(written, _Called) and written.name.name == "encode"
    # It is made anew each time that it is asked for: a long one would be made very often.
    if encoded and len(written.arguments[0]) > LONGEST_NAME:
        raise GemkernError("a name is too long")
    return _bytes(written).decode("latin1")


def _told(error: Exception) -> str:
    """Return an error in words, which can hold no more of the file than that."""
    return f"{type(error).__name__}: {str(error)[:200]}"

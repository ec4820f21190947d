"""States as files: whatever `state_dict` returns, as tensors and JSON, and back to the bit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from gemkern.errors import GemkernError

# Marks an object that stands for something that JSON does not know.
MARK = "$"


def pack(state: Any) -> tuple[Any, dict[str, Tensor]]:
    """Return `state` in JSON's types, and its tensors by the names that stand for them there.

    Dictionaries of any plain keys, lists, tuples, numbers, texts, None and tensors, nested.

    Raises:
        GemkernError: something else is in it.
    """
    tensors: dict[str, Tensor] = {}

    def packed(value: Any, where: str) -> Any:
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        if isinstance(value, Tensor):
            name = f"{len(tensors)}{where}"
            # What shares its memory with another cannot be written.
            tensors[name] = value.detach().cpu().clone()
            return {MARK: "tensor", "name": name}
        if isinstance(value, Mapping):
            if all(isinstance(key, str) and key != MARK for key in value):
                return {key: packed(one, f"{where}.{key}") for key, one in value.items()}
            pairs = [
                [packed(key, where), packed(one, f"{where}.{key}")] for key, one in value.items()
            ]
            return {MARK: "dict", "pairs": pairs}
        if isinstance(value, (list, tuple)):
            items = [packed(one, f"{where}.{i}") for i, one in enumerate(value)]
            return items if isinstance(value, list) else {MARK: "tuple", "items": items}
        raise GemkernError(
            f"the state holds a {type(value).__name__} at {where.lstrip('.')}, which a checkpoint "
            "cannot: let the module's state be tensors and plain values"
        )

    return packed(state, ""), tensors


def unpack(tree: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Return the state that `pack` took apart.

    Raises:
        KeyError: it is not whole.
    """
    if isinstance(tree, list):
        return [unpack(one, tensors) for one in tree]
    if not isinstance(tree, dict):
        return tree
    kind = tree.get(MARK)
    if kind == "tensor":
        return tensors[tree["name"]]
    if kind == "tuple":
        return tuple(unpack(tree["items"], tensors))
    if kind == "dict":
        return {unpack(key, tensors): unpack(one, tensors) for key, one in tree["pairs"]}
    return {key: unpack(one, tensors) for key, one in tree.items()}

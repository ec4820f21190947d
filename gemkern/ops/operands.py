"""What belongs together travels as one; PyTorch's operators, which know no such thing, take fields.

A schema names an operand `Norm norm`, and its operator has `Tensor norm_mean, Tensor norm_var, ...`
in its place: here is the one place where the one becomes the other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from gemkern.kernels.geometry import Geometry
from gemkern.kernels.reference.norm_sparse_conv2d import NormSparse
from gemkern.kernels.reference.normalise import Norm
from gemkern.kernels.reference.pattern import Pattern

Arguments = Sequence[Any]


def listed(tensors: Sequence[Tensor] | None) -> list[Tensor] | None:
    """Return what a schema calls `Tensor[]?`."""
    return None if tensors is None else list(tensors)


class Bundle(NamedTuple):
    """An operand of several fields.

    Attributes:
        types: of its fields, as a schema has them.
        make: makes it of its fields.
        names: of its fields.
    """

    types: tuple[str, ...]
    make: Callable[[Arguments], Any]
    names: tuple[str, ...]

    @property
    def nothing(self) -> tuple[Any, ...]:
        """Fields that stand for one that is not there."""
        return tuple({"float": 0.0, "bool": False}.get(kind) for kind in self.types)


def _norm(fields: Arguments) -> Norm | None:
    return None if fields[0] is None else Norm(*fields)


def _pattern(fields: Arguments) -> Pattern:
    shape, *tensors = fields
    return Pattern(tuple(shape), *tensors)


def _geometry(fields: Arguments) -> Geometry:
    *pairs, groups = fields
    return Geometry(*map(tuple, pairs), groups)


BUNDLES = {
    "Norm": Bundle(
        ("Tensor", "Tensor", "Tensor?", "Tensor?", "float", "Tensor?", "bool"), _norm, Norm._fields
    ),
    "NormSparse": Bundle(
        ("Tensor", *["Tensor?"] * 4), lambda fields: NormSparse(*fields), NormSparse._fields
    ),
    "Pattern": Bundle(("int[]", "Tensor", "Tensor"), _pattern, Pattern._fields),
    "Geometry": Bundle(("int[]", "int[]", "int[]", "int"), _geometry, Geometry._fields),
}


class Signature:
    """The operands of an operator, and the arguments that they are for PyTorch.

    Attributes:
        schema: of the arguments and the results.
        bundles: of each operand, None where it is an argument itself.
    """

    def __init__(self, schema: str) -> None:
        operands, returned = schema[1:].split(") -> ", 1)
        self.bundles: list[Bundle | None] = []
        arguments: list[str] = []
        for operand in operands.split(", "):
            kind, name = operand.split(" ")
            bundle = BUNDLES.get(kind.rstrip("?"))
            self.bundles.append(bundle)
            if bundle is None:
                arguments.append(operand)
                continue
            for of_field, field in zip(bundle.types, bundle.names, strict=True):
                absent = kind.endswith("?") and of_field == "Tensor"
                arguments.append(f"{of_field}{'?' if absent else ''} {name}_{field}")
        self.schema = f"({', '.join(arguments)}) -> {returned}"
        self.has_bundles = any(self.bundles)

    def flat(self, operands: Arguments) -> Arguments:
        """Return the arguments of operands."""
        if not self.has_bundles:
            return operands
        arguments: list[Any] = []
        for operand, bundle in zip(operands, self.bundles, strict=True):
            if bundle is None:
                arguments.append(operand)
            else:
                arguments += bundle.nothing if operand is None else operand
        return arguments

    def parts(self, arguments: Arguments) -> list[Any]:
        """Return arguments, or what there is one of for each, by operand: fields as they are."""
        found, place = [], 0
        for bundle in self.bundles:
            if bundle is None:
                found.append(arguments[place])
                place += 1
            else:
                found.append(arguments[place : place + len(bundle.types)])
                place += len(bundle.types)
        return found

    def operands(self, arguments: Arguments) -> Arguments:
        """Return the operands of arguments."""
        if not self.has_bundles:
            return arguments
        parts = zip(self.parts(arguments), self.bundles, strict=True)
        return [part if bundle is None else bundle.make(part) for part, bundle in parts]

    def gradients(self, of_operands: Arguments) -> tuple[Any, ...]:
        """Return a gradient, or None, for each argument; those of an operand are its fields'."""
        found: list[Any] = []
        for gradient, bundle in zip(of_operands, self.bundles, strict=True):
            if bundle is None:
                found.append(gradient)
            else:
                found += [None] * len(bundle.types) if gradient is None else gradient
        return tuple(found)

"""What may still be to be done to make an activation: a convolution, a norm, a choice of pixels."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from gemkern import ops
from gemkern.errors import GemkernError
from gemkern.kernels.geometry import Geometry, Pair
from gemkern.nn.activations import (
    Activation,
    expose,
    join,
    make_dependents,
    note_read,
    open_todo,
    plain,
    read,
)
from gemkern.nn.histories import version_of
from gemkern.nn.layouts import keep_index
from gemkern.nn.todo import Moments
from gemkern.ops.norm_sparse import NormSparse


class Convolution:
    """A convolution by the weights that remain, and something to be added to its result.

    Args:
        layer: a compressed `MaskedConv2d`.
        value: what it reads.
        geometry: how it walks.
        values: the weights.
    """

    def __init__(self, layer: Any, value: Any, geometry: Geometry, values: Tensor) -> None:
        self.value, self.geometry, self.values = value, geometry, values
        self.pattern, self.bias = layer.pattern(), layer.bias
        self.added: Any = None
        self._learns = _versions(values, self.bias)

    def plus(self, added: Any) -> Convolution:
        todo = copy.copy(self)
        todo.added = added
        return todo

    def reads(self) -> tuple[Any, ...]:
        return self.value, self.added

    def parts(self) -> tuple[Any, ...]:
        return self.value, self.values, self.bias, self.added

    def remake(self, *parts: Any) -> Tensor:
        x, values, bias, added = parts
        return self._convolve(x, values, bias, added).y

    def run(self, value: Activation, moments: bool) -> Tensor:
        _check_versions(self._learns, self.values, self.bias)
        made = self.made(moments)
        value.moments = moments_of(made)
        return made.y

    def made(self, moments: bool) -> NormSparse:
        """Run the convolution; a norm that what it reads waits for is applied on the way."""
        x = self.value
        todo = open_todo(x)
        if not isinstance(todo, Normalisation):
            return self._convolve(read(x), self.values, self.bias, read(self.added), moments)
        todo.check_unchanged()
        source = todo.source
        made = self._convolve(
            source.tensor,
            self.values,
            self.bias,
            read(self.added),
            moments,
            norm=todo.readable(),
            keep=x.habit.keeps,
            skip=source.habit.skips,
        )
        note_read(x)
        x.passed = True
        if made.z is not None:
            x.todo, x.base, x.tensor = None, made.z, made.z
        if made.skip is not None:
            source.tensor = made.skip
        return made

    def _convolve(
        self,
        x: Tensor,
        values: Tensor,
        bias: Tensor | None,
        added: Tensor | None,
        moments: bool = False,
        **how: Any,
    ) -> NormSparse:
        return ops.norm_sparse_conv2d(
            x,
            values,
            self.pattern,
            bias,
            *self.geometry,
            added=added,
            moments=moments,
            **how,
        )


class Normalisation:
    """A norm by known statistics, a residual and a ReLU, of an activation that is made."""

    def __init__(self, source: Activation, norm: ops.Norm) -> None:
        self.source, self.norm = source, norm
        self._learns = _versions(norm.weight, norm.bias)

    def reads(self) -> tuple[Any, ...]:
        return self.source, self.norm.residual

    def parts(self) -> tuple[Any, ...]:
        return self.source, *self.norm[:4], self.norm.residual

    def remake(self, *parts: Any) -> Tensor:
        x, mean, var, weight, bias, residual = parts
        norm = ops.Norm(mean, var, weight, bias, self.norm.eps, residual, self.norm.relu)
        return ops.normalise(x, norm)

    def run(self, value: Activation, moments: bool) -> Tensor:
        self.check_unchanged()
        return ops.normalise(self.source.tensor, self.readable())

    def readable(self) -> ops.Norm:
        """Return the norm, its residual made."""
        return self.norm._replace(residual=read(self.norm.residual))

    def check_unchanged(self) -> None:
        _check_versions(self._learns, self.norm.weight, self.norm.bias)


class Pixels:
    """Every so many pixels of an activation, a view of it."""

    def __init__(self, value: Activation, index: Any, stride: Pair) -> None:
        self.value, self.index, self.stride = value, index, stride

    def reads(self) -> tuple[Any, ...]:
        return (self.value,)

    def parts(self) -> tuple[Any, ...]:
        return (self.value,)

    def remake(self, *parts: Any) -> Tensor:
        return parts[0][self.index]

    def run(self, value: Activation, moments: bool) -> Tensor:
        make_dependents(self.value)
        base = keep_index(plain(self.value), self.index)
        value.exposed = True
        expose(self.value)
        join(self.value, value)
        return base


def moments_of(made: NormSparse) -> Moments | None:
    if made.mean is None or made.var is None:
        return None
    return Moments(made.mean, made.var, version_of(made.y))


def _versions(weight: Tensor | None, bias: Tensor | None) -> tuple[int, int]:
    if torch.is_inference_mode_enabled():
        return 0, 0
    return -1 if weight is None else weight._version, -1 if bias is None else bias._version


def _check_versions(versions: tuple[int, int], weight: Tensor | None, bias: Tensor | None) -> None:
    if _versions(weight, bias) != versions:
        raise GemkernError(
            "a weight changed between the layer of an accelerated model that read it and what "
            "reads the layer's result: use the result first, or gemkern.decelerate the model"
        )

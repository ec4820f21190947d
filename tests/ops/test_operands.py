"""Operands of several fields become flat arguments, and themselves again."""

from __future__ import annotations

import torch
from gemkern.kernels.geometry import Geometry
from gemkern.kernels.reference.normalise import Norm

from gemkern.ops.operands import Signature

SIGNATURE = Signature(
    "(Tensor x, Norm? norm, Geometry geometry, Tensor(a!)? y, str backend) -> (Tensor, Tensor?)"
)
X, NORM = torch.zeros(1), Norm(torch.zeros(2), torch.ones(2))


def test_a_schema_names_the_fields() -> None:
    assert SIGNATURE.schema == (
        "(Tensor x, Tensor? norm_mean, Tensor? norm_var, Tensor? norm_weight, Tensor? norm_bias, "
        "float norm_eps, Tensor? norm_residual, bool norm_relu, int[] geometry_stride, "
        "int[] geometry_padding, int[] geometry_dilation, int geometry_groups, "
        "Tensor(a!)? y, str backend) -> (Tensor, Tensor?)"
    )


def test_operands_come_back_as_they_were() -> None:
    for norm in (NORM, None):
        operands = [X, norm, Geometry((2, 1)), None, ""]
        arguments = SIGNATURE.flat(operands)
        assert len(arguments) == 1 + 7 + 4 + 2
        assert SIGNATURE.operands(arguments) == operands


def test_lists_of_pytorch_become_pairs() -> None:
    arguments = [X, *[None] * 4, 0.0, None, False, [2, 2], [1, 1], [1, 1], 3, None, ""]
    geometry = SIGNATURE.operands(arguments)[2]
    assert geometry == Geometry((2, 2), (1, 1), (1, 1), 3)
    assert hash(geometry)


def test_gradients_are_those_of_arguments() -> None:
    of_norm = (X, X, None, None, None, X, None)
    assert SIGNATURE.gradients((X, of_norm, None, X, None)) == (
        X, *of_norm, *[None] * 4, X, None,
    )  # fmt: skip
    assert SIGNATURE.gradients((None,) * 5) == (None,) * 14

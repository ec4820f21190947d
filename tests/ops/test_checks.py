"""Every sentence that a masked layer refuses its operands with."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from masked_layers import LAYERS, Layer, conv2d, linear
from torch import Tensor

from gemkern import GemkernError, ops

META = torch.device("meta")

both_layers = pytest.mark.parametrize("make", LAYERS)


def refused(layer: Layer, sentence: str, **changed: Any) -> None:
    name = layer.masked.__name__
    with pytest.raises(GemkernError, match=f"^{name}: {re.escape(sentence)}$"):
        layer(**changed)


@both_layers
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_active_is_bool(make, dtype: torch.dtype) -> None:
    layer = make()
    refused(layer, f"active is {dtype}; give a bool tensor", active=layer.active.to(dtype))


@both_layers
@pytest.mark.parametrize("name", ["active", "scores"])
def test_masks_have_an_entry_for_each_weight(make, name: str) -> None:
    layer = make()
    shape = tuple(layer.weight.shape)
    for wrong in (getattr(layer, name)[:1], getattr(layer, name).flatten()):
        found = f"{name} has shape {tuple(wrong.shape)} and the weight {shape}"
        refused(layer, f"{found}; give one entry for each weight", **{name: wrong})


@both_layers
@pytest.mark.parametrize("name", ["x", "scores", "active", "bias"])
def test_all_operands_live_on_one_device(make, name: str) -> None:
    layer = make()
    found = f"{name} is on meta and the weight on cpu; move one to the other"
    refused(layer, found, **{name: getattr(layer, name).to(META)})


@both_layers
@pytest.mark.parametrize(
    ("weight", "scores"),
    [
        (torch.float32, torch.float64),
        (torch.float32, torch.float16),
        (torch.float16, torch.float16),
        (torch.bfloat16, torch.bfloat16),
        (torch.bfloat16, torch.float64),
        (torch.float64, torch.bfloat16),
        (torch.float32, torch.int64),
    ],
)
def test_scores_are_wide(make, weight: torch.dtype, scores: torch.dtype) -> None:
    layer = make(weight)
    found = f"scores are {scores}; keep them in float32, whatever the weight's dtype"
    refused(layer, found, scores=layer.scores.to(scores))


@both_layers
@pytest.mark.parametrize("dtype", [torch.int64, torch.complex64])
def test_weights_are_floats(make, dtype: torch.dtype) -> None:
    layer = make()
    given = {"x": layer.x.to(dtype), "weight": layer.weight.to(dtype)}
    refused(layer, f"the weight is {dtype}; give a float dtype", **given)


@both_layers
@pytest.mark.parametrize("extra", [1, -1])
def test_the_bias_has_a_number_for_each_output(make, extra: int) -> None:
    layer = make()
    outputs = layer.weight.shape[0]
    found = f"bias has shape ({outputs + extra},); give ({outputs},), one number for each output"
    refused(layer, found, bias=torch.zeros(outputs + extra))
    found = f"bias has shape ({outputs}, 1); give ({outputs},), one number for each output"
    refused(layer, found, bias=layer.bias.view(-1, 1))


@both_layers
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.int64])
def test_x_and_weight_share_a_dtype_outside_autocast(make, dtype: torch.dtype) -> None:
    layer = make()
    found = f"x is {dtype} and the weight torch.float32; convert one, or use autocast"
    refused(layer, found, x=layer.x.to(dtype))
    with torch.autocast("cpu", torch.bfloat16, enabled=False):
        refused(layer, found, x=layer.x.to(dtype))


@pytest.mark.parametrize("shape", [(15,), (3, 5, 1)])
def test_the_weight_of_a_linear_layer_is_a_matrix(shape: tuple[int, ...]) -> None:
    layer = linear()
    changed = {name: getattr(layer, name).view(shape) for name in ("weight", "scores", "active")}
    found = f"weight has shape {shape}; give (outputs, inputs)"
    refused(layer, found, **changed, bias=None)


@pytest.mark.parametrize("shape", [(), (4,), (5, 4), (2, 5, 6), (0,)])
def test_the_last_dimension_of_x_holds_the_features(shape: tuple[int, ...]) -> None:
    found = f"x has shape {shape} and the weight (3, 5); give x with 5 features in its last"
    refused(linear(), f"{found} dimension", x=torch.zeros(shape))


@pytest.mark.parametrize("shape", [(72,), (6, 12), (6, 2, 6), (6, 2, 3, 2, 1)])
def test_the_weight_of_a_convolution_has_four_dimensions(shape: tuple[int, ...]) -> None:
    layer = conv2d()
    operands = (layer.weight, layer.scores, layer.active)
    weight, scores, active = (
        operand.new_zeros(shape) if isinstance(operand, Tensor) else None for operand in operands
    )
    found = f"weight has shape {shape}; give (outputs, inputs / groups, height, width)"
    refused(layer, found, weight=weight, scores=scores, active=active, bias=None)


@pytest.mark.parametrize("groups", [4, 5, 7, 0, -2])
def test_groups_divide_the_outputs(groups: int) -> None:
    found = f"6 outputs do not split into {groups} groups; give a divisor"
    refused(conv2d(), found, groups=groups)


@pytest.mark.parametrize(
    "shape", [(4, 7, 6), (2, 4, 7), (2, 3, 7, 6), (2, 2, 7, 6), (1, 2, 4, 7, 6)]
)
def test_x_is_a_batch_of_images_of_the_right_channels(shape: tuple[int, ...]) -> None:
    found = f"x has shape {shape} and the weight (6, 2, 3, 2) in 2 groups"
    refused(conv2d(), f"{found}; give x as (batch, 4, height, width)", x=torch.zeros(shape))


@pytest.mark.parametrize("groups", [1, 3])
def test_channels_are_those_of_all_groups(groups: int) -> None:
    found = f"x has shape (2, 4, 7, 6) and the weight (6, 2, 3, 2) in {groups} groups"
    refused(conv2d(), f"{found}; give x as (batch, {2 * groups}, height, width)", groups=groups)


@pytest.mark.parametrize(
    ("name", "least", "value"),
    [
        ("stride", 1, 0),
        ("stride", 1, (1, -1)),
        ("stride", 1, (1,)),
        ("stride", 1, (1, 1, 1)),
        ("stride", 1, ()),
        ("padding", 0, -1),
        ("padding", 0, (-1, 0)),
        ("padding", 0, (0, 0, 0, 0)),
        ("dilation", 1, 0),
        ("dilation", 1, (0, 1)),
        ("dilation", 1, (2,)),
    ],
)
def test_geometry_is_a_pair_that_is_large_enough(name: str, least: int, value) -> None:
    pair = (value, value) if isinstance(value, int) else value
    found = f"{name} is {pair}; give an int or a pair, at least {least} and at most 32768"
    refused(conv2d(), found, **{name: value})


@pytest.mark.parametrize(
    ("image", "padding", "dilation"),
    [
        ((2, 6), (0, 0), (1, 1)),
        ((7, 1), (0, 0), (1, 1)),
        ((4, 6), (0, 0), (2, 1)),
        ((7, 2), (0, 0), (1, 2)),
        ((0, 1), (1, 0), (1, 1)),
        ((4, 6), (1, 0), (3, 1)),
    ],
)
def test_a_kernel_fits_into_the_padded_image(image, padding, dilation) -> None:
    found = (
        f"a kernel of (3, 2) with dilation {dilation} is larger than the image {image} "
        f"with padding {padding}; pad more or shrink the kernel"
    )
    x = torch.zeros(2, 4, *image)
    refused(conv2d(), found, x=x, padding=padding, dilation=dilation)


@pytest.mark.parametrize(
    ("image", "padding", "dilation"),
    [((3, 2), 0, 1), ((1, 2), (1, 0), 1), ((5, 3), 0, 2), ((1, 1), (2, 1), (2, 2))],
)
def test_a_kernel_as_large_as_the_padded_image_is_welcome(image, padding, dilation) -> None:
    y = conv2d()(x=torch.zeros(2, 4, *image), stride=1, padding=padding, dilation=dilation)
    assert y.shape[2:] == (1, 1)


@pytest.mark.parametrize("name", ["stride", "padding", "dilation"])
def test_one_number_stands_for_a_pair(name: str) -> None:
    layer = conv2d()
    assert torch.equal(layer(**{name: 2}), layer(**{name: (2, 2)}))
    assert not torch.equal(layer(**{name: 2}), layer(**{name: (2, 1)}))


def test_an_error_of_gemkern_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="give a bool tensor"):
        ops.pack_mask(torch.zeros(3))

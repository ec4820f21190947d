"""Which layers an optimiser finds, and what it says when it finds none."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gemkern.errors import GemkernError
from gemkern.nn import MaskedConv2d, MaskedLinear, convert
from gemkern.optim import MaskedLayer, MaskedSGD, ScoreSGD, is_masked, masked_layers


def make_model() -> nn.Sequential:
    torch.manual_seed(0)
    shared = nn.Linear(4, 4)
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Sequential(shared, shared), nn.LayerNorm(4))
    convert(model, scores=True)
    return model


def test_layers_come_by_name_in_order_and_once() -> None:
    model = make_model()
    layers = masked_layers(model)
    assert list(layers) == ["0", "1.0"]
    assert layers["0"] is model[0]
    assert layers["1.0"] is model[1][1]
    assert list(masked_layers(model[0])) == [""]
    assert len(ScoreSGD(model).param_groups[0]["params"]) == 2


def test_what_is_a_masked_layer() -> None:
    odd = nn.Linear(2, 2)
    odd.register_buffer("active", torch.ones(3, dtype=torch.bool))
    assert not is_masked(odd)
    assert not is_masked(nn.Linear(2, 2))
    for layer in (MaskedConv2d(1, 1, 1), MaskedLinear(1, 1, scores=True)):
        assert is_masked(layer)
        assert isinstance(layer, MaskedLayer)
    number = nn.Linear(2, 2)
    number.register_buffer("active", torch.ones(2, 2))
    assert not is_masked(number)


def test_a_model_layers_and_groups_are_taken_alike() -> None:
    model = make_model()
    expected = [model[0].scores, model[1][0].scores]
    first, second = model[0], model[1][0]
    for given in (
        model,
        [first, second],
        iter((first, second)),
        [{"layers": model}],
        [{"layers": [first, second]}],
    ):
        (group,) = ScoreSGD(given).param_groups
        assert [id(param) for param in group["params"]] == [id(param) for param in expected]
    assert len(ScoreSGD([{"layers": first}, {"layers": [second]}]).param_groups) == 2


def test_errors() -> None:
    plain = nn.Sequential(nn.Linear(2, 2))
    sentence = r"the model Sequential has nothing to mask: call gemkern\.convert\(model\) first"
    with pytest.raises(GemkernError, match=sentence):
        masked_layers(plain)
    with pytest.raises(GemkernError, match=sentence):
        ScoreSGD(plain)
    with pytest.raises(GemkernError, match=r"a group has the keys \['lr'\] and no layers"):
        ScoreSGD([{"lr": 0.1}])
    convert(plain)
    with pytest.raises(GemkernError, match=r"has no scores to learn: convert the model with"):
        ScoreSGD(plain)
    with pytest.raises(GemkernError, match=r"a group has the keys \['params'\] and no layers"):
        MaskedSGD([{"params": list(plain.parameters())}], lr=0.1)

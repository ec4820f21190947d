"""Conversion replaces what it can, keeps what there was, and says why of the rest."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

from gemkern.errors import GemkernError
from gemkern.models import build
from gemkern.nn import MaskedConv2d, MaskedLinear, convert, mask_zeros, unconvert


class Doubled(nn.Linear):
    """A layer with a behaviour of its own."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(input)


class Nested(nn.Module):
    """Layers as attributes, in lists and one deeper; one of them in two places."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, padding="same", bias=False, padding_mode="reflect")
        self.norm = nn.BatchNorm2d(4)
        self.blocks = nn.ModuleList([nn.Sequential(nn.Conv2d(4, 4, 3, 2, 1, groups=4), nn.ReLU())])
        self.head = nn.Linear(4, 4)
        self.again = self.head

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.stem(x))
        for block in self.blocks:
            x = block(x)
        return self.again(self.head(x.mean((2, 3))))


def converted_and_left(model: nn.Module, **options: Any) -> tuple[list[str], dict[str, str]]:
    report = convert(model, **options)
    return report.converted, report.left


@pytest.mark.parametrize("scores", [True, False])
def test_everything_in_a_nested_model(scores: bool) -> None:
    torch.manual_seed(0)
    model = Nested()
    parameters = dict(model.named_parameters())
    report = convert(model, scores=scores)
    assert report.converted == ["stem", "blocks.0.0", "head", "again"]
    assert report.left == {"norm": "not a convolution or linear layer (BatchNorm2d)"}
    assert type(model.stem) is type(model.blocks[0][0]) is MaskedConv2d
    assert type(model.head) is MaskedLinear
    assert model.again is model.head
    for name, parameter in model.named_parameters():
        assert name.endswith("scores") or parameter is parameters[name]
    assert all((layer.scores is not None) is scores for layer in (model.stem, model.head))
    assert str(report).splitlines() == [
        "converted stem",
        "converted blocks.0.0",
        "converted head",
        "converted again",
        "left norm: not a convolution or linear layer (BatchNorm2d)",
        "masks cover 124 of 140 parameters, 88.6 %",
    ]
    assert report.share == 124 / 140


@pytest.mark.parametrize("make", [Nested, lambda: build("resnet8", channels=2, seed=0)])
@pytest.mark.parametrize("training", [True, False])
def test_the_numbers_stay_there_and_back(make: Any, training: bool) -> None:
    torch.manual_seed(0)
    model = make().train(training)
    plain = copy.deepcopy(model)
    x = torch.randn(3, 2, 8, 8)
    expected = copy.deepcopy(plain)(x)
    kinds = [type(module) for module in plain.modules()]
    there = convert(model)
    assert torch.equal(copy.deepcopy(model)(x), expected)
    back = unconvert(model)
    assert back.converted == there.converted
    assert [type(module) for module in model.modules()] == kinds
    assert repr(model) == repr(plain)
    assert torch.equal(model(x), expected)
    for (name, ours), theirs in zip(model.named_parameters(), plain.parameters(), strict=True):
        assert torch.equal(ours, theirs), name
        assert ours.requires_grad


@pytest.mark.parametrize("scores", [True, False])
def test_zeros_are_baked_and_shared_layers_stay_shared(scores: bool) -> None:
    torch.manual_seed(0)
    model = Nested()
    convert(model, scores=scores)
    with torch.no_grad():
        model.head.weight.fill_(-1.0)
    model.head.active[0] = False
    mask = model.head.mask()
    x = torch.randn(3, 2, 8, 8)
    expected = copy.deepcopy(model)(x)
    report = unconvert(model)
    assert report.converted == ["stem", "blocks.0.0", "head", "again"]
    assert report.left == {"norm": "not masked"}
    assert model.again is model.head
    assert type(model.head) is nn.Linear
    assert torch.equal(model.head.weight, torch.where(mask, -1.0, 0.0))
    assert not torch.signbit(model.head.weight[~mask]).any()
    assert torch.equal(model(x), expected)
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert unconvert(model).converted == []


def test_flags_dtypes_and_devices_are_kept() -> None:
    model = nn.Sequential(
        nn.Linear(2, 3, dtype=torch.float64),
        nn.Linear(3, 4, dtype=torch.bfloat16).eval(),
        nn.Linear(4, 5, device="meta"),
        nn.Conv2d(1, 1, 1),
    )
    model[0].weight.requires_grad_(False)
    for change in (convert, unconvert):
        change(model)
        assert [layer.weight.dtype for layer in model][:2] == [torch.float64, torch.bfloat16]
        assert [layer.bias.dtype for layer in model][:2] == [torch.float64, torch.bfloat16]
        assert [layer.training for layer in model] == [True, False, True, True]
        assert [layer.weight.is_meta for layer in model] == [False, False, True, False]
        assert [layer.weight.requires_grad for layer in model] == [False, True, True, True]
        if change is convert:
            assert [layer.active.is_meta for layer in model] == [False, False, True, False]
    convert(model, scores=True)
    assert [layer.scores.is_meta for layer in model] == [False, False, True, False]
    assert all(layer.scores.dtype == torch.float32 for layer in model)
    assert not any(layer.weight.requires_grad or layer.bias.requires_grad for layer in model)


def hooked(layer: nn.Linear) -> nn.Module:
    layer.register_forward_hook(lambda module, args, output: None)
    return layer


def hooked_backward(layer: nn.Linear) -> nn.Module:
    layer.register_full_backward_pre_hook(lambda module, grad: None)
    return layer


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: hooked(nn.Linear(2, 2)), "it has hooks, which a replacement would lose"),
        (lambda: hooked_backward(nn.Linear(2, 2)), "it has hooks, which a replacement would lose"),
        (
            lambda: prune.random_unstructured(nn.Linear(2, 2), "weight", 0.5),
            "pruned by torch.nn.utils.prune (Linear), which computes its weight at every call: "
            "make that permanent by prune.remove, convert, and call gemkern.mask_zeros",
        ),
        (
            lambda: Doubled(2, 2),
            "a subclass of a layer (Doubled): its own behaviour would be lost",
        ),
        (
            lambda: parametrizations.weight_norm(nn.Linear(2, 2)),
            "parametrized (ParametrizedLinear): its weight is computed, "
            "remove the parametrization first",
        ),
        (
            lambda: nn.LazyLinear(2),
            "lazy (LazyLinear): its weight has no shape yet, call the model on data first",
        ),
        (
            lambda: nn.LazyConv2d(2, 3),
            "lazy (LazyConv2d): its weight has no shape yet, call the model on data first",
        ),
        (
            lambda: nn.ConvTranspose2d(2, 2, 3),
            "not a convolution or linear layer (ConvTranspose2d)",
        ),
        (lambda: MaskedLinear(2, 2), "masked already"),
    ],
)
def test_what_is_left_and_why(make: Any, reason: str) -> None:
    special = make()
    model = nn.ModuleDict({"plain": nn.Linear(2, 2), "special": special})
    converted, left = converted_and_left(model)
    assert converted == ["plain"]
    assert left["special"] == reason
    assert model["special"] is special


def test_hooks_keep_a_masked_layer_masked() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    convert(model)
    hooked(model[0])
    report = unconvert(model)
    assert (report.converted, list(report.left)) == (["1"], ["0"])


def test_tied_layers_are_left_alone() -> None:
    model = nn.ModuleDict({name: nn.Linear(3, 3) for name in ("a", "b", "free", "output")})
    model["b"].weight = model["a"].weight
    model["embedding"] = nn.Embedding(3, 3)
    model["output"].weight = model["embedding"].weight
    converted, left = converted_and_left(model, scores=True)
    assert converted == ["free"]
    why = "by a parameter, which one mask cannot serve: give each its own"
    assert left["b"] == f"tied to a {why}"
    assert left["output"] == f"tied to embedding {why}"
    assert left["a"] == f"tied to b {why}"
    assert model["a"].weight is model["b"].weight
    assert model["a"].weight.requires_grad
    pair = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    pair[1].weight = pair[0].weight
    with pytest.raises(GemkernError, match=r"0: tied to 1 by a parameter.*; 1: tied to 0 by"):
        convert(pair)


def test_layers_that_a_transformer_reads_past_their_forward_are_left_alone() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.TransformerEncoderLayer(4, 2, 8))
    converted, left = converted_and_left(model)
    assert converted == ["0"]
    assert all("past the layer's forward" in left[f"1.linear{i}"] for i in (1, 2))


def test_a_filter_chooses() -> None:
    model = Nested()
    seen: list[tuple[str, str]] = []

    def no_depthwise(module: nn.Module, name: str) -> bool:
        seen.append((type(module).__name__, name))
        return getattr(module, "groups", 1) == 1

    converted, left = converted_and_left(model, filter_fn=no_depthwise)
    assert seen == [("Conv2d", "stem"), ("Conv2d", "blocks.0.0"), ("Linear", "head")]
    assert converted == ["stem", "head", "again"]
    assert left["blocks.0.0"] == "filter_fn said no"


def test_errors() -> None:
    with pytest.raises(GemkernError, match=r"the model is itself a layer \(Conv2d\).*from_dense"):
        convert(nn.Conv2d(1, 1, 1))
    with pytest.raises(GemkernError, match=r"itself a layer \(MaskedLinear\).*to_dense"):
        unconvert(MaskedLinear(1, 1))
    with pytest.raises(GemkernError, match=r"Sequential has nothing to mask \(no layer with param"):
        convert(nn.Sequential(nn.ReLU()))
    model = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))
    convert(model)
    sentence = r"nothing to mask \(0: masked already; 1: not a convolution or linear layer \(Layer"
    with pytest.raises(GemkernError, match=sentence):
        convert(model)


def test_attention_conv1d_and_pruned_layers_are_named() -> None:
    class Conv1D(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(4, 4))

    model = nn.ModuleDict(
        {
            "attention": nn.MultiheadAttention(4, 2),
            "mlp": Conv1D(),
            "pruned": prune.l1_unstructured(nn.Linear(4, 4), "weight", 0.5),
            "tied": nn.Linear(4, 4),
            "embedding": nn.Embedding(4, 4),
            "head": nn.Linear(4, 4),
        }
    )
    model["tied"].weight = model["embedding"].weight
    report = convert(model)
    assert report.converted == ["head"]
    said = {
        "attention": "attention that multiplies by its projections itself",
        "attention.out_proj": "its weight is read by MultiheadAttention",
        "mlp": "holds its weight|lies transposed",
        "pruned": "pruned by torch.nn.utils.prune",
        "tied": "tied to embedding",
        "embedding": "tied to tied",
    }
    assert report.left.keys() == said.keys()
    for name, reason in said.items():
        assert re.search(reason, report.left[name]), name
    # Not the bias, and one of the two holders of the tied weight.
    everything = sum(one.numel() for one in {*model.parameters()})
    assert (report.covered, report.parameters) == (16, everything)


def test_a_pruned_model_brings_its_masks() -> None:
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Flatten(), nn.Linear(4, 3))
    for layer in (model[0], model[2]):
        prune.random_unstructured(layer, "weight", 0.5)
        prune.remove(layer, "weight")
    x = torch.randn(5, 2, 3, 3)
    before, zeros = model(x), [model[0].weight == 0, model[2].weight == 0]
    convert(model)
    mask_zeros(model)
    assert [torch.equal(~model[i].active, zero) for i, zero in zip((0, 2), zeros, strict=True)] == [
        True
    ] * 2
    assert torch.equal(model(x), before)
    mask_zeros(model)
    assert int(model[0].active.sum()) == 36


def test_what_is_masked_by_now_stays_masked() -> None:
    model = nn.Sequential(nn.Linear(4, 4))
    convert(model)
    model[0].active[0] = False
    model[0].weight.data[1, 1] = 0.0
    mask_zeros(model)
    assert not model[0].active[0].any()
    assert model[0].active.sum(1).tolist() == [0, 3, 4, 4]


def test_zeros_of_a_whole_layer_are_refused_and_nothing_is_masked() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    nn.init.zeros_(model[1].weight)
    model[0].weight.data[0] = 0.0
    with pytest.raises(GemkernError, match="has no masked layer"):
        mask_zeros(model)
    convert(model)
    with pytest.raises(GemkernError, match="all weights of layer '1' are zero"):
        mask_zeros(model)
    assert model[0].active.all()


def test_a_sharded_weight_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    class DTensor(torch.Tensor):
        """What a sharded weight is called."""

    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[0].weight = nn.Parameter(model[0].weight.detach().as_subclass(DTensor))
    model[0]._parameters["weight"].__class__ = DTensor
    assert "is a DTensor" in convert(model).left["0"]


class Reading(nn.Module):
    """A block that computes with the weight of one layer, and looks at that of another."""

    def __init__(self) -> None:
        super().__init__()
        self.read, self.looked_at, self.called = (nn.Linear(6, 6) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if isinstance(self.looked_at.weight, torch.Tensor):
            x = x.to(self.looked_at.weight.dtype)
        x = nn.functional.linear(x, self.read.weight, self.read.bias).relu()
        return self.called(self.looked_at(x))


def test_a_layer_whose_weight_is_read_past_its_forward_is_left() -> None:
    model = nn.Sequential(Reading(), nn.Linear(6, 6))
    report = convert(model)
    assert report.converted == ["0.looked_at", "0.called", "1"]
    assert "its weight is read by Reading, past the layer's forward" in report.left["0.read"]

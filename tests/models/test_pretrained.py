"""Weights from a file: torchvision's names and ours, other classes, and what does not fit."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision_names import TorchvisionResNet, vary

from gemkern.errors import GemkernError
from gemkern.models import build, load_weights

State = dict[str, Tensor]


def network(
    name: str = "resnet8", classes: int = 10, seed: int = 1, affine: bool = True
) -> nn.Module:
    return build(name, classes=classes, affine=affine, init="kaiming_normal", seed=seed)


def written(
    model: nn.Module, path: Path, change: Callable[[State], object] = lambda state: None
) -> Path:
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    change(state)
    save_file(state, path)
    return path


@pytest.fixture
def source() -> nn.Module:
    model = network(seed=7)
    vary(model)
    return model


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "weights.safetensors"


def same(one: nn.Module, other: nn.Module, *but: str) -> bool:
    ours, theirs = one.state_dict(), other.state_dict()
    assert ours.keys() == theirs.keys()
    differ = {name for name in ours if not torch.equal(ours[name], theirs[name])}
    return differ == set(but)


@pytest.mark.parametrize("name", ["resnet8", "mobilenet_v2", "conv4"])
def test_a_state_dict_of_the_same_network_is_loaded(name: str, path: Path) -> None:
    source, model = network(name, seed=7), network(name)
    vary(source)
    assert load_weights(model, written(source, path)) == ""
    assert same(model, source)
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize(("name", "deep"), [("tiny_resnet18", False), ("resnet50", True)])
def test_torchvisions_names_are_translated(name: str, deep: bool, path: Path) -> None:
    theirs = TorchvisionResNet(deep, 6)
    vary(theirs)
    nn.init.zeros_(theirs.fc.bias)
    model = build(name, classes=6, image_size=64, affine=True, seed=1)
    said = load_weights(model, written(theirs, path))
    assert said == f"the bias of the classifier in {path} is left out: the network's has none"
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)).double()
    ours, expected = model.double().eval()(x), theirs.double().eval()(x)
    assert (ours - expected).abs().max() < 1e-12 * expected.abs().max()


@pytest.mark.parametrize("bias", [True, False])
def test_a_classifier_of_other_classes_stays_as_it_was_drawn(bias: bool, path: Path) -> None:
    theirs = TorchvisionResNet(False, 1000, bias=bias)
    vary(theirs)
    model = build("tiny_resnet18", classes=3, image_size=64, affine=True, seed=1)
    drawn = model.state_dict()["classifier.weight"].clone()
    said = load_weights(model, written(theirs, path))
    assert said.endswith("which is drawn: the file's has 1000 classes and the network's 3")
    ours, given = model.state_dict(), theirs.state_dict()
    assert torch.equal(ours["classifier.weight"], drawn)
    assert torch.equal(ours["conv.weight"], given["conv1.weight"])
    name = "running_var"
    assert torch.equal(
        ours[f"stages.3.0.shortcut.1.{name}"], given[f"layer4.0.downsample.1.{name}"]
    )


def test_only_the_last_linear_layer_is_a_classifier(path: Path) -> None:
    source, model = network("conv4", classes=4, seed=7), network("conv4", classes=9)
    assert "has 4 classes and the network's 9" in load_weights(model, written(source, path))
    state = source.state_dict()
    del state["classifier.4.weight"]
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in state.items())


def test_a_bias_of_a_network_of_ones_own_is_drawn_with_its_classes(path: Path) -> None:
    def own(classes: int) -> nn.Sequential:
        return nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, classes))

    source, model = own(2), own(3)
    before = [one.clone() for one in model[2].parameters()]
    assert "has 2 classes and the network's 3" in load_weights(model, written(source, path))
    assert same(model[0], source[0])
    assert all(map(torch.equal, model[2].parameters(), before))
    model = own(2)
    assert load_weights(model, path) == ""
    assert same(model, source)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_numbers_are_rounded_to_the_networks(
    dtype: torch.dtype, source: nn.Module, path: Path
) -> None:
    narrow = source.to(dtype)
    model = network()
    load_weights(model, written(narrow, path))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert same(model, narrow.float())


def test_how_many_batches_a_norm_has_seen_may_be_missing(source: nn.Module, path: Path) -> None:
    def forget(state: State) -> None:
        for name in [name for name in state if name.endswith("num_batches_tracked")]:
            del state[name]

    model = network()
    load_weights(model, written(source, path, forget))
    assert same(model, source)


def put(name: str, tensor: Tensor) -> Callable[[State], object]:
    return lambda state: state.update({name: tensor})


MISFITS: dict[str, tuple[Callable[[State], object], str]] = {
    "missing": (
        lambda state: state.pop("stages.1.0.conv2.weight"),
        "it has no 'stages.1.0.conv2.weight'; give weights of the same network",
    ),
    "missing classifier": (
        lambda state: state.pop("classifier.weight"),
        "it has no 'classifier.weight'; give weights of the same network",
    ),
    "too much": (
        put("head.weight", torch.ones(2)),
        "the network has no place for its 'head.weight'",
    ),
    "shape": (
        put("conv.weight", torch.ones(16, 3, 7, 7)),
        r"its 'conv.weight' is float32 \(16, 3, 7, 7\) where the network has float32 \(16, 3, 3",
    ),
    "other features": (
        put("classifier.weight", torch.ones(4, 65)),
        r"its 'classifier.weight' is float32 \(4, 65\) where the network has float32 \(10, 64\)",
    ),
    "kind of number": (
        put("conv.weight", torch.ones(16, 3, 3, 3, dtype=torch.int32)),
        "its 'conv.weight' is int32",
    ),
    "twice": (
        put("conv1.weight", torch.ones(16, 3, 3, 3)),
        "it has another entry for what 'con.*' is; give weights of the same network",
    ),
    "no scales": (
        lambda state: [state.pop(f"stages.0.0.norm1.{entry}") for entry in ("weight", "bias")],
        r"it has no 'stages.0.0.norm1.weight'; let norms have no scales and .* by affine=False",
    ),
}


@pytest.mark.parametrize("case", MISFITS)
def test_what_does_not_fit_is_named_and_changes_nothing(
    case: str, source: nn.Module, path: Path
) -> None:
    change, sentence = MISFITS[case]
    model = network()
    with pytest.raises(GemkernError, match=f"the weights file {path} does not fit: {sentence}"):
        load_weights(model, written(source, path, change))
    assert same(model, network())


def test_scales_of_norms_need_norms_with_scales(path: Path) -> None:
    model = build("tiny_resnet18", image_size=64, seed=1)
    sentence = "no place for its 'bn1.*'; let norms have scales and shifts by affine=True"
    with pytest.raises(GemkernError, match=sentence):
        load_weights(model, written(TorchvisionResNet(False, 10), path))


def test_a_resnet18_of_imagenet_is_none_of_small_images(path: Path) -> None:
    with pytest.raises(GemkernError, match=r"its 'conv1.weight' is float32 \(64, 3, 7, 7\) where"):
        load_weights(network("resnet18"), written(TorchvisionResNet(False, 10), path))


@pytest.mark.parametrize("kind", ["zip", "legacy", "pickle"])
def test_a_pickle_is_refused_with_what_converts_it(
    kind: str, source: nn.Module, tmp_path: Path
) -> None:
    path = tmp_path / "resnet.pth"
    if kind == "pickle":
        path.write_bytes(pickle.dumps({"conv.weight": [1.0]}))
    else:
        torch.save(source.state_dict(), path, _use_new_zipfile_serialization=kind == "zip")
    with pytest.raises(GemkernError, match=r"resnet\.pth is a pickle, which could run") as caught:
        load_weights(network(), path)
    load = "torch.load('resnet.pth', weights_only=True)"
    command = f"safetensors.torch.save_file({load}, 'resnet.safetensors')"
    assert command in str(caught.value)


def test_the_sentence_about_pickles_is_true(
    source: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(source.state_dict(), "resnet.pth")
    save_file(torch.load("resnet.pth", weights_only=True), "resnet.safetensors")
    model = network()
    load_weights(model, "resnet.safetensors")
    assert same(model, source)


@pytest.mark.parametrize("content", [b"", b"weights", b"\x00" * 64])
def test_other_files_are_refused(content: bytes, path: Path) -> None:
    path.write_bytes(content)
    with pytest.raises(GemkernError, match=f"weights file {path} cannot be read as safetensors"):
        load_weights(network(), path)


def test_a_file_that_is_cut_off_and_one_that_is_not_there(source: nn.Module, path: Path) -> None:
    with pytest.raises(GemkernError, match=f"there is no weights file {path}: check the path"):
        load_weights(network(), path)
    with pytest.raises(GemkernError, match=f"{path.parent} is a folder: give a file on a disk"):
        load_weights(network(), path.parent)
    content = written(source, path).read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(GemkernError, match=f"weights file {path} cannot be read as safetensors"):
        load_weights(network(), path)

"""Networks that begin with weights from a file, to learn other images or other classes.

"Rare Gems" (NeurIPS 2022), section 4: tickets of a ResNet-50 of ImageNet, for Caltech-101.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from gemkern.errors import GemkernError
from gemkern.files import check_regular

StrPath: TypeAlias = str | os.PathLike[str]

# How files begin that torch.save and pickle write.
_PICKLES = (b"PK\x03\x04", *(bytes((0x80, protocol)) for protocol in range(2, 6)))
# Nothing is computed with it, and older files have none.
_COUNTER = ".num_batches_tracked"
# What torchvision's names are here, rule by rule.
_RENAMED = (
    (re.compile(r"^layer(\d)(?=\.)"), lambda match: f"stages.{int(match[1]) - 1}"),
    (re.compile(r"\bbn(?=\d\.)"), "norm"),
    (re.compile(r"\bdownsample(?=\.)"), "shortcut"),
    (re.compile(r"^(conv|norm)1(?=\.)"), r"\1"),
    (re.compile(r"^fc(?=\.)"), "classifier"),
)


def load_weights(model: nn.Module, path: StrPath) -> str:
    """Let `model` begin with the weights in a safetensors file: the state_dict of such a network.

    Names are those of the model, or torchvision's of a ResNet-18 or -50 (conv1, bn1,
    layer1.0.conv1, downsample.0, fc). Numbers are rounded to the model's dtypes. The classifier,
    which is the last linear layer, stays as it was drawn where the file has one of other classes;
    its bias is left out where the model has none. A model that does not match is left as it was.

    Returns:
        a sentence that says what of the classifier is not the file's; an empty one if all is.

    Raises:
        GemkernError: the file is missing, a pickle or damaged, or a name, a shape or a kind of
            number is not the model's.
    """
    path = Path(path).expanduser()
    tensors, own = _read(path), model.state_dict()
    names = {name if name in own else _translated(name): name for name in tensors}
    if len(names) < len(tensors):
        twice = min(tensors.keys() - set(names.values()))
        raise _misfit(path, f"it has another entry for what {twice!r} is")
    found = {name: tensors[theirs] for name, theirs in names.items()}
    drawn, sentence = _without_classifier(path, found, model, own)
    for name in found:
        if name not in own:
            what = f"the network has no place for its {names[name]!r}"
            raise _misfit(path, what, _affine(model, name))
    for name in own:
        if name not in found and name not in drawn and not name.endswith(_COUNTER):
            raise _misfit(path, f"it has no {name!r}", _affine(model, name))
    for name, tensor in found.items():
        ours, theirs = own[name], names[name]
        if tensor.shape != ours.shape or tensor.is_floating_point() != ours.is_floating_point():
            what = f"its {theirs!r} is {_describe(tensor)} where the network has {_describe(ours)}"
            raise _misfit(path, what)
    model.load_state_dict({**own, **found})
    return sentence


def _read(path: Path) -> dict[str, Tensor]:
    try:
        check_regular(path)
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError as error:
        raise GemkernError(f"there is no weights file {path}: check the path") from error
    except GemkernError:
        raise
    except (OSError, SafetensorError) as error:
        if os.path.isfile(path) and path.read_bytes().startswith(_PICKLES):
            raise GemkernError(
                f"{path} is a pickle, which could run any code and is not read here: convert it by "
                f"safetensors.torch.save_file(torch.load({path.name!r}, weights_only=True), "
                f"{path.with_suffix('.safetensors').name!r})"
            ) from error
        raise GemkernError(
            f"the weights file {path} cannot be read as safetensors ({error}): give one that "
            "safetensors.torch.save_file wrote"
        ) from error


def _translated(name: str) -> str:
    for pattern, ours in _RENAMED:
        name = pattern.sub(ours, name)
    return name


def _without_classifier(
    path: Path, found: dict[str, Tensor], model: nn.Module, own: Mapping[str, Tensor]
) -> tuple[set[str], str]:
    """Take a classifier of other classes out of `found`, or its bias where the model has none.

    Returns:
        the entries of the model that stay as they were drawn, and the sentence to say.
    """
    linear = [name for name, one in model.named_modules() if isinstance(one, nn.Linear)]
    if not linear:
        return set(), ""
    weight, bias = (f"{linear[-1]}.{entry}" for entry in ("weight", "bias"))
    ours, theirs = own[weight], found.get(weight)
    if theirs is None or theirs.dim() != 2 or theirs.shape[1] != ours.shape[1]:
        return set(), ""
    if len(theirs) != len(ours):
        for entry in (weight, bias):
            found.pop(entry, None)
        return {weight, bias}, (
            f"the network begins with the weights in {path}, but for its classifier, which is "
            f"drawn: the file's has {len(theirs)} classes and the network's {len(ours)}"
        )
    if bias in found and bias not in own:
        del found[bias]
        return set(), f"the bias of the classifier in {path} is left out: the network's has none"
    return set(), ""


def _affine(model: nn.Module, name: str) -> str:
    """Return what to do if an entry that is missing or too much is a norm's scale or shift."""
    module, _, entry = name.rpartition(".")
    norm = dict(model.named_modules()).get(module)
    if not isinstance(norm, _NormBase) or entry not in ("weight", "bias"):
        return ""
    wanted = not norm.affine
    return f"let norms have {'' if wanted else 'no '}scales and shifts by affine={wanted}"


def _describe(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"


def _misfit(path: Path, what: str, remedy: str = "") -> GemkernError:
    return GemkernError(
        f"the weights file {path} does not fit: {what}; "
        f"{remedy or 'give weights of the same network'}"
    )

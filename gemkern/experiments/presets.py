"""Named settings: the paper's, from the authors' configurations, and short ones for small data.

A preset is a dictionary of settings by name. Paper presets are named MODEL-PERCENT, the percent of
weights that remain. Source: Rare Gems (NeurIPS 2022) and its authors' public configuration files;
where those offer a grid, the value that their final runs name. Gem-Miner starts there from signed
constants, IMP, smart ratio and (but for VGG-16) dense training from Kaiming normal weights. Of
ResNet-18 and -50 on TinyImageNet percents are of all weights; the authors' are of those outside of
shortcuts (`gemkern.models.resnet`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from gemkern.errors import GemkernError
from gemkern.experiments.own import is_own
from gemkern.experiments.settings import (
    Settings,
    check_acceleration,
    kinds,
    lengths,
    pick_autocast,
    pick_device,
)
from gemkern.tickets import METHODS

# What initial weights are called where all methods are given the same.
INIT = "init"
# Characters of an assignment that are shown where it is refused.
LONGEST = 200

# Settings that say how long a search lasts which has no rounds.
_SEARCHES = [name for name in lengths(1) if not name.startswith(("finetune_", "imp_"))]

_COMMON: dict[str, Any] = {
    "affine": False,
    "batch_size": 128,
    "finetune_schedule": "multistep",
    "weight_decay": 1e-4,
    "imp_lr": 0.1,
    "imp_prune": 0.2,
}


def _paper(model: str, data: str, epochs: int, **changes: Any) -> dict[str, Any]:
    return {
        **_COMMON,
        "model": model,
        "data": data,
        **dict.fromkeys(_SEARCHES, epochs),
        "freeze_every": 5,
        "score_optimizer": "sgd",
        "score_lr": 0.1,
        "finetune_epochs": epochs,
        "finetune_lr": 0.01,
        "imp_epochs": epochs,
        "imp_rewind": "1000",
        **changes,
    }


def _resnet20(density: float, l2: float, **changes: Any) -> dict[str, Any]:
    return _paper("resnet20", "cifar10", 150, density=density, l2=l2, **changes)


def _resnet32(density: float, l2: float) -> dict[str, Any]:
    return _paper("resnet32", "cifar100", 150, density=density, l2=l2)


def _mobilenet(density: float, l2: float) -> dict[str, Any]:
    return _paper("mobilenet_v2", "cifar10", 300, density=density, l2=l2, weight_decay=4e-5)


def _vgg16(density: float) -> dict[str, Any]:
    adam = {"score_optimizer": "adam", "score_lr": 0.01}
    weights = {"finetune_lr": 0.05, "weight_decay": 5e-4, "imp_rewind": "2000"}
    return _paper("vgg16", "cifar10", 200, density=density, l2=1e-6, **adam, **weights)


def _wide_resnet(density: float) -> dict[str, Any]:
    freezing = {"freeze_every": 10, "imp_rewind": "2000"}
    return _paper("wide_resnet28_2", "cifar10", 150, density=density, l2=1e-5, **freezing)


def _resnet18(density: float, l2: float) -> dict[str, Any]:
    adam = {"score_optimizer": "adam", "score_lr": 0.01}
    return _paper("resnet18", "cifar10", 200, freeze_every=20, density=density, l2=l2, **adam)


def _tiny_resnet18(density: float, l2: float, **changes: Any) -> dict[str, Any]:
    adam = {"score_optimizer": "adam", "score_lr": 0.001}
    training = {"batch_size": 256, "finetune_lr": 0.1}
    values = {"density": density, "l2": l2, **adam, **training, **changes}
    return _paper("tiny_resnet18", "tiny-imagenet", 200, **values)


def _resnet50(density: float) -> dict[str, Any]:
    adam = {"score_optimizer": "adam", "score_lr": 0.01}
    weights = {"finetune_lr": 0.1, "finetune_nesterov": True}
    return _paper("resnet50", "tiny-imagenet", 150, density=density, l2=1e-6, **adam, **weights)


# Where the authors' tickets are what has scores above 0.5, not all that was never frozen.
_ROUNDED = {"score_optimizer": "sgd", "score_lr": 0.1, "freeze_every": 10, "mine_keep": "rounded"}

PAPER: dict[str, dict[str, Any]] = {
    "resnet20-0.59": _resnet20(0.0059, 1e-4),
    "resnet20-1.44": _resnet20(0.0144, 5e-5),
    "resnet20-3.72": _resnet20(0.0372, 3e-5),
    "resnet20-50": _resnet20(0.5, 1e-8, freeze_every=8, score_lr=0.05, finetune_lr=0.1),
    "resnet32-2": _resnet32(0.02, 5e-5),
    "resnet32-5": _resnet32(0.05, 1e-5),
    "mobilenet_v2-1.4": _mobilenet(0.014, 1.5e-5),
    "mobilenet_v2-5": _mobilenet(0.05, 7e-6),
    "mobilenet_v2-20": _mobilenet(0.2, 3e-6),
    "mobilenet_v2-50": _mobilenet(0.5, 0.0),
    "vgg16-0.5": _vgg16(0.005),
    "vgg16-1.4": _vgg16(0.014),
    "vgg16-2.5": _vgg16(0.025),
    "vgg16-5": _vgg16(0.05),
    "wide_resnet28_2-1.4": _wide_resnet(0.014),
    "wide_resnet28_2-2.3": _wide_resnet(0.023),
    "wide_resnet28_2-5.5": _wide_resnet(0.055),
    "resnet18-0.5": _resnet18(0.005, 8.5e-6),
    "resnet18-5": _resnet18(0.05, 3e-6),
    "tiny_resnet18-0.5": _tiny_resnet18(0.005, 1e-5),
    "tiny_resnet18-1.4": _tiny_resnet18(0.014, 5e-6),
    "tiny_resnet18-5": _tiny_resnet18(0.05, 8e-6),
    "tiny_resnet18-20": _tiny_resnet18(0.2, 3e-6, **_ROUNDED),
    "tiny_resnet18-50": _tiny_resnet18(0.5, 0.0, **_ROUNDED),
    "resnet50-0.5": _resnet50(0.005),
    "resnet50-1.4": _resnet50(0.014),
    "resnet50-5": _resnet50(0.05),
}

# Some 800 to 3,000 steps instead of the paper's 58,000: plain SGD at 0.1 would leave the scores
# near their random start, Adam moves them enough.
_SHORT: dict[str, Any] = {
    **_COMMON,
    "model": "resnet8",
    "batch_size": 64,
    "density": 0.02,
    **dict.fromkeys(_SEARCHES, 30),
    "imp_short_epochs": 2,
    "freeze_every": 2,
    "score_optimizer": "adam",
    "score_lr": 0.05,
    "l2": 1e-5,
    "finetune_epochs": 10,
    "finetune_lr": 0.1,
    "finetune_schedule": "cosine",
    "imp_epochs": 10,
    "imp_rewind": "init",
}

PRESETS: dict[str, dict[str, Any]] = {
    **PAPER,
    # An epoch has 20 steps: more of them, and longer ones.
    "digits": {
        **_SHORT,
        "data": "digits",
        **dict.fromkeys(_SEARCHES, 40),
        "score_lr": 0.1,
    },
    "fashion-mnist": {
        **_SHORT,
        "data": "fashion-mnist",
        "train_at_most": 8_000,
        **dict.fromkeys(_SEARCHES, 24),
        "finetune_epochs": 8,
        "imp_epochs": 8,
    },
}


def preset(name: str) -> dict[str, Any]:
    """Return the settings called `name`.

    Raises:
        GemkernError: there is no preset of that name.
    """
    if name not in PRESETS:
        raise GemkernError(f"no preset is called {name!r}: choose one of {', '.join(PRESETS)}")
    return dict(PRESETS[name])


def nearest_preset(data: str, model: str | None, density: float | None) -> str:
    """Return the preset that fits best where none was named.

    With a model of the paper, its preset of the nearest density (by ratio); else the short one.
    """
    of_model = [name for name, fields in PAPER.items() if fields["model"] == model]
    if of_model:
        wanted = math.log(density or 0.0144)
        return min(of_model, key=lambda name: abs(math.log(PAPER[name]["density"]) - wanted))
    return "digits" if data == "digits" else "fashion-mnist"


def resolve(
    name: str | None, chosen: Mapping[str, Any], assignments: Sequence[str] = ()
) -> Settings:
    """Return the settings of preset `name` with what was chosen over it.

    Args:
        name: a preset, or None for the one that fits best (`nearest_preset`).
        chosen: settings by name, or "init" for the initial weights of every method whose own are
            not given; None leaves the preset's value.
        assignments: "field=value" texts of the same fields, over everything else.

    Raises:
        GemkernError: an unknown preset or field, a value of the wrong kind, or a density outside
            (0, 1).
    """
    given = {field: value for field, value in chosen.items() if value is not None}
    given.update(_parse(text) for text in assignments)
    if (init := given.pop(INIT, None)) is not None:
        given = {**{entry.init: init for entry in METHODS.values() if entry.init}, **given}
    if not 0 < given.get("density", 0.5) < 1:
        raise GemkernError(
            f"the density is {given['density']}: give the fraction of weights to keep, "
            "between 0 and 1 (0.0144 for 1.44 %)"
        )
    if name is None:
        data = given.setdefault("data", "digits")
        name = nearest_preset(data, given.get("model"), given.get("density"))
        if data == "folder" or is_own(data):
            # A preset's limit is made for a data set of known size.
            given.setdefault("train_at_most", None)
    fields = {"device": "auto", "autocast": "auto", **preset(name), **given}
    settings = Settings.of(fields)
    check_acceleration(settings.accelerate)
    device = pick_device(settings.device)
    return settings.changed(device=device, autocast=pick_autocast(settings.autocast, device))


def _parse(assignment: str) -> tuple[str, Any]:
    field, _, text = assignment.partition("=")
    known = {**kinds(), INIT: str}
    if field not in known:
        raise GemkernError(
            f"--set {assignment[:LONGEST]}: no setting is called {field[:LONGEST]!r}; choose one "
            f"of {', '.join(known)}"
        )
    kind = next(k for k in (get_args(known[field]) or (known[field],)) if k is not type(None))
    try:
        return field, _TRUTH[text.lower()] if kind is bool else kind(text)
    except (ValueError, KeyError) as error:
        raise GemkernError(
            f"--set {assignment[:LONGEST]}: {text[:LONGEST]!r} is not a value for {field}; give a "
            f"{kind.__name__}"
        ) from error


_TRUTH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}

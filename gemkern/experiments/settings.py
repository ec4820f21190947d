"""Everything an experiment depends on, in one value."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cache
from typing import Any, get_args, get_type_hints

import torch

from gemkern.data import NAMES as DATA
from gemkern.errors import GemkernError
from gemkern.models import NAMES as NETWORKS
from gemkern.numbers import MOST_EPOCHS, shown
from gemkern.tickets import METHODS, option
from gemkern.training.forms import CHOICES

# Without float16, whose gradients would have to be scaled.
AUTOCAST = {"none": None, "bfloat16": torch.bfloat16}
# Of what counts or measures; nothing here needs more.
MOST = 2**31
DEVICES = ("cpu", "cuda")
# What makes the plan that all methods of a race keep to.
PLANS = "gem-miner"


@dataclass(frozen=True)
class Settings:
    """The resolved configuration of a race, a search or a finetuning.

    What all methods share stands here, what is a method's own in `own`, by its name; written down
    (`as_dict`), and on the command line, both stand side by side. Epochs are of the whole training
    split; rates are those of the first epoch, lowered by `schedule`. `data` and `model` are names,
    or "package.module:function" for what that returns. `data_dir` is None for data that ships with
    a package. `weights_file` holds the state_dict of such a network, by its own names or those of
    torchvision (`gemkern.models.load_weights`). `device` is "cpu", "cuda" or "cuda:N". `accelerate`
    is "measure" (layers run on the sparse kernels where steps are faster for it), "always",
    "never", or the folder of a run whose choices are replayed. `autocast` is the dtype of products
    and convolutions, "bfloat16", or "none" for that of the weights. `graph` replays training steps
    as CUDA graphs, on a CUDA device. `seeds_at_once` is how many seeds of a race train together.
    """

    data: str = option("digits", f"{', '.join(DATA)}, or package.module:function.")
    data_dir: str | None = option(None, "Folder that holds the data.")
    train_limit: int | None = option(None, "Training images to use, balanced by class.")
    train_at_most: int | None = option(None, "The same, where there are more.")
    resize: int | None = option(
        None, "Pixels a side of the images of caltech101 (224 if not given) and of a folder."
    )
    test_folder: str | None = option(None, "Folder of a folder's test images: test if not given.")
    validation: float = option(
        0.1, "Fraction of the training images that validates; the least is one of each class."
    )
    model: str = option("resnet8", f"{', '.join(NETWORKS)}, or package.module:function.")
    affine: bool = option(False, "Whether batch norms learn a scale and a shift.")
    weights_file: str | None = option(
        None, "Weights to begin with, in place of drawn ones: a safetensors file."
    )
    density: float = option(0.02, "Fraction of the weights to keep.")
    batch_size: int = option(128, "Images a step.")
    batch_sizes: str = option("", "Those of methods with others: imp=64,snip=256.")
    epoch_steps: int | None = option(None, "Steps of an epoch, where there are batches for more.")
    device: str = option("cpu", "auto, cpu, cuda or cuda:N.")
    finetune_epochs: int = option(150, "Epochs of finetuning.", epochs=True)
    finetune_lr: float = option(0.01, "Learning rate of the first epoch of finetuning.")
    finetune_schedule: str = option("multistep", "cosine, multistep or constant.")
    finetune_nesterov: bool = option(False, "Whether finetuning's momentum is Nesterov's.")
    finetune_sign_in: int = option(
        0,
        "Epochs between rescalings of Sign-In, by which tickets are finetuned; 0 not to.",
        epochs=True,
    )
    weight_decay: float = option(1e-4, "Of the training of weights.")
    accelerate: str = option("measure", "measure, always, never, or a run to replay.")
    autocast: str = option("none", "auto, none or bfloat16.")
    graph: bool = option(True, "Replay steps as CUDA graphs.")
    seeds_at_once: int = option(1, "Seeds that train together.")
    checkpoint_minutes: float = option(10.0, "Between checkpoints within an epoch.")
    own: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        own = {name: self.own.get(name, entry.settings()) for name, entry in METHODS.items()}
        object.__setattr__(self, "own", own)
        if isinstance(self.data_dir, os.PathLike):
            object.__setattr__(self, "data_dir", os.fspath(self.data_dir))
        known = kinds()
        for each in (self, *own.values()):
            for one in fields(each):
                if one.name in known:
                    _check_kind(one.name, getattr(each, one.name), known[one.name])
                    _check_number(one.name, getattr(each, one.name), one.metadata)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Settings:
        """Return the settings of `values`, by name; what is not among them is the default.

        Raises:
            GemkernError: no setting has one of the names, or one is not of its kind.
        """
        return cls().changed(**values)

    def changed(self, /, **values: Any) -> Settings:
        """Return the same settings but for `values`, whosever they are.

        Raises:
            GemkernError: no setting has one of the names, or one is not of its kind.
        """
        rest = set(values) - set(kinds())
        if rest:
            raise GemkernError(
                f"no setting is called {min(rest)!r}; choose one of {', '.join(kinds())}"
            )
        own = {name: _replaced(settings, values) for name, settings in self.own.items()}
        return replace(_replaced(self, values), own=own)

    def scaled(self, budget: float) -> Settings:
        """Return the same experiment with every number of epochs multiplied by `budget`.

        Raises:
            GemkernError: `budget` is not positive and finite.
        """
        if not 0 < budget < math.inf:
            raise GemkernError(f"the budget is {budget}: give a positive factor, 1 for the whole")

        def scale(epochs: int) -> int:
            # What is not positive is not made so: it is refused where it is used.
            return max(1, round(min(epochs * budget, MOST))) if epochs > 0 else epochs

        values = self.as_dict()
        scaled = [one.name for kind in _classes() for one in fields(kind) if _in_epochs(one)]
        return self.changed(**{name: scale(values[name]) for name in scaled})

    def batch_size_of(self, method: str) -> int:
        """Return how many images a step of `method` has.

        Raises:
            GemkernError: `batch_sizes` are no names of methods with whole numbers.
        """
        own = dict.fromkeys(METHODS, self.batch_size)
        for said in filter(None, self.batch_sizes.replace(" ", "").split(",")):
            name, _, size = said.partition("=")
            if name not in METHODS or not (size.isdecimal() and size.isascii()):
                raise GemkernError(
                    f"the setting batch_sizes says {said[:100]!r}: give METHOD=IMAGES, commas "
                    f"between, for methods of {', '.join(METHODS)}"
                )
            own[name] = min(int(size[:20]), MOST)
        return own.get(method, self.batch_size)

    def init_of(self, method: str) -> str:
        """Return the name of the initial weights that `method` starts from."""
        entry = METHODS.get(method, METHODS[PLANS])
        if entry.init is None:
            return self.init_of(entry.needs or PLANS)
        return getattr(self.own[method if method in METHODS else PLANS], entry.init)

    def as_dict(self, methods: Iterable[str] | None = None) -> dict[str, Any]:
        """Return the settings by name, ready for JSON; of own ones those of `methods`."""
        common = {one.name: getattr(self, one.name) for one in fields(self) if one.name != "own"}
        own = [self.own[name] for name in METHODS if methods is None or name in methods]
        return common | {one.name: getattr(each, one.name) for each in own for one in fields(each)}


def kinds() -> dict[str, Any]:
    """Return the type of every setting, by name."""
    return dict(_kinds(tuple(_classes())))


@cache
def _kinds(classes: tuple[type, ...]) -> dict[str, Any]:
    # Which classes there are, a table of methods says that can grow.
    found = {name: kind for one in classes for name, kind in get_type_hints(one).items()}
    return {name: kind for name, kind in found.items() if name != "own"}


def settings_among(values: Mapping[str, Any]) -> Settings:
    """Return the settings that are among `values`, by name.

    Raises:
        GemkernError: one of them is none that there could be.
    """
    return Settings.of({name: value for name, value in values.items() if name in kinds()})


def lengths(epochs: int | None) -> dict[str, int]:
    """Return the settings that say how long a search, a round or finetuning lasts, as `epochs`."""
    names = [name for name in kinds() if name.endswith("_epochs")]
    return {} if epochs is None else dict.fromkeys(names, epochs)


def _classes() -> list[type]:
    return [Settings, *(entry.settings for entry in METHODS.values())]


def _check_kind(name: str, value: Any, hint: Any) -> None:
    """Refuse a setting that is not of its kind: a number for a text, a text for a number.

    Raises:
        GemkernError: naming it.
    """
    kinds = get_args(hint) or (hint,)
    if isinstance(value, bool):
        fits = bool in kinds
    else:
        fits = isinstance(value, kinds) or (isinstance(value, int) and float in kinds)
    if not fits:
        words = " or ".join(kind.__name__ for kind in kinds if kind is not type(None))
        raise GemkernError(f"the setting {name} is {repr(value)[:100]}: give a {words}")


def _check_number(name: str, value: Any, about: Mapping[str, Any]) -> None:
    """Refuse a setting that no run could count to, or that is no number.

    Raises:
        GemkernError: naming it.
    """
    if isinstance(value, float) and not math.isfinite(value):
        raise GemkernError(f"the setting {name} is {value}: give a finite number")
    if isinstance(value, int):
        most = MOST_EPOCHS if about.get("epochs") else MOST
        if abs(value) > most:
            raise GemkernError(f"the setting {name} is {shown(value)}: give at most {most}")


def _in_epochs(one: Any) -> bool:
    return bool(one.metadata.get("epochs"))


def _replaced(settings: Any, values: Mapping[str, Any]) -> Any:
    names = {one.name for one in fields(settings)} - {"own"}
    return replace(settings, **{name: value for name, value in values.items() if name in names})


def pick_device(name: str) -> str:
    """Return the device that `name` stands for; "auto" is the first CUDA device, else the CPU.

    Raises:
        GemkernError: PyTorch does not know the device or cannot reach it.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        if torch.device(name).type not in DEVICES:
            raise NotImplementedError
        torch.zeros((), device=name).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise GemkernError(
            f"the device {name!r} cannot be used here: choose auto, cpu or a CUDA device "
            "that `gemkern info` lists"
        ) from error
    return name


def check_acceleration(name: str) -> None:
    """Check that `name` is a choice of acceleration, or the folder of a run.

    Raises:
        GemkernError: it is neither.
    """
    if name not in CHOICES and not os.path.isdir(name):
        raise GemkernError(
            f"accelerate cannot be {name!r}: give one of {', '.join(CHOICES)}, or the folder of a "
            "run whose choices are replayed"
        )


def pick_autocast(name: str, device: str) -> str:
    """Return what `name` stands for on `device`; "auto" is "bfloat16" on CUDA, else "none".

    Raises:
        GemkernError: there is no such choice.
    """
    if name not in ("auto", *AUTOCAST):
        raise GemkernError(
            f"autocast cannot be {name!r}: choose one of auto, {', '.join(AUTOCAST)}"
        )
    if name == "auto":
        return "bfloat16" if device.startswith("cuda") else "none"
    return name

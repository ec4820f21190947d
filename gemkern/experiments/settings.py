"""Everything an experiment depends on, in one value."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from gemkern.errors import GemkernError
from gemkern.training.forms import CHOICES

# Without float16, whose gradients would have to be scaled.
AUTOCAST = {"none": None, "bfloat16": torch.bfloat16}
# The settings that name initial weights: of rivals, and of Gem-Miner and what follows from its
# ticket. Sources: the configurations of the authors of Rare Gems.
INIT_FIELDS = {"imp": "imp_init", "smart-ratio": "smart_ratio_init", "dense": "dense_init"}
MINE_INIT = "mine_init"


@dataclass(frozen=True)
class Settings:
    """The resolved configuration of a race, a search or a finetuning.

    Epochs are of the whole training split; rates are those of the first epoch, lowered by
    `schedule`. An `_init` names the initial weights of a method (`gemkern.models.build`).
    `imp_rewind` is "init", "learning-rate" or a step of the first round. `data_dir` is None for
    data that ships with a package. `device` is "cpu", "cuda" or "cuda:N". `accelerate` is
    "measure" (layers run on the sparse kernels where steps are faster for it), "always", "never",
    or the folder of a run whose choices are replayed. `autocast` is the dtype of products and
    convolutions, "bfloat16", or "none" for that of the weights. `graph` replays training steps as
    CUDA graphs, on a CUDA device. `seeds_at_once` is how many seeds of a race train together.
    """

    data: str
    data_dir: str | None
    train_limit: int | None
    model: str
    affine: bool
    density: float
    batch_size: int
    device: str
    mine_init: str
    mine_epochs: int
    freeze_every: int
    score_optimizer: str
    score_lr: float
    l2: float
    finetune_epochs: int
    finetune_lr: float
    finetune_schedule: str
    weight_decay: float
    imp_init: str
    imp_epochs: int
    imp_rewind: str
    imp_lr: float
    imp_prune: float
    smart_ratio_init: str
    dense_init: str
    accelerate: str
    autocast: str
    graph: bool
    seeds_at_once: int

    def scaled(self, budget: float) -> Settings:
        """Return the same experiment with every epoch count multiplied by `budget`.

        Raises:
            GemkernError: `budget` is not positive and finite.
        """
        if not 0 < budget < math.inf:
            raise GemkernError(f"the budget is {budget}: give a positive factor, 1 for the whole")

        def scale(epochs: int) -> int:
            # What is not positive is not made so: it is refused where it is used.
            return max(1, round(epochs * budget)) if epochs > 0 else epochs

        return replace(
            self,
            mine_epochs=scale(self.mine_epochs),
            freeze_every=scale(self.freeze_every),
            finetune_epochs=scale(self.finetune_epochs),
            imp_epochs=scale(self.imp_epochs),
        )

    def init_of(self, method: str) -> str:
        """Return the name of the initial weights that `method` starts from."""
        return getattr(self, INIT_FIELDS.get(method, MINE_INIT))

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as plain values, ready for JSON."""
        return asdict(self)


def pick_device(name: str) -> str:
    """Return the device that `name` stands for; "auto" is the first CUDA device, else the CPU.

    Raises:
        GemkernError: PyTorch does not know the device or cannot reach it.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
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
    if name not in CHOICES and not Path(name).is_dir():
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


def rewind_point(text: str) -> str | int:
    """Return IMP's rewinding as IMP takes it: "init", "learning-rate" or a step number.

    Raises:
        GemkernError: `text` is none of these.
    """
    if text in ("init", "learning-rate"):
        return text
    if text.isdecimal():
        return int(text)
    raise GemkernError(f"IMP cannot rewind to {text!r}: give init, learning-rate or a step number")

"""The tables of "Rare Gems" (NeurIPS 2022) as races: what to run for a row, and what it came to.

Accuracies are percent of the test set, one number of the paper each; a number that the paper does
not print is not there. Epochs of finding are counted as in Table 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gemkern.experiments.records import Run

# What a column shows of a run of the row's method, or of a check of it.
Value = Callable[[Run], float]


@dataclass(frozen=True)
class Column:
    """A column of a table: of the runs of which method, what.

    Attributes:
        method: a check of the row's method; None for that itself.
        digits: of a printed number.
    """

    title: str
    value: Value
    method: str | None = None
    digits: int = 2


def _after(run: Run) -> float:
    return 100 * run.accuracy_after


FIND_EPOCHS = Column("epochs to find", lambda run: float(run.find_epochs), digits=0)
FIND_SECONDS = Column("seconds to find", lambda run: run.find_seconds, digits=1)
ALL_EPOCHS = Column(
    "epochs in all", lambda run: float(run.find_epochs + run.finetune_epochs), digits=0
)
BEFORE = Column("before finetuning %", lambda run: 100 * run.accuracy_before)
AFTER = Column("finetuned %", _after)
SHUFFLED = Column("shuffled %", _after, method="shuffled")
REINITIALISED = Column("reinitialised %", _after, method="reinitialised")


@dataclass(frozen=True)
class Row:
    """A row of a table: a method at the settings of a preset.

    Attributes:
        name: of its folder, and on the command line.
        label: as the paper calls it.
        changes: settings, over those of the preset.
        paper: the paper's numbers, by title of a column.
    """

    name: str
    label: str
    method: str
    preset: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    paper: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Table:
    """A table of the paper."""

    title: str
    columns: Sequence[Column]
    rows: Sequence[Row]

    @property
    def checks(self) -> tuple[str, ...]:
        """The checks that each row's method is run with."""
        return tuple(column.method for column in self.columns if column.method)


# Edge-popup as its authors and those of "Rare Gems" train it: batch 256, weights by cosine.
_POPUP = {"batch_size": 256, "finetune_lr": 0.1, "finetune_schedule": "cosine"}


def _cost(name: str, label: str, epochs: float | None, **changes: Any) -> Row:
    paper = {} if epochs is None else {FIND_EPOCHS.title: epochs}
    return Row(name, label, name, "resnet20-1.44", changes, paper)


def _ablation(name: str, label: str, method: str, before: float, after: float, **own: Any) -> Row:
    changes = {**(_POPUP if method != "gem-miner" else {}), **own}
    paper = {BEFORE.title: before, AFTER.title: after}
    return Row(name, label, method, "resnet20-0.59", changes, paper)


def _long_run(name: str, label: str, method: str, epochs: int, after: float, **own: Any) -> Row:
    paper = {ALL_EPOCHS.title: float(epochs), AFTER.title: after}
    return Row(name, label, method, "resnet20-1.44", own, paper)


def _mobilenet(method: str, label: str, percent: str, **paper: float) -> Row:
    return Row(f"{method}-{percent}", f"{label}, {percent} %", method, f"mobilenet_v2-{percent}",
               paper=paper)  # fmt: skip


TABLES: dict[str, Table] = {
    "table1": Table(
        "Table 1: the cost of finding a ticket of 1.44 % of ResNet-20, CIFAR-10",
        (FIND_EPOCHS, FIND_SECONDS, AFTER),
        (
            _cost("imp", "IMP", 2850),
            _cost("snip", "SNIP", 1),
            _cost("grasp", "GraSP", 1),
            _cost("synflow", "SynFlow", 1),
            _cost("edge-popup", "Edge-popup", 150, **_POPUP),
            _cost("smart-ratio", "Smart ratio", None),
            _cost("lr-rewind", "Learning-rate rewinding", 3000),
            _cost("gem-miner", "Gem-Miner", 150),
        ),
    ),
    "table2": Table(
        "Table 2: sanity checks, ResNet-20, CIFAR-10",
        (AFTER, SHUFFLED, REINITIALISED),
        (
            Row(
                "prospr", "ProsPr, 5 %", "prospr", "resnet20-3.72",
                {"density": 0.05, "finetune_epochs": 200, "finetune_lr": 0.1},
                {AFTER.title: 82.67, SHUFFLED.title: 82.15, REINITIALISED.title: 81.64},
            ),
            Row(
                "gem-miner", "Gem-Miner, 3.72 %", "gem-miner", "resnet20-3.72",
                paper={AFTER.title: 83.4, SHUFFLED.title: 78.73, REINITIALISED.title: 78.6},
            ),
        ),
    ),
    "table3": Table(
        "Table 3: from edge-popup to Gem-Miner, 0.59 % of ResNet-20, CIFAR-10",
        (BEFORE, AFTER),
        (
            _ablation("edge-popup", "Edge-popup", "edge-popup", 19.57, 24.47),
            _ablation("global", "Global edge-popup", "global-edge-popup", 22.22, 34.42),
            _ablation(
                "gradual", "and gradual", "global-edge-popup", 31.56, 63.54,
                global_popup_freeze_every=5,
            ),
            _ablation(
                "regularised", "and regularised", "global-edge-popup", 19.67, 63.72,
                global_popup_freeze_every=5, global_popup_l2=1e-4,
            ),
            _ablation("gem-miner", "Gem-Miner", "gem-miner", 45.30, 66.15),
        ),
    ),
    "table4": Table(
        "Table 4: equal and longer runs, 1.44 % of ResNet-20, CIFAR-10",
        (ALL_EPOCHS, AFTER),
        (
            _long_run("gem-miner", "Gem-Miner (cold)", "gem-miner", 300, 77.89),
            _long_run(
                "long", "Long Gem-Miner", "gem-miner", 3000, 79.50,
                mine_epochs=2850, freeze_every=150,
            ),
            _long_run("imp", "IMP (warm)", "imp", 3000, 74.52),
            _long_run("lr-rewind", "Learning-rate rewinding", "lr-rewind", 3000, 80.21),
        ),
    ),
    "fig5": Table(
        "Figure 5: accuracy against density, MobileNet-V2, CIFAR-10",
        (FIND_EPOCHS, BEFORE, AFTER),
        (
            _mobilenet(
                "gem-miner", "Gem-Miner", "1.4", **{BEFORE.title: 84.62, AFTER.title: 87.37}
            ),
            *(_mobilenet("gem-miner", "Gem-Miner", percent) for percent in ("5", "20", "50")),
            *(_mobilenet("imp", "IMP", percent) for percent in ("1.4", "5", "20", "50")),
        ),
    ),
}  # fmt: skip

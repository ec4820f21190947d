"""How many weights go, and when: pure functions of the plan, known before a search begins.

Density is the fraction of weights that remains. Epochs are counted from 0. Two rules are known for
Gem-Miner's freezing ("Rare Gems", NeurIPS 2022): "authors", of the authors' code and published
numbers, and "paper", of section 3 and Algorithm 1.
"""

from __future__ import annotations

import math

from gemkern.errors import GemkernError
from gemkern.numbers import MOST_EPOCHS, shown

RULES = ("authors", "paper")


def freeze_epochs(epochs: int, freeze_every: int, rule: str = "authors") -> list[int]:
    """Return the epochs at whose end weights are frozen.

    With T = `freeze_every`: "authors" freezes after each epoch e > 0 with e % T == 0, which is
    (epochs - 1) // T times; "paper" after each T epochs, epochs // T times.

    Raises:
        GemkernError: an unknown rule, or a plan in which nothing would ever be frozen.
    """
    if rule not in RULES:
        raise GemkernError(f"no freezing rule is called {rule!r}: choose one of {', '.join(RULES)}")
    if not 1 <= epochs <= MOST_EPOCHS or freeze_every < 1:
        raise GemkernError(
            f"a search of {shown(epochs)} epochs that freezes every {shown(freeze_every)} cannot "
            f"be planned: give at least 1 of each, and at most {MOST_EPOCHS} epochs"
        )
    first = freeze_every if rule == "authors" else freeze_every - 1
    planned = list(range(first, epochs, freeze_every))
    if not planned:
        raise GemkernError(
            f"freezing every {shown(freeze_every)} epochs never happens in a search of {epochs} "
            "epochs: freeze more often or search longer"
        )
    return planned


def freeze_rate(density: float, epochs: int, freeze_every: int, rule: str = "authors") -> float:
    """Return the fraction of the active weights that each freeze removes.

    "authors" solves it from the number K of freezes, 1 - density^(1/K), so that the last one meets
    the density; "paper" has 1 - e^(-cT) with c = ln(1/density) / epochs (section 3).

    Raises:
        GemkernError: `density` is not between 0 and 1, or as `freeze_epochs`.
    """
    check_density(density)
    freezes = len(freeze_epochs(epochs, freeze_every, rule))
    if rule == "authors":
        return 1.0 - density ** (1.0 / freezes)
    return 1.0 - math.exp(-math.log(1.0 / density) / epochs * freeze_every)


def weights_left(
    total: int, density: float, epochs: int, freeze_every: int, rule: str = "authors"
) -> list[int]:
    """Return how many of `total` weights are active after each freeze.

    Raises:
        GemkernError: nothing would be left, or as `freeze_rate`.
    """
    rate = freeze_rate(density, epochs, freeze_every, rule)
    left, after = total, []
    for _ in freeze_epochs(epochs, freeze_every, rule):
        left -= share(rate, left)
        after.append(left)
    if left < 1:
        raise GemkernError(
            f"no weight of {total} would be left at density {density:g} after {len(after)} "
            "freezes: raise the density or freeze less often"
        )
    return after


def imp_weights_left(total: int, density: float, prune: float = 0.2) -> list[int]:
    """Return how many of `total` weights IMP keeps after each round.

    A round removes the fraction `prune` of what is there, rounded up; the last one removes just
    what brings the count to round(density * total), which is at least 1.

    Raises:
        GemkernError: `density` or `prune` is not between 0 and 1, or there is nothing to remove.
    """
    check_density(density)
    if not 0.0 < prune < 1.0:
        raise GemkernError(f"a round cannot prune {prune:g} of the weights: give 0 < prune < 1")
    target = max(1, round(density * total))
    if target >= total:
        raise GemkernError(
            f"density {density:g} keeps all {total} weights: there is nothing to prune, lower it"
        )
    left, after = total, []
    while left > target:
        left = max(target, left - share(prune, left))
        after.append(left)
    return after


def share(rate: float, weights: int) -> int:
    """Return ceil(rate * weights): how many of `weights` go at once."""
    # 0.3 of 10 are 3, also where the product comes out a rounding error above.
    return math.ceil(round(rate * weights, 6))


def check_density(density: float) -> None:
    if not 0.0 < density < 1.0:
        raise GemkernError(
            f"density {density:g} is not a fraction of weights that remains: give 0 < density < 1, "
            "such as 0.0144 for 1.44 %"
        )

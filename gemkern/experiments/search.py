"""How each method of a race comes to its ticket."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from gemkern.errors import GemkernError
from gemkern.experiments.laboratory import Laboratory, Notebook
from gemkern.experiments.settings import Settings, rewind_point
from gemkern.nn import convert
from gemkern.optim import masked_layers
from gemkern.tickets import (
    IMP,
    GemMiner,
    Ticket,
    imp_weights_left,
    random_ticket,
    reinitialised,
    shuffled,
    smart_ratio_ticket,
    weights_left,
)
from gemkern.training.forms import NEVER, Accelerated

# Rivals draw positions and weights of their own: a shift that keeps their seeds apart from a run's.
RIVAL_SEED = 10_000


@dataclass(frozen=True)
class Found:
    """A ticket and, where the search trained a network, the test accuracy of that network."""

    ticket: Ticket
    accuracy: float | None = None


def maskable_weights(laboratory: Laboratory) -> int:
    """Return how many weights of the network can be masked."""
    model = laboratory.fresh_model(seed=0)
    convert(model)
    return sum(layer.active.numel() for layer in masked_layers(model).values())


def matched_weights(settings: Settings, total: int) -> int:
    """Return how many of `total` weights Gem-Miner's schedule, and so every rival, leaves."""
    return weights_left(total, settings.density, settings.mine_epochs, settings.freeze_every)[-1]


def imp_rounds(settings: Settings, total: int) -> int:
    """Return how many times IMP prunes on its way to the matched density."""
    density = matched_weights(settings, total) / total
    return len(imp_weights_left(total, density, settings.imp_prune))


def mine(laboratory: Laboratory, notebooks: Sequence[Notebook]) -> list[Found]:
    """Search with Gem-Miner; the accuracy is that of the mined network, before finetuning."""
    miners = [
        _gem_miner(laboratory, one.seed, laboratory.accelerated(one, "find")) for one in notebooks
    ]
    laboratory.find(miners, notebooks)
    return [Found(miner.ticket(), laboratory.test(miner.model)) for miner in miners]


def prune_iteratively(laboratory: Laboratory, notebooks: Sequence[Notebook]) -> list[Found]:
    """Search with IMP, down to the number of weights that Gem-Miner's schedule leaves."""
    imps = [_imp(laboratory, one.seed, laboratory.accelerated(one, "find")) for one in notebooks]
    laboratory.find(imps, notebooks)
    return [Found(imp.ticket()) for imp in imps]


def rehearse(laboratory: Laboratory) -> None:
    """Set up both searches and the finetuning, and train none: bad settings are refused at once.

    Raises:
        GemkernError: the settings do not fit together.
    """
    _gem_miner(laboratory, 0, NEVER)
    _imp(laboratory, 0, NEVER)
    for method in ("smart-ratio", "dense"):
        laboratory.finetuning(laboratory.fresh_model(0, method))


def _gem_miner(laboratory: Laboratory, seed: int, accelerated: Accelerated) -> GemMiner:
    settings = laboratory.settings
    model = laboratory.fresh_model(seed)
    convert(model, scores=True)
    return GemMiner(
        model,
        settings.density,
        settings.mine_epochs,
        settings.freeze_every,
        optimizer=settings.score_optimizer,
        lr=settings.score_lr,
        l2=settings.l2,
        seed=seed,
        name=settings.model,
        fused=True,
        accelerated=accelerated,
    )


def _imp(laboratory: Laboratory, seed: int, accelerated: Accelerated) -> IMP:
    settings = laboratory.settings
    model = laboratory.fresh_model(seed, "imp")
    convert(model)
    total = maskable_weights(laboratory)
    return IMP(
        model,
        matched_weights(settings, total) / total,
        settings.imp_epochs,
        prune=settings.imp_prune,
        rewind=rewind_point(settings.imp_rewind),
        lr=settings.imp_lr,
        weight_decay=settings.weight_decay,
        schedule=settings.finetune_schedule,
        seed=seed,
        name=settings.model,
        accelerated=accelerated,
    )


def draw_random(laboratory: Laboratory, notebook: Notebook, mined: Ticket) -> Found:
    """Draw random positions, as many in each layer as the mined ticket has."""
    return Found(random_ticket(mined, seed=RIVAL_SEED + notebook.seed))


def draw_smart_ratio(laboratory: Laboratory, notebooks: Sequence[Notebook]) -> list[Found]:
    """Draw random positions by the smart ratio of layer densities."""
    settings = laboratory.settings
    total = maskable_weights(laboratory)
    density = matched_weights(settings, total) / total

    def draw(seed: int) -> Found:
        model = laboratory.fresh_model(seed, "smart-ratio")
        convert(model)
        return Found(
            smart_ratio_ticket(model, density, seed=seed, name=settings.model, model_seed=seed)
        )

    return [draw(notebook.seed) for notebook in notebooks]


def shuffle(laboratory: Laboratory, notebook: Notebook, mined: Ticket) -> Found:
    """Permute the mined ticket's mask within each layer."""
    return Found(shuffled(mined, seed=2 * RIVAL_SEED + notebook.seed))


def reinitialise(laboratory: Laboratory, notebook: Notebook, mined: Ticket) -> Found:
    """Keep the mined ticket's masks over other initial weights of the same distribution."""
    other = laboratory.fresh_model(RIVAL_SEED + notebook.seed)
    return Found(reinitialised(mined, other, seed=RIVAL_SEED + notebook.seed))


# A ticket for each notebook; what trains, trains for all of them together.
SEARCHES: Mapping[str, Callable[[Laboratory, Sequence[Notebook]], list[Found]]] = {
    "gem-miner": mine,
    "imp": prune_iteratively,
    "smart-ratio": draw_smart_ratio,
}

# What follows from a ticket that Gem-Miner found in the same race, for the same seed.
VARIATIONS: Mapping[str, Callable[[Laboratory, Notebook, Ticket], Found]] = {
    "random": draw_random,
    "shuffled": shuffle,
    "reinitialised": reinitialise,
}


def check_methods(methods: tuple[str, ...]) -> None:
    """Check that a race can be run with `methods`.

    Raises:
        GemkernError: none is given, one is unknown or given twice, or one needs a mined ticket and
            Gem-Miner is not among them.
    """
    known = ("dense", *SEARCHES, *VARIATIONS)
    unknown = [method for method in methods if method not in known]
    if unknown or not methods or len(set(methods)) < len(methods):
        what = f"{unknown[0]!r} is not a method" if unknown else "methods are missing or repeated"
        raise GemkernError(f"{what}: give --methods as a list out of {', '.join(known)}")
    orphans = [method for method in methods if method in VARIATIONS]
    if orphans and "gem-miner" not in methods:
        raise GemkernError(
            f"{orphans[0]} is drawn from Gem-Miner's ticket: add gem-miner to --methods"
        )

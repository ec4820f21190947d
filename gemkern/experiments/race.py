"""The race: every method on the same data, loop, recipe and number of weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gemkern.experiments.laboratory import Laboratory, Notebook
from gemkern.experiments.records import EpochRecord, Run, Saving
from gemkern.experiments.search import (
    SEARCHES,
    VARIATIONS,
    Found,
    check_methods,
    imp_rounds,
    maskable_weights,
)
from gemkern.tickets import Ticket


def race(
    laboratory: Laboratory,
    methods: Sequence[str],
    seeds: Sequence[int],
    *,
    on_epoch: Callable[[EpochRecord], None] = lambda record: None,
    on_ticket: Callable[[str, int, Ticket], None] = lambda method, seed, ticket: None,
    on_saving: Callable[[Saving], None] = lambda saving: None,
) -> list[Run]:
    """Let each method find a ticket and finetune it, for each seed; return a run for each pair.

    All tickets keep as many weights as Gem-Miner's schedule leaves and are finetuned by one recipe;
    "dense" is the whole network trained by it. A seed sets the data order and the initial weights,
    which are of the kind that the settings name for each method. Seeds train together, as many as
    the settings' `seeds_at_once`, to the results that they have alone; their seconds are then equal
    shares. What acceleration saved is measured beside the race: its seconds do not count.

    Raises:
        GemkernError: the methods do not fit together, or a run fails.
    """
    check_methods(tuple(methods))
    at_once = laboratory.settings.seeds_at_once
    runs = []
    for first in range(0, len(seeds), at_once):
        mined: list[Ticket] = []
        for method in _mined_first(methods):
            notebooks = [
                Notebook(method, seed, on_epoch, on_saving)
                for seed in seeds[first : first + at_once]
            ]
            if method == "dense":
                runs += _train_dense(laboratory, notebooks)
                continue
            found = _find(laboratory, notebooks, mined)
            if method == "gem-miner":
                mined = [one.ticket for one in found]
            for notebook, one in zip(notebooks, found, strict=True):
                on_ticket(method, notebook.seed, one.ticket)
            runs += finetune_tickets(laboratory, notebooks, found)
    return sorted(runs, key=lambda run: (methods.index(run.method), run.seed))


def finetune_tickets(
    laboratory: Laboratory, notebooks: Sequence[Notebook], found: Sequence[Found]
) -> list[Run]:
    """Finetune what was found at one density; the runs' accuracies are of the test set."""
    models = [
        laboratory.with_ticket(one.ticket, notebook.seed)
        for notebook, one in zip(notebooks, found, strict=True)
    ]
    before = [
        laboratory.test(model) if one.accuracy is None else one.accuracy
        for model, one in zip(models, found, strict=True)
    ]
    laboratory.finetune(models, found[0].ticket.density, notebooks)
    return [
        Run(
            method=notebook.method,
            seed=notebook.seed,
            density=one.ticket.density,
            weights_left=one.ticket.weights_left,
            accuracy_before=accuracy,
            accuracy_after=laboratory.test(model),
            find_epochs=notebook.epochs("find"),
            finetune_epochs=notebook.epochs("finetune"),
            find_seconds=notebook.seconds("find"),
            finetune_seconds=notebook.seconds("finetune"),
            step_ms=notebook.step_ms(),
            layer_density=one.ticket.layer_density,
        )
        for notebook, one, model, accuracy in zip(notebooks, found, models, before, strict=True)
    ]


def total_epochs(laboratory: Laboratory, methods: Sequence[str], seeds: Sequence[int]) -> int:
    """Return how many epochs a race trains in all, for a progress bar."""
    settings = laboratory.settings
    rounds = imp_rounds(settings, maskable_weights(laboratory))
    search = {"gem-miner": settings.mine_epochs, "imp": rounds * settings.imp_epochs}
    each = sum(search.get(method, 0) + settings.finetune_epochs for method in methods)
    return each * len(seeds)


def _mined_first(methods: Sequence[str]) -> list[str]:
    return sorted(methods, key=lambda method: method in VARIATIONS)


def _find(
    laboratory: Laboratory, notebooks: Sequence[Notebook], mined: Sequence[Ticket]
) -> list[Found]:
    method = notebooks[0].method
    if method in SEARCHES:
        return SEARCHES[method](laboratory, notebooks)
    vary = VARIATIONS[method]
    return [
        vary(laboratory, notebook, ticket)
        for notebook, ticket in zip(notebooks, mined, strict=True)
    ]


def _train_dense(laboratory: Laboratory, notebooks: Sequence[Notebook]) -> list[Run]:
    models = [laboratory.fresh_model(notebook.seed, notebook.method) for notebook in notebooks]
    before = [laboratory.test(model) for model in models]
    laboratory.finetune(models, 1.0, notebooks)
    return [
        Run(
            method=notebook.method,
            seed=notebook.seed,
            density=1.0,
            weights_left=maskable_weights(laboratory),
            accuracy_before=accuracy,
            accuracy_after=laboratory.test(model),
            find_epochs=0,
            finetune_epochs=notebook.epochs("finetune"),
            find_seconds=0.0,
            finetune_seconds=notebook.seconds("finetune"),
            step_ms=notebook.step_ms(),
            layer_density={},
        )
        for notebook, model, accuracy in zip(notebooks, models, before, strict=True)
    ]

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
    "dense" is the whole network trained by it. A seed sets the initial weights and the data order.
    What acceleration saved is measured beside the race: its seconds do not count.

    Raises:
        GemkernError: the methods do not fit together, or a run fails.
    """
    check_methods(tuple(methods))
    runs = []
    for seed in seeds:
        mined: Ticket | None = None
        for method in _mined_first(methods):
            notebook = Notebook(method, seed, on_epoch, on_saving)
            if method == "dense":
                runs.append(_train_dense(laboratory, notebook))
                continue
            found = _find(laboratory, notebook, mined)
            if method == "gem-miner":
                mined = found.ticket
            on_ticket(method, seed, found.ticket)
            runs.append(finetune_ticket(laboratory, notebook, found))
    return sorted(runs, key=lambda run: (methods.index(run.method), run.seed))


def finetune_ticket(laboratory: Laboratory, notebook: Notebook, found: Found) -> Run:
    """Finetune what was found; the run's accuracies are of the test set."""
    ticket = found.ticket
    model = laboratory.with_ticket(ticket, notebook.seed)
    before = laboratory.test(model) if found.accuracy is None else found.accuracy
    laboratory.finetune(model, ticket.density, notebook)
    return Run(
        method=notebook.method,
        seed=notebook.seed,
        density=ticket.density,
        weights_left=ticket.weights_left,
        accuracy_before=before,
        accuracy_after=laboratory.test(model),
        find_epochs=notebook.epochs("find"),
        finetune_epochs=notebook.epochs("finetune"),
        find_seconds=notebook.seconds("find"),
        finetune_seconds=notebook.seconds("finetune"),
        step_ms=notebook.step_ms(),
        layer_density=ticket.layer_density,
    )


def total_epochs(laboratory: Laboratory, methods: Sequence[str], seeds: Sequence[int]) -> int:
    """Return how many epochs a race trains in all, for a progress bar."""
    settings = laboratory.settings
    rounds = imp_rounds(settings, maskable_weights(laboratory))
    search = {"gem-miner": settings.mine_epochs, "imp": rounds * settings.imp_epochs}
    each = sum(search.get(method, 0) + settings.finetune_epochs for method in methods)
    return each * len(seeds)


def _mined_first(methods: Sequence[str]) -> list[str]:
    return sorted(methods, key=lambda method: method in VARIATIONS)


def _find(laboratory: Laboratory, notebook: Notebook, mined: Ticket | None) -> Found:
    if mined is not None and notebook.method in VARIATIONS:
        return VARIATIONS[notebook.method](laboratory, notebook, mined)
    return SEARCHES[notebook.method](laboratory, notebook)


def _train_dense(laboratory: Laboratory, notebook: Notebook) -> Run:
    model = laboratory.fresh_model(notebook.seed)
    before = laboratory.test(model)
    laboratory.finetune(model, 1.0, notebook)
    return Run(
        method=notebook.method,
        seed=notebook.seed,
        density=1.0,
        weights_left=maskable_weights(laboratory),
        accuracy_before=before,
        accuracy_after=laboratory.test(model),
        find_epochs=0,
        finetune_epochs=notebook.epochs("finetune"),
        find_seconds=0.0,
        finetune_seconds=notebook.seconds("finetune"),
        step_ms=notebook.step_ms(),
        layer_density={},
    )

"""RigL and SET on sparse kernels, and stopped in the middle: the same masks, the same bits."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from tiny_dynamic import DENSITIES, KINDS, STEPS, converted, momenta, run, run_step, search_of
from tiny_search import active, assert_same_state
from torch import nn


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("density", DENSITIES)
def test_accelerated_it_has_the_masks_and_the_weights_of_dense_steps(
    kind: str, density: float
) -> None:
    models = converted(), converted()
    searches = [
        search_of(kind, model, density, lr=0.01, every=4, accelerated=choice)
        for model, choice in zip(models, ("never", "always"), strict=True)
    ]
    first = active(models[0])
    layers = list(searches[1].layers.values())
    for taken in range(4 * STEPS):
        looks_everywhere = any(layer.override is not None for layer in layers)
        assert looks_everywhere == (kind == "rigl" and taken in (4, 8, 12))
        assert all(layer.is_compressed != looks_everywhere for layer in layers)
        for model, search in zip(models, searches, strict=True):
            run_step(model, search, taken)
        dense, fast = models[0].state_dict(), models[1].state_dict()
        for name, tensor in dense.items():
            if tensor.dtype == torch.bool:
                assert torch.equal(fast[name], tensor), (taken, name)
            else:
                torch.testing.assert_close(fast[name], tensor, rtol=1e-3, atol=1e-5)
        dense, fast = (momenta(search) for search in searches)
        for name, layer in searches[1].layers.items():
            memory = layer.spread(fast[name])
            torch.testing.assert_close(memory, dense[name], rtol=1e-3, atol=1e-4)
    assert any(not torch.equal(mask, first[name]) for name, mask in active(models[0]).items())
    assert not any(layer.is_compressed for layer in layers), "whole at the end"
    assert searches[1].forms.sparse_steps > 0


def forms_agree(search: Any) -> None:
    """Check that the record of forms says what the model is, but for a step that sees all."""
    compressed = [name for name, layer in search.layers.items() if layer.is_compressed]
    if any(layer.override is not None for layer in search.layers.values()):
        assert compressed == []
    else:
        assert compressed == search.forms.state_dict()["compressed"]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_measured_while_masks_move_is_replayed_to_the_same_bits(kind: str) -> None:
    model = converted()
    search = search_of(kind, model, epochs=12, every=7, accelerated="measure")
    for taken in range(11 * STEPS):
        run_step(model, search, taken)
        forms_agree(search)
    assert any("ms" in entry for entry in search.forms.record), "a trial has ended"
    again = converted()
    replayed = search_of(kind, again, epochs=12, every=7, accelerated=search.forms.record)
    for taken in range(11 * STEPS):
        run_step(again, replayed, taken)
        forms_agree(replayed)
    assert_same_state(again.state_dict(), model.state_dict())


def test_steps_that_see_everything_are_not_timed() -> None:
    model = converted()
    search = search_of("rigl", model, every=2, accelerated="always")
    run(model, search, last=9)
    # From the third on, every step is such a one or the first after it.
    timed = search.forms.state_dict()["sparse"][1]
    assert timed == 1, "the second step"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("choice", ["never", "always"])
# After 2 steps, before and after an update (of SET, step 2; of RigL, step 3), and between epochs.
@pytest.mark.parametrize("stop", [2, 3, 4, 5, 15])
def test_it_resumes_to_the_same_bits(kind: str, choice: str, stop: int) -> None:
    def start() -> tuple[nn.Module, Any]:
        model = converted()
        return model, search_of(kind, model, 0.0144, accelerated=choice)

    model, search = start()
    run(model, search, last=stop)
    saved = copy.deepcopy((model.state_dict(), search.state_dict()))
    run(model, search, stop, stop + 5)
    # Once into a new search, once into one that stopped elsewhere.
    for elsewhere in (0, 3):
        again, resumed = start()
        run(again, resumed, last=elsewhere)
        again.load_state_dict(saved[0])
        # Optimisers go on with the tensors that they load.
        resumed.load_state_dict(copy.deepcopy(saved[1]))
        run(again, resumed, stop, stop + 5)
        assert_same_state(again.state_dict(), model.state_dict())
        assert_same_state(momenta(resumed), momenta(search))

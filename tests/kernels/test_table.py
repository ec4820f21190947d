"""The table names every operator once, and what it names is there."""

from __future__ import annotations

import pytest
from gemkern.kernels import reference
from gemkern.kernels.table import BACKENDS, OPERATORS, load

PAIRS = [(operator, backend) for operator in OPERATORS for backend in BACKENDS]
SERVED = [pair for pair in PAIRS if OPERATORS[pair[0]][pair[1]].module is not None]
REFUSED = [pair for pair in PAIRS if pair not in SERVED]


@pytest.mark.parametrize("operator", OPERATORS)
def test_every_operator_has_an_entry_for_every_backend(operator: str) -> None:
    assert tuple(OPERATORS[operator]) == BACKENDS


@pytest.mark.parametrize(("operator", "backend"), SERVED)
def test_what_serves_is_the_function_of_that_name_in_that_module(operator, backend) -> None:
    entry, function = OPERATORS[operator][backend], load(operator, backend)
    assert entry.module.startswith(f"gemkern.kernels.{backend}.")
    assert (function.__module__, function.__name__) == (entry.module, operator)
    assert entry.reason == ""


@pytest.mark.parametrize(("operator", "backend"), REFUSED)
def test_what_does_not_serve_says_why(operator, backend) -> None:
    reason = OPERATORS[operator][backend].reason
    assert reason.strip()
    with pytest.raises(LookupError, match=f"{operator} on {backend}: {reason}"):
        load(operator, backend)


def test_the_reference_offers_the_operators_of_the_table_and_no_more() -> None:
    assert set(reference.__all__) == set(OPERATORS)
    for operator in OPERATORS:
        assert getattr(reference, operator) is load(operator, "reference")

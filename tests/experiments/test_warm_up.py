"""Kernels are compiled before anything is timed, and no trace of that is left."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_race import settings

from gemkern import ops
from gemkern.experiments.laboratory import Laboratory
from gemkern.experiments.warm_up import warm_up


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list to which every call of a sparse convolution adds its backend."""
    calls: list[str] = []
    operator = ops.norm_sparse_conv2d

    def counted(*args: Any, **kw: Any) -> Any:
        calls.append("sparse")
        return operator(*args, **kw)

    monkeypatch.setattr(ops, "norm_sparse_conv2d", counted)
    return calls


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_it_runs_what_a_race_will_run(served: list[str], optimizer: str) -> None:
    laboratory = Laboratory(
        settings(score_optimizer=optimizer, batch_size=64, accelerate="measure")
    )
    before = laboratory.fresh_model(seed=0).state_dict()
    images = laboratory.data.train.images.clone()
    warm_up(laboratory)
    # Six steps of the search, two of finetuning, and each layer four times alone: the seven
    # convolutions of ResNet-8.
    assert len(served) == (6 + 2 + 4) * 7
    after = laboratory.fresh_model(seed=0).state_dict()
    assert all(torch.equal(before[entry], after[entry]) for entry in before)
    assert torch.equal(laboratory.data.train.images, images)


def test_nothing_runs_where_nothing_would_be_used(
    served: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    warm_up(Laboratory(settings(batch_size=64, accelerate="never")))
    warm_up(Laboratory(settings(batch_size=64, accelerate="measure", autocast="bfloat16")))
    monkeypatch.setenv("GEMKERN_BACKEND", "reference")
    warm_up(Laboratory(settings(batch_size=64, accelerate="measure")))
    monkeypatch.setenv("GEMKERN_BACKEND", "gpu")
    warm_up(Laboratory(settings(batch_size=64, accelerate="measure")))
    assert served == []

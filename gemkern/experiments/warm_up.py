"""Numba compiles at the first call of a kernel: before an experiment is timed, not within it."""

from __future__ import annotations

from torch import nn
from torch.nn import functional as F

from gemkern.experiments.laboratory import Laboratory
from gemkern.experiments.settings import PLANS
from gemkern.nn import convert
from gemkern.optim import masked_layers
from gemkern.tickets import GemMiner
from gemkern.training import Method
from gemkern.training.forms import ALWAYS
from gemkern.training.layer_times import Inputs, slower_sparse

DENSITY, EPOCHS = 0.01, 3


def warm_up(laboratory: Laboratory) -> None:
    """Search and finetune for a few steps, and forget it; nothing where no kernel would be used.

    What is compiled stays on the disk: the next time this takes a second.
    """
    if not laboratory.may_accelerate:
        return
    model = laboratory.fresh_model(seed=0)
    convert(model, scores=True)
    optimizer = laboratory.settings.own[PLANS].score_optimizer
    inputs, layers = Inputs(), masked_layers(model)
    miner = GemMiner(
        model, DENSITY, EPOCHS, 1, optimizer=optimizer, seed=0, fused=True, accelerated=ALWAYS
    )
    inputs.watch(layers)
    for _ in range(EPOCHS):
        _step(laboratory, model, miner)
        miner.end_epoch()
    inputs.leave()
    fresh = laboratory.fresh_model(seed=0)
    convert(fresh)
    for name, layer in masked_layers(fresh).items():
        layer.active.copy_(miner.layers[name].active)
    _step(laboratory, fresh, laboratory.finetuning(fresh, ALWAYS))
    slower_sparse(masked_layers(fresh), inputs)


def _step(laboratory: Laboratory, model: nn.Module, method: Method) -> None:
    images, labels = laboratory.first_batch()
    for _ in range(2):
        F.cross_entropy(model(images), labels).backward()
        method.step()

"""How networks begin: the normalisation they share and the weights they start from."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from gemkern.errors import GemkernError

Norm = Callable[[int], nn.Module]


def norm_layer(affine: bool) -> Norm:
    """Return the maker of batch norms; the paper's have no scale and shift (affine=False)."""
    return lambda channels: nn.BatchNorm2d(channels, affine=affine)


def signed_constant(weight: Tensor) -> None:
    """Keep the sign of each weight of [out, in / groups, ...]; make it sqrt(2 / fan_in) large.

    A weight drawn as exactly 0 becomes positive. The initialisation of Gem-Miner's and edge-popup's
    networks (Ramanujan et al., CVPR 2020).
    """
    fan_in = weight[0].numel()
    weight.copy_(torch.where(weight < 0, -1.0, 1.0) * math.sqrt(2.0 / fan_in))


def signed_constant_authors(weight: Tensor) -> None:
    """Do as `signed_constant`, but let a weight drawn as exactly 0 stay 0.

    The code of "Rare Gems" (NeurIPS 2022) multiplies by the sign; of PyTorch's draws one in 2^24 is
    0.
    """
    fan_in = weight[0].numel()
    weight.sign_().mul_(math.sqrt(2.0 / fan_in))


def kaiming_normal(weight: Tensor) -> None:
    """Draw the weight anew from N(0, 2 / fan_in) (He et al., 2015)."""
    nn.init.kaiming_normal_(weight, mode="fan_in", nonlinearity="relu")


INITS: dict[str, Callable[[Tensor], None]] = {
    "signed_constant": signed_constant,
    "kaiming_normal": kaiming_normal,
    "signed_constant_authors": signed_constant_authors,
}


def initialise(model: nn.Module, init: str) -> None:
    """Initialise the weight of every convolution and linear layer of `model`.

    Raises:
        GemkernError: there is no initialisation of that name.
    """
    if init not in INITS:
        raise GemkernError(
            f"no initialisation is called {init!r}: choose one of {', '.join(INITS)}"
        )
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                INITS[init](module.weight)

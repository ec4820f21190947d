"""Batch norms over the batch of all ranks, so that ranks compute what one process would.

PyTorch's own (`nn.SyncBatchNorm`) serve CUDA devices alone.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.nn import functional as collective

# The exact types whose forward is known; a subclass may do something else.
PLAIN = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def sync_norms(model: nn.Module) -> nn.Module:
    """Return `model` with batch norms that know the statistics of all ranks; their state stays."""
    if any(parameter.is_cuda for parameter in model.parameters()):
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    for module in model.modules():
        if type(module) in PLAIN:
            # In place, so that whoever holds the module or the model goes on with it.
            module.__class__ = _SYNCED[type(module)]
    return model


class _Synced(nn.modules.batchnorm._BatchNorm):
    """A batch norm whose statistics are those of the batches of all ranks, of equal size."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        self._check_input_dim(input)
        over = [0, *range(2, input.dim())]
        count = distributed.get_world_size() * input.numel() // input.shape[1]
        mean = _sum(input, over) / count
        centred = input - _spread(mean, input)
        variance = _sum(centred.square(), over) / count
        self._remember(mean.detach(), variance.detach() * count / max(count - 1, 1))
        scale = torch.rsqrt(variance + self.eps)
        scale = scale if self.weight is None else scale * self.weight
        normed = centred * _spread(scale, input)
        return normed if self.bias is None else normed + _spread(self.bias, input)

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        if not self.track_running_stats or self.running_mean is None or self.running_var is None:
            return
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        momentum = self.momentum
        factor = 1 / float(self.num_batches_tracked) if momentum is None else momentum
        self.running_mean.lerp_(mean, factor)
        self.running_var.lerp_(variance, factor)


def _sum(values: Tensor, over: list[int]) -> Tensor:
    return collective.all_reduce(values.sum(over))


def _spread(values: Tensor, like: Tensor) -> Tensor:
    return values.view(1, -1, *[1] * (like.dim() - 2))


_SYNCED: dict[type, Any] = {
    kind: type(f"Synced{kind.__name__}", (_Synced, kind), {}) for kind in PLAIN
}

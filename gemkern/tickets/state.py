"""The part of a model's state that training starts from: everything beside scores and masks."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from gemkern.errors import GemkernError
from gemkern.optim import is_masked, masked_layers
from gemkern.tensor_file import hash_tensor


def key(layer: str, entry: str) -> str:
    """Return the state_dict key of a layer's entry; the model itself is the layer ""."""
    return f"{layer}.{entry}" if layer else entry


def weights_state(model: nn.Module) -> dict[str, Tensor]:
    """Return the tensors of the model's state_dict without scores and active, not copied."""
    masking = {
        key(name, entry)
        for name, module in model.named_modules(remove_duplicate=False)
        if is_masked(module)
        for entry in ("scores", "active")
    }
    return {
        entry: tensor
        for entry, tensor in model.state_dict().items()
        if entry not in masking and isinstance(tensor, Tensor)
    }


def load_weights_state(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Put `weights` back in place; scores and active stay as they are."""
    # Updated, it keeps what modules wrote beside: the version of their state.
    state = model.state_dict()
    state.update(weights)
    model.load_state_dict(state)


def zero_masked_weights(model: nn.Module) -> None:
    """Set every weight that is not active to +0.0."""
    with torch.no_grad():
        for layer in masked_layers(model).values():
            layer.weight.masked_fill_(~layer.active, 0.0)


def checksum(weights: Mapping[str, Tensor], layers: Iterable[str]) -> str:
    """Return the SHA-256, in hex, of the weights of `layers`: names, dtypes, shapes and bytes.

    Raises:
        GemkernError: a layer has no weight there.
    """
    digest = hashlib.sha256()
    for layer in layers:
        entry = key(layer, "weight")
        if entry not in weights:
            raise GemkernError(f"there are no weights for the masked layer {layer!r}: add {entry}")
        hash_tensor(digest, entry, weights[entry])
    return digest.hexdigest()

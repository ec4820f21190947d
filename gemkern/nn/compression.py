"""Masked layers reduced to the weights that remain: what is frozen takes no memory and no time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import increment_version

from gemkern import ops
from gemkern.errors import GemkernError
from gemkern.nn import buckets
from gemkern.nn.door import close_doors

_ENTRIES = ("weight", "scores", "active")


class Compressible(nn.Module):
    """A masked layer whose weight, scores and active can be compressed to what is active.

    Compressed, the three are flat, [nnz], in row-major order of the places that were active; they
    stay the same parameters. The layer's state_dict is that of the whole layer in either form:
    weights that are not active stay what they were, their scores are 0.
    """

    weight: Any
    scores: Any
    active: Tensor
    effective: Any
    override: Any = None
    whole_weight: Tensor
    # Where the weights of a compressed layer remain. No buffers: an average of models would move
    # places as it moves values.
    _pattern: ops.Pattern | None = None
    # The buffer `active` and its version, as `compress` left it; no copy of the layer keeps it.
    _compressed_active: tuple[Tensor, int] | None = None

    @property
    def is_compressed(self) -> bool:
        return self._pattern is not None

    @property
    def whole_shape(self) -> tuple[int, ...]:
        """The shape of the whole weight, in either form."""
        return tuple((self.whole_weight if self.is_compressed else self.active).shape)

    @property
    def is_unmasked(self) -> bool:
        """Whether the layer is compressed and all its weights are active, as far as is known.

        A change of `active` is noticed by its version, which `.data` passes by.
        """
        if self._compressed_active is None:
            return False
        active, version = self._compressed_active
        return self._buffers["active"] is active and active._version == version

    def compress(self) -> None:
        """Set aside what is not active, for good. Reads the device, and drops gradients.

        Raises:
            GemkernError: DistributedDataParallel has made buckets for the parameters.
        """
        compress_all([self])

    def expand(self) -> None:
        """Return to the whole weight; drops gradients.

        Raises:
            GemkernError: DistributedDataParallel has made buckets for the parameters.
        """
        expand_all([self])

    def _compress(self) -> None:
        self._expand()
        pattern = ops.pattern(self.active)
        whole_weight = self.weight.detach()
        self._replace(lambda whole: whole.flatten()[pattern.positions])
        self.register_buffer("whole_weight", whole_weight, persistent=False)
        self._pattern = pattern
        self._compressed_active = self.active, self.active._version

    def _expand(self) -> None:
        if self.is_compressed:
            weight = self._spread_weight(self.weight)
            self._replace(self.spread)
            self.weight.data = weight
            self._pattern = self._compressed_active = None
            del self.whole_weight

    def spread(self, values: Tensor) -> Tensor:
        """Return `values` [nnz] in the shape of the whole weight, 0 where nothing remains.

        Of a layer that is not compressed, or where `values` are no such values, return them.
        """
        if not self.is_compressed or values.shape != self.pattern().positions.shape:
            return values
        whole = torch.zeros_like(self.whole_weight, dtype=values.dtype)
        return _put(whole, self.pattern().positions, values)

    def gather(self, whole: Tensor) -> Tensor:
        """Undo `spread`: return what remains of a tensor in the shape of the whole weight."""
        if not self.is_compressed or whole.shape != self.whole_shape:
            return whole
        return whole.flatten()[self.pattern().positions]

    def reset_parameters(self) -> None:
        """Draw the weight and the bias anew, those of the whole layer in either form."""
        draw: Any = super()
        if not self.is_compressed:
            draw.reset_parameters()
            return
        with self._whole():
            draw.reset_parameters()

    def pattern(self) -> ops.Pattern:
        """Return where the weights of a compressed layer remain."""
        assert self._pattern is not None
        return self._pattern

    def values(self) -> Tensor:
        """Return the effective weights of a compressed layer, [nnz]."""
        if self.scores is None:
            # Compiled code cannot see when a mask changes.
            if not torch.compiler.is_compiling() and self.is_unmasked:
                return self.weight
            # PyTorch's own select costs a tenth of an operator's call.
            return torch.where(self.active, self.weight, 0.0)
        return ops.effective_weight([self.weight], [self.scores], [self.active])[0]

    def _replace(self, change: Callable[[Tensor], Tensor]) -> None:
        """Change weight, scores and active to another shape, in place."""
        self.effective = None
        tensors = [one for name in _ENTRIES if (one := getattr(self, name)) is not None]
        changed = [change(tensor.data) for tensor in tensors]
        for tensor, data in zip(tensors, changed, strict=True):
            tensor.grad = None
            _reshape(tensor, data)

    def _spread_weight(self, values: Tensor) -> Tensor:
        """Return the whole weight with `values` where it is active."""
        return _put(self.whole_weight.clone(), self.pattern().positions, values.detach())

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.is_compressed:
            for name in _ENTRIES:
                entry = destination.get(f"{prefix}{name}")
                if entry is not None:
                    destination[f"{prefix}{name}"] = self.spread(entry.detach())
            destination[f"{prefix}weight"] = self._spread_weight(self.weight)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *arguments: Any
    ) -> None:
        weight, active = (state_dict.get(f"{prefix}{name}") for name in ("weight", "active"))
        if self.is_compressed and self._is_another(active):
            with self._whole():
                super()._load_from_state_dict(state_dict, prefix, *arguments)
            return
        if self.is_compressed and isinstance(weight, Tensor):
            if weight.shape == self.whole_shape:
                self.whole_weight.copy_(weight)
            for name in _ENTRIES:
                entry = state_dict.get(f"{prefix}{name}")
                if isinstance(entry, Tensor):
                    state_dict[f"{prefix}{name}"] = self.gather(entry)
        super()._load_from_state_dict(state_dict, prefix, *arguments)

    def _is_another(self, active: Any) -> bool:
        """Return whether `active` is a mask of the whole weight that is not the layer's."""
        if not isinstance(active, Tensor) or active.shape != self.whole_shape:
            return False
        return not torch.equal(self.spread(self.active), active.to(self.active.device))

    @contextmanager
    def _whole(self) -> Iterator[None]:
        """Let the layer be whole in this context, then compress it anew."""
        self.expand()
        yield
        self.compress()


def compressible_layers(model: nn.Module) -> Iterator[tuple[str, Compressible]]:
    """Yield the layers of `model` that can be compressed, by qualified name."""
    for name, module in model.named_modules():
        if isinstance(module, Compressible):
            yield name, module


def is_accelerated(model: nn.Module) -> bool:
    """Return whether a layer of `model` is compressed (`gemkern.accelerate`)."""
    return any(layer.is_compressed for _, layer in compressible_layers(model))


def decelerate(model: nn.Module) -> nn.Module:
    """Undo `gemkern.accelerate`, in place; return the model. A dense one stays as it is.

    Raises:
        GemkernError: DistributedDataParallel wrapped the accelerated model.
    """
    expand_all([layer for _, layer in compressible_layers(model)])
    close_doors(model)
    return model


def compress_all(layers: Sequence[Compressible]) -> None:
    """Compress `layers`, or none of them.

    Raises:
        GemkernError: DistributedDataParallel has made buckets for their parameters, or a layer has
            an override.
    """
    for layer in layers:
        if layer.override is not None:
            raise GemkernError(
                f"{layer} computes with weights that a search makes: it cannot be compressed "
                "before the search lets go of it"
            )
    with _changing_form(layers):
        try:
            for layer in layers:
                layer._compress()
        except BaseException:
            for layer in layers:
                layer._expand()
            raise


def expand_all(layers: Sequence[Compressible]) -> None:
    """Expand those of `layers` that are compressed.

    Raises:
        GemkernError: DistributedDataParallel has made buckets for their parameters.
    """
    compressed = [layer for layer in layers if layer.is_compressed]
    with _changing_form(compressed):
        for layer in compressed:
            layer._expand()


def check_form_may_change(layers: Sequence[nn.Module]) -> None:
    """Check that the parameters of `layers` may change their shapes.

    Raises:
        GemkernError: DistributedDataParallel has made buckets for them.
    """
    bucketed = buckets.in_buckets() if layers else set()
    for layer in layers:
        if buckets.holds_any(layer, bucketed):
            raise GemkernError(f"{layer} cannot be compressed or expanded: {buckets.REASON}")


@contextmanager
def _changing_form(layers: Sequence[Compressible]) -> Iterator[None]:
    """Let the parameters of `layers` change their shapes in this context."""
    check_form_may_change(layers)
    with torch.inference_mode(False), torch.no_grad():
        yield


def _reshape(tensor: Tensor, data: Tensor) -> None:
    """Give `tensor` data of another shape."""
    if not tensor.is_inference():
        # What an older graph has saved of it is gone.
        increment_version(tensor)
    if tensor.is_floating_point():
        # The end of a graph remembers the shape for as long as that graph lives. PyTorch makes the
        # next graph another end where the dtype has changed.
        other = torch.float32 if tensor.dtype == torch.float64 else torch.float64
        tensor.data = torch.empty(0, dtype=other, device=tensor.device)
    tensor.data = data


def _put(whole: Tensor, positions: Tensor, values: Tensor) -> Tensor:
    """Write `values` to row-major `positions` of `whole`, whatever its strides; return it."""
    flat = whole.contiguous().view(-1)
    flat[positions] = values
    return whole.copy_(flat.view(whole.shape))

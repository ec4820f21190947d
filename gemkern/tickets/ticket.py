"""A ticket: finished masks, and what is needed to make the same initial weights again."""

from __future__ import annotations

import hashlib
import math
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gemkern import ops, tensor_file
from gemkern.errors import GemkernError
from gemkern.nn import convert, decelerate, why_not_masked
from gemkern.numbers import whole_number
from gemkern.optim import is_masked, masked_layers, unwrapped, whole_shape
from gemkern.tickets.state import (
    checksum,
    load_weights_state,
    weights_state,
    zero_masked_weights,
)

# Of weights of linear layers to those of convolutions over volumes.
WEIGHT_DIMENSIONS = range(2, 6)
MOST_WEIGHTS = 2**31
FILE = tensor_file.Kind("ticket", 1, "Ticket.save", "copy it again or make the ticket again")


@dataclass(frozen=True, eq=False, repr=False)
class Ticket:
    """The masks of a network and the weights from which to finetune it.

    Attributes:
        masks: for each masked layer, by qualified name in the model's order, a bool tensor of the
            weight's shape, on the CPU; true where the weight remains.
        model: name of the network.
        method: name of what found the ticket.
        seed: what the network's initial weights were drawn from, or None.
        checksum: SHA-256, in hex, of the weights in the masked layers, masked ones included: layer
            by layer, name, dtype, shape and row-major bytes.
        weights: everything that the network's state_dict holds beside scores and masks, on the CPU,
            or None where only the checksum is known.

    Raises:
        GemkernError: no weight remains, or the seed is no whole number.
    """

    masks: Mapping[str, Tensor]
    model: str
    method: str
    seed: int | None
    checksum: str
    weights: Mapping[str, Tensor] | None

    def __post_init__(self) -> None:
        if self.seed is not None:
            # As a file holds it, whatever library it came from.
            object.__setattr__(self, "seed", whole_number("the ticket's seed", self.seed))
        if self.weights_left == 0:
            raise GemkernError(
                f"the ticket of {self.method} keeps no weight of {self.model}: raise the density "
                "or lower the regularisation of the scores"
            )

    @classmethod
    def from_model(
        cls,
        model: nn.Module,
        *,
        method: str,
        masks: Mapping[str, Tensor] | None = None,
        weights: Mapping[str, Tensor] | None = None,
        name: str | None = None,
        seed: int | None = None,
    ) -> Ticket:
        """Take the ticket out of a converted model, as copies on the CPU.

        Args:
            masks: in place of each layer's `active`.
            weights: in place of the model's own state.
            name: of the network; its class's name if None.

        Raises:
            GemkernError: the model has no masked layers, or no weight remains.
        """
        model = unwrapped(model)
        if masks is None:
            masks = {layer: _whole_active(module) for layer, module in masked_layers(model).items()}
        if weights is None:
            weights = weights_state(model)
        return cls(
            masks={layer: _copy(mask) for layer, mask in masks.items()},
            model=type(model).__name__ if name is None else name,
            method=method,
            seed=seed,
            checksum=checksum(weights, masks),
            weights={entry: _copy(weight) for entry, weight in weights.items()},
        )

    def __repr__(self) -> str:
        return (
            f"<Ticket of {self.method} for {self.model}: {self.weights_left} weights, "
            f"{100 * self.density:.2f} %, seed {self.seed}>"
        )

    @property
    def digest(self) -> str:
        """SHA-256, in hex, of the masks and the weights' checksum: no other ticket's."""
        digest = hashlib.sha256(self.checksum.encode())
        for name, mask in self.masks.items():
            tensor_file.hash_tensor(digest, name, mask)
        return digest.hexdigest()

    @property
    def weights_left(self) -> int:
        """How many weights remain."""
        return sum(int(mask.sum()) for mask in self.masks.values())

    @property
    def density(self) -> float:
        """The fraction of the maskable weights that remains."""
        return self.weights_left / sum(mask.numel() for mask in self.masks.values())

    @property
    def layer_density(self) -> dict[str, float]:
        """The fraction that remains, for each layer."""
        return {name: int(mask.sum()) / mask.numel() for name, mask in self.masks.items()}

    @property
    def empty_layers(self) -> list[str]:
        """The names of the layers of which no weight remains."""
        return [name for name, mask in self.masks.items() if not mask.any()]

    def apply(self, model: nn.Module) -> None:
        """Make `model` this ticket, ready to finetune: masks on, weights loaded, weights learn.

        Layers that are not masked yet are converted, an accelerated model is decelerated, scores
        are dropped. Where the ticket knows only the checksum, the model has to come with the
        initial weights. A model that does not match is left as it was. A warning names layers of
        which nothing remains.

        Raises:
            GemkernError: a layer, another entry of the state or the checksum does not match.
        """
        model = unwrapped(model)
        if self.empty_layers:
            names = ", ".join(map(repr, self.empty_layers))
            warnings.warn(
                f"the ticket keeps no weight of {names}: nothing but a bias leaves such a layer",
                stacklevel=2,
            )
        self.check_layers(model)
        self._check_weights(model)
        self._check_maskable(model)
        decelerate(model)
        if not all(is_masked(model.get_submodule(name)) for name in self.masks):
            convert(model, filter_fn=lambda module, name: name in self.masks)
        if self.weights is not None:
            load_weights_state(model, self.weights)
        for name, mask in self.masks.items():
            layer: Any = model.get_submodule(name)
            layer.drop_scores()
            layer.active.copy_(mask)
        zero_masked_weights(model)

    def check_layers(self, model: nn.Module) -> None:
        """Check that `model`, converted or not, has the layers of the ticket.

        Raises:
            GemkernError: naming the first layer that is missing, of another shape or not covered.
        """
        modules = dict(model.named_modules())
        for name, mask in self.masks.items():
            weight = getattr(modules.get(name), "weight", None)
            if not isinstance(weight, Tensor):
                raise self._misfit(f"it has no layer {name!r} with a weight")
            shape = whole_shape(modules[name])
            if shape != mask.shape:
                raise self._misfit(
                    f"layer {name!r} has a weight of shape {tuple(shape)} where the ticket's mask "
                    f"has {tuple(mask.shape)}"
                )
        for name, module in modules.items():
            if is_masked(module) and name not in self.masks:
                raise self._misfit(f"the ticket has no mask for its layer {name!r}")

    def save(
        self, path: tensor_file.StrPath, weights: bool = True, *, replace: bool = False
    ) -> None:
        """Write the ticket to a safetensors file, one bit for each maskable weight.

        Args:
            weights: embed the initial weights; else the file holds their checksum alone.
            replace: whatever else stands at `path` goes.

        Raises:
            GemkernError: the weights are not known, something else stands at `path`, or the file
                cannot be written.
        """
        if weights and self.weights is None:
            raise GemkernError(
                "the ticket knows only the checksum of its weights: save it with weights=False"
            )
        tensors = {f"mask/{name}": ops.pack_mask(mask) for name, mask in self.masks.items()}
        if weights and self.weights is not None:
            tensors |= {f"weight/{entry}": weight for entry, weight in self.weights.items()}
        header = _Header(
            layers={name: list(mask.shape) for name, mask in self.masks.items()},
            model=self.model,
            method=self.method,
            seed=self.seed,
            density=self.density,
            checksum=self.checksum,
        )
        if not replace and os.path.exists(path) and not _holds(path, asdict(header), tensors):
            raise GemkernError(
                f"{path} is there and holds something else: choose another path, or give "
                "replace=True"
            )
        tensor_file.write(path, FILE, asdict(header), tensors)

    @classmethod
    def load(cls, path: tensor_file.StrPath) -> Ticket:
        """Read a ticket that `save` wrote, and check it against itself.

        Raises:
            GemkernError: the file is missing, foreign, of another version or damaged.
        """
        facts, tensors = tensor_file.read(path, FILE)
        try:
            header = _Header(**facts)
        except TypeError as error:
            raise FILE.damaged(path, f"its header is not complete ({error})") from error
        if lie := _lie(header) or _stranger(header, tensors):
            raise FILE.damaged(path, lie)
        weights = {
            name.removeprefix("weight/"): tensor
            for name, tensor in tensors.items()
            if name.startswith("weight/")
        }
        ticket = cls(
            masks={
                name: _unpack(path, name, tensors.get(f"mask/{name}"), shape)
                for name, shape in header.layers.items()
            },
            model=header.model,
            method=header.method,
            seed=header.seed,
            checksum=header.checksum,
            weights=weights or None,
        )
        if ticket.density != header.density:
            raise FILE.damaged(
                path, f"its masks have density {ticket.density}, its header says {header.density}"
            )
        if weights and checksum(weights, ticket.masks) != ticket.checksum:
            raise FILE.damaged(path, "its weights do not match their checksum")
        return ticket

    def _check_weights(self, model: nn.Module) -> None:
        own = weights_state(model)
        if self.weights is None:
            if checksum(own, self.masks) != self.checksum:
                raise self._misfit(
                    "its weights are not the initial weights that the ticket was found for "
                    f"(seed {self.seed}), and the ticket does not hold them"
                )
            return
        for entry in {**self.weights, **own}:
            ours, theirs = self.weights.get(entry), own.get(entry)
            if ours is None or theirs is None or ours.shape != theirs.shape:
                raise self._misfit(
                    f"{entry!r} is {_describe(ours)} in the ticket and {_describe(theirs)} there"
                )
            if ours.is_floating_point() != theirs.is_floating_point():
                raise self._misfit(
                    f"{entry!r} is of {ours.dtype} in the ticket and of {theirs.dtype} there"
                )

    def _check_maskable(self, model: nn.Module) -> None:
        reasons = why_not_masked(model)
        for name in self.masks:
            if name in reasons and not is_masked(model.get_submodule(name)):
                raise self._misfit(f"layer {name!r} cannot be masked ({reasons[name]})")

    def _misfit(self, what: str) -> GemkernError:
        return GemkernError(
            f"the ticket of {self.model!r} does not fit the model: {what}; apply it to a fresh "
            "model of the same architecture"
        )


@dataclass(frozen=True)
class _Header:
    layers: dict[str, list[int]]
    model: str
    method: str
    seed: int | None
    density: float
    checksum: str


def _lie(header: _Header) -> str:
    """Return what of a header is not what `save` writes; an empty text if all is."""
    if not all(isinstance(one, str) for one in (header.model, header.method, header.checksum)):
        return "its model, its method or its checksum is no text"
    if header.seed is not None and type(header.seed) is not int:
        return "its seed is no whole number"
    if type(header.density) is not float:
        return "its density is no number"
    if not isinstance(header.layers, dict) or not header.layers:
        return "it names no layers"
    for name, shape in header.layers.items():
        sides = shape if isinstance(shape, list) else []
        if len(sides) not in WEIGHT_DIMENSIONS or not all(
            type(side) is int and 0 < side < MOST_WEIGHTS for side in sides
        ):
            return f"the shape of layer {name!r} is not that of a weight"
    return ""


def _stranger(header: _Header, tensors: Mapping[str, Tensor]) -> str:
    """Return which of the tensors no header tells of; an empty text if none is."""
    masks = {f"mask/{name}" for name in header.layers}
    for name in tensors:
        if name not in masks and not name.startswith("weight/"):
            return f"no layer of its header has its {name!r}"
    return ""


def _holds(
    path: tensor_file.StrPath, header: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> bool:
    """Return whether the file at `path` is a ticket of this content."""
    try:
        facts, found = tensor_file.read(path, FILE)
    except GemkernError:
        return False
    return (
        facts == header
        and found.keys() == tensors.keys()
        and all(tensor_file.same_bits(found[name], tensors[name]) for name in found)
    )


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True)


def _describe(tensor: Tensor | None) -> str:
    return "missing" if tensor is None else f"of shape {tuple(tensor.shape)}"


def _unpack(
    path: tensor_file.StrPath, layer: str, packed: Tensor | None, shape: Sequence[int]
) -> Tensor:
    needed = math.ceil(math.prod(shape) / 8)
    if packed is None or packed.dtype != torch.uint8 or packed.shape != (needed,):
        found = "missing" if packed is None else f"{tuple(packed.shape)} of {packed.dtype}"
        raise FILE.damaged(
            path,
            f"the mask of layer {layer!r} is {found} where its shape {tuple(shape)} needs "
            f"{needed} bytes",
        )
    return ops.unpack_mask(packed, shape)


def _whole_active(layer: Any) -> Tensor:
    """Return the mask of a layer in the shape of its whole weight."""
    return layer.spread(layer.active) if hasattr(layer, "spread") else layer.active

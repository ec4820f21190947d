"""Whole models from dense to masked and back, in place, with a report of what was left and why."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import is_parametrized
from torch.nn.utils.prune import BasePruningMethod

from gemkern.errors import GemkernError
from gemkern.nn.compression import decelerate
from gemkern.nn.layers import Masked, MaskedConv2d, MaskedLinear
from gemkern.optim.layers import is_sharded

Filter = Callable[[nn.Module, str], bool]


@dataclass
class Report:
    """What a conversion did.

    Attributes:
        converted: names of the layers converted.
        left: names of those left, with the reason.
        covered: how many of the model's parameters are weights of masked layers.
        parameters: how many the model has in all, scores apart.
    """

    converted: list[str] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)
    covered: int = 0
    parameters: int = 0

    @property
    def share(self) -> float:
        """The fraction of the model's parameters that is covered."""
        return self.covered / max(self.parameters, 1)

    def __str__(self) -> str:
        lines = [f"converted {name}" for name in self.converted]
        lines += [f"left {name}: {reason}" for name, reason in self.left.items()]
        if self.parameters:
            share = f"{100 * self.share:.1f} %"
            lines.append(f"masks cover {self.covered} of {self.parameters} parameters, {share}")
        return "\n".join(lines)


def convert(model: nn.Module, filter_fn: Filter | None = None, scores: bool = False) -> Report:
    """Replace the convolutions and linear layers of `model` by masked ones, in place.

    Parameters, dtypes, devices and modes stay; numerically the model stays what it was until
    something is masked. A layer that is registered in several places is converted once and stays
    shared.

    Args:
        filter_fn: called with a module and its qualified name; False leaves the layer alone.
        scores: give each layer scores that learn, and fix its weight and bias.

    Returns:
        The names of converted layers, why others that hold parameters were left, and the share of
        the model's parameters that can be masked now.

    Raises:
        GemkernError: there is nothing to mask, or the model is itself a layer (use
            `MaskedConv2d.from_dense` or `MaskedLinear.from_dense`).
    """

    def mask(module: nn.Module) -> nn.Module:
        if isinstance(module, nn.Conv2d):
            return MaskedConv2d.from_dense(module, scores)
        assert isinstance(module, nn.Linear)
        return MaskedLinear.from_dense(module, scores)

    if type(model) in (nn.Conv2d, nn.Linear):
        raise GemkernError(
            f"the model is itself a layer ({type(model).__name__}) and cannot be replaced in "
            "place: use MaskedConv2d.from_dense or MaskedLinear.from_dense"
        )
    report = _replace(model, _why_not_masked, mask, filter_fn, tied_or_bypassed(model))
    if not report.converted:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in report.left.items())
        raise GemkernError(
            f"the model {type(model).__name__} has nothing to mask "
            f"({reasons or 'no layer with parameters'}): give one with convolutions or linear "
            "layers"
        )
    masked: list[Any] = [module for module in model.modules() if isinstance(module, Masked)]
    scores_of = {id(layer.scores) for layer in masked}
    counted = [one for one in model.parameters() if not is_lazy(one) and id(one) not in scores_of]
    report.covered = sum(layer.active.numel() for layer in masked)
    report.parameters = sum(one.numel() for one in counted)
    return report


def mask_zeros(model: nn.Module) -> None:
    """Mask every weight of the masked layers of `model` that is exactly zero, for good.

    So `gemkern.convert` takes over what others have pruned.

    Raises:
        GemkernError: the model has no masked layer, or one whose weights are all zero.
    """
    layers = [(name, one) for name, one in model.named_modules() if isinstance(one, Masked)]
    if not layers:
        raise GemkernError(
            f"the model {type(model).__name__} has no masked layer: gemkern.convert it first"
        )
    masks = [one.active & (one.weight.detach() != 0) for _, one in layers]
    for (name, _), mask in zip(layers, masks, strict=True):
        if not mask.any():
            raise GemkernError(
                f"all weights of layer {name!r} are zero, and a mask over them would end all "
                "learning there: load weights first, or leave the layer out of gemkern.convert"
            )
    for (_, one), mask in zip(layers, masks, strict=True):
        one.active.copy_(mask)


def why_not_masked(model: nn.Module) -> dict[str, str]:
    """Return for each module of `model` that `convert` would leave why, by qualified name."""
    barred = tied_or_bypassed(model)
    reasons = {
        name: barred.get(module, "") or _why_not_masked(module)
        for name, module in model.named_modules(remove_duplicate=False)
    }
    return {name: reason for name, reason in reasons.items() if reason}


def unconvert(model: nn.Module) -> Report:
    """Replace the masked layers of `model` by plain ones with the zeros in their weights, in place.

    What is left is an ordinary PyTorch model; what was fixed for the scores' sake learns again. An
    accelerated model is decelerated first.

    Returns:
        The names of the layers that became plain.

    Raises:
        GemkernError: the model is itself a masked layer (use its `to_dense`).
    """

    def bake(module: nn.Module) -> nn.Module:
        assert isinstance(module, (MaskedConv2d, MaskedLinear))
        return module.to_dense()

    if isinstance(model, Masked):
        raise GemkernError(
            f"the model is itself a layer ({type(model).__name__}) and cannot be replaced in "
            "place: use its to_dense"
        )
    decelerate(model)
    return _replace(model, _why_not_plain, bake, None, {})


def _replace(
    model: nn.Module,
    refuse: Callable[[nn.Module], str],
    make: Callable[[nn.Module], nn.Module],
    filter_fn: Filter | None,
    barred: Mapping[nn.Module, str],
) -> Report:
    report = Report()
    made: dict[nn.Module, nn.Module] = {}
    for parent, attribute, module, name in list(_children(model)):
        if module in made:
            setattr(parent, attribute, made[module])
            report.converted.append(name)
            continue
        reason = barred.get(module, "") or refuse(module)
        if not reason and filter_fn is not None and not filter_fn(module, name):
            reason = "filter_fn said no"
        if reason:
            if any(True for _ in module.parameters(recurse=False)) or is_parametrized(module):
                report.left[name] = reason
            continue
        made[module] = make(module)
        setattr(parent, attribute, made[module])
        report.converted.append(name)
    return report


def _children(
    model: nn.Module, prefix: str = ""
) -> Iterator[tuple[nn.Module, str, nn.Module, str]]:
    for attribute, module in model._modules.items():
        if module is not None:
            name = f"{prefix}{attribute}"
            yield model, attribute, module, name
            yield from _children(module, f"{name}.")


def tied_or_bypassed(model: nn.Module) -> dict[nn.Module, str]:
    """Return the modules whose parameters are not theirs alone, and what to say of each."""
    return _tied(model) | _bypassed(model)


def _tied(model: nn.Module) -> dict[nn.Module, str]:
    """Return the modules that hold a parameter of another module, and what to say of each."""
    holders: dict[Tensor, dict[nn.Module, str]] = {}
    for name, module in model.named_modules():
        name = name or "the model itself"
        for parameter in module.parameters(recurse=False):
            holders.setdefault(parameter, {})[module] = name
    reasons = {}
    for sharing in holders.values():
        for module in sharing:
            others = [name for other, name in sharing.items() if other is not module]
            if others:
                reasons[module] = (
                    f"tied to {', '.join(others)} by a parameter, which one mask cannot serve: "
                    "give each its own"
                )
    return reasons


def _bypassed(model: nn.Module) -> dict[nn.Module, str]:
    """Return the layers whose weight a module above reads itself, and what to say of each."""
    reasons: dict[nn.Module, str] = {}
    for module in model.modules():
        kind: Any = type(module)
        reason = f"its weight is read by {kind.__name__}, past the layer's forward and its mask"
        for name in _weights_read(kind) & module._modules.keys():
            reasons[module.get_submodule(name)] = reason
    return reasons


@cache
def _weights_read(kind: Any) -> frozenset[str]:
    """Return the names of the layers whose weights the forward of a class computes with."""
    try:
        source = inspect.getsource(kind.forward)
    except (OSError, TypeError):
        return frozenset()
    return frozenset(_WEIGHT_READ.findall(source))


# A weight itself, and not what is known of it.
_WEIGHT_READ = re.compile(
    r"(?<!isinstance\()\bself\.(\w+)\.weight\b(?!\.(?:dtype|device|shape|size|dim|requires_grad)\b)"
)


def _why_not_masked(module: nn.Module) -> str:
    kind = type(module).__name__
    if is_parametrized(module):
        return f"parametrized ({kind}): its weight is computed, remove the parametrization first"
    if isinstance(module, Masked):
        return "masked already"
    if any(isinstance(hook, BasePruningMethod) for hook in module._forward_pre_hooks.values()):
        return (
            f"pruned by torch.nn.utils.prune ({kind}), which computes its weight at every call: "
            "make that permanent by prune.remove, convert, and call gemkern.mask_zeros"
        )
    if is_sharded(module._parameters.get("weight")):
        return "its weight is a DTensor, a part of which is on each rank: convert before sharding"
    if isinstance(module, nn.MultiheadAttention):
        return f"attention that multiplies by its projections itself ({kind}): give each a layer"
    if kind == "Conv1D":
        return (
            "a linear layer that holds its weight transposed (Conv1D): put nn.Linear in its place"
        )
    if isinstance(module, LazyModuleMixin):
        return f"lazy ({kind}): its weight has no shape yet, call the model on data first"
    if type(module) not in (nn.Conv2d, nn.Linear):
        if isinstance(module, nn.Conv2d | nn.Linear):
            return f"a subclass of a layer ({kind}): its own behaviour would be lost"
        return f"not a convolution or linear layer ({kind})"
    return _why_not_replaced(module)


def _why_not_plain(module: nn.Module) -> str:
    if not isinstance(module, Masked):
        return "not masked"
    return _why_not_replaced(module)


def _why_not_replaced(module: nn.Module) -> str:
    return "it has hooks, which a replacement would lose" if has_hooks(module) else ""


def has_hooks(module: nn.Module) -> bool:
    """Return whether something is to be called whenever `module` is."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return any(getattr(module, hook) for hook in hooks)

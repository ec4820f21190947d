"""The forward pass of a model rewritten for batch-last activations.

The model is traced (`torch.fx`). Batch norm with the residual and the ReLU that follow it becomes
part of the convolution that reads it and of the one that it reads (`gemkern.nn.activations`),
pooling the batch-last operator, and so a slice whose channels are padded, the shortcut of ResNets.
Everything else runs as it is: PyTorch's pointwise operators keep the layout. Modules and parameters
stay the model's own.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from gemkern import ops
from gemkern.nn.activations import (
    convolve,
    max_pool,
    normalise,
    plain,
    statistics_moved_at_once,
)
from gemkern.nn.convert import has_hooks
from gemkern.nn.layers import Masked, MaskedConv2d
from gemkern.ops.checks import LARGEST_WINDOW, pair

RELUS = (F.relu, torch.relu, F.relu_, torch.relu_)
ADDS = (operator.add, operator.iadd, torch.add)


class _Tracer(fx.Tracer):
    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return isinstance(module, Masked) or super().is_leaf_module(module, name)


class Rewritten:
    """The forward pass of a model, rewritten; copies and pickles of the model trace it anew."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._graph: fx.GraphModule | None = rewrite(model)

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        if self._graph is None:
            self._graph = rewrite(self._model)
        if torch.compiler.is_compiling():
            return self._graph(*inputs, **named)
        with statistics_moved_at_once():
            return self._graph(*inputs, **named)

    def __getstate__(self) -> dict[str, Any]:
        return {"_model": self._model, "_graph": None}


def rewrite(model: nn.Module) -> fx.GraphModule:
    """Return a module that computes what `model` does, with batch-last operators.

    It shares the submodules and so follows train(), eval() and every change of parameters.

    Raises:
        Exception: whatever tracing raises where the forward pass depends on data.
    """
    graph = _Tracer().trace(model)
    for node in list(graph.nodes):
        if _module(node, model, nn.BatchNorm2d) and _serves(model.get_submodule(node.target)):
            _fuse_norm(graph, node, model)
        elif _module(node, model, nn.MaxPool2d):
            _replace_pool(graph, node, model.get_submodule(node.target), max_pool)
        elif _module(node, model, nn.AvgPool2d):
            _replace_pool(graph, node, model.get_submodule(node.target), _average_pool)
        elif node.op == "call_function" and node.target in KEEPING:
            node.target = KEEPING[node.target]
        elif node.op == "call_method" and node.target == "mean":
            node.op, node.target = "call_function", keep_mean
    for node in list(graph.nodes):
        if _module(node, model, MaskedConv2d):
            _fuse_convolution(graph, node)
        elif node.target is keep_pad:
            _fuse_shortcut(graph, node)
    _read_tensors(graph)
    graph.lint()
    return fx.GraphModule(model, graph)


def _average_pool(pool: Any, x: Tensor) -> Tensor:
    return ops.average_pool2d(
        x, pool.kernel_size, pool.stride, pool.padding, pool.count_include_pad
    )


def keep_pad(x: Tensor, pad: Any, mode: str = "constant", value: float | None = None) -> Tensor:
    """Return `F.pad`, in the batch-last layout where x has it."""
    if mode != "constant" or not _has_layout(x):
        return F.pad(x, pad, mode, value)
    of_images = pad[6:] or (0, 0)
    return F.pad(x.movedim(0, -1), (*of_images, *pad[:6]), mode, value).movedim(-1, 0)


def keep_index(x: Any, index: Any) -> Any:
    """Return `x[index]`; what slices images leaves them, and their gradient, batch-last."""
    slices = isinstance(index, tuple) and all(isinstance(one, slice) for one in index)
    if not slices or index[0] != slice(None) or not _has_layout(x):
        return x[index]
    rest = (*index[1:], *[slice(None)] * (x.dim() - len(index)))
    return x.movedim(0, -1)[(*rest, slice(None))].movedim(-1, 0)


def keep_mean(x: Tensor, *arguments: Any, **named: Any) -> Tensor:
    """Return `x.mean(...)`; that over the pixels of images reads batch-last ones as they lie."""
    whole = len(arguments) == 1 and not named and arguments[0] in ((2, 3), [2, 3], (-2, -1))
    if not whole or not _has_layout(x):
        return x.mean(*arguments, **named)
    return x.movedim(0, -1).flatten(1, 2).mean(1).T


def _shortcut(x: Any, stride: tuple[int, int], before: int, after: int) -> Any:
    if _has_layout(x):
        return ops.padded_shortcut(x, stride, before, after)
    return F.pad(x[:, :, :: stride[0], :: stride[1]], (0, 0, 0, 0, before, after))


# What PyTorch would lay out anew, forward or backward.
KEEPING = {F.pad: keep_pad, operator.getitem: keep_index}


def _has_layout(x: Any) -> bool:
    return isinstance(x, Tensor) and x.dim() == 4 and x.shape[0] > 1 and x.stride(0) == 1


def _serves(norm: Any) -> bool:
    """Return whether a norm moves its statistics by a fixed share."""
    return type(norm) is nn.BatchNorm2d and norm.momentum is not None


def _fuse_norm(graph: fx.Graph, node: fx.Node, model: nn.Module) -> None:
    last, residual, relu = node, None, False
    alone = sum(other.target == node.target for other in graph.nodes) == 1
    following = _only_user(node)
    if following is not None and _adds(following):
        others = [operand for operand in following.args if operand is not node]
        if len(others) == 1 and isinstance(others[0], fx.Node):
            last, residual = following, others[0]
            following = _only_user(following)
    if following is not None and _is_relu(following, model):
        last, relu = following, True
    with graph.inserting_before(last):
        norm = graph.get_attr(str(node.target))
        shared = len(last.users) > 1
        options = (residual, relu, shared, alone)
        fused = graph.call_function(normalise, (norm, node.args[0], *options))
    _replace(graph, node, last, fused)


def _fuse_convolution(graph: fx.Graph, node: fx.Node) -> None:
    last, added = node, None
    following = _only_user(node)
    if following is not None and _adds(following) and _norm_after(following) is not None:
        others = [operand for operand in following.args if operand is not node]
        if len(others) == 1 and isinstance(others[0], fx.Node):
            last, added = following, others[0]
    with graph.inserting_before(last):
        layer = graph.get_attr(str(node.target))
        norm = _norm_after(last)
        options = (added, norm and graph.get_attr(norm), len(last.users) > 1)
        fused = graph.call_function(convolve, (layer, node.args[0], *options))
    _replace(graph, node, last, fused)


def _fuse_shortcut(graph: fx.Graph, node: fx.Node) -> None:
    """Let one operator take pixels and pad their channels, where `node` pads nothing else."""
    taken = node.args[0]
    if not isinstance(taken, fx.Node) or taken.target is not keep_index:
        return
    stride, padding = _steps(taken.args[1]), _padded_channels(*node.args, **node.kwargs)
    if stride is None or padding is None or _only_user(taken) is not node:
        return
    with graph.inserting_before(node):
        fused = graph.call_function(_shortcut, (taken.args[0], stride, *padding))
    _replace(graph, taken, node, fused)


def _steps(index: Any) -> tuple[int, int] | None:
    """Return the steps of an index `[:, :, ::rows, ::columns]`, None of another."""
    if not isinstance(index, tuple) or not all(isinstance(one, slice) for one in index):
        return None
    steps = [1 if one.step is None else one.step for one in index]
    whole = all(one.start is None and one.stop is None for one in index)
    if not whole or len(steps) != 4 or steps[:2] != [1, 1] or not _counts(steps, 1):
        return None
    return steps[2], steps[3]


def _padded_channels(
    x: Any, pad: Any, mode: Any = "constant", value: Any = None
) -> tuple[int, int] | None:
    """Return how many channels of zeros `F.pad` puts before and after, None if it does more."""
    plain_zeros = mode == "constant" and value in (None, 0)
    if not plain_zeros or not isinstance(pad, Sequence) or len(pad) != 6 or not _counts(pad, 0):
        return None
    return (pad[4], pad[5]) if not any(pad[:4]) else None


def _counts(numbers: Sequence[Any], least: int) -> bool:
    return all(isinstance(number, int) and number >= least for number in numbers)


def _norm_after(node: fx.Node) -> str | None:
    """Return the name of the batch norm by which what `node` makes is normalised."""
    users = (user for user in node.users if user.target is normalise and user.args[1] is node)
    names = (str(norm.target) for user in users for norm in user.all_input_nodes[:1])
    return next(names, None)


def _read_tensors(graph: fx.Graph) -> None:
    """Give tensors to the nodes that take no other activations."""
    for node in list(graph.nodes):
        if node.target in (convolve, normalise, max_pool):
            continue
        for read in node.all_input_nodes:
            if read.target in (convolve, normalise):
                with graph.inserting_before(node):
                    node.replace_input_with(read, graph.call_function(plain, (read,)))


def _replace(graph: fx.Graph, first: fx.Node, last: fx.Node, new: fx.Node) -> None:
    """Let `new` stand for the nodes from `first` to `last`."""
    last.replace_all_uses_with(new)
    for gone in _chain(first, last):
        graph.erase_node(gone)


def _chain(first: fx.Node, last: fx.Node) -> list[fx.Node]:
    """Return the nodes from `last` back to `first`, each the only user of the one before."""
    chain = [first]
    while chain[-1] is not last:
        (user,) = chain[-1].users
        chain.append(user)
    return chain[::-1]


def _replace_pool(
    graph: fx.Graph, node: fx.Node, pool: Any, serve: Callable[[Any, Tensor], Tensor]
) -> None:
    if pool.ceil_mode or getattr(pool, "dilation", 1) not in (1, (1, 1)):
        return
    if getattr(pool, "return_indices", False) or getattr(pool, "divisor_override", None):
        return
    if math.prod(pair(pool.kernel_size)) > LARGEST_WINDOW:
        return
    with graph.inserting_before(node):
        module = graph.get_attr(str(node.target))
        replaced = graph.call_function(serve, (module, node.args[0]))
    node.replace_all_uses_with(replaced)
    graph.erase_node(node)


def _module(node: fx.Node, model: nn.Module, kind: type[nn.Module]) -> bool:
    if node.op != "call_module" or len(node.args) != 1 or node.kwargs:
        return False
    module = model.get_submodule(str(node.target))
    return type(module) is kind and not has_hooks(module)


def _is_relu(node: fx.Node, model: nn.Module) -> bool:
    if node.op == "call_function":
        return node.target in RELUS
    if node.op == "call_method":
        return node.target in ("relu", "relu_")
    return _module(node, model, nn.ReLU)


def _adds(node: fx.Node) -> bool:
    plain = len(node.args) == 2 and not node.kwargs
    if node.op == "call_function":
        return plain and node.target in ADDS
    return plain and node.op == "call_method" and node.target in ("add", "add_")


def _only_user(node: fx.Node) -> fx.Node | None:
    users = list(node.users)
    return users[0] if len(users) == 1 else None

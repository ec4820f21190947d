"""The forward pass of a model rewritten for batch-last activations.

The model is traced (`torch.fx`); batch norm with the residual and the ReLU that follow it becomes
one operator, pooling the batch-last one. Everything else runs as it is: PyTorch's pointwise
operators keep the layout. Modules and parameters stay the model's own.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from gemkern import ops
from gemkern.nn.convert import has_hooks
from gemkern.nn.layers import Masked
from gemkern.ops.batch_last import LARGEST_WINDOW
from gemkern.ops.checks import pair

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
            _replace_pool(graph, node, model.get_submodule(node.target), _max_pool)
        elif _module(node, model, nn.AvgPool2d):
            _replace_pool(graph, node, model.get_submodule(node.target), _average_pool)
        elif node.op == "call_function" and node.target in KEEPING:
            node.target = KEEPING[node.target]
    graph.lint()
    return fx.GraphModule(model, graph)


def norm_relu(norm: Any, x: Tensor, residual: Tensor | None, relu: bool) -> Tensor:
    """Return relu(norm(x) + residual) for an `nn.BatchNorm2d`, whose statistics it moves."""
    if residual is not None and (residual.shape, residual.dtype) != (x.shape, x.dtype):
        y = norm_relu(norm, x, None, relu=False) + residual
        return y.relu() if relu else y
    from_batch = norm.training or norm.running_mean is None
    if norm.training and norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
    return ops.batch_norm_relu(
        x,
        residual,
        norm.weight,
        norm.bias,
        norm.running_mean,
        norm.running_var,
        from_batch,
        norm.momentum,
        norm.eps,
        relu,
    )


def _max_pool(pool: Any, x: Tensor) -> Tensor:
    return ops.max_pool2d(x, pool.kernel_size, pool.stride, pool.padding)


def _average_pool(pool: Any, x: Tensor) -> Tensor:
    return ops.average_pool2d(
        x, pool.kernel_size, pool.stride, pool.padding, pool.count_include_pad
    )


def keep_pad(x: Tensor, pad: Any, mode: str = "constant", value: float | None = None) -> Tensor:
    """Return `F.pad`, in the batch-last layout where x has it."""
    if mode != "constant" or not _has_layout(x):
        return F.pad(x, pad, mode, value)
    return F.pad(x.movedim(0, -1), (0, 0, *pad), mode, value).movedim(-1, 0)


def keep_index(x: Any, index: Any) -> Any:
    """Return `x[index]`; what slices images leaves them, and their gradient, batch-last."""
    slices = isinstance(index, tuple) and all(isinstance(one, slice) for one in index)
    if not slices or index[0] != slice(None) or not _has_layout(x):
        return x[index]
    rest = (*index[1:], *[slice(None)] * (x.dim() - len(index)))
    return x.movedim(0, -1)[(*rest, slice(None))].movedim(-1, 0)


# What PyTorch would lay out anew, forward or backward.
KEEPING = {F.pad: keep_pad, operator.getitem: keep_index}


def _has_layout(x: Any) -> bool:
    return isinstance(x, Tensor) and x.dim() == 4 and x.shape[0] > 1 and x.stride(0) == 1


def _serves(norm: Any) -> bool:
    """Return whether a norm moves its statistics by a fixed share."""
    return type(norm) is nn.BatchNorm2d and norm.momentum is not None


def _fuse_norm(graph: fx.Graph, node: fx.Node, model: nn.Module) -> None:
    last, residual, relu = node, None, False
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
        fused = graph.call_function(norm_relu, (norm, node.args[0], residual, relu))
    last.replace_all_uses_with(fused)
    for gone in _chain(node, last):
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

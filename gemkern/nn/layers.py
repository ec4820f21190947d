"""Masked convolution and linear layer: PyTorch's own, with `active` and, for a search, `scores`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gemkern import ops
from gemkern.errors import GemkernError
from gemkern.nn.activations import laid_out, plain
from gemkern.nn.answers import convolve
from gemkern.nn.compression import Compressible
from gemkern.nn.todo import Habit
from gemkern.ops.checks import (
    check_conv2d,
    check_device,
    check_layer,
    check_linear,
    compute_dtype,
)
from gemkern.ops.dispatch import choose
from gemkern.optim.effective import Effective

# What a layer knows of its tensors as they are; not true of a copy.
_OF_THIS_OBJECT = ("effective", "habit", "override", "_compressed_active")
# Returns the weight that a layer computes with, of its whole shape, in a dtype.
Override = Callable[[Any, torch.dtype], Tensor]


class Masked(Compressible):
    """What masked layers add to PyTorch's: scores, active, and how they are kept.

    Attributes:
        weight: as in the PyTorch layer; fixed while there are scores.
        scores: parameter, float32 whatever the layer's dtype, shaped as the weight; or None: the
            weight learns under `active`.
        active: buffer, bool, shaped as the weight; all true at first, false is final.
        effective: what a fused optimiser of the scores left of its last step, or None; no copy,
            pickle or move of the layer keeps it.
        habit: what the layer learnt of how its results are used, or None.
        override: while a search computes with other weights than score and mask say, what returns
            them, with whatever gradients the search wants; or None. No copy of the layer keeps it.
    """

    weight: Tensor
    bias: Any
    scores: nn.Parameter | None
    active: Tensor
    effective: Effective | None = None
    habit: Habit | None = None
    override: Override | None = None

    def _add_mask(self, scores: bool) -> None:
        self.register_buffer("active", torch.ones_like(self.weight, dtype=torch.bool))
        self.register_parameter("scores", None)
        if scores:
            self.scores = nn.Parameter(torch.empty_like(self.weight, dtype=torch.float32))
            self.reset_scores()
            self._let_weights_learn(False)

    def reset_scores(self, generator: torch.Generator | None = None) -> None:
        """Draw the scores anew, uniform in [0, 1)."""
        if self.scores is not None:
            with torch.no_grad():
                self.scores.uniform_(generator=generator)

    def drop_scores(self) -> None:
        """Remove the scores: the weight learns, under `active` alone."""
        self.scores = None
        self.effective = None
        self._let_weights_learn(True)

    def mask(self) -> Tensor:
        """Return the present mask, bool: active, and with a score of at least 0.5 if scored."""
        scores = None if self.scores is None else [self.scores]
        return ops.threshold(scores, [self.active])[0]

    def _written_weight(self, operator: str, x: Tensor) -> Tensor | None:
        """Return the effective weight for `x` where something else than the layer makes it.

        That is an override, or a fused score step, whose weight holds for as long as nothing has
        changed; compiled code, which cannot see that, has no such weight.
        """
        if self.override is not None:
            check_device(operator, "x", x, self.weight)
            return self.override(self, compute_dtype(operator, x, self.weight))
        if self.effective is None or torch.compiler.is_compiling():
            return None
        check_device(operator, "x", x, self.weight)
        if self.is_compressed:
            return self.effective.read(self, self.weight.dtype)
        return self.effective.read(self, compute_dtype(operator, x, self.weight))

    def _whole_effective(self, operator: str, x: Tensor) -> Tensor | None:
        """Return the effective weight for PyTorch's own layer to compute with, or None.

        None is for a masked operator: where a kernel applies the mask on its way, and in code that
        is compiled, traced or transformed.
        """
        written = self._written_weight(operator, x)
        if (
            written is not None
            or torch.compiler.is_compiling()
            or torch.jit.is_tracing()
            or torch._C._are_functorch_transforms_active()
            or choose(operator, x.device.type) != "reference"
        ):
            return written
        check_layer(operator, x, self.weight, self.scores, self.active, self.bias)
        dtype = compute_dtype(operator, x, self.weight)
        return ops.masked_weight(self.weight, self.scores, self.active, dtype)

    def remaining_weight(self, x: Tensor) -> Tensor:
        """Return the effective weight [nnz] of a compressed layer that is applied to x.

        Raises:
            GemkernError: the layer is being traced by torch.jit.
        """
        if torch.jit.is_tracing():
            raise GemkernError(
                f"torch.jit.trace would keep the weights of {type(self).__name__}, which is "
                "compressed, as constants: gemkern.decelerate the model first, or use torch.export"
            )
        written = self._written_weight(type(self).__name__, x)
        return self.values() if written is None else written

    def _let_weights_learn(self, learn: bool) -> None:
        for parameter in (self.weight, self.bias):
            if parameter is not None:
                parameter.requires_grad_(learn)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        # Scores, active and where weights remain follow the module to any device but to no other
        # dtype, and keep their values, also where `fn` makes room alone (`to_empty`).
        masks = (self.scores, getattr(self.scores, "grad", None), self.active)
        where = () if self._pattern is None else self._pattern[1:]
        kept = (*masks, *where)
        was_meta = self.active.is_meta
        self.effective = None

        def keep(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            if all(tensor is not one for one in kept):
                return moved
            if moved.dtype != tensor.dtype:
                return tensor.to(moved.device)
            return moved if moved is tensor or tensor.is_meta else moved.copy_(tensor)

        super()._apply(keep, recurse)
        if self._pattern is not None:
            self._pattern = ops.Pattern(self._pattern.shape, *map(keep, where))
        if was_meta and not self.active.is_meta:
            self._renew_mask()
        return self

    def _renew_mask(self) -> None:
        """Make the mask that of a new layer: all is active, scores are drawn."""
        if self.is_compressed:
            raise GemkernError(
                f"{self} was compressed when it went to the meta device, where it lost the places "
                "of its weights: gemkern.decelerate the model before it goes there"
            )
        self.active.fill_(True)
        self.reset_scores()

    def __getstate__(self) -> dict[str, Any]:
        state: Any = super().__getstate__()
        return {key: value for key, value in state.items() if key not in _OF_THIS_OBJECT}

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *arguments: Any
    ) -> None:
        # A dense checkpoint has no mask: the layer's own stays, or is that of a new layer.
        weight = state_dict.get(f"{prefix}weight")
        for name in ("active", "scores"):
            own = getattr(self, name)
            if own is not None and own.is_meta and isinstance(weight, Tensor):
                own = torch.ones_like(own, device=weight.device)
                own = own if name == "active" else own.uniform_()
            if own is not None:
                state_dict.setdefault(f"{prefix}{name}", own)
        super()._load_from_state_dict(state_dict, prefix, *arguments)


class MaskedLinear(Masked, nn.Linear):
    """`nn.Linear` under a mask; its weight is [out_features, in_features].

    Args:
        scores: whether the layer has scores, drawn uniform in [0, 1), that learn in place of the
            weight and the bias (Rare Gems, NeurIPS 2022, section 3).

    Others are those of `nn.Linear`.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        scores: bool = False,
    ) -> None:
        super().__init__(in_features, out_features, bias, device, dtype)
        self._add_mask(scores)

    def forward(self, input: Tensor) -> Tensor:
        input = plain(input)
        if self.is_compressed:
            return self._forward_compressed(input)
        effective = self._whole_effective("masked_linear", input)
        if effective is not None:
            check_linear(input, effective.shape)
            return F.linear(input, effective, self.bias)
        return ops.masked_linear(input, self.weight, self.scores, self.active, self.bias)

    def _forward_compressed(self, input: Tensor) -> Tensor:
        values = self.remaining_weight(input)
        dtype = compute_dtype("sparse_linear", input, values)
        rows = input
        if input.dim() != 2:
            rows = input.flatten(0, -2) if input.dim() > 2 else input.unsqueeze(0)
        y = ops.sparse_linear(rows, values, self.pattern(), self.bias).to(dtype)
        return y if input.dim() == 2 else y.view(*input.shape[:-1], self.out_features)

    @classmethod
    def from_dense(cls, linear: nn.Linear, scores: bool = False) -> MaskedLinear:
        """Return a masked layer that shares the parameters of `linear`."""
        layer = cls(linear.in_features, linear.out_features, linear.bias is not None, "meta")
        return _adopt(layer, linear, scores)

    def to_dense(self) -> nn.Linear:
        """Return a plain layer with the zeros in its weight."""
        plain = nn.Linear(self.in_features, self.out_features, self.bias is not None, "meta")
        return _bake(plain, self)


class MaskedConv2d(Masked, nn.Conv2d):
    """`nn.Conv2d` under a mask; its weight is [out_channels, in_channels / groups, kh, kw].

    Args:
        scores: whether the layer has scores, drawn uniform in [0, 1), that learn in place of the
            weight and the bias (Rare Gems, NeurIPS 2022, section 3).

    Others are those of `nn.Conv2d`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: Any = "zeros",
        device: Any = None,
        dtype: Any = None,
        *,
        scores: bool = False,
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            bias,
            padding_mode,
            device,
            dtype,
        )
        self._add_mask(scores)

    def forward(self, input: Tensor) -> Tensor:
        if self.is_compressed:
            return convolve(self, input)
        return self.plain_forward(laid_out(input))

    def plain_forward(self, input: Tensor) -> Tensor:
        """Return the convolution of a plain tensor, [N, Ci, H, W] or [Ci, H, W], as one."""
        if input.dim() == 3:
            return self.plain_forward(input.unsqueeze(0)).squeeze(0)
        # left, right, top, bottom
        left, right, top, bottom = self._reversed_padding_repeated_twice
        padding = [top, left]
        if self.padding_mode != "zeros":
            mode = self.padding_mode
            input = F.pad(input, (left, right, top, bottom), mode=mode)
            padding = [0, 0]
        elif (left, top) != (right, bottom):
            input = F.pad(input, (left, right, top, bottom))
            padding = [0, 0]
        geometry = (self.stride, padding, self.dilation, self.groups)
        if self.is_compressed:
            values = self.remaining_weight(input)
            y = ops.sparse_conv2d(input, values, self.pattern(), self.bias, *geometry)
            return y.to(compute_dtype("sparse_conv2d", input, values))
        effective = self._whole_effective("masked_conv2d", input)
        if effective is not None:
            check_conv2d("masked_conv2d", input, effective.shape, *geometry)
            return F.conv2d(input, effective, self.bias, *geometry)
        return ops.masked_conv2d(input, self.weight, self.scores, self.active, self.bias, *geometry)

    @classmethod
    def from_dense(cls, conv: nn.Conv2d, scores: bool = False) -> MaskedConv2d:
        """Return a masked layer that shares the parameters of `conv`."""
        return _adopt(cls(**_geometry(conv), device="meta"), conv, scores)

    def to_dense(self) -> nn.Conv2d:
        """Return a plain layer with the zeros in its weight."""
        return _bake(nn.Conv2d(**_geometry(self), device="meta"), self)


def _geometry(conv: nn.Conv2d) -> dict[str, Any]:
    """Return the constructor's arguments that describe `conv`."""
    return {
        "in_channels": conv.in_channels,
        "out_channels": conv.out_channels,
        "kernel_size": conv.kernel_size,
        "stride": conv.stride,
        "padding": conv.padding,
        "dilation": conv.dilation,
        "groups": conv.groups,
        "bias": conv.bias is not None,
        "padding_mode": conv.padding_mode,
    }


def _adopt(layer: Any, plain: Any, scores: bool) -> Any:
    layer.weight, layer.bias = plain.weight, plain.bias
    layer._add_mask(scores)
    return layer.train(plain.training)


def _bake(plain: Any, layer: Any) -> Any:
    """Give `plain` the effective weight of `layer`; what was fixed for scores learns again."""
    scores = None if layer.scores is None else [layer.scores.detach()]
    (weight,) = ops.effective_weight([layer.weight.detach()], scores, [layer.active])
    weight = layer.spread(weight)
    learns = layer.scores is not None or layer.weight.requires_grad
    plain.weight = nn.Parameter(weight, requires_grad=learns)
    if layer.bias is not None:
        plain.bias = nn.Parameter(layer.bias.detach(), requires_grad=learns)
    return plain.train(layer.training)

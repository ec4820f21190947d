"""Calls of the operators that compute layers, norms and pools."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from benchmarks.fuzz.hunt import Fuzzer
from benchmarks.fuzz.of_operators import BATCHES, Call, Drawer, try_call
from benchmarks.fuzz.operands import Numbers, Places, Statistics, made


def _masked(drawer: Drawer, *shape: int) -> dict[str, Any]:
    dtype = drawer.dtype()
    return {
        "weight": drawer.numbers(*shape, dtype=dtype),
        "scores": drawer.maybe(*shape, fill="uniform"),
        "active": drawer.numbers(*shape, dtype="bool", fill="whole"),
        "bias": drawer.maybe(*shape[:1], dtype=dtype),
    }


def _geometry(drawer: Drawer) -> dict[str, Any]:
    return {
        "stride": drawer.step(1),
        "padding": drawer.step(0),
        "dilation": drawer.one_of(1, 1, 2, (2, 1)),
    }


@st.composite
def masked_calls(draw: Any) -> Call:
    """Return calls of masked layers."""
    drawer = Drawer(draw)
    backward = drawer.one_of(False, False, True)
    if drawer.one_of(True, False):
        outputs, inputs = drawer.size(), drawer.size()
        own = _masked(drawer, outputs, inputs)
        batch = drawer.one_of((), (3,), (0,), (2, 2))
        own = {"x": drawer.numbers(*batch, inputs, dtype=own["weight"].dtype), **own}
        return Call("masked_linear", drawer.spoiled(own), backward)
    groups, each, outputs, kernel, image, images = _convolution(drawer)
    own = _masked(drawer, outputs, each, *kernel)
    x = drawer.numbers(images, each * groups, *image, dtype=own["weight"].dtype)
    own = {"x": x, **own, **_geometry(drawer), "groups": groups}
    return Call("masked_conv2d", drawer.spoiled(own), backward)


def _convolution(drawer: Drawer) -> tuple[int, int, int, tuple[int, int], tuple[int, int], int]:
    groups = drawer.one_of(1, 1, 1, 2, 3)
    each, outputs = drawer.one_of(0, 1, 2, 3), groups * drawer.one_of(0, 1, 2, 3)
    kernel = drawer.one_of((3, 3), (1, 1), (2, 3), (1, 5), (3, 0))
    image = drawer.one_of((5, 5), (7, 4), (1, 1), (3, 8), (0, 4), (16, 17))
    return groups, each, outputs, kernel, image, drawer.one_of(*BATCHES)


def _places(drawer: Drawer, *shape: int) -> tuple[Places, int]:
    """Return a pattern, and how many weights remain."""
    places = Places(shape, drawer.one_of(0, 10, 40, 100), drawer.draw(st.integers(0, 3)))
    return places, len(made(places).positions)


@st.composite
def sparse_calls(draw: Any) -> Call:
    """Return calls of sparse layers, and of what their operands are made by."""
    drawer = Drawer(draw)
    operator = drawer.one_of(
        *["sparse_linear"] * 4, *["sparse_conv2d"] * 6, "pattern", "batch_last"
    )
    if operator in ("pattern", "batch_last"):
        shape = draw(st.lists(st.sampled_from((0, 1, 2, 3, 5)), max_size=5))
        dtype = "bool" if operator == "pattern" else drawer.dtype()
        operand = drawer.numbers(*shape, dtype=dtype)
        if drawer.one_of(True, False, False):
            operand = drawer.other_numbers(operand)
        return Call(operator, {"active" if operator == "pattern" else "x": operand})
    dtype, backward = drawer.dtype(), drawer.one_of(False, False, True)
    if operator == "sparse_linear":
        outputs, inputs = drawer.size(), drawer.size()
        places, count = _places(drawer, outputs, inputs)
        x, own = drawer.numbers(drawer.one_of(*BATCHES), inputs, dtype=dtype), {}
    else:
        groups, each, outputs, kernel, image, images = _convolution(drawer)
        places, count = _places(drawer, outputs, each, *kernel)
        x = drawer.numbers(images, each * groups, *image, dtype=dtype)
        own = {**_geometry(drawer), "groups": groups}
    given = {
        "x": x,
        "values": drawer.numbers(count, dtype=dtype),
        "pattern": places,
        "bias": drawer.maybe(outputs, dtype=dtype),
        **own,
    }
    return Call(operator, drawer.spoiled(given), backward)


def _norm(drawer: Drawer, x: Numbers, residual: bool = True) -> Statistics:
    channels = x.shape[1]
    return Statistics(
        drawer.numbers(channels),
        drawer.numbers(channels, fill="uniform"),
        drawer.maybe(channels),
        drawer.maybe(channels),
        drawer.one_of(1e-5, 1e-3, 0.0),
        drawer.maybe(*x.shape, dtype=x.dtype) if residual else None,
        drawer.one_of(True, False),
    )


@st.composite
def norm_calls(draw: Any) -> Call:
    """Return calls of norms, and of convolutions and pools that normalise."""
    drawer = Drawer(draw)
    operator = drawer.one_of(
        "normalise", "batch_norm_relu", "norm_sparse_conv2d", "normalise_max_pool2d"
    )
    backward = drawer.one_of(False, False, True)
    if operator == "norm_sparse_conv2d":
        return Call(operator, _norm_sparse(drawer), backward)
    more = drawer.one_of((5, 4), (5, 4), (1, 1), (3, 0), (8, 8))
    shape = (drawer.one_of(*BATCHES), drawer.size(), *more)
    if operator != "normalise_max_pool2d":
        shape = shape[: drawer.one_of(2, 3, 4, 4, 4)]
    x = drawer.numbers(*shape, dtype=drawer.dtype())
    if operator == "normalise":
        own: dict[str, Any] = {"x": x, "norm": _norm(drawer, x)}
    elif operator == "normalise_max_pool2d":
        kernel = drawer.one_of(1, 2, (2, 1), 4)
        own = {"x": x, "norm": _norm(drawer, x, residual=False), "kernel": kernel}
        own["stride"] = drawer.one_of(None, kernel, 4)
    else:
        channels = shape[1]
        own = {
            "x": x,
            "residual": drawer.maybe(*shape, dtype=x.dtype),
            "weight": drawer.maybe(channels),
            "bias": drawer.maybe(channels),
            "running_mean": drawer.numbers(channels),
            "running_var": drawer.numbers(channels, fill="uniform"),
            "training": drawer.one_of(True, False),
            "momentum": 0.1,
            "eps": 1e-5,
            "relu": drawer.one_of(True, False),
        }
    return Call(operator, drawer.spoiled(own), backward)


def _norm_sparse(drawer: Drawer) -> dict[str, Any]:
    groups, each, outputs, kernel, image, images = _convolution(drawer)
    places, count = _places(drawer, outputs, each, *kernel)
    dtype = drawer.dtype()
    x = drawer.numbers(images, each * groups, *image, dtype=dtype)
    own = {
        "x": x,
        "values": drawer.numbers(count, dtype=dtype),
        "pattern": places,
        "bias": drawer.maybe(outputs, dtype=dtype),
        **_geometry(drawer),
        "groups": groups,
        "norm": _norm(drawer, x) if drawer.one_of(True, True, False) else None,
        "keep": drawer.one_of(True, False),
        "moments": drawer.one_of(True, False),
        "skip": drawer.one_of(True, False),
    }
    if own["stride"] == 1 and kernel == (1, 1) and own["padding"] == 0:
        own["added"] = drawer.maybe(images, outputs, *image, dtype=dtype)
    return drawer.spoiled(own)


@st.composite
def pool_calls(draw: Any) -> Call:
    """Return calls of pools, and of the shortcut."""
    drawer = Drawer(draw)
    operator = drawer.one_of("average_pool2d", "max_pool2d", "padded_shortcut")
    image = drawer.one_of((5, 4), (5, 4), (1, 1), (3, 0), (8, 8), (17, 16))
    x = drawer.numbers(drawer.one_of(*BATCHES), drawer.size(), *image, dtype=drawer.dtype())
    own: dict[str, Any] = {"x": x}
    if operator == "padded_shortcut":
        own |= {
            "stride": drawer.step(1),
            "before": drawer.one_of(0, 1, 3),
            "after": drawer.one_of(0, 2),
        }
    else:
        own |= {"kernel": drawer.step(1), "stride": drawer.one_of(None, 1, 2, (2, 1))}
        own["padding"] = drawer.one_of(0, 0, 0, 1, (0, 1))
        if operator == "average_pool2d":
            own["count_include_pad"] = drawer.one_of(True, False)
    return Call(operator, drawer.spoiled(own), drawer.one_of(False, True))


def _ready(operator: str, **arguments: Any) -> Call:
    return Call(operator, arguments, True)


X = Numbers((2, 3, 5, 4))
CONVOLUTION = {"x": X, "values": Numbers((48,)), "pattern": Places((4, 3, 2, 2), 100)}
NORM = Statistics(Numbers((3,)), Numbers((3,), fill="uniform"), None, None, 1e-5, None, True)
FUZZERS = (
    Fuzzer("masked layers", try_call, masked_calls),
    Fuzzer("sparse layers", try_call, sparse_calls, _ready("sparse_conv2d", **CONVOLUTION)),
    Fuzzer("norms", try_call, norm_calls, _ready("norm_sparse_conv2d", **CONVOLUTION, norm=NORM)),
    Fuzzer("pools", try_call, pool_calls, _ready("max_pool2d", x=X, kernel=2)),
)

"""Rooflines count what has to move and to be computed, and draw it for a CPU and for a GPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from gemkern.kernels import table
from gemkern.kernels.reference.batch_last import is_batch_last

from benchmarks import cpu_products, cpu_roofline, roofline
from benchmarks.cpu_layers import Layer
from benchmarks.figures import digest_in
from benchmarks.gpu.exactness import WrongResult, tensors
from benchmarks.traffic import WEIGHT_OPERATORS, over_activations, over_weights

SHAPES = ((4, 2, 3, 3), (3, 5))
WEIGHTS = 72 + 15
SMALL = Layer("small", 8, 16, 4)
# Places of the arguments that are read, and of those that are written in place.
IN_PLACE = {
    "score_step_sgd": (range(5), (0, 3, 5)),
    "score_step_adam": (range(6), (0, 3, 4, 6)),
    "remove_lowest": (range(2), (1,)),
}
# Of an operand that is not read as a whole, the part that is.
READ = {"padded_shortcut": 1 / 4, "padded_shortcut_backward": 1 / 2}
# Tensors of so few numbers hold one for a layer or for a channel: they are not counted.
NUMBERS = 8


def bytes_of(values: Any) -> int:
    """Return the bytes of a nest of tensors, without single numbers and numbers of layers."""
    return sum(one.nbytes for one in tensors(values) if one.numel() > NUMBERS)


@pytest.mark.parametrize("operator", WEIGHT_OPERATORS)
def test_the_bytes_of_a_mask_operator_are_those_of_its_operands(operator: str) -> None:
    moving = over_weights(operator, "small", SHAPES, "cpu", torch.float16)
    if operator in IN_PLACE:
        read, written = ([moving.arguments[i] for i in places] for places in IN_PLACE[operator])
    else:
        read, written = moving.arguments, table.load(operator, "reference")(*moving.arguments)
    counted = bytes_of(read) + bytes_of(written)
    # A byte of packed bits may be short of eight.
    assert moving.bytes == pytest.approx(counted, abs=2)


def test_the_bytes_of_what_works_on_activations_are_those_of_activations() -> None:
    for moving in over_activations(2, 16, 4):
        counted = bytes_of(
            [one for one in moving.arguments if isinstance(one, torch.Tensor) and one.dim() > 1]
        )
        counted *= READ.get(moving.operator, 1)
        results = table.load(moving.operator, "reference")(*moving.arguments)
        counted += bytes_of([one for one in tensors(results) if one.dim() > 1])
        assert moving.bytes == counted, moving.operator


def test_every_kernel_of_the_cpu_has_a_roof() -> None:
    moving = {row.operator for row in over_activations(2, 4, 4)} | set(WEIGHT_OPERATORS)
    multiplying = {*cpu_products.NORMED}
    multiplying |= {row.operator for row in cpu_products.linear(4, 4, 0.5)}
    served = {name for name, entries in table.OPERATORS.items() if entries["cpu"].module}
    assert served == (moving & served) | multiplying


def test_rows_of_traffic_are_measured_beside_a_copy() -> None:
    moving = over_weights("threshold", "small", ((64, 64),), "cpu")
    row = cpu_roofline.measure_traffic(moving, 0.0)
    assert (row.operator, row.of, row.bytes) == ("threshold", "small", 6 * 64 * 64)
    assert row.share == row.copy / row.time
    assert row.bytes_per_s == pytest.approx(row.bytes / (1e-3 * row.time))
    assert row.time_spread[0] <= row.time <= row.time_spread[1]


def test_products_count_what_remains_and_all() -> None:
    forward, back = cpu_products.convolutions(SMALL, 0.25)
    assert (back.flop, back.useful_flop) == (2 * forward.flop, 2 * forward.useful_flop)
    assert forward.flop == 2 * cpu_products.BATCH * 16 * (8 * 16 * 9)
    assert 0.15 < forward.useful_flop / forward.flop < 0.35
    row = cpu_roofline.measure_product(forward, 0.0)
    assert row.useful_share == pytest.approx(row.useful_flop / (1e-3 * row.time) / row.peak)
    assert row.dense_equivalent_share == pytest.approx(row.flop / (1e-3 * row.time) / row.peak)
    linear, back = cpu_products.linear(32, 16, 0.25)
    assert back.flop == 2 * linear.flop == 4 * cpu_products.BATCH * 32 * 16


@pytest.mark.parametrize("operator", ["threshold", "average_pool2d"])
def test_a_wrong_kernel_is_not_timed(operator: str, monkeypatch: pytest.MonkeyPatch) -> None:
    right = table.load

    def spoilt(name: str, backend: str) -> Any:
        kernel = right(name, backend)
        if backend != "cpu":
            return kernel
        if operator == "threshold":
            return lambda *of: [~mask for mask in kernel(*of)]
        return lambda *of: kernel(*of) * 1.01

    monkeypatch.setattr(table, "load", spoilt)
    moving = {one.operator: one for one in over_activations(2, 4, 4)}
    moving["threshold"] = over_weights("threshold", "small", SHAPES, "cpu")
    with pytest.raises((WrongResult, AssertionError)):
        moving[operator].call("cpu")


@pytest.mark.parametrize(
    "products",
    [
        lambda: next(cpu_products.convolutions(SMALL, 0.25)),
        lambda: next(cpu_products.linear(16, 16, 0.25)),
    ],
)
def test_a_wrong_product_is_not_timed(products: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    right = cpu_products.ops.norm_sparse_conv2d

    def spoilt(*arguments: Any, backend: str, **options: Any) -> Any:
        found = right(*arguments, backend=backend, **options)
        return found._replace(y=found.y * 1.01) if backend == "cpu" else found

    def load(name: str, backend: str, right: Any = table.load) -> Any:
        kernel = right(name, backend)
        return kernel if backend != "cpu" else lambda *of: kernel(*of) * 1.01

    monkeypatch.setattr(cpu_products.ops, "norm_sparse_conv2d", spoilt)
    monkeypatch.setattr(cpu_products.table, "load", load)
    with pytest.raises(AssertionError):
        products()


@pytest.fixture
def of_cpu(tmp_path: Path) -> dict[str, Any]:
    """Return a result file of a few rows."""
    moving = over_weights("threshold", "small", ((64, 64),), "cpu")
    rows = [cpu_roofline.measure_traffic(moving, 0.0)]
    products = list(cpu_roofline.product_rows(cpu_products.convolutions(SMALL, 0.25), 0.0))
    path = cpu_roofline.keep(rows, products, tmp_path)
    assert path.name.startswith("roofline-")
    return json.loads(path.read_text(encoding="utf-8"))


def row_of(section: str, name: str, **of: Any) -> dict[str, Any]:
    return {"section": section, "name": name, "status": "measured", **of}


@pytest.fixture
def of_gpu(of_cpu: dict[str, Any]) -> dict[str, Any]:
    """Return what `benchmarks.gpu` would keep, with made-up times."""
    layer = {"layer": "net 64->64", "dtype": "bfloat16", "tf32": False, "flop": 8e9}
    layer |= {"operator": "masked_conv2d", "useful_flop": 2e9}
    times = {"in-kernel": {"median_us": 40.0}, "materialised": {"median_us": 20.0}}
    dense = {"conv": "net 64->64", "shares": {"forward": 0.5, "weight gradient": 0.25}}
    dense |= {"dtype": "bf16"}
    card = {"device": "cuda:0", "name": "NVIDIA H100 80GB HBM3"}
    about = {name: of_cpu[name] for name in ("command", "commit", "changed", "versions")}
    return {
        "about": {**about, "devices": [*of_cpu["devices"], card]},
        "rows": [
            row_of("ceilings", "copy 1 GB", bytes_per_s=3e12),
            row_of("ceilings", "matmul bf16", flop_per_s=800e12),
            row_of("traffic", "one", operator="threshold", network="vgg16", bytes_per_s=1.5e12,
                   share=0.5),
            {"section": "traffic", "name": "two", "status": "failed"},
            row_of("products", "few", batch=1, times=times, **layer),
            row_of("products", "many", batch=128, times=times, **layer),
            row_of("cudnn", "small", batch=128, **dense),
            row_of("cudnn", "large", batch=512, **dense),
        ],
    }  # fmt: skip


def test_a_gpu_is_read_from_the_rows_of_its_benchmark(of_gpu: dict[str, Any]) -> None:
    assert roofline.moved(of_gpu) == [("threshold", "vgg16", 1.5e12, 0.5)]
    masked, *plain = roofline.multiplied(of_gpu)
    assert masked[:3] == ("masked layers, bfloat16", "masked_conv2d", "net 64->64")
    assert masked[3:] == pytest.approx((2e9 / 20e-6 / 800e12, 8e9 / 20e-6 / 800e12))
    assert [(row.kernel, row.useful, row.dense) for row in plain] == [
        ("cuDNN forward", 0.5, 0.5),
        ("cuDNN weight gradient", 0.25, 0.25),
    ]
    text = roofline.markdown("gpu-h100", of_gpu)
    assert "A copy moves 3000 GB/s, a dense product takes 800 TFLOP/s." in text
    assert "NVIDIA H100 80GB HBM3" in text
    assert "(benchmarks/results/gpu-h100-products.png)" in text


@pytest.mark.parametrize("of", ["of_cpu", "of_gpu"])
def test_figures_are_drawn_and_change_with_their_rows(
    of: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    found = request.getfixturevalue(of)
    figures = roofline.draw(found, tmp_path / "x")
    assert [figure.name for figure in figures] == ["x-bandwidth.png", "x-products.png"]
    before = [digest_in(figure) for figure in figures]
    if "rows" in found:
        found["rows"][2]["share"] = found["rows"][1]["flop_per_s"] = 0.75
    else:
        found["traffic"][0]["share"] = found["products"][0]["useful_share"] = 0.75
    after = [digest_in(figure) for figure in roofline.draw(found, tmp_path / "x")]
    assert all(one != other for one, other in zip(before, after, strict=True))
    for figure in figures:
        assert f"({'benchmarks/results/' + figure.name})" in roofline.markdown("x", found)


def test_activations_are_batch_last() -> None:
    for moving in over_activations(2, 4, 4):
        for one in tensors(moving.arguments if moving.operator != "batch_last" else ()):
            assert one.dim() != 4 or is_batch_last(one)


def test_kernels_over_activations_are_compared_before_they_are_timed() -> None:
    found = list(over_activations(4, 4, 6))
    assert len(found) == len({moving.operator for moving in found})
    for moving in found:
        moving.call("cpu")()

"""Which backend serves: the argument, then GEMKERN_BACKEND, then the first that can."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
import torch
from gemkern.kernels.table import BACKENDS, OPERATORS, Entry
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from gemkern import GemkernError, ops
from gemkern.ops import dispatch
from gemkern.ops.dispatch import availability, choose, kernel

EVERYWHERE = {backend: Entry(module=f"{backend}_kernels") for backend in BACKENDS}
PACKAGES = ("triton", "numba")
ON = torch.tensor([[True, False]])
NUMBER = torch.ones(1, 2)


def forget_choices() -> None:
    dispatch._choose.cache_clear()
    dispatch._load.cache_clear()


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No choice made before, none left behind, and none in the environment."""
    monkeypatch.delenv("GEMKERN_BACKEND", raising=False)
    forget_choices()
    yield
    forget_choices()


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Make exactly the given packages seem installed."""

    def only(*packages: str) -> None:
        monkeypatch.setattr(dispatch, "find_spec", lambda name: name if name in packages else None)

    return only


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch, install: Callable[..., None]) -> None:
    """Every backend has a kernel pack_mask, which returns its name, and its package."""
    install(*PACKAGES)
    monkeypatch.setitem(OPERATORS, "pack_mask", EVERYWHERE)
    for number, backend in enumerate(BACKENDS):
        module = ModuleType(f"{backend}_kernels")
        module.pack_mask = lambda mask, number=number: torch.full((1,), number).byte()
        monkeypatch.setitem(sys.modules, module.__name__, module)


@pytest.mark.parametrize(
    ("packages", "device", "expected"),
    [
        (("triton", "numba"), "cuda", "gpu"),
        (("triton", "numba"), "cpu", "cpu"),
        (("numba",), "cuda", "reference"),
        (("triton",), "cpu", "reference"),
        ((), "cpu", "reference"),
        (("triton", "numba"), "mps", "reference"),
    ],
)
def test_auto_is_the_first_that_can_serve(served, install, packages, device, expected) -> None:
    install(*packages)
    assert choose("pack_mask", device) == expected
    assert choose("pack_mask", device, "auto") == expected


@pytest.mark.parametrize(
    ("argument", "variable", "expected"),
    [
        (None, None, "cpu"),
        (None, "", "cpu"),
        (None, "auto", "cpu"),
        (None, "reference", "reference"),
        ("", "reference", "reference"),
        ("cpu", "reference", "cpu"),
        ("auto", "reference", "cpu"),
        ("reference", "nonsense", "reference"),
    ],
)
def test_the_argument_goes_before_the_variable(
    served, monkeypatch, argument, variable, expected
) -> None:
    if variable is not None:
        monkeypatch.setenv("GEMKERN_BACKEND", variable)
    assert choose("pack_mask", "cpu", argument) == expected


def test_the_variable_is_read_at_every_choice(served, monkeypatch) -> None:
    found = []
    for backend in ("reference", "cpu", "reference"):
        monkeypatch.setenv("GEMKERN_BACKEND", backend)
        found.append(choose("pack_mask", "cpu"))
    assert found == ["reference", "cpu", "reference"]


@pytest.mark.parametrize("by_variable", [True, False])
def test_an_unknown_backend_is_refused(monkeypatch, by_variable: bool) -> None:
    if by_variable:
        monkeypatch.setenv("GEMKERN_BACKEND", "cuda")
    message = (
        r"^no backend is called 'cuda' \(argument backend, or GEMKERN_BACKEND\): "
        "choose one of auto, gpu, cpu, reference$"
    )
    with pytest.raises(GemkernError, match=message):
        choose("threshold", "cpu", None if by_variable else "cuda")


@pytest.mark.parametrize(
    ("packages", "device", "wanted", "reasons"),
    [
        (PACKAGES, "cpu", "gpu", "gpu: its tensors live on cuda, and these on cpu; cpu: can serve"),
        (
            ("triton",),
            "cuda",
            "cpu",
            "gpu: can serve; cpu: numba is not installed: pip install numba",
        ),
        (
            (),
            "cpu",
            "gpu",
            r"gpu: triton is not installed: pip install 'gemkern\[gpu\]'; "
            "cpu: numba is not installed: pip install numba",
        ),
        (
            PACKAGES,
            "mps",
            "cpu",
            "gpu: its tensors live on cuda, and these on mps; "
            "cpu: its tensors live on cpu, and these on mps",
        ),
    ],
)
def test_a_refusal_says_of_every_backend_whether_it_could(
    served, install, packages, device, wanted, reasons
) -> None:
    install(*packages)
    message = (
        rf"^pack_mask cannot run on the backend '{wanted}' \({reasons}; reference: can serve\): "
        "choose one that can serve, or auto$"
    )
    with pytest.raises(GemkernError, match=message):
        choose("pack_mask", device, wanted)


def test_a_kernel_that_does_not_exist_is_refused_with_the_reason_of_the_table(monkeypatch) -> None:
    entries = {**EVERYWHERE, "cpu": Entry(reason="nobody wrote it")}
    monkeypatch.setitem(OPERATORS, "pack_mask", entries)
    with pytest.raises(GemkernError, match="cpu: nobody wrote it; reference: can serve"):
        choose("pack_mask", "cpu", "cpu")


def test_auto_without_any_kernel_is_refused(monkeypatch) -> None:
    nowhere = dict.fromkeys(BACKENDS, Entry(reason="lost"))
    monkeypatch.setitem(OPERATORS, "pack_mask", nowhere)
    message = r"backend 'auto' \(gpu: lost; cpu: lost; reference: lost\)"
    with pytest.raises(GemkernError, match=message):
        choose("pack_mask", "cpu")


def test_availability_says_why_or_nothing(served, install, monkeypatch) -> None:
    monkeypatch.setitem(OPERATORS, "threshold", {**EVERYWHERE, "gpu": Entry(reason="lost")})
    install("triton")
    numba = "numba is not installed: pip install numba"
    found = availability()
    assert found["pack_mask"] == {"gpu": "", "cpu": numba, "reference": ""}
    assert found["threshold"] == {"gpu": "lost", "cpu": numba, "reference": ""}


def test_every_operator_can_be_served_by_the_reference() -> None:
    found = availability()
    assert set(found) == set(OPERATORS)
    assert {reasons["reference"] for reasons in found.values()} == {""}


@pytest.mark.parametrize("operator", OPERATORS)
def test_a_kernel_is_the_function_that_the_table_names(operator: str) -> None:
    function = kernel(operator, "cpu", "reference")
    assert function.__module__ == OPERATORS[operator]["reference"].module
    assert function.__name__ == operator


@pytest.mark.parametrize("backend", BACKENDS[1:])
def test_an_operator_runs_on_the_backend_asked_for(served, monkeypatch, backend: str) -> None:
    expected = [BACKENDS.index(backend)]
    assert ops.pack_mask(ON, backend=backend).tolist() == expected
    monkeypatch.setenv("GEMKERN_BACKEND", backend)
    assert ops.pack_mask(ON).tolist() == expected


def test_compiled_code_holds_no_choice(served, monkeypatch) -> None:
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")

    @torch.compile(fullgraph=True, backend=counter)
    def pack(mask: Tensor) -> Tensor:
        return ops.pack_mask(mask)

    found = []
    for backend in ("reference", "cpu"):
        monkeypatch.setenv("GEMKERN_BACKEND", backend)
        found.append(BACKENDS[pack(ON).item()])
    assert found == ["reference", "cpu"]
    assert counter.frame_count == 1


CALLS: dict[str, Callable[..., Any]] = {
    "threshold": lambda **to: ops.threshold([NUMBER], [ON], **to),
    "effective_weight": lambda **to: ops.effective_weight([NUMBER], None, [ON], **to),
    "pack_mask": lambda **to: ops.pack_mask(ON, **to),
    "unpack_mask": lambda **to: ops.unpack_mask(torch.zeros(1).byte(), (1, 2), **to),
    "select_kth": lambda **to: ops.select_kth([NUMBER], [ON], torch.tensor(0), **to),
    "remove_lowest": lambda **to: ops.remove_lowest(
        [NUMBER], [ON], torch.tensor(0.0), torch.tensor(0), **to
    ),
    "popup_mask": lambda **to: ops.popup_mask([NUMBER], torch.tensor([0]), **to),
    "popup_weight": lambda **to: ops.popup_weight([NUMBER], [NUMBER], torch.tensor([0]), **to),
    "score_step_sgd": lambda **to: ops.score_step_sgd(
        [NUMBER], [ON], [NUMBER], [NUMBER], lr=0.0, **to
    ),
    "score_step_adam": lambda **to: ops.score_step_adam(
        [NUMBER], [ON], [NUMBER], [NUMBER], [NUMBER], lr=0.0, step=1, **to
    ),
    "masked_linear": lambda **to: ops.masked_linear(NUMBER, NUMBER, None, ON, **to),
    "masked_conv2d": lambda **to: ops.masked_conv2d(
        NUMBER.view(1, 1, 1, 2), NUMBER.view(1, 1, 1, 2), None, ON.view(1, 1, 1, 2), **to
    ),
    "sparse_linear": lambda **to: ops.sparse_linear(NUMBER, NUMBER[0, :1], ops.pattern(ON), **to),
    "sparse_conv2d": lambda **to: ops.sparse_conv2d(
        NUMBER.view(1, 1, 1, 2), NUMBER[0, :1], ops.pattern(ON.view(1, 1, 1, 2)), **to
    ),
    "norm_sparse_conv2d": lambda **to: ops.norm_sparse_conv2d(
        NUMBER.view(1, 1, 1, 2), NUMBER[0, :1], ops.pattern(ON.view(1, 1, 1, 2)), **to
    ),
    "normalise": lambda **to: ops.normalise(
        NUMBER.view(2, 1), ops.Norm(NUMBER[0, :1], NUMBER[0, :1]), **to
    ),
    "normalise_max_pool2d": lambda **to: ops.normalise_max_pool2d(
        NUMBER.view(1, 1, 1, 2), ops.Norm(NUMBER[0, :1], NUMBER[0, :1]), 1, **to
    ),
    "batch_norm_relu": lambda **to: ops.batch_norm_relu(NUMBER.view(2, 1), **to),
    "average_pool2d": lambda **to: ops.average_pool2d(NUMBER.view(1, 1, 1, 2), 1, **to),
    "max_pool2d": lambda **to: ops.max_pool2d(NUMBER.view(1, 1, 1, 2), 1, **to),
    "batch_last": lambda **to: ops.batch_last(torch.ones(2, 2), **to),
    "contiguous": lambda **to: ops.contiguous(torch.ones(2, 2).T, **to),
    "padded_shortcut": lambda **to: ops.padded_shortcut(NUMBER.view(1, 1, 1, 2), 1, 0, 0, **to),
}
# What is there for the operators' sake, layouts and patterns and who can serve, and what PyTorch's
# own functions do.
BESIDE = {"Norm", "Pattern", "availability", "is_batch_last", "masked_weight", "pattern"}


def test_every_public_operator_is_called_here() -> None:
    assert {*CALLS, *BESIDE} == set(ops.__all__)


@pytest.mark.parametrize("operator", CALLS)
def test_every_public_operator_takes_a_backend(operator: str) -> None:
    with pytest.raises(GemkernError, match="no backend is called 'nonsense'"):
        CALLS[operator](backend="nonsense")


@pytest.mark.parametrize("operator", ["masked_linear", "masked_conv2d", "effective_weight"])
def test_gradients_run_on_the_backend_of_the_forward_pass(monkeypatch, operator: str) -> None:
    shape = (1, 1, 1, 2) if operator == "masked_conv2d" else (1, 2)
    x, weight, scores = (torch.ones(shape, requires_grad=True) for _ in range(3))
    layer = (weight, scores, ON.view(shape))
    monkeypatch.setenv("GEMKERN_BACKEND", "nonsense")
    if operator == "effective_weight":
        (y,) = ops.effective_weight(*([operand] for operand in layer), backend="reference")
    else:
        y = getattr(ops, operator)(x, *layer, backend="reference")
        y.sum().backward(inputs=x, retain_graph=True)
    y.sum().backward(inputs=(weight, scores))
    assert weight.grad.flatten().tolist() == [1, 0]

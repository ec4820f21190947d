"""Models of the transformers library, tiny and random, train accelerated as they do dense."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from accelerated_models import masked_in_float64
from torch import Tensor, nn

import gemkern as gk

transformers = pytest.importorskip("transformers")

WORDS = {"vocab_size": 100, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
WIDTH = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
}
GPT2 = {**WORDS, "n_embd": 32, "n_layer": 2, "n_head": 4}
STAGES = {"hidden_sizes": [16, 24, 32, 40], "depths": [1, 1, 2, 1]}
# Of GPT-2 only the head is a linear layer, and only if it is not tied to the words.
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "BertModel": ("BertConfig", {**WORDS, **WIDTH}),
    "GPT2LMHeadModel": ("GPT2Config", {**GPT2, "tie_word_embeddings": False}),
    "ViTModel": ("ViTConfig", {**WIDTH, "image_size": 32, "patch_size": 8}),
    "ResNetModel": ("ResNetConfig", {**STAGES, "embedding_size": 16}),
    "ConvNextModel": ("ConvNextConfig", STAGES),
}
OF_IMAGES = ("ViTModel", "ResNetModel", "ConvNextModel")


@pytest.fixture(autouse=True)
def float64_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the reference serve layers in float64: nothing is left to rounding."""
    monkeypatch.setattr(sys.modules["gemkern.nn.accelerate"], "_why_unserved", lambda *_: "")


@pytest.fixture(params=MODELS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def dense(name: str, config: str, options: dict[str, Any]) -> nn.Module:
    return getattr(transformers, name)(getattr(transformers, config)(**options)).train()


def sparse(name: str, density: float = 0.1) -> nn.Module:
    """Return a model in float64 under random masks that leave every channel a weight."""
    torch.manual_seed(0)
    model = dense(name, *MODELS[name])
    return masked_in_float64(model, density)


def inputs_of(name: str, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    if name in OF_IMAGES:
        return torch.randn(4, 3, 32, 32, generator=generator).double()
    return torch.randint(100, (4, 12), generator=generator)


def leaves_of(outputs: Any) -> Iterator[Tensor]:
    """Yield the tensors that a model returns."""
    for one in outputs if isinstance(outputs, tuple) else outputs.to_tuple():
        if isinstance(one, tuple):
            yield from leaves_of(one)
        elif isinstance(one, Tensor):
            yield one


def step(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Return outputs, statistics and whole gradients of a training step."""
    model.zero_grad()
    torch.manual_seed(0)
    outputs = list(leaves_of(model(x)))
    assert all(type(one) is Tensor for one in outputs)
    torch.stack([one.sin().sum() for one in outputs]).sum().backward()
    found = {f"output {place}": one.detach() for place, one in enumerate(outputs)}
    found |= {key: one for key, one in model.named_buffers() if "running" in key}
    for key, parameter in model.named_parameters():
        if parameter.grad is not None:
            layer: Any = model.get_submodule(key.rpartition(".")[0])
            whole = key.endswith(".weight") and hasattr(layer, "spread")
            found[f"{key}.grad"] = layer.spread(parameter.grad) if whole else parameter.grad
    return {key: one.clone() for key, one in found.items()}


def test_it_learns_as_it_does_dense(name: str) -> None:
    model = sparse(name)
    fast = gk.accelerate(copy.deepcopy(model))
    for training in (True, True, False, True):
        # From the first step, layers learn how their results are used.
        x = inputs_of(name, 0)
        ours, exact = (step(one.train(training), x) for one in (fast, model))
        for key, goal in exact.items():
            torch.testing.assert_close(
                ours[key], goal, rtol=1e-8, atol=1e-8, msg=lambda text, key=key: f"{key}: {text}"
            )


def test_its_ticket_is_found_and_applied(name: str, tmp_path: Any) -> None:
    mined, path = sparse(name), tmp_path / "ticket.safetensors"
    gk.Ticket.from_model(mined, method="random").save(path)
    fresh = sparse(name, density=0.9)
    gk.Ticket.load(path).apply(fresh)
    x = inputs_of(name, 1)
    expected = step(mined, x)
    for key, ours in step(gk.accelerate(fresh), x).items():
        torch.testing.assert_close(ours, expected[key], rtol=1e-8, atol=1e-8)


def test_gpt2_whose_head_is_tied_to_its_words_has_nothing_to_mask() -> None:
    with pytest.raises(gk.GemkernError, match=r"Conv1D.*lm_head: tied to transformer\.wte"):
        gk.convert(dense("GPT2LMHeadModel", "GPT2Config", GPT2))

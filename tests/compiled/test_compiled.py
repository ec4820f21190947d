"""Every kernel, with every configuration that a launcher can choose, compiled for every target."""

from __future__ import annotations

import pytest
from gemkern.kernels.gpu.compiled import TARGETS, Target, all_variants, compile_variant
from gemkern.kernels.gpu.variants import Variant

VARIANTS = tuple(all_variants())


def test_no_variant_is_listed_twice() -> None:
    names = [variant.name for variant in VARIANTS]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_it_fits_the_chip(variant: Variant, target: Target) -> None:
    compiled = compile_variant(variant, target)
    assert compiled.spilled == 0
    assert compiled.shared <= target.shared_limit
    assert compiled.registers > 0
    if variant.kind == "elementwise":
        assert compiled.wide == 16
    if variant.kind == "matmul":
        assert compiled.matrix

"""Faults in layers: masks, activations between them, compression, conversion."""

from __future__ import annotations

from benchmarks.mutants.fault import Fault

FAULTS = (
    Fault(
        "gemkern/nn/layers.py",
        "self._let_weights_learn(False)",
        "self._let_weights_learn(True)",
        "tests/nn/test_layers.py::test_at_first_everything_is_active_and_scores_are_uniform",
    ),
    Fault(
        "gemkern/nn/layers.py",
        "torch.empty_like(self.weight, dtype=torch.float32)",
        "torch.empty_like(self.weight)",
        "tests/nn/test_convert.py::test_flags_dtypes_and_devices_are_kept",
    ),
    Fault(
        "gemkern/nn/layers.py",
        "padding = [top, left]",
        "padding = [left, top]",
        "tests/nn/test_layers.py::test_convolution_is_pytorchs",
    ),
    Fault(
        "gemkern/nn/layers.py",
        '_OF_THIS_OBJECT = ("effective", "habit", "override", "_compressed_active")',
        '_OF_THIS_OBJECT = ("effective", "habit", "_compressed_active")',
        "tests/tickets/test_loft.py::test_nobody_else_computes_with_the_filters_of_a_worker",
    ),
    Fault(
        "gemkern/nn/compression.py",
        'return self._buffers["active"] is active and active._version == version',
        'return self._buffers["active"] is active',
        "tests/nn/test_compression.py::test_a_mask_that_changes_afterwards_holds",
    ),
    Fault(
        "gemkern/nn/compression.py",
        "self.whole_weight.copy_(weight)",
        "pass",
        "tests/nn/test_compression.py::test_a_state_is_loaded_where_it_remains",
    ),
    Fault(
        "gemkern/nn/compression.py",
        'destination[f"{prefix}weight"] = self._spread_weight(self.weight)',
        'destination[f"{prefix}weight"] = self.spread(self.weight.detach())',
        "tests/nn/test_compression.py::test_expanding_undoes_it",
    ),
    Fault(
        "gemkern/nn/compression.py",
        "if layer.override is not None:",
        "if layer.override is not None and layer.is_compressed:",
        "tests/tickets/test_loft.py::test_nobody_else_computes_with_the_filters_of_a_worker",
    ),
    Fault(
        "gemkern/nn/convert.py",
        "one.active & (one.weight.detach() != 0)",
        "(one.weight.detach() != 0)",
        "tests/nn/test_convert.py::test_what_is_masked_by_now_stays_masked",
    ),
    Fault(
        "gemkern/nn/convert.py",
        "if module in made:",
        "if module in (None,):",
        "tests/nn/test_convert.py::test_zeros_are_baked_and_shared_layers_stay_shared",
    ),
    Fault(
        "gemkern/nn/answers.py",
        "moments.var.detach() * (count / (count - 1))",
        "moments.var.detach()",
        "tests/nn/test_small_nets.py::test_it_trains_as_it_did[resnet_basic]",
    ),
    Fault(
        "gemkern/nn/answers.py",
        "todo = None if alpha != 1 or out is not None else _with_added(value, added)",
        "todo = None if out is not None else _with_added(value, added)",
        "tests/nn/test_small_nets.py::test_it_trains_as_it_did[torch_add_alpha]",
    ),
    Fault(
        "gemkern/nn/answers.py",
        "todo = _with_added(input, other) if alpha == 1 else None",
        "todo = _with_added(input, other)",
        "tests/nn/test_small_nets.py::test_it_trains_as_it_did[add_in_place_alpha]",
    ),
)

"""Faults in operators: their gradients, their checks, and the choice of a backend."""

from __future__ import annotations

from benchmarks.mutants.fault import Fault

FAULTS = (
    Fault(
        "gemkern/ops/masked.py",
        "grad_y.flatten(0, -2).sum(0) if grad_y.dim() > 1 else grad_y",
        "grad_y.flatten(0, -2).mean(0) if grad_y.dim() > 1 else grad_y",
        "tests/ops/test_gradients.py::test_x_weight_and_bias_have_their_true_derivatives",
    ),
    Fault(
        "gemkern/ops/masked.py",
        "grad_bias = grad_y.sum((0, 2, 3))",
        "grad_bias = grad_y.mean((0, 2, 3))",
        "tests/ops/test_gradients.py::test_x_weight_and_bias_have_their_true_derivatives",
    ),
    Fault(
        "gemkern/ops/masks.py",
        "to_weight = _selected(grad, scores, active) if wants_weight else None",
        "to_weight = _selected(grad, None, active) if wants_weight else None",
        "tests/ops/test_masks.py::test_one_layer_by_pytorchs_functions_is_the_operator",
    ),
    Fault(
        "gemkern/ops/masks.py",
        "masked = ([scores[i]] if scores else None, [active[i]], tau)",
        "masked = ([scores[i]] if scores else None, [active[i]], HALF)",
        "tests/ops/test_gradients.py::test_effective_weights_mask_at_any_threshold",
    ),
    Fault(
        "gemkern/ops/popup.py",
        "weight.to(wide) * score.sign())",
        "weight.to(wide))",
        "tests/ops/test_edge_popup.py"
        "::test_the_gradient_is_that_of_an_identity_after_the_absolute_value",
    ),
    Fault(
        "gemkern/ops/popup.py",
        "select(grad, mask).to(weight.dtype) if wanted else None",
        "grad.to(weight.dtype) if wanted else None",
        "tests/ops/test_edge_popup.py"
        "::test_scores_learn_everywhere_and_weights_where_they_are_kept",
    ),
    Fault(
        "gemkern/ops/batch_last.py",
        "if ctx.has_residual and not ctx.relu:",
        "if ctx.has_residual:",
        "tests/ops/test_batch_last.py::test_batch_norm_is_pytorchs",
    ),
    Fault(
        "gemkern/ops/sparse.py",
        "grad_bias = grad_y.sum(0)",
        "grad_bias = grad_y.mean(0)",
        "tests/ops/test_batch_last.py::test_sparse_linear_is_pytorchs",
    ),
    Fault(
        "gemkern/ops/norm_pool.py",
        "if any(step < size for step, size",
        "if all(step < size for step, size",
        "tests/ops/test_pooled_norms.py::test_bad_input_is_one_sentence",
    ),
    Fault(
        "gemkern/ops/checks.py",
        "if groups < 1 or outputs % groups:",
        "if groups < 1:",
        "tests/ops/test_checks.py::test_groups_divide_the_outputs",
    ),
    Fault(
        "gemkern/ops/checks.py",
        "reach = dilation[axis] * (kernel[axis] - 1) + 1",
        "reach = dilation[axis] * kernel[axis]",
        "tests/ops/test_checks.py::test_a_kernel_as_large_as_the_padded_image_is_welcome",
    ),
    Fault(
        "gemkern/ops/checks.py",
        "0 <= pad <= taps // 2",
        "0 <= pad <= taps",
        "tests/ops/test_batch_last.py::test_bad_input_is_one_sentence",
    ),
    Fault(
        "gemkern/ops/registration.py",
        "increment_version(arguments[place] or ())",
        "increment_version(())",
        "tests/ops/test_steps.py::test_a_backward_pass_notices_the_change",
    ),
    Fault(
        "gemkern/ops/dispatch.py",
        'backend or (os.environ[VARIABLE] if _KEY in _SET else "") or "auto"',
        '(os.environ[VARIABLE] if _KEY in _SET else "") or backend or "auto"',
        "tests/ops/test_dispatch.py::test_the_argument_goes_before_the_variable",
    ),
)

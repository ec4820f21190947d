"""Faults in kernels for CPUs: each of their tests compiles few of them."""

from __future__ import annotations

from benchmarks.mutants.fault import Fault

FAULTS = (
    Fault(
        "kernels/cpu/threshold.py",
        "out[i] = (active[i] != 0) & (scores[i] >= tau)",
        "out[i] = (active[i] != 0) & (scores[i] > tau)",
        "tests/kernels/test_threshold_cpu.py::TestThreshold::test_masks",
    ),
    Fault(
        "kernels/cpu/threshold.py",
        "out[i] = weights[i] if active[i] != 0 else np.float32(0)",
        "out[i] = weights[i] * np.float32(active[i] != 0)",
        "tests/kernels/test_threshold_cpu.py::TestThreshold::test_effective_weights",
    ),
    Fault(
        "kernels/cpu/score_step.py",
        "return grad + double_l2 * p",
        "return grad - double_l2 * p",
        "tests/kernels/test_score_step_cpu.py::TestScoreStep::test_numbers_on_the_device",
    ),
    Fault(
        "kernels/cpu/score_step.py",
        "np.float32(2) * np.float32(number(l2)), np.float32(beta1)",
        "np.float32(number(l2)), np.float32(beta1)",
        "tests/kernels/test_score_step_cpu.py::TestScoreStep::test_numbers_on_the_device",
    ),
    Fault(
        "kernels/cpu/score_step.py",
        "d = velocity * momentum + g if nesterov",
        "d = velocity + g * momentum if nesterov",
        "tests/kernels/test_score_step_cpu.py::TestScoreStep::test_numbers_on_the_device",
    ),
    Fault(
        "kernels/cpu/score_step.py",
        "s[i] * b2 + g * g * (one - b2)",
        "s[i] * b2 + g * (one - b2)",
        "tests/kernels/test_score_step_cpu.py::TestScoreStep::test_numbers_on_the_device",
    ),
    Fault(
        "kernels/cpu/score_step.py",
        "v[i] = velocity if on[i] != 0 else np.float32(0)",
        "v[i] = velocity",
        "tests/kernels/test_score_step_cpu.py::TestScoreStep::test_numbers_on_the_device",
    ),
    Fault(
        "kernels/cpu/select_kth.py",
        "while digit < last and digits[digit] < left:",
        "while digit < last and digits[digit] <= left:",
        "tests/kernels/test_select_kth_cpu.py::TestSelectKth"
        "::test_special_values_are_ordered_as_by_the_reference",
    ),
    Fault(
        "kernels/cpu/machine/keys.py",
        "return NAN_KEY if magnitude > INFINITY else key",
        "return NAN_KEY if magnitude >= INFINITY else key",
        "tests/kernels/test_select_kth_cpu.py::TestSelectKth"
        "::test_special_values_are_ordered_as_by_the_reference",
    ),
    Fault(
        "kernels/cpu/pooling.py",
        "return first, min(reach // stride + 1, count)",
        "return first, min(reach // stride, count)",
        "tests/kernels/test_pooling_cpu.py::test_maxima",
    ),
    Fault(
        "kernels/cpu/pooling.py",
        "greater = value > best[n] or value != value",
        "greater = value >= best[n] or value != value",
        "tests/kernels/test_pooling_cpu.py::test_ties_and_numbers_that_are_none",
    ),
    Fault(
        "kernels/cpu/pooling.py",
        "kernel[0] * kernel[1] if count_include_pad else count",
        "count if count_include_pad else kernel[0] * kernel[1]",
        "tests/kernels/test_pooling_cpu.py::test_averages",
    ),
    Fault(
        "kernels/cpu/shortcut.py",
        "first = (channel * out[0] + h // stride[0]) * out[1]",
        "first = (channel * out[0] + h // stride[1]) * out[1]",
        "tests/kernels/test_shortcut_cpu.py::test_every_bit_is_copied_and_the_rest_is_zero",
    ),
    Fault(
        "kernels/cpu/shortcut.py",
        "channel, h = line // out[0] - before, line % out[0]",
        "channel, h = line // out[0] + before, line % out[0]",
        "tests/kernels/test_shortcut_cpu.py::test_every_bit_is_copied_and_the_rest_is_zero",
    ),
    Fault(
        "kernels/cpu/batch_norm_relu.py",
        "unbiased = variance * (x.size / max(x.size - 1, 1))",
        "unbiased = variance",
        "tests/kernels/test_batch_norm_relu_cpu.py::test_any_combination_of_parts",
    ),
    Fault(
        "kernels/cpu/batch_norm_relu.py",
        "(1 - momentum) * running[channel] + momentum * batch",
        "momentum * running[channel] + (1 - momentum) * batch",
        "tests/kernels/test_batch_norm_relu_cpu.py::test_any_combination_of_parts",
    ),
    Fault(
        "kernels/cpu/batch_norm_relu.py",
        "g[i] = zero if y[i] <= zero else grad_y[i]",
        "g[i] = zero if y[i] < zero else grad_y[i]",
        "tests/kernels/test_batch_norm_relu_cpu.py::test_any_combination_of_parts",
    ),
    Fault(
        "kernels/cpu/machine/moments.py",
        "away * away * (size * (count - size) / count)",
        "away * away * size",
        "tests/kernels/test_batch_norm_relu_cpu.py::test_a_mean_far_from_zero_spoils_no_variance",
    ),
    Fault(
        "kernels/cpu/loops/norms.py",
        "-0.5 * twice * scale * inverse * inverse",
        "-0.5 * twice * scale * inverse",
        "tests/kernels/test_norm_sparse_cpu.py::test_on_whole_numbers_the_norm_is_exact",
    ),
    Fault(
        "kernels/cpu/loops/vector_rows.py",
        'closed = builder.fcmp_ordered("<=", result, least)',
        'closed = builder.fcmp_ordered("<", result, least)',
        "tests/kernels/test_norm_sparse_cpu.py::test_on_whole_numbers_the_norm_is_exact",
    ),
    Fault(
        "kernels/cpu/loops/vector_windows.py",
        'greater = at.builder.fcmp_ordered(">", value, best)',
        'greater = at.builder.fcmp_ordered(">=", value, best)',
        "tests/kernels/test_norm_pool_cpu.py::test_ties_and_numbers_that_are_none",
    ),
    Fault(
        "kernels/cpu/lists/nonzero.py",
        "if values[number] != 0:",
        "if values[number] >= 0:",
        "tests/kernels/test_sparse_cpu.py::test_values_of_zero_are_left_out[32]",
    ),
    Fault(
        "kernels/cpu/engines/strip_backward.py",
        "2.0 * floats(moments.grad_var, outputs)[output] / count",
        "floats(moments.grad_var, outputs)[output] / count",
        "tests/kernels/test_norm_sparse_cpu.py"
        "::test_on_whole_numbers_the_cases_are_exact[norm and ReLU-3x3-along rows]",
    ),
    Fault(
        "kernels/cpu/engines/strip_forward.py",
        "base = row * walk.stride_height - walk.pad_height",
        "base = row * walk.stride_height - walk.pad_width",
        "tests/kernels/test_sparse_cpu.py"
        "::test_on_whole_numbers_the_cases_are_exact[stride leaves a rest]",
    ),
    Fault(
        "kernels/cpu/engines/strip_forward.py",
        "block == 0)  # fmt: skip",
        "True)  # fmt: skip",
        "tests/kernels/test_norm_sparse_cpu.py"
        "::test_on_whole_numbers_patches_of_all_sizes_are_exact[1-17]",
    ),
    Fault(
        "kernels/cpu/loops/patches.py",
        "for turn in range(1, turns):",
        "for turn in range(2, turns):",
        "tests/kernels/test_rows_cpu.py::test_on_whole_numbers_it_is_exact[contiguous-40-33-77]",
    ),
    Fault(
        "kernels/cpu/loops/vector_rows.py",
        "far_group = builder.mul(vectors, long(BYTES_OF_VECTOR))",
        "far_group = near_group",
        "tests/kernels/test_norm_sparse_cpu.py"
        "::test_on_whole_numbers_patches_of_all_sizes_are_exact[1-17]",
    ),
    Fault(
        "kernels/cpu/loops/vector_rows.py",
        "return shape[0] * (shape[1] * shape[2] * LANES + shape[3])",
        "return shape[0] * (shape[1] * shape[2] + shape[3])",
        "tests/kernels/test_norm_sparse_cpu.py"
        "::test_on_whole_numbers_patches_of_all_sizes_are_exact[1-17]",
    ),
    Fault(
        "kernels/cpu/walks/strips.py",
        "(first + ring.left) // ring.split",
        "first // ring.split",
        "tests/kernels/test_norm_sparse_cpu.py"
        "::test_on_whole_numbers_patches_of_all_sizes_are_exact[2-17]",
    ),
    Fault(
        "kernels/cpu/lists/pattern_lists.py",
        "if made is None or made.version != positions._version:",
        "if made is None:",
        "tests/kernels/test_pattern_lists_cpu.py"
        "::test_lists_are_made_anew_when_the_positions_change",
    ),
    Fault(
        "kernels/cpu/walks/dealing.py",
        "range(begin // bands, -(-end // bands) if begin < end else 0)",
        "range(begin // bands, end // bands if begin < end else 0)",
        "tests/kernels/test_norm_sparse_cpu.py::test_every_part_is_dealt_once",
    ),
    Fault(
        "kernels/geometry.py",
        "return (phase - self.padding) % self.phases",
        "return (phase + self.padding) % self.phases",
        "tests/kernels/test_geometry.py::test_a_ring_holds_all_that_a_step_reads",
    ),
    Fault(
        "kernels/cpu/engines/rows.py",
        "value = floats(bias, outputs)[output] if bias else np.float32(0)",
        "value = floats(bias, outputs)[0] if bias else np.float32(0)",
        "tests/kernels/test_rows_cpu.py::test_on_whole_numbers_it_is_exact[contiguous-40-33-77]",
    ),
    Fault(
        "kernels/cpu/engines/few_rows.py",
        "for part in range(1, parts):",
        "for part in range(2, parts):",
        "tests/kernels/test_rows_cpu.py::test_on_whole_numbers_it_is_exact[contiguous-700-300-16]",
    ),
    Fault(
        "kernels/cpu/engines/few_rows.py",
        "pixel = lanes * BYTES",
        "pixel = 16 * BYTES",
        "tests/kernels/test_rows_cpu.py::test_on_whole_numbers_it_is_exact[contiguous-9-7-1]",
    ),
    Fault(
        "kernels/cpu/loops/one_vector.py",
        "rest = builder.sub(count, done)",
        "rest = long(0)",
        "tests/kernels/test_rows_cpu.py::test_on_whole_numbers_it_is_exact[contiguous-9-7-1]",
    ),
    Fault(
        "kernels/cpu/loops/tiles.py",
        "lower_lanes = [lane + half if not lane & half else LANES + lane for lane in lanes]",
        "lower_lanes = [lane if not lane & half else LANES + lane for lane in lanes]",
        "tests/kernels/test_turning_cpu.py::test_there_and_back",
    ),
    Fault(
        "kernels/geometry.py",
        "return -(way // self.stride) if self.backward else way",
        "return way // self.stride if self.backward else way",
        "tests/kernels/test_geometry.py::test_a_ring_holds_all_that_a_step_reads",
    ),
)

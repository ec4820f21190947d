"""Runs and rings, against what a convolution reads, pixel by pixel."""

from __future__ import annotations

from gemkern.kernels.geometry import Axis, Geometry, ring_of, walk_of
from hypothesis import assume, given
from hypothesis import strategies as st


def reads(axis: Axis, target: int) -> dict[int, int]:
    """Return the sources that taps read for a target, by tap, inside the image or not."""
    found = {}
    for tap in range(axis.taps):
        if axis.backward:
            # The output that reads this pixel of the input by this tap, if there is one.
            source, rest = divmod(target + axis.padding - tap * axis.dilation, axis.stride)
            if rest:
                continue
        else:
            source = target * axis.stride - axis.padding + tap * axis.dilation
        found[tap] = source
    return found


AXES = st.builds(
    Axis,
    targets=st.integers(1, 12),
    sources=st.integers(1, 12),
    taps=st.integers(1, 5),
    stride=st.integers(1, 4),
    padding=st.integers(0, 5),
    dilation=st.integers(1, 3),
    backward=st.booleans(),
)


@given(AXES)
def test_runs_hold_every_target_once_with_the_taps_that_reach_it(axis: Axis) -> None:
    order, seen = axis.taps_by_phase(), []
    for first, count, base, begin, end in axis.runs():
        for k in range(count):
            target = first + k * axis.phases
            seen.append(target)
            inside = {t: s for t, s in reads(axis, target).items() if 0 <= s < axis.sources}
            bases = base + k * axis.base_step
            assert {tap: bases + axis.offset(tap) for tap in order[begin:end]} == inside
    assert sorted(seen) == list(range(axis.targets))


PAIRS = st.tuples(st.integers(1, 3), st.integers(1, 3))


@given(
    image=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    kernel=PAIRS,
    stride=PAIRS,
    padding=st.tuples(st.integers(0, 4), st.integers(0, 4)),
    dilation=PAIRS,
    backward=st.booleans(),
)
def test_a_ring_holds_all_that_a_step_reads(
    image, kernel, stride, padding, dilation, backward
) -> None:
    walk = walk_of((2, 3, *image), (4, 3, *kernel), Geometry(stride, padding, dilation))
    assume(min(walk.out_height, walk.out_width) > 0)
    rows, columns = walk.axes(backward)
    ring = ring_of(walk, backward, False)
    for target in range(rows.targets):
        step = target // rows.phases
        for source in reads(rows, target).values():
            assert ring.first <= source - step * ring.step <= ring.last
    for target in range(columns.targets):
        for source in reads(columns, target).values():
            assert 0 <= source + ring.left < ring.width
    whole = ring_of(walk, backward, True)
    # Step after step, no row is left out.
    assert whole.first <= 0
    assert whole.last >= whole.step - 1

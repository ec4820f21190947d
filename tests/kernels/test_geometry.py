"""Rings, against what a convolution reads, pixel by pixel."""

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
    ring = ring_of(walk, backward, False, False)
    for target in range(rows.targets):
        step = target // rows.phases
        for source in reads(rows, target).values():
            assert ring.first <= source - step * ring.step <= ring.last
    for target in range(columns.targets):
        for source in reads(columns, target).values():
            assert 0 <= source + ring.left < ring.width
    whole = ring_of(walk, backward, True, False)
    # Step after step, no row is left out.
    assert whole.first <= 0
    assert whole.last >= whole.step - 1

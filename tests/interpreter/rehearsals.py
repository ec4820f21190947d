"""Rows of a rehearsal of the GPU's benchmarks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks.gpu import bench, run

Row = dict[str, Any]


def rows_of(of: bench.Bench, section: str, **chosen: Any) -> list[Row]:
    """Run the rows of a section that are of what is `chosen`; return them from the file."""

    def plan(of: bench.Bench) -> Iterator[bench.Row]:
        for row in run.SECTIONS[section](of):
            if chosen.items() <= row.of.items():
                yield row

    bench.run_section(of, section, plan)
    return of.result.of(section)

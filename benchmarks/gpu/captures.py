"""Whether training captures its steps: how many it replays, and why it replays none."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import torch

from gemkern.training import graphs


class Watch(logging.Handler):
    """What is seen of training.

    Attributes:
        replays: how many steps were replays of a captured one.
        warnings: why there were none.
    """

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.replays = 0
        self.warnings: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.warnings.append(record.getMessage())

    def counting(self, capturing: graphs.Graphs) -> graphs.Graphs:
        """Return `capturing`, whose replays are counted from now on."""
        capture = capturing.capture

        def counted(call: graphs.Call) -> graphs.Call:
            replay = capture(call)

            def count() -> None:
                self.replays += 1
                replay()

            return count

        capturing.capture = counted  # type: ignore[method-assign]
        return capturing


@contextmanager
def watched() -> Iterator[Watch]:
    """Watch the training in the body, which captures steps as it does elsewhere."""
    watch, graphs_on = Watch(), graphs.graphs_on

    def counting_on(device: torch.device) -> graphs.Graphs | None:
        capturing = graphs_on(device)
        return None if capturing is None else watch.counting(capturing)

    graphs.logger.addHandler(watch)
    try:
        with mock.patch.object(graphs, "graphs_on", counting_on):
            yield watch
    finally:
        graphs.logger.removeHandler(watch)

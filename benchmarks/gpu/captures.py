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


class Counted:
    """The captures of `capturing`, whose replays `watch` counts."""

    def __init__(self, capturing: graphs.Graphs, watch: Watch) -> None:
        self.warm_up, self.side_by_side = capturing.warm_up, capturing.side_by_side
        self._capturing, self._watch = capturing, watch

    def capture(self, call: graphs.Call) -> graphs.Call:
        replay = self._capturing.capture(call)

        def counted() -> None:
            self._watch.replays += 1
            replay()

        return counted


@contextmanager
def watched() -> Iterator[Watch]:
    """Watch the training in the body, which captures steps as it does elsewhere."""
    watch, graphs_on = Watch(), graphs.graphs_on

    def counted_on(device: torch.device) -> graphs.Graphs | None:
        capturing = graphs_on(device)
        return None if capturing is None else Counted(capturing, watch)

    graphs.logger.addHandler(watch)
    try:
        with mock.patch.object(graphs, "graphs_on", counted_on):
            yield watch
    finally:
        graphs.logger.removeHandler(watch)

"""Being told to stop: by Ctrl-C, or by a scheduler that sends SIGTERM before it kills."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(BaseException):
    """The run was told to stop, and did."""


class Stop:
    """Whether to stop.

    Attributes:
        requested: somebody asked for it.
    """

    def __init__(self) -> None:
        self.requested = False
        self._is_waited_for = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Hear SIGINT and SIGTERM while the body runs, in the main thread.

        Where steps are taken, the next one's end stops; elsewhere, and when asked twice, `Stopped`
        is raised at once.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {one: signal.signal(one, self._hear) for one in SIGNALS}
        try:
            yield
        finally:
            for one, handler in before.items():
                signal.signal(one, handler)

    @contextmanager
    def between_steps(self) -> Iterator[None]:
        """Let a request wait: the body looks at `requested` again and again."""
        self._is_waited_for = True
        try:
            yield
        finally:
            self._is_waited_for = False

    def _hear(self, number: int, frame: Any) -> None:
        if self.requested or not self._is_waited_for:
            raise Stopped
        self.requested = True

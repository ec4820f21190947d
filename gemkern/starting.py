"""Being told to stop while a command is still being loaded, which takes seconds."""

from __future__ import annotations

import os
import signal
from typing import Any

# As shells have it of a command that Ctrl-C ended.
STOPPED = 130
SENTENCE = "gemkern: stopped before it began: give the same command again"


def stop_at_once() -> None:
    """Let Ctrl-C end this process with a sentence, until something else hears it.

    Nothing was begun, and half of the modules are there: a traceback would name one of them.
    """
    signal.signal(signal.SIGINT, _stop)


def _stop(number: int, frame: Any) -> None:
    os.write(2, f"{SENTENCE}\n".encode())
    os._exit(STOPPED)

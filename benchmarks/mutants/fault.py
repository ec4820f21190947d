"""A fault as data: a mistake of one line, and the test that has to fail for it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath

from gemkern.errors import GemkernError


@dataclass(frozen=True)
class Fault:
    """A mistake that a person could make.

    Attributes:
        path: of the file, from the root of the repository.
        old: a part of a line, which stands in the file exactly once.
        new: what it becomes.
        test: what has to fail, as pytest calls it: a file, a test of it, or one of its cases.
    """

    path: str
    old: str
    new: str
    test: str

    def __str__(self) -> str:
        return f"{self.path}: {self.old!r} became {self.new!r}, and {self.test} passed"

    @property
    def module(self) -> str:
        """The name by which the file is imported."""
        parts = PurePosixPath(self.path).with_suffix("").parts
        return ".".join(("gemkern", *parts) if parts[0] == "kernels" else parts)

    def put_into(self, text: str) -> str:
        """Return the text of the file with the fault in it.

        Raises:
            GemkernError: `old` does not stand there exactly once.
        """
        if text.count(self.old) != 1:
            raise GemkernError(
                f"{self.old!r} stands {text.count(self.old)} times in {self.path}: let a fault be "
                "of a text that stands there once"
            )
        return text.replace(self.old, self.new)

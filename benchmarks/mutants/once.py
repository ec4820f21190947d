"""Run tests on the gemkern of this folder, in a process of their own; started by its path.

python once.py MODULE TEST ...      the exit code is pytest's, or one of the two below

The module is imported first: a fault that lets nothing be imported is none that a test notices.
"""

from __future__ import annotations

import importlib
import sys
import traceback
from pathlib import Path

NOT_IMPORTED, ELSEWHERE = 64, 65


def main(module: str, *arguments: str) -> int:
    """Return the exit code."""
    try:
        found = [importlib.import_module(name) for name in ("gemkern", "gemkern.kernels", module)]
    except Exception:
        traceback.print_exc()
        return NOT_IMPORTED
    here = Path.cwd().resolve()
    for one in found:
        place = Path(str(one.__file__)).resolve()
        if here not in place.parents:
            print(f"{one.__name__} is that of {place.parent}, not that of {here}")
            return ELSEWHERE
    import pytest

    return int(pytest.main(list(arguments)))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

"""The command line."""

from gemkern.cli.app import main

__all__ = ["main"]

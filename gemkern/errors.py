"""The one error that gemkern raises for bad input."""


class GemkernError(ValueError):
    """Bad input, in one sentence: what was wrong, where, and what to do about it."""

"""The one error that gemkern raises for bad input, and how text of strangers is shown."""


class GemkernError(ValueError):
    """Bad input, in one sentence: what was wrong, where, and what to do about it."""

    def __str__(self) -> str:
        # Names that are quoted in it may come from anybody's file: they begin no line of their own.
        return printable(super().__str__())


def printable(text: str) -> str:
    """Return `text` with escapes for what is not to be seen: a terminal obeys some of that."""
    if text.isprintable():
        return text
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape", "surrogatepass").decode()
        for one in text
    )


def printable_lines(text: str) -> str:
    """Return `text` as `printable` has it, but for its ends of lines."""
    return "\n".join(map(printable, text.split("\n")))

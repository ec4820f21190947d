"""The entries of a pattern, sorted for a walk."""

"""The innermost loops, in vector registers, and what a norm does on the way."""

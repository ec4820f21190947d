"""Readers and operators get inputs that nobody would write, and refuse them in a sentence."""

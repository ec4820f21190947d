"""Faults are put into the code, one after the other, and the tests have to notice each."""

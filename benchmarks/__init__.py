"""Measurements: `pytest benchmarks --benchmark-only`, and what races left in `results/`."""

"""Measurements: `pytest benchmarks --benchmark-only` times operators; `results/` holds what races left."""

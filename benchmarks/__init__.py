"""Measurements, and what they left in `results/`: CONTRIBUTING.md says what measures what."""

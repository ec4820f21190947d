"""Runs are killed at random moments, and have to end as one that was left alone."""

"""What a GPU is asked for, most important first: `python -m benchmarks.gpu --out DIR`."""

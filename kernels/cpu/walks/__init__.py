"""What is read for what is written, and how that is cut into parts; no Numba kernels of its own."""

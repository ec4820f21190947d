"""Numba kernels, named and called as in `gemkern.kernels.reference`; none in this version."""

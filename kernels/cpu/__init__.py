"""Numba kernels; importing one of these modules imports Numba, importing this package does not."""

"""Triton kernels, named and called as in `gemkern.kernels.reference`."""

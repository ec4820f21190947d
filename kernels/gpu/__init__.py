"""Triton kernels, by the names and signatures of `gemkern.kernels.reference`; none in this version."""

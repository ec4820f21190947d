"""A zoo of public architectures, and whether gemkern serves them: `make zoo`."""

"""Sparse layers on a CPU beside their peers: SparseProp, torch's CSR product, dense oneDNN."""

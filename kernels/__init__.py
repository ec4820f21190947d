"""Pure functions on tensors, one backend a folder; `table` says which serves which operator."""

"""The wall clock of whole searches, from steps at each of the densities that they visit."""

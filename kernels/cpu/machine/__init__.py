"""What the machine asks for: lanes, memory, threads, denormals, compiled code on the disk."""

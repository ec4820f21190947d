"""Every method beside every other: tuned with equal tries, at equal steps, at equal seconds."""

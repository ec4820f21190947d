"""The table of methods: races, the command line, progress and figures read it.

A new method is one file with an `ENTRY`, and its line here.
"""

from __future__ import annotations

from gemkern.tickets import dense, gem_miner, imp, random_ticket, sanity, smart_ratio
from gemkern.tickets.entry import Entry

METHODS: dict[str, Entry] = {
    "dense": dense.ENTRY,
    "gem-miner": gem_miner.ENTRY,
    "imp": imp.ENTRY,
    "smart-ratio": smart_ratio.ENTRY,
    "random": random_ticket.ENTRY,
    "shuffled": sanity.SHUFFLED,
    "reinitialised": sanity.REINITIALISED,
}

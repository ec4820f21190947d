"""The table of methods: races, the command line, progress and figures read it.

A new method is one file with an `ENTRY`, and its line here.
"""

from __future__ import annotations

from gemkern.tickets import (
    cts,
    dense,
    edge_popup,
    erk,
    gem_miner,
    grasp,
    imp,
    layer_tickets,
    loft,
    magnitude,
    prospr,
    random_ticket,
    rigl,
    sanity,
    smart_ratio,
    snip,
    synflow,
)
from gemkern.tickets import set as set_method
from gemkern.tickets.entry import Entry

METHODS: dict[str, Entry] = {
    "dense": dense.ENTRY,
    "gem-miner": gem_miner.ENTRY,
    "imp": imp.ENTRY,
    "imp-cold": imp.COLD,
    "imp-short": imp.SHORT,
    "lr-rewind": imp.LEARNING_RATE,
    "magnitude": magnitude.ENTRY,
    "rigl": rigl.ENTRY,
    "set": set_method.ENTRY,
    "smart-ratio": smart_ratio.ENTRY,
    "erk": erk.ENTRY,
    "snip": snip.ENTRY,
    "grasp": grasp.ENTRY,
    "synflow": synflow.ENTRY,
    "prospr": prospr.ENTRY,
    "edge-popup": edge_popup.ENTRY,
    "global-edge-popup": edge_popup.GLOBAL,
    "cts": cts.ENTRY,
    "loft": loft.ENTRY,
    "layer-tickets": layer_tickets.ENTRY,
    "random": random_ticket.ENTRY,
    "shuffled": sanity.SHUFFLED,
    "reinitialised": sanity.REINITIALISED,
    "inverted": gem_miner.INVERTED,
}

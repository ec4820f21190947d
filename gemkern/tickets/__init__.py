"""Tickets: the ways to find them, the checks of what they know, and their file.

A search is one object (`Search`) in one file: `epochs`, `step()`, `end_epoch()`, `ticket()`,
`density`, `state_dict()` and `load_state_dict()`.
"""

from gemkern.tickets.gem_miner import GemMiner
from gemkern.tickets.imp import IMP
from gemkern.tickets.random_ticket import random_ticket, smart_ratio_counts, smart_ratio_ticket
from gemkern.tickets.sanity import reinitialised, shuffled
from gemkern.tickets.schedules import (
    freeze_epochs,
    freeze_rate,
    imp_weights_left,
    weights_left,
)
from gemkern.tickets.search import Search
from gemkern.tickets.ticket import Ticket

__all__ = [
    "IMP",
    "GemMiner",
    "Search",
    "Ticket",
    "freeze_epochs",
    "freeze_rate",
    "imp_weights_left",
    "random_ticket",
    "reinitialised",
    "shuffled",
    "smart_ratio_counts",
    "smart_ratio_ticket",
    "weights_left",
]

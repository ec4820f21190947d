"""Tickets: the ways to find them, the checks of what they know, and their file.

A search is one object (`Search`) in one file: `epochs`, `step()`, `end_epoch()`, `ticket()`,
`density`, `state_dict()` and `load_state_dict()`. `METHODS` is the table of all methods.
"""

from gemkern.tickets.entry import Draw, Entry, Start, option
from gemkern.tickets.gem_miner import GemMiner
from gemkern.tickets.imp import IMP
from gemkern.tickets.methods import METHODS
from gemkern.tickets.random_ticket import random_ticket
from gemkern.tickets.sanity import reinitialised, shuffled
from gemkern.tickets.schedules import (
    freeze_epochs,
    freeze_rate,
    imp_weights_left,
    weights_left,
)
from gemkern.tickets.search import Search
from gemkern.tickets.smart_ratio import smart_ratio_counts, smart_ratio_ticket
from gemkern.tickets.ticket import Ticket

__all__ = [
    "IMP",
    "METHODS",
    "Draw",
    "Entry",
    "GemMiner",
    "Search",
    "Start",
    "Ticket",
    "freeze_epochs",
    "freeze_rate",
    "imp_weights_left",
    "option",
    "random_ticket",
    "reinitialised",
    "shuffled",
    "smart_ratio_counts",
    "smart_ratio_ticket",
    "weights_left",
]

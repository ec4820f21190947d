"""Tickets: the ways to find them, the checks of what they know, and their file.

A search is one object (`Search`) in one file: `epochs`, `step()`, `end_epoch()`, `ticket()`,
`density`, `state_dict()` and `load_state_dict()`. `METHODS` is the table of all methods.
"""

from gemkern.tickets.cts import ConcreteTicketSearch
from gemkern.tickets.edge_popup import EdgePopup
from gemkern.tickets.entry import Draw, Entry, Start, option
from gemkern.tickets.erk import erk_counts, erk_ticket
from gemkern.tickets.gem_miner import GemMiner
from gemkern.tickets.grasp import grasp_ticket
from gemkern.tickets.imp import IMP
from gemkern.tickets.magnitude import GradualMagnitude
from gemkern.tickets.methods import METHODS
from gemkern.tickets.prospr import prospr_ticket
from gemkern.tickets.random_ticket import random_ticket
from gemkern.tickets.rigl import RigL
from gemkern.tickets.sanity import reinitialised, shuffled
from gemkern.tickets.schedules import (
    freeze_epochs,
    freeze_rate,
    imp_weights_left,
    weights_left,
)
from gemkern.tickets.search import Search
from gemkern.tickets.set import SET
from gemkern.tickets.smart_ratio import smart_ratio_counts, smart_ratio_ticket
from gemkern.tickets.snip import snip_ticket
from gemkern.tickets.synflow import synflow_ticket
from gemkern.tickets.ticket import Ticket

__all__ = [
    "IMP",
    "METHODS",
    "SET",
    "ConcreteTicketSearch",
    "Draw",
    "EdgePopup",
    "Entry",
    "GemMiner",
    "GradualMagnitude",
    "RigL",
    "Search",
    "Start",
    "Ticket",
    "erk_counts",
    "erk_ticket",
    "freeze_epochs",
    "freeze_rate",
    "grasp_ticket",
    "imp_weights_left",
    "option",
    "prospr_ticket",
    "random_ticket",
    "reinitialised",
    "shuffled",
    "smart_ratio_counts",
    "smart_ratio_ticket",
    "snip_ticket",
    "synflow_ticket",
    "weights_left",
]

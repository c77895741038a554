"""Profiles of a user's own job: where its time and the card's cycles went."""

from residue.profile._events import Command, Device, Operation, Process, Profile, load
from residue.profile._page import page
from residue.profile._summary import (
    DeviceSummary,
    OperationRow,
    Timeline,
    covered,
    summarise,
    timeline,
)
from residue.profile._trace_events import trace_events

__all__ = [
    "Command",
    "Device",
    "DeviceSummary",
    "Operation",
    "OperationRow",
    "Process",
    "Profile",
    "Timeline",
    "covered",
    "load",
    "page",
    "summarise",
    "timeline",
    "trace_events",
]

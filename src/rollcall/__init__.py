"""The roll of living agents on a NATS bus: register, beat, leave; discover by role; watch every change.

::

    async with rollcall.connect() as registry:
        async with registry.agent(role="worker", name="billing", capabilities=["ocr"]) as me:
            peers = await registry.discover("lieutenant", capabilities=["plan"])
"""

from rollcall.bus.tls import Tls
from rollcall.core.commands import Mode
from rollcall.core.errors import (
    Busy,
    Conflict,
    Denied,
    Invalid,
    Misconfigured,
    NotFound,
    RollcallError,
    TooLarge,
    Unauthorized,
    Unavailable,
    Waits,
)
from rollcall.core.query import By, Query
from rollcall.core.records import Change, ChangeKind, Entry, Health, Liveness, Record, Service, Status
from rollcall.sdk import sync
from rollcall.sdk.agent import Agent
from rollcall.sdk.answers import Page
from rollcall.sdk.mirror import Mirror
from rollcall.sdk.registry import Registry, connect
from rollcall.sdk.watch import Position, View, Watch

__all__ = [
    "Agent",
    "Busy",
    "By",
    "Change",
    "ChangeKind",
    "Conflict",
    "Denied",
    "Entry",
    "Health",
    "Invalid",
    "Liveness",
    "Mirror",
    "Misconfigured",
    "Mode",
    "NotFound",
    "Page",
    "Position",
    "Query",
    "Record",
    "Registry",
    "RollcallError",
    "Service",
    "Status",
    "Tls",
    "TooLarge",
    "Unauthorized",
    "Unavailable",
    "View",
    "Waits",
    "Watch",
    "connect",
    "sync",
]

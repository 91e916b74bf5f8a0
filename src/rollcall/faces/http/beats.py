"""A beat that is answered: core beats have no answer, HTTP clients expect one."""

import asyncio

from rollcall import Entry, Health, Registry
from rollcall.core.instants import Seconds

HEARD_AFTER: Seconds = 0.002
LOOKS = 25


async def beaten(registry: Registry, held: Entry, health: Health | None = None) -> Entry:
    """Sends a beat for an agent; returns its entry once the registry has heard it.

    A worker that is very busy may hear it later than it answers; then the entry is told as it is.

    Raises:
        NotFound: it left meanwhile.
    """
    await registry.heartbeat(held.role, held.id, health=health)
    entry = await registry.get(held.id)
    for _ in range(LOOKS):
        if entry.last_seen != held.last_seen:
            break
        await asyncio.sleep(HEARD_AFTER)
        entry = await registry.get(held.id)
    return entry

"""The worker of the command line, on a bus that is busy: after it stood still, its words about the lease come late."""

import asyncio
import time

from rollcall.bus.leader import LeaseKey
from rollcall.faces.cli.app import main

STOOD_STILL = 1.5
LATE = 0.8


class Late:
    """Writes of the lease, late for a while after a standstill."""

    def __init__(self) -> None:
        self.write = LeaseKey.write
        self.last = time.monotonic()
        self.until = 0.0

    async def __call__(self, key: LeaseKey, value: bytes) -> bool:
        now = time.monotonic()
        if now - self.last > STOOD_STILL:
            self.until = now + LATE
        self.last = now
        await asyncio.sleep(max(0.0, self.until - now))
        return await self.write(key, value)


late = Late()
LeaseKey.write = lambda key, value: late(key, value)
main()

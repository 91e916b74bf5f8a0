"""One agent of the demo: a program of its own that registers, beats with health, and leaves when told to."""

import asyncio
import os
import signal
import sys

import rollcall

TTL = 3.0


async def main(url: str, role: str, id: str, capability: str) -> None:
    """Lives until SIGTERM."""
    told_to_leave = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told_to_leave.set)
    async with (
        rollcall.connect(url, timeout=20) as registry,
        registry.agent(
            role, f"demo {role}", id=id, ttl=TTL, capabilities=[capability], metadata={"pid": os.getpid()}
        ) as me,
    ):
        me.feel(cpu_percent=float(len(id)), uptime_seconds=0.0)
        await told_to_leave.wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))

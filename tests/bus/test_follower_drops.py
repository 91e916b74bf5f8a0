"""Whatever ends a consumer, nothing that had gathered is dropped. Copy to tests/bus/."""

import asyncio

from rollcall.bus import streams
from rollcall.bus.follow import Follower


async def test_what_had_gathered_when_a_consumer_ends_is_handed_over(bus):
    async with bus.worker("w1"), bus.registry() as registry, bus.worker_connection() as inside:
        await registry.register_many({"role": "worker", "id": f"a{number}", "ttl": None} for number in range(3000))
        end = (await streams.state(inside, bus.subjects.roll_stream)).last
        follower, seen = Follower(inside, bus.subjects.roll_stream, 0), []

        async for batch in follower.batches():
            seen += [stored.seq for stored in batch]
            # Whoever reads is busy; meanwhile more gathers, and then the bus is away for a moment.
            await asyncio.sleep(0.02)
            follower.begin_again("the bus was away")
            if follower.upto >= end:
                break

        assert seen == list(range(1, end + 1))

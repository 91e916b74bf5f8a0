"""Flapping: who is lost again and again is told so, and is not lost too often."""

import asyncio
import json
import time

from rollcall.worker import WorkerSettings, serving
from rollcall.worker.clock import Clock
from tests.bus.others import wire
from tests.bus.plain import plain
from tests.conftest import eventually, leads


async def come_and_go(bus, client):
    """One life of a connection that says hello, beats and ends."""
    async with wire(bus) as one:
        await one.hello("worker.a1")
        await client.send("heartbeat.worker.a1")
        await asyncio.sleep(0.05)
        await one.close()


class Skipping(Clock):
    """A clock that can be put forward."""

    skipped = 0.0

    def now(self):
        return super().now() + self.skipped


async def test_who_was_lost_three_times_within_a_minute_is_flapping_and_signs_say_so_until_it_is_over(bus):
    clock = Skipping()
    settings = WorkerSettings(
        url=bus.url,
        realm=bus.realm,
        name="w1",
        snapshot=bus.home / "w1.db",
        nkey_seed=bus.server.worker_seed,
        disconnect_grace=0,
    )
    async with serving(settings, clock=clock), bus.registry() as registry, plain(bus) as client:
        await leads(registry)
        await client.ask("register.worker.a1", {"name": "x", "ttl": 600})
        for times in range(1, 4):
            assert not (await registry.get("a1")).flapping
            await come_and_go(bus, client)
            await eventually(lambda times=times: client.changes("a1").count("lost") == times)
            await client.send("heartbeat.worker.a1")
            await eventually(lambda times=times: client.changes("a1").count("recovered") == times)

        assert (await registry.get("a1")).flapping
        await client.send("heartbeat.worker.a1")
        await eventually(lambda: last_sign(client)["flapping"])
        assert last_sign(client)["liveness"] == "live"

        clock.skipped = 60.0

        async def told():
            await client.send("heartbeat.worker.a1")
            return not last_sign(client)["flapping"]

        await eventually(told)
        assert not (await registry.get("a1")).flapping


def last_sign(client):
    return json.loads([m.data for m in client.heard if ".signs." in m.subject][-1])


async def test_who_comes_and_goes_all_the_time_is_lost_at_most_once_a_second(bus):
    async with bus.served(disconnect_grace=0), plain(bus) as client:
        await client.ask("register.worker.a1", {"name": "x", "ttl": 60})
        started = time.monotonic()

        while time.monotonic() - started < 2.5:
            await come_and_go(bus, client)

        lasted = time.monotonic() - started
        assert 2 <= client.changes("a1").count("lost") <= lasted + 1
        await eventually(lambda: client.changes("a1")[-1] == "lost", what="the last end of a connection counts too")

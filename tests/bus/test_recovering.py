"""Recovering: whoever is lost is back with the next sign of life, whatever came between."""

import asyncio

import pytest

from rollcall.bus.connection import barrier
from tests.bus.others import wire
from tests.bus.plain import plain
from tests.bus.test_forgetting import lose
from tests.conftest import eventually

OFTEN = 20
"""More than the sixteen changes of an agent that the roll keeps."""


@pytest.fixture
async def updated_often(bus):
    """An agent that was lost and updated so often that the roll no longer tells how it was lost; no snapshot."""
    async with bus.served(disconnect_grace=0), plain(bus) as client:
        await lose(bus, client)
        for number in range(OFTEN):
            await client.ask("update.worker.a1", {"labels": {"n": str(number)}})
    (bus.home / "w1.db").unlink()


async def test_who_was_updated_often_while_lost_recovers_with_a_beat(bus, updated_often):
    async with bus.served() as registry, plain(bus) as client:
        assert (await registry.get("a1")).liveness == "lost"

        async def recovered():
            # Whoever leads hears the first beat, or the next one: it may still be beginning.
            await client.send("heartbeat.worker.a1")
            return client.changes("a1") == ["recovered"]

        await eventually(recovered)
        assert (await registry.get("a1")).liveness == "live"


async def test_who_was_updated_often_while_lost_is_forgotten_in_time(bus, updated_often):
    async with bus.served(forget_after=1), plain(bus) as client:
        await eventually(lambda: client.changes("a1") == ["expired"])


async def test_who_says_hello_as_soon_as_it_hears_that_it_is_lost_is_back(bus):
    """The word travels faster than the leader folds it."""
    async with bus.served(disconnect_grace=0), plain(bus) as client:
        for number in range(20):
            id = f"a{number}"
            await client.ask(f"register.worker.{id}", {"name": id, "ttl": 60})
            async with wire(bus) as one, wire(bus) as two:
                await one.hello(f"worker.{id}")
                answered = asyncio.Event()

                async def hear(message, key=f"worker.{id}", speaker=two, answered=answered):
                    if message.headers["Rollcall-Change"] == "lost":
                        await speaker.hello(key)
                        answered.set()

                await client.client.subscribe(f"{client.root}.changes.worker.{id}", cb=hear)
                await barrier(client.client)
                await one.close()
                await asyncio.wait_for(answered.wait(), 10)
                await eventually(lambda id=id: client.changes(id)[-1] == "recovered", what=id)


async def test_who_registers_the_same_life_again_while_lost_keeps_its_connection(bus):
    async with bus.served(disconnect_grace=0.2), plain(bus) as client, wire(bus) as one:
        await client.ask("register.worker.a1", {"name": "x", "incarnation": 5, "ttl": 0.5})
        await one.hello("worker.a1", incarnation=5)
        await eventually(lambda: client.changes("a1") == ["registered", "lost"])

        await client.ask("register.worker.a1", {"name": "x", "incarnation": 5, "ttl": 60})
        await one.close()

        await eventually(lambda: client.changes("a1") == ["registered", "lost", "registered", "lost"])

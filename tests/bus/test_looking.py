"""Looking who is connected, at the start and after an absence: a list that is late, or not whole, convicts nobody."""

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from msgspec import structs

from rollcall.bus import presence
from rollcall.core.errors import Unavailable
from rollcall.core.presence import Connection
from tests.bus.others import signs, wire
from tests.bus.plain import plain
from tests.conftest import eventually, leads


@asynccontextmanager
async def served(bus):
    """A registry and its worker."""
    async with bus.worker(disconnect_grace=0.2) as worker, bus.registry() as registry:
        await leads(registry)
        yield registry, worker


async def greeting(client, connection, id="a1"):
    await client.ask(f"register.worker.{id}", {"name": id, "ttl": 60})
    await connection.hello(f"worker.{id}")


async def nobody_was_suspected(client, *agents):
    await asyncio.sleep(0.5)
    return all((client.changes(id), signs(client, id)) == (["registered"], []) for id in agents)


async def test_who_says_hello_while_the_list_is_on_its_way_is_not_taken_for_gone(bus, monkeypatch):
    async with served(bus) as (_, worker), plain(bus) as client, AsyncExitStack() as stack:
        listed = worker._witness._connections.open_now

        async def slowly():
            found = await listed()
            await greeting(client, await stack.enter_async_context(wire(bus)))
            return found

        monkeypatch.setattr(worker._witness._connections, "open_now", slowly)
        await worker._witness.look()

        assert await nobody_was_suspected(client, "a1")
        assert worker._witness.connected("worker.a1")


@pytest.mark.parametrize("later_pages", ["come too late", "come without this server's"])
async def test_a_list_that_is_not_whole_takes_nobody_for_gone(bus, monkeypatch, later_pages):
    async with served(bus) as (_, worker), plain(bus) as client, wire(bus) as one, wire(bus) as two:
        await greeting(client, one, "a1")
        await greeting(client, two, "a2")
        monkeypatch.setattr(presence, "PAGE", 1)
        pages = worker._witness._connections._pages

        async def first_page_only(offset):
            if not offset:
                return await pages(offset)
            if later_pages == "come too late":
                raise Unavailable("no server listed its connections")
            return []

        monkeypatch.setattr(worker._witness._connections, "_pages", first_page_only)
        await worker._witness.look()

        assert await nobody_was_suspected(client, "a1", "a2")


def ended_meanwhile(witness, key="worker.a1"):
    """Another connection of the agent ended while the worker could not hear."""
    open_one = next(iter(witness._presence.connections()))
    witness._presence.bind(key, Connection(open_one.server, open_one.number + 100_000, "2026-11-20T00:00:00Z"))


async def test_an_end_that_was_missed_is_found_by_the_look(bus):
    async with served(bus) as (_, worker), plain(bus) as client, wire(bus) as one:
        await greeting(client, one)
        ended_meanwhile(worker._witness)

        await worker._witness.look()
        await one.close()

        await eventually(lambda: "lost" in client.changes("a1"))


async def test_a_list_that_was_late_is_asked_for_again(bus, monkeypatch):
    async with served(bus) as (registry, worker), plain(bus) as client, wire(bus) as one:
        await greeting(client, one)
        ended_meanwhile(worker._witness)
        listed, asked = worker._witness._connections.open_now, []

        async def late_twice():
            asked.append(1)
            if len(asked) <= 2:
                raise Unavailable("no server listed its connections")
            return await listed()

        monkeypatch.setattr(worker._witness._connections, "open_now", late_twice)
        worker._vigil.returned.set()

        await eventually(lambda: len(asked) > 2, within=10)
        await one.close()
        await eventually(lambda: "lost" in client.changes("a1"), within=5)
        assert (await registry.info())["connection_evidence"] == "on"


async def test_a_list_that_was_not_whole_is_asked_for_again(bus, monkeypatch):
    async with served(bus) as (registry, worker), plain(bus) as client, wire(bus) as one:
        await greeting(client, one)
        ended_meanwhile(worker._witness)
        listed, asked = worker._witness._connections.open_now, []

        async def part_only_twice():
            asked.append(1)
            if len(asked) <= 2:
                return structs.replace(await listed(), whole=False)
            return await listed()

        monkeypatch.setattr(worker._witness._connections, "open_now", part_only_twice)
        worker._vigil.returned.set()

        await eventually(lambda: len(asked) > 2, within=10)
        await one.close()
        await eventually(lambda: "lost" in client.changes("a1"), within=5)
        assert (await registry.info())["connection_evidence"] == "on"

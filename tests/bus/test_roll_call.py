"""The roll call: every agent announces itself again, asked by an operator or because the roll is new."""

import asyncio
import json
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from rollcall.bus import streams
from rollcall.bus.connection import barrier
from rollcall.core.errors import Busy, Unavailable
from tests.bus.plain import plain
from tests.conftest import eventually, ids, leads
from tests.processes import rollcall as command


@asynccontextmanager
async def heard_calls(bus):
    """Every roll call from now on."""
    async with bus.agent_connection() as client:
        calls = []

        async def hear(message):
            calls.append(json.loads(message.data))

        await client.subscribe(bus.subjects.roll_call, cb=hear)
        await barrier(client)
        yield calls


@asynccontextmanager
async def served(bus):
    """A registry that has called its new roll already."""
    async with heard_calls(bus) as calls, bus.served() as registry:
        await eventually(lambda: calls)
        yield registry


async def call(registry):
    """Calls the roll as soon as the answers to the last call are in."""

    async def called():
        try:
            return await registry.call_roll()
        except Busy:
            return None

    return await eventually(called)


async def test_agents_register_again_and_nothing_changes(bus):
    async with served(bus) as registry, plain(bus) as client, registry.agent("worker", "x", id="a1"):
        await client.ask("register.worker.plain", {"name": "plain"})
        before = {entry.id: entry for entry in await registry.list(exact=True)}

        assert await call(registry) == {"agents": 2, "window": 0.5}
        await eventually(lambda: seen_later(registry, before["a1"]))
        after = {entry.id: entry for entry in await registry.list(exact=True)}
        assert after["a1"].revision == before["a1"].revision
        assert after["plain"].last_seen == before["plain"].last_seen
        assert (await registry.info())["revision"] == 2


async def seen_later(registry, entry):
    return (await registry.get(entry.id)).last_seen > entry.last_seen


async def test_a_second_call_waits_until_the_answers_to_the_first_are_in(bus):
    async with served(bus) as registry:
        await call(registry)

        with pytest.raises(Busy, match="answers come in"):
            await registry.call_roll()
        assert (await call(registry))["window"] == 0.5


async def test_a_forgotten_agent_is_back_after_the_call(bus):
    async with served(bus) as registry, registry.agent("worker", "x", id="a1"):
        await registry.deregister("worker", "a1")

        await call(registry)

        await eventually(lambda: names(registry, ["a1"]))


async def names(registry, expected):
    return sorted(ids(await registry.discover("worker", exact=True))) == expected


async def tell_call(bus):
    """The command, once it is not too early for it."""
    where = ("--nats", bus.url, "--realm", bus.realm)

    async def done():
        told = await asyncio.to_thread(command, "call", "--json", *where)
        return None if told.returncode == 5 else told

    return await eventually(done)


async def test_the_command_tells_who_answered_and_who_is_silent(bus):
    async with served(bus) as registry, registry.agent("worker", "x", id="a1"):
        await registry.register("worker", "silent")

        told = await tell_call(bus)

        assert told.returncode == 1
        assert json.loads(told.stdout) == {"agents": 2, "window": 0.5, "answered": 1, "silent": ["silent"]}


async def test_the_command_is_content_when_everybody_answers_of_whom_it_is_expected(bus):
    async with served(bus) as registry, registry.agent("worker", "x", id="a1"):
        await registry.register("worker", "stopped", status="stopped")

        told, shown = await asyncio.gather(
            tell_call(bus),
            asyncio.to_thread(command, "guard", "show", "--nats", bus.url, "--realm", bus.realm),
        )

        assert told.returncode == 0
        assert json.loads(told.stdout) == {"agents": 2, "window": 0.5, "answered": 1, "silent": []}
        assert (shown.returncode, "rests" in shown.stdout) == (0, True)


async def test_who_leads_a_new_roll_calls_and_agents_are_back(bus):
    async with bus.registry() as registry, bus.worker_connection() as inside, AsyncExitStack() as parts:
        async with bus.worker():
            await leads(registry)
            await parts.enter_async_context(registry.agent("worker", "x", id="a1", labels={"kept": "yes"}))
            epoch = (await registry.info())["epoch"]
        await lose_everything(bus, inside)

        await parts.enter_async_context(bus.worker())

        await eventually(lambda: names(registry, ["a1"]), within=10)
        entry = await registry.get("a1")
        assert (entry.labels, entry.revision) == ({"kept": "yes"}, 1)
        assert (await registry.info())["epoch"] != epoch


async def lose_everything(bus, inside):
    for stream in (bus.subjects.inbox_stream, bus.subjects.leases_stream, bus.subjects.roll_stream):
        await streams.request(inside, f"STREAM.DELETE.{stream}")
    for file in bus.home.glob("w1.db*"):
        file.unlink()


async def test_a_roll_is_called_once_though_its_leaders_change(bus):
    async with heard_calls(bus) as calls, bus.registry() as registry:
        for name in ("w1", "w2"):
            async with bus.worker(name):
                await leads(registry)
                await eventually(lambda: calls)
                await asyncio.sleep(0.2)

        assert calls == [{"window": 0.5}]


async def test_an_operator_who_calls_while_a_leader_begins_is_answered_and_changes_nothing_else(bus):
    async with bus.registry() as registry:

        async def call_on():
            while True:
                try:
                    await registry.call_roll(timeout=0.5)
                except (Busy, Unavailable):
                    await asyncio.sleep(0)

        calling = asyncio.create_task(call_on())
        async with bus.worker():
            await leads(registry)
            await asyncio.sleep(0.2)
            assert (await registry.info())["leader"]
        calling.cancel()

"""Asking: who falls silent is asked on its own subject before it is called lost."""

import asyncio
import time

from rollcall.bus.connection import barrier
from rollcall.core.instants import instant
from tests.bus.others import reason, signs, wire
from tests.bus.plain import plain
from tests.conftest import eventually

TTL = 1.5


async def register(client, id="a1", **more):
    return await client.ask(f"register.worker.{id}", {"name": id, "ttl": TTL, "incarnation": 5, **more})


async def listens(client, answer, id="a1"):
    """Hears pings for an agent from now on; returns those that came."""
    asked = []

    async def hear(message):
        asked.append(message)
        if answer is not None:
            await message.respond(answer)

    await client.client.subscribe(f"{client.root}.ping.{id}", cb=hear)
    await barrier(client.client)
    return asked


async def test_who_answers_is_not_lost_though_no_beat_comes(bus):
    async with bus.served(), plain(bus) as client:
        asked = await listens(client, b'{"incarnation": 5}')
        first = await register(client)

        await eventually(lambda: len(asked) >= 2)

        entry = await client.question("get.a1")
        assert client.changes("a1") == ["registered"]
        assert instant(entry["last_seen"]) - instant(first["last_seen"]) > TTL * 1000 * 2 / 3
        assert signs(client, "a1")[:2] == ["suspect", "live"]


async def test_it_is_asked_when_two_beats_are_missed_and_not_only_when_its_lease_is_over(bus):
    async with bus.served(), plain(bus) as client:
        asked = await listens(client, b'{"incarnation": 5}')
        await register(client, ttl=60, heartbeat_interval=0.5)

        await eventually(lambda: asked, within=10)


async def test_an_answer_is_a_beat_that_every_worker_hears(bus):
    async with bus.served(), plain(bus) as client, bus.worker_connection() as inside:
        beats = []

        async def hear(message):
            beats.append(message.data)

        await inside.subscribe(bus.subjects.heartbeat("worker.a1"), cb=hear)
        await barrier(inside)
        await listens(client, b'{"incarnation": 5, "cpu_percent": 40}')
        await register(client)

        await eventually(lambda: beats)
        assert beats[0] == b'{"incarnation": 5, "cpu_percent": 40}'
        assert (await client.question("get.a1"))["health"]["cpu_percent"] == 40


async def test_who_gives_no_right_answer_is_lost_at_the_end_of_its_ttl(bus):
    wrong = {
        "silence": None,
        "older": b'{"incarnation": 4}',
        "newer": b'{"incarnation": 6}',
        "nonsense": b"no beat",
    }
    async with bus.served(), plain(bus) as client:
        asked = [await listens(client, answer, id=id) for id, answer in wrong.items()]
        started = time.monotonic()
        for id in wrong:
            await register(client, id)

        await eventually(lambda: client.changes().count("lost"), within=6)
        assert time.monotonic() - started > TTL
        await eventually(lambda: client.changes().count("lost") == len(wrong), within=6)

        assert all(asked)
        assert all("nor an answer" in reason(client, id) for id in wrong)
        assert [signs(client, id) for id in wrong] == [["suspect"]] * len(wrong)


async def test_who_said_hello_and_listens_no_more_is_lost_at_the_end_of_its_ttl_for_that(bus):
    async with bus.served(), plain(bus) as client, wire(bus) as one:
        started = time.monotonic()
        await register(client)
        await one.hello("worker.a1", incarnation=5)

        await eventually(lambda: "lost" in client.changes("a1"), within=6)

        assert time.monotonic() - started > TTL
        assert "nobody listens" in reason(client, "a1")


async def test_who_never_said_hello_need_not_listen(bus):
    async with bus.served(), plain(bus) as client:
        await register(client, ttl=0.5)

        await eventually(lambda: "lost" in client.changes("a1"), within=6)

        assert "nobody listens" not in reason(client, "a1")


async def test_who_beats_is_not_asked(bus):
    async with bus.served(), plain(bus) as client:
        asked = await listens(client, b'{"incarnation": 5}')
        await register(client)

        for _ in range(6):
            await asyncio.sleep(TTL / 6)
            await client.send("heartbeat.worker.a1", {"incarnation": 5})

        assert (asked, signs(client, "a1")) == ([], [])


async def test_an_agent_is_asked_under_the_spelling_of_its_id(bus):
    async with bus.served(), plain(bus) as client:
        asked = await listens(client, b'{"incarnation": 5}', id="a=2F1")
        await register(client, "a=2F1", ttl=60, heartbeat_interval=0.5)

        await eventually(lambda: asked)
        await eventually(lambda: signs(client, "a=2F1") == ["suspect", "live"])

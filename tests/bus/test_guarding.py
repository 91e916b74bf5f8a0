"""The guard on a running registry: very many who fall silent at once are doubted, then believed."""

import asyncio
import json
import signal
import time

import pytest

from rollcall.bus import roll
from tests.bus.others import signs, wire
from tests.bus.plain import plain
from tests.conftest import eventually, ids, leads
from tests.processes import Process
from tests.processes import rollcall as command

TTL = 1.5
MANY = [f"a{number}" for number in range(10)]


async def register(client, names=MANY, ttl=TTL):
    """All at once, and heard last at the same moment."""
    sent = [await client.send(f"register.worker.{id}", {"name": id, "ttl": ttl}) for id in names]
    for name in sent:
        await client.outcome(name)
    await beat(client, names)


async def beat(client, names=MANY):
    for id in names:
        await client.send(f"heartbeat.worker.{id}")


async def guard(registry):
    return (await registry.info())["guard"]


async def test_many_silent_at_once_are_held_for_a_ttl_and_lost_then(bus):
    async with bus.served() as registry, plain(bus) as client:
        beacons = []

        async def hear(message):
            beacons.append(json.loads(message.data))

        await client.client.subscribe(f"{client.root}.beacon", cb=hear)
        await register(client)
        silent_since = time.monotonic()
        await beat(client)

        held = await eventually(lambda: guard(registry), within=5)
        page = await registry.discover("worker", include=["all"], exact=True)
        assert time.monotonic() - silent_since > TTL
        assert "lost" not in client.changes()
        assert "10 of 10 agents (100 %) fell silent" in held["why"]
        assert "asked" in held["why"]
        assert (held["silent"], held["believed"]) == (10, 10)
        assert page.guard["why"] == held["why"]
        assert {entry.liveness for entry in page} == {"suspect"}
        await eventually(lambda: any((one["guard"] or {}).get("held") == 10 for one in beacons), within=5)

        await eventually(lambda: client.changes().count("lost") == 10, within=5)
        assert time.monotonic() - silent_since > 2 * TTL - 0.1
        await eventually(lambda: beacons[-1]["guard"] is None)
        assert await guard(registry) is None


async def test_every_worker_tells_of_the_guard(bus):
    async with bus.served() as registry, bus.worker("w2"), plain(bus) as client:
        await register(client, ttl=2.0)
        told = {}

        async def both_told():
            page = await registry.discover("worker", exact=True)
            told[page.worker] = page.guard["why"] if page.guard else ""
            return len(told) == 2 and all(told.values())

        await eventually(both_told, within=6)
        assert len(set(told.values())) == 1


async def test_beats_that_come_back_end_it_and_nobody_was_lost(bus):
    async with bus.served() as registry, plain(bus) as client:
        await register(client, ttl=2.0)
        held = await eventually(lambda: guard(registry), within=5)

        async def calm():
            await beat(client)
            return await no_guard(registry)

        await eventually(calm, within=5)
        assert (await registry.info())["time"] < held["until"]
        assert client.changes().count("lost") == 0
        assert all(signs(client, id)[-1:] in ([], ["live"]) for id in MANY)


async def no_guard(registry):
    return await guard(registry) is None


async def test_an_operator_ends_it_at_once(bus):
    async with bus.served() as registry, plain(bus) as client:
        await register(client)
        await eventually(lambda: guard(registry), within=5)

        told = await registry.release_guard()

        assert told["released"]
        await eventually(lambda: client.changes().count("lost") == 10, within=5)
        assert max([entry.lost_at for entry in await registry.list()]) < told["guard"]["until"]
        assert await registry.release_guard() == {"released": False, "guard": None}


async def test_an_operator_ends_it_from_the_command_line(bus):
    async with bus.served() as registry, plain(bus) as client:
        await register(client, ttl=3.0)
        await eventually(lambda: guard(registry), within=6)

        where = ("--nats", bus.url, "--realm", bus.realm)
        told = json.loads((await asyncio.to_thread(command, "guard", "release", "--json", *where)).stdout)

        assert told["released"]
        assert "10 of 10" in told["guard"]["why"]
        await eventually(lambda: client.changes().count("lost") == 10, within=5)


async def test_few_are_believed(bus):
    async with bus.served() as registry, plain(bus) as client:
        await register(client, MANY[:4], ttl=1.0)
        guards = []

        while client.changes().count("lost") < 4:
            guards.append(await guard(registry))
            await asyncio.sleep(0.02)

        assert not any(guards)


async def test_a_small_share_is_believed(bus):
    async with bus.served() as registry, plain(bus) as client:
        await register(client, [f"lively{number}" for number in range(40)], ttl=60)
        await register(client, MANY[:6], ttl=1.0)
        guards = []

        while client.changes().count("lost") < 6:
            guards.append(await guard(registry))
            await asyncio.sleep(0.02)

        assert not any(guards)


async def test_those_who_said_hello_and_listen_no_more_are_not_doubted(bus):
    async with bus.served() as registry, plain(bus) as client, wire(bus) as one:
        await register(client, ttl=1.0)
        for id in MANY:
            await one.hello(f"worker.{id}")
        guards = []

        while client.changes().count("lost") < 10:
            guards.append(await guard(registry))
            await asyncio.sleep(0.02)

        assert not any(guards)


async def test_many_whose_connections_the_server_gave_up_are_held_until_they_are_back(bus):
    async with bus.served(disconnect_grace=0.1) as registry, plain(bus) as client, wire(bus) as one, wire(bus) as two:
        await register(client, ttl=60)
        for id in MANY:
            await one.hello(f"worker.{id}")

        await one.be_given_up()
        await eventually(lambda: guard(registry), within=5)
        for id in MANY:
            await two.hello(f"worker.{id}")

        await eventually(lambda: no_guard(registry), within=5)
        assert client.changes().count("lost") == 0
        assert len(ids(await registry.discover("worker", exact=True))) == 10


async def test_many_without_a_ttl_whose_connection_the_server_gave_up_are_weighed_too(bus):
    async with bus.served(disconnect_grace=0.1) as registry, plain(bus) as client, wire(bus) as one:
        await register(client, MANY[:5], ttl=None)
        for id in MANY[:5]:
            await one.hello(f"worker.{id}")

        await one.be_given_up()
        await eventually(lambda: guard(registry), within=5)
        assert client.changes().count("lost") == 0
        await registry.release_guard()

        await eventually(lambda: client.changes().count("lost") == 5, within=5)
        assert await leads_now(registry)


async def test_a_second_silence_is_doubted_as_the_first_was(bus):
    async with bus.served() as registry, plain(bus) as client:
        await register(client, ttl=1.0)
        assert await eventually(lambda: guard(registry), within=5)
        await eventually(lambda: client.changes().count("lost") == 10, within=5)
        for _ in range(6):
            await beat(client)
            await asyncio.sleep(0.25)

        assert client.changes().count("recovered") == 10
        assert await eventually(lambda: guard(registry), within=3)
        assert client.changes().count("lost") == 10


async def test_who_was_heard_during_a_long_sweep_is_not_lost_by_it(bus, monkeypatch):
    monkeypatch.setattr(roll, "WINDOW", 1)
    many = [f"b{number}" for number in range(300)]
    async with bus.served() as registry, plain(bus) as client:
        await registry.register_many({"role": "worker", "id": id, "ttl": TTL, "host": "h1"} for id in many)
        await client.send("heartbeats.h1", json.dumps([[f"worker.{id}", 0] for id in many]).encode())
        await eventually(lambda: guard(registry), within=5)
        await registry.release_guard()

        await eventually(lambda: client.changes().count("lost"))
        await client.send("heartbeats.h1", json.dumps([[f"worker.{id}", 0] for id in many[250:]]).encode())

        await eventually(lambda: client.changes().count("lost") >= 250)
        await asyncio.sleep(0.2)
        assert [id for id in many[250:] if client.changes(id)[-1] == "lost"] == []


@pytest.mark.parametrize("stands", [0.8, 2.5])
async def test_a_worker_that_stood_still_loses_nobody_who_beat_meanwhile(bus, stands):
    home = bus.home / "w1"
    home.mkdir()
    seed, ready = home / "worker.nk", home / "ready.json"
    seed.write_text(bus.server.worker_seed)
    seed.chmod(0o600)
    arguments = ("worker", "--nats", bus.url, "--realm", bus.realm, "--key", str(seed), "--ready-file", str(ready))
    with Process(*arguments, home=home) as worker:
        await asyncio.to_thread(worker.ready, ready)
        async with bus.registry() as registry, plain(bus) as client:
            await leads(registry)
            await register(client)
            beating = asyncio.create_task(beat_on(client))
            await asyncio.sleep(TTL / 3)

            worker.popen.send_signal(signal.SIGSTOP)
            await asyncio.sleep(stands)
            worker.popen.send_signal(signal.SIGCONT)

            await eventually(lambda: leads_now(registry), within=5)
            await asyncio.sleep(0.5)
            assert client.changes().count("lost") == 0
            assert {entry.liveness for entry in await registry.list(exact=True)} == {"live"}
            beating.cancel()


async def beat_on(client):
    while True:
        await beat(client)
        await asyncio.sleep(TTL / 3)


async def leads_now(registry):
    return (await registry.info())["leader"]

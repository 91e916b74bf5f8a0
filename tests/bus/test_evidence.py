"""The evidence of connections: who dies is known by that, and nobody else is suspected."""

import asyncio
from contextlib import AsyncExitStack

import pytest

import rollcall
from tests.bus.others import living, reason, signs, wire
from tests.bus.plain import plain
from tests.conftest import eventually, leads


def said(client, id="a1"):
    """Signs and changes of an agent, in the order told."""
    return [
        m.headers["Rollcall-Change"] if ".changes." in m.subject else "sign"
        for m in client.heard
        if m.subject.endswith(f".{id}") and (".changes." in m.subject or ".signs." in m.subject)
    ]


async def register(client, id="a1", **more):
    return await client.ask(f"register.worker.{id}", {"name": id, "ttl": 60, **more})


async def liveness(client, id="a1"):
    return (await client.question(f"get.{id}"))["liveness"]


async def test_kill_9_makes_an_agent_suspect_at_once_and_lost_after_the_grace(bus):
    async with bus.served(disconnect_grace=0.2), plain(bus) as client, living(bus, "a1") as agent:
        agent.kill()

        await eventually(lambda: "lost" in client.changes("a1"), within=5)
        assert said(client) == ["registered", "sign", "lost"]
        assert signs(client, "a1") == ["suspect"]
        assert "connection closed" in reason(client, "a1")


async def test_without_a_grace_it_is_lost_as_soon_as_its_connection_closed(bus):
    async with bus.served(disconnect_grace=0), plain(bus) as client, living(bus, "a1") as agent:
        agent.kill()

        await eventually(lambda: "lost" in client.changes("a1"), within=5)
        assert "connection closed" in reason(client, "a1")


async def test_a_frozen_agent_keeps_its_connection_and_is_not_suspected(bus):
    async with bus.served(disconnect_grace=0.1), plain(bus) as client, living(bus, "a1") as agent:
        agent.freeze()

        await asyncio.sleep(0.5)
        assert said(client) == ["registered"]


async def test_an_agent_with_two_connections_is_suspect_when_both_are_closed(bus):
    async with bus.served(disconnect_grace=0.2), plain(bus) as client, wire(bus) as one, wire(bus) as two:
        await register(client)
        for connection in (one, two):
            assert (await connection.hello("worker.a1"))["known"]

        await one.close()
        await asyncio.sleep(0.4)
        assert said(client) == ["registered"]

        await two.close()
        await eventually(lambda: "lost" in client.changes("a1"))
        assert said(client) == ["registered", "sign", "lost"]


async def test_a_connection_that_spoke_for_many_loses_them_all(bus):
    async with bus.served(disconnect_grace=0.1), plain(bus) as client, wire(bus) as one:
        for number in range(10):
            await register(client, f"a{number}")
            await one.hello(f"worker.a{number}")
        await register(client, "other")

        await one.close()

        await eventually(lambda: client.changes().count("lost") == 10)
        assert await liveness(client, "other") == "live"


@pytest.mark.parametrize("sign_of_life", ["a beat", "a new connection", "an update that is a beat", "a registration"])
async def test_a_sign_of_life_within_the_grace_clears_the_suspicion(bus, sign_of_life):
    async with bus.served(disconnect_grace=0.5), plain(bus) as client, wire(bus) as one, wire(bus) as two:
        await register(client, incarnation=5)
        await one.hello("worker.a1")
        await one.close()
        await eventually(lambda: signs(client, "a1") == ["suspect"])
        assert await liveness(client) == "suspect"

        match sign_of_life:
            case "a beat":
                await client.send("heartbeat.worker.a1")
            case "a new connection":
                await two.hello("worker.a1", incarnation=5)
            case "an update that is a beat":
                await client.ask("update.worker.a1", {"name": "new"}, beat="1")
            case "a registration":
                await register(client, incarnation=5)

        await eventually(lambda: signs(client, "a1") == ["suspect", "live"])
        await asyncio.sleep(0.7)
        assert "lost" not in client.changes("a1")
        assert await liveness(client) == "live"


async def test_who_came_back_on_a_new_connection_is_suspect_again_when_that_closes(bus):
    async with bus.served(disconnect_grace=0.2), plain(bus) as client, wire(bus) as one, wire(bus) as two:
        await register(client)
        await one.hello("worker.a1")
        await one.close()
        await eventually(lambda: signs(client, "a1") == ["suspect"])
        await two.hello("worker.a1")
        await eventually(lambda: signs(client, "a1") == ["suspect", "live"])

        await two.close()

        await eventually(lambda: "lost" in client.changes("a1"))
        assert signs(client, "a1") == ["suspect", "live", "suspect"]


@pytest.mark.parametrize("lost_by", ["its connection", "silence"])
async def test_a_lost_agent_that_says_hello_is_back(bus, lost_by):
    async with bus.served(disconnect_grace=0.1), plain(bus) as client, wire(bus) as one, wire(bus) as two:
        if lost_by == "silence":
            await register(client, ttl=0.5)
        else:
            await register(client)
            await one.hello("worker.a1")
            await one.close()
        await eventually(lambda: is_lost(client))

        await two.hello("worker.a1")

        await eventually(lambda: client.changes("a1") == ["registered", "lost", "recovered"])
        assert await liveness(client) == "live"


async def is_lost(client):
    return await liveness(client) == "lost"


async def test_who_stops_within_the_grace_is_not_lost(bus):
    async with bus.served(disconnect_grace=0.5), plain(bus) as client, wire(bus) as one:
        await register(client)
        await one.hello("worker.a1")
        await one.close()
        await eventually(lambda: signs(client, "a1") == ["suspect"])

        await client.ask("update.worker.a1", {"status": "stopped"})

        await asyncio.sleep(0.7)
        assert client.changes("a1") == ["registered", "updated"]
        assert await liveness(client) == "unknown"


async def test_an_agent_that_never_said_hello_is_suspected_by_no_connection(bus):
    async with bus.served(disconnect_grace=0), plain(bus) as client:
        async with plain(bus) as other:
            await register(other, "mute")
            await other.send("heartbeat.worker.mute")
        async with wire(bus) as one:
            await one.hello("worker.nobody")
            await one.close()

        await asyncio.sleep(0.3)
        assert said(client, "mute") == ["registered"]


async def test_a_forged_stamp_binds_nothing_but_the_real_connection(bus):
    async with bus.served(disconnect_grace=0.1), plain(bus) as client, wire(bus) as victim, wire(bus) as forger:
        for id in ("a1", "a2"):
            await register(client, id)
        await victim.hello("worker.a1")
        number, server = client.client.client_id, client.client._server_info["server_name"]
        stamp = b'{"server":"%s","id":%d,"acc":"AGENTS","start":"%s"}' % (
            server.encode(),
            number,
            b"2026-11-20T00:00:00Z",
        )

        await forger.hello("worker.a2", headers=b"Nats-Request-Info: " + stamp + b"\r\n")
        await forger.close()

        await eventually(lambda: "lost" in client.changes("a2"))
        assert said(client, "a1") == ["registered"]


@pytest.mark.parametrize("mess", [b"no header at all\r\n", b"Nats-Request-Info : x\r\n", b" folded\r\n", b"\r\n"])
async def test_two_forged_stamps_and_a_mess_bind_nothing_but_the_real_connection(bus, mess):
    """The server takes one stamp away and puts its own behind whatever else was sent."""
    async with bus.served(disconnect_grace=0.1), plain(bus) as client, wire(bus) as forger:
        await register(client)
        forged = b'Nats-Request-Info: {"server":"elsewhere","id":7,"acc":"AGENTS","start":"2026-11-20T00:00:00Z"}\r\n'

        await forger.hello("worker.a1", headers=forged + forged + mess)
        await forger.close()

        await eventually(lambda: "lost" in client.changes("a1"), within=3)


async def test_a_hello_of_another_life_binds_nothing(bus):
    async with bus.served(disconnect_grace=0), plain(bus) as client, wire(bus) as old, wire(bus) as newer:
        await register(client, incarnation=5)

        assert (await old.hello("worker.a1", incarnation=4))["superseded"]
        assert not (await newer.hello("worker.a1", incarnation=6))["known"]
        await old.close()
        await newer.close()

        await asyncio.sleep(0.3)
        assert said(client) == ["registered"]


async def test_the_connections_of_the_life_before_speak_for_an_agent_no_more(bus):
    async with bus.served(disconnect_grace=0), plain(bus) as client, wire(bus) as before:
        await register(client, incarnation=5, owner="fleet")
        await before.hello("worker.a1", incarnation=5)

        await register(client, incarnation=6, owner="fleet")
        await before.close()

        await asyncio.sleep(0.3)
        assert said(client) == ["registered", "registered"]


async def test_an_agent_that_left_is_not_lost_when_its_connection_closes(bus):
    async with bus.served(disconnect_grace=0), plain(bus) as client, wire(bus) as one:
        await register(client)
        await one.hello("worker.a1")
        await client.ask("deregister.worker.a1")

        await one.close()

        await asyncio.sleep(0.3)
        assert said(client) == ["registered", "deregistered"]


@pytest.mark.parametrize("end", ["close", "be_given_up"])
async def test_a_stopped_agent_is_neither_suspect_nor_lost_when_its_connection_ends(bus, end):
    async with bus.served(disconnect_grace=0), plain(bus) as client, wire(bus) as one:
        await register(client, status="stopped")
        await one.hello("worker.a1")

        await getattr(one, end)()

        await asyncio.sleep(0.3)
        assert said(client) == ["registered"]
        assert await liveness(client) == "unknown"


async def test_an_unowned_agent_without_a_connection_may_be_taken_over_at_once_by_a_newer_life(bus):
    async with bus.served(disconnect_grace=30), plain(bus) as client, wire(bus) as one:
        await register(client, incarnation=5)
        await one.hello("worker.a1", incarnation=5)
        assert (await register(client, incarnation=6))["error"] == "conflict"

        await one.close()
        await eventually(lambda: signs(client, "a1") == ["suspect"])

        assert (await register(client, incarnation=4))["error"] == "conflict"
        assert (await register(client, incarnation=6))["incarnation"] == 6
        assert await liveness(client) == "live"


async def test_who_is_given_up_by_the_server_is_suspect_and_lost_after_the_grace(bus):
    async with bus.served(disconnect_grace=0.2), plain(bus) as client, wire(bus) as one:
        await register(client)
        await one.hello("worker.a1")

        await one.be_given_up()

        await eventually(lambda: "lost" in client.changes("a1"))
        assert said(client) == ["registered", "sign", "lost"]
        assert "the server gave up its connection" in reason(client, "a1")


async def test_a_worker_that_starts_knows_the_connections_that_are_open_already(bus):
    async with AsyncExitStack() as stack:
        async with bus.served():
            agent = await stack.enter_async_context(living(bus, "a1"))
        async with bus.served(disconnect_grace=0.2), plain(bus) as client:
            agent.kill()

            await eventually(lambda: "lost" in client.changes("a1"), within=5)
            assert signs(client, "a1") == ["suspect"]
            assert "connection closed" in reason(client, "a1")


async def test_a_standby_that_takes_over_knows_the_connections(bus):
    async with bus.registry() as registry, plain(bus) as client, wire(bus) as one, AsyncExitStack() as first:
        await first.enter_async_context(bus.worker("w1"))
        await leads(registry)
        async with bus.worker("w2", disconnect_grace=0.2):
            await register(client)
            await one.hello("worker.a1")
            await first.aclose()
            await eventually(lambda: leads_now(registry, "w2"))

            await one.close()

            await eventually(lambda: "lost" in client.changes("a1"), within=5)
            assert said(client) == ["registered", "sign", "lost"]


async def test_whoever_died_while_nobody_led_is_found_by_the_next_leader(bus):
    async with bus.registry() as registry, plain(bus) as client, wire(bus) as one, AsyncExitStack() as first:
        await first.enter_async_context(bus.worker("w1", disconnect_grace=30))
        await leads(registry)
        async with bus.worker("w2", disconnect_grace=0.2):
            await register(client)
            await one.hello("worker.a1")
            await one.close()
            await eventually(lambda: signs(client, "a1") == ["suspect"])

            await first.aclose()

            await eventually(lambda: "lost" in client.changes("a1"), within=5)


async def leads_now(registry, name):
    try:
        return (await registry.info())["leader"] == name
    except rollcall.Unavailable:
        return False

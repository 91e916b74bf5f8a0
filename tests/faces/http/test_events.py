"""Events over HTTP: every change once and in order, whatever happens to client, face, worker or bus."""

import asyncio
import contextlib
import json
import os
import random
import socket
import time
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import pytest

from rollcall import Registry, Watch
from rollcall.bus import streams
from rollcall.bus.connection import request
from rollcall.embedded import running
from rollcall.faces.http import events
from tests.conftest import Bus, eventually, leads
from tests.faces.http.opened import beside, face, opened
from tests.faces.http.sse import watching


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """There is one worker, and it answers at once."""
    monkeypatch.setattr("rollcall.sdk.workers.WAIT", 0.05)


async def metric(http, name):
    """What one metric of the face says."""
    lines = (await http.get("/metrics")).text.splitlines()
    return next(float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{name} "))


def told(changes):
    return [(change.name, change.data["id"]) for change in changes]


# What is told


async def test_a_watch_tells_where_it_begins_and_then_every_change(bus):
    async with opened(bus) as one, watching(one.client) as stream:
        begin = await stream.next()
        entry = await one.registry.register("w", "a1", version="1")
        await one.registry.update("w", "a1", {"version": "2"})
        await one.registry.deregister("w", "a1", reason="done")
        registered, updated, gone = await stream.changes(3)

        assert (begin.name, begin.revision) == ("position", 0)
        assert registered.id == f"{registered.data['epoch']}:{entry.revision}"
        assert told([registered, updated, gone]) == [("registered", "a1"), ("updated", "a1"), ("deregistered", "a1")]
        assert [one.revision for one in (registered, updated, gone)] == [1, 2, 3]
        assert (updated.data["record"]["version"], gone.data["reason"]) == ("2", "done")
        assert {"kind", "role", "id", "revision", "epoch", "at", "reason", "record"} == set(updated.data)


async def test_an_event_says_the_same_as_since_and_history(bus):
    async with opened(bus) as one, watching(one.client) as stream:
        begin = await stream.next("position")
        await one.registry.register("w", "a1", metadata={"text": "line\nbreak\r\n\u2028 é"})
        change = await stream.next("registered")

        epoch, _, revision = begin.id.rpartition(":")
        since = (await one.client.get("/v1/since", params={"epoch": epoch, "revision": revision})).json()
        history = (await one.client.get("/v1/agents/a1/history")).json()
        assert [change.data] == since["changes"] == history["changes"]


async def test_a_watch_of_a_role_tells_nothing_of_others(bus):
    async with opened(bus) as one, watching(one.client, role="w/x") as stream:
        await stream.next("position")
        await one.registry.register("other", "b1")
        await one.registry.register("w/x", "a1")
        await one.registry.update("other", "b1", {"version": "2"})
        await one.registry.deregister("w/x", "a1")

        assert told(await stream.changes(2)) == [("registered", "a1"), ("deregistered", "a1")]


async def test_a_loss_and_a_recovery_are_told(bus):
    async with opened(bus) as one, watching(one.client) as stream:
        await one.registry.register("w", "a1", ttl=0.5)

        assert told(await stream.changes(2)) == [("registered", "a1"), ("lost", "a1")]
        await one.client.post("/v1/agents/a1/heartbeat")
        assert told(await stream.changes(1)) == [("recovered", "a1")]


async def test_a_quiet_connection_is_kept_open_by_comments(bus, monkeypatch):
    monkeypatch.setattr(events, "BEAT", 0.05)
    async with opened(bus) as one, watching(one.client) as stream:
        await stream.next("position")

        assert [(await anext(stream)).name for _ in range(3)] == [":", ":", ":"]


async def test_who_watches_a_quiet_role_knows_how_far_it_is(bus, monkeypatch):
    """Else it would have to read the whole history of the others when it comes back."""
    monkeypatch.setattr(events, "BEAT", 0.05)
    async with opened(bus) as one, watching(one.client, role="w") as stream:
        await stream.next("position")
        await one.registry.register("other", "b1")

        async with asyncio.timeout(10):
            while not stream.last.endswith(":1"):
                assert (await anext(stream)).name == ":"


async def test_a_view_that_cannot_be_trusted_is_told_and_so_is_its_end(bus, monkeypatch):
    monkeypatch.setattr(events, "BEAT", 0.05)
    monkeypatch.setattr("rollcall.sdk.watch.STALE_AFTER", 2.5)
    async with AsyncExitStack() as stack:
        worker = await stack.enter_async_context(AsyncExitStack())
        await worker.enter_async_context(bus.worker())
        registry = await stack.enter_async_context(bus.registry())
        await leads(registry)
        url = await stack.enter_async_context(face(bus))
        http = await stack.enter_async_context(httpx.AsyncClient(base_url=url, timeout=20))
        stream = await stack.enter_async_context(watching(http))
        await stream.next("position")

        await worker.aclose()
        assert (await stream.next("state")).data == {"state": "stale"}
        await stack.enter_async_context(bus.worker())

        assert (await stream.next("state")).data == {"state": "current"}


async def test_a_watch_of_what_cannot_be_is_refused(bus):
    async with opened(bus) as one:
        for asked in ("role=%00", "role=" + "r" * 129, "since=x", "since=1", "since=:1", "since=a:-1"):
            answer = await one.client.get(f"/v1/watch?{asked}")
            assert (answer.status_code, answer.json()["code"]) == (400, "invalid"), asked


# Coming back


async def test_who_comes_back_goes_on_where_it_was(bus):
    async with opened(bus) as one:
        async with watching(one.client) as stream:
            await one.registry.register("w", "a1")
            await stream.changes(1)
        await one.registry.register("other", "b1")
        await one.registry.register("w", "a2")

        async with watching(one.client, stream.last) as by_header, watching(one.client, since=stream.last) as by_query:
            assert told(await by_header.changes(2)) == [("registered", "b1"), ("registered", "a2")]
            assert told(await by_query.changes(2)) == [("registered", "b1"), ("registered", "a2")]
        async with watching(one.client, stream.last, role="w") as of_role:
            assert told(await of_role.changes(1)) == [("registered", "a2")]


async def test_who_comes_back_to_the_same_address_goes_on_where_it_was_last(bus):
    """An EventSource keeps its address and adds the header."""
    async with opened(bus) as one:
        async with watching(one.client) as stream:
            start = (await stream.next("position")).id
            await one.registry.register("w", "a1")
            await stream.changes(1)
        await one.registry.register("w", "a2")

        async with watching(one.client, stream.last, since=start) as again:
            assert told(await again.changes(1)) == [("registered", "a2")]


async def test_another_face_goes_on_from_the_registrys_history(bus):
    async with opened(bus) as one:
        async with watching(one.client) as stream:
            start = (await stream.next("position")).id
        await one.registry.register_many({"role": "w", "id": f"a{n:03}"} for n in range(30))

        async with face(bus) as url, httpx.AsyncClient(base_url=url, timeout=20) as other:
            async with watching(other, start) as late, watching(other, start, role="w") as of_role:
                await one.registry.register("w", "last")
                expected = [*range(1, 32)]
                assert [change.revision for change in await late.changes(31)] == expected
                assert [change.revision for change in await of_role.changes(31)] == expected


async def test_who_is_ahead_of_a_face_is_told_nothing_twice(bus):
    """Another face may be faster: what the client was told there is not told again here."""
    async with opened(bus) as one:
        async with watching(one.client) as stream:
            epoch = (await stream.next("position")).id.rpartition(":")[0]

        async with watching(one.client, f"{epoch}:2") as ahead, watching(one.client, f"{epoch}:2", role="w") as of_role:
            await eventually(lambda: _watchers(one.client, 2))
            for n in range(1, 4):
                await one.registry.register("w", f"a{n}")

            assert told(await ahead.changes(1)) == told(await of_role.changes(1)) == [("registered", "a3")]


async def _watchers(http, count):
    return await metric(http, "rollcall_http_watchers") == count


async def test_what_is_no_longer_kept_here_comes_from_the_registry(bus, monkeypatch):
    monkeypatch.setattr(events, "KEPT", 5)
    async with opened(bus) as one:
        async with watching(one.client) as stream:
            start = (await stream.next("position")).id
            await one.registry.register_many({"role": "w", "id": f"a{n:03}"} for n in range(20))
            await stream.changes(20)

        for behind in (20, 6, 5, 4, 1):
            async with watching(one.client, f"{start.rpartition(':')[0]}:{20 - behind}") as again:
                assert [change.revision for change in await again.changes(behind)] == [*range(21 - behind, 21)]


@pytest.mark.parametrize("kept", [10_000, 10], ids=["kept here", "from history"])
async def test_who_was_away_for_long_gets_everything_in_the_end(bus, monkeypatch, kept):
    """However much was missed: coming back again and again with the last id gets on."""
    monkeypatch.setattr(events, "MOST_WAITING", 40)
    monkeypatch.setattr(events, "KEPT", kept)
    async with opened(bus) as one:
        async with watching(one.client) as stream:
            last = (await stream.next("position")).id
        await one.registry.register_many({"role": "w", "id": f"a{n:03}"} for n in range(200))
        seen = []

        for _ in range(20):
            async with watching(one.client, last) as again:
                async with asyncio.timeout(10):
                    while len(seen) < 200:
                        event = await again.next()
                        if event.name == "dropped":
                            break
                        seen.append(event.revision)
                last = again.last or last
            if len(seen) == 200:
                break

        assert seen == [*range(1, 201)]


async def test_no_gap_and_no_duplicate_across_many_reconnects_while_changes_pour_in(bus, monkeypatch):
    monkeypatch.setattr(events, "KEPT", 60)
    chance = random.Random(7)
    async with opened(bus) as one, face(bus) as second:
        clients = [one.client, httpx.AsyncClient(base_url=second, timeout=20)]
        async with watching(one.client) as stream:
            start = (await stream.next("position")).id
        total = 400

        async def pour():
            for n in range(0, total, 4):
                role = "w" if n % 8 else "other"
                await one.registry.register_many({"role": role, "id": f"a{n + k:03}"} for k in range(4))

        async def follow(enough, **asked):
            last, seen, visits = start, [], 0
            while not enough(seen):
                visits += 1
                async with watching(chance.choice(clients), last, **asked) as stream:
                    for _ in range(chance.randrange(1, 30)):
                        if enough(seen):
                            break
                        seen.append(await stream.next())
                    last = stream.last
            assert visits > 5
            return seen

        async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
            tasks.create_task(pour())
            everything = [tasks.create_task(follow(lambda seen: len(seen) == total)) for _ in range(4)]
            of_role = [tasks.create_task(follow(lambda seen: len(seen) == total // 2, role="w")) for _ in range(2)]
        await clients[1].aclose()

        order = [change.id for change in (await one.registry.since(_position(start))).changes]
        assert len(order) == total
        for seen in everything:
            assert [event.revision for event in seen.result()] == [*range(1, total + 1)]
            assert [event.data["id"] for event in seen.result()] == order
        of_w = [id for id in order if (int(id[1:]) // 4) % 2]
        for seen in of_role:
            assert [event.data["id"] for event in seen.result()] == of_w


def _position(id):
    found = events.position(id)
    assert found is not None
    return found


async def test_a_position_of_another_roll_is_told_the_agents_as_they_are(bus):
    async with opened(bus) as one:
        await one.registry.register("w", "a1")
        await one.registry.register("other", "b1")

        async with (
            watching(one.client, "another:77") as stream,
            watching(one.client, "another:77", role="w") as of_role,
        ):
            reset, of_w = await stream.next(), await of_role.next()
            await one.registry.register("w", "a2")

            assert (reset.name, reset.revision) == ("reset", 2)
            assert sorted(agent["id"] for agent in reset.data["agents"]) == ["a1", "b1"]
            assert "another:77" in reset.data["reason"]
            assert [agent["id"] for agent in of_w.data["agents"]] == ["a1"]
            assert told(await stream.changes(1)) == told(await of_role.changes(1)) == [("registered", "a2")]


async def test_a_change_in_the_middle_of_a_reset_is_not_lost(bus, monkeypatch):
    """Very many agents come in pages; who changes between two pages is told afterwards."""
    asked = Registry._ask
    async with opened(bus) as one:
        await one.registry.register_many(({"role": "w", "id": f"a{n:04}"} for n in range(1001)), timeout=30)
        between = []

        async def slowly(registry, subject, body, timeout):
            if not between and registry is not one.registry and json.loads(body or b"{}").get("cursor"):
                between.append(await one.registry.update("w", "a0000", {"version": "2"}))
            return await asked(registry, subject, body, timeout)

        monkeypatch.setattr(Registry, "_ask", slowly)
        async with watching(one.client, "another:1") as stream:
            reset = await stream.next("reset")
            known = {agent["id"]: agent.get("version", "") for agent in reset.data["agents"]}
            await one.registry.register("w", "last")
            async with asyncio.timeout(10):
                while "last" not in known:
                    change = (await stream.changes(1))[0]
                    known[change.data["id"]] = change.data["record"].get("version", "")

        assert len(between) == 1
        assert (len(known), known["a0000"]) == (1002, "2")


# What may happen to the rest


async def test_a_watch_outlives_a_restart_of_the_worker(bus):
    async with AsyncExitStack() as stack:
        worker = await stack.enter_async_context(AsyncExitStack())
        await worker.enter_async_context(bus.worker())
        registry = await stack.enter_async_context(bus.registry())
        await leads(registry)
        url = await stack.enter_async_context(face(bus))
        http = await stack.enter_async_context(httpx.AsyncClient(base_url=url, timeout=20))
        stream = await stack.enter_async_context(watching(http))
        await registry.register("w", "a1")

        await worker.aclose()
        await stack.enter_async_context(bus.worker("w2"))
        await leads(registry)
        await registry.register("w", "a2")

        assert [change.revision for change in await stream.changes(2)] == [1, 2]


async def test_a_watch_outlives_a_restart_of_the_bus(tmp_path):
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(AsyncExitStack())
        first = await server.enter_async_context(running(tmp_path / "nats"))
        bus = Bus(first, f"restart-{os.getpid()}", tmp_path)
        one = await stack.enter_async_context(opened(bus))
        stream = await stack.enter_async_context(watching(one.client))
        await one.registry.register("w", "a1")
        assert told(await stream.changes(1)) == [("registered", "a1")]

        await server.aclose()
        await stack.enter_async_context(running(tmp_path / "nats"))

        async def registered():
            answer = await one.client.post("/v1/agents", json={"role": "w", "id": "a2", "incarnation": 1})
            return answer.status_code == 201

        await eventually(registered, within=30)
        async with asyncio.timeout(20):
            assert told(await stream.changes(1)) == [("registered", "a2")]
        async with watching(one.client, stream.last) as again:
            await one.registry.register("w", "a3")
            assert told(await again.changes(1)) == [("registered", "a3")]


async def test_whoever_watches_knows_who_is_gone_when_the_roll_was_made_anew(bus, monkeypatch):
    """While nothing was heard three agents left and the roll was replaced: the view is right again by itself."""
    heard, beacons, deaf = Watch._on_change, Watch._on_beacon, []

    async def on_change(watch, message):
        await (asyncio.sleep(0) if deaf else heard(watch, message))

    async def on_beacon(watch, message):
        await (asyncio.sleep(0) if deaf else beacons(watch, message))

    monkeypatch.setattr(Watch, "_on_change", on_change)
    monkeypatch.setattr(Watch, "_on_beacon", on_beacon)
    async with opened(bus) as one, bus.worker_connection() as inside, AsyncExitStack() as stack:
        stream = await stack.enter_async_context(watching(one.client))
        for n in range(6):
            await one.registry.register("w", f"a{n}")
        known = {change.data["id"] for change in await stream.changes(6)}
        deaf.append(True)
        for n in range(3):
            await one.registry.deregister("w", f"a{n}")
        epoch = (await one.registry.info())["epoch"]
        await streams.request(inside, f"STREAM.DELETE.{bus.subjects.roll_stream}")

        async def healed():
            info = await one.registry.info()
            return info["epoch"] != epoch and info["leader"]

        await eventually(healed, within=30)
        deaf.clear()
        await eventually(lambda: _registers(one.client, "last"))
        async with asyncio.timeout(20):
            while "last" not in known:
                event = await stream.next()
                if event.name == "dropped":
                    stream = await stack.enter_async_context(watching(one.client, stream.last))
                elif event.name == "reset":
                    known = {agent["id"] for agent in event.data["agents"]}
                elif event.name == "deregistered":
                    known.discard(event.data["id"])
                elif event.name in ("registered", "updated"):
                    known.add(event.data["id"])

        assert known == {"a3", "a4", "a5", "last"}


async def _registers(http, id):
    answer = await http.post("/v1/agents", json={"role": "w", "id": id, "incarnation": 1})
    return answer.status_code == 201


async def test_a_bus_that_stumbles_while_listening_begins_does_not_end_the_events(bus, monkeypatch):
    begun, stumbles = Watch.open, [TimeoutError("nats: flush timeout"), ConnectionResetError("gone")]

    async def stumbling(watch):
        if stumbles:
            raise stumbles.pop()
        return await begun(watch)

    monkeypatch.setattr(Watch, "open", stumbling)
    async with opened(bus) as one, watching(one.client) as stream:
        await stream.next("position")
        await one.registry.register("w", "a1")

        assert told(await stream.changes(1)) == [("registered", "a1")]


# Many and slow ones


async def subscriptions(inside, name):
    """How many subscriptions the face's connections hold on the bus."""
    reply = await request(inside, "$SYS.REQ.ACCOUNT.AGENTS.CONNZ", b'{"auth": true, "limit": 1024}', timeout=5)
    mine = [one for one in json.loads(reply.data)["data"]["connections"] if one.get("name", "").startswith(name)]
    return len(mine), sum(one["subscriptions"] for one in mine)


async def test_one_subscription_serves_any_number_of_watchers(bus):
    async with opened(bus) as one, bus.worker_connection() as inside, AsyncExitStack() as stack:
        name = f"rollcall-http:{bus.realm}:"
        first = await stack.enter_async_context(watching(one.client))
        await first.next("position")
        before = await subscriptions(inside, name)

        limits = httpx.Limits(max_connections=None)
        http = await stack.enter_async_context(httpx.AsyncClient(base_url=one.url, timeout=20, limits=limits))
        many = [await stack.enter_async_context(watching(http, role=f"r{n % 3}")) for n in range(100)]
        for stream in many:
            await stream.next("position")
        during = await subscriptions(inside, name)
        assert await metric(one.client, "rollcall_http_watchers") == 101
        for n in range(3):
            await one.registry.register(f"r{n}", f"a{n}")

        assert before == during
        assert before[0] == 1
        for n, stream in enumerate(many):
            assert told(await stream.changes(1)) == [("registered", f"a{n % 3}")]


async def test_a_client_that_goes_is_forgotten(bus):
    async with opened(bus) as one:
        async with watching(one.client) as stream:
            await stream.next("position")
            assert await metric(one.client, "rollcall_http_watchers") == 1

        async def none():
            return await metric(one.client, "rollcall_http_watchers") == 0

        await eventually(none)
        assert await metric(one.client, "rollcall_http_watchers_dropped_total") == 0


def silent_watcher(address):
    """A client that asks for events and takes as few bytes as it can."""
    plain = socket.socket()
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    plain.connect(address)
    plain.sendall(b"GET /v1/watch HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
    return plain


async def pour(one, until):
    """Large changes until it is so; says how many."""
    blob = {"blob": "x" * 50_000}
    for number in range(600):
        if await until():
            return number
        await one.registry.update("w", "a1", {"metadata": {**blob, "n": number}})
    raise AssertionError("never")


def open_sockets():
    links = []
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            links.append(str(link.readlink()))
    return sum(link.startswith("socket:") for link in links)


async def test_a_watcher_that_never_reads_is_dropped_and_harms_nobody(bus, monkeypatch):
    monkeypatch.setattr(events, "MOST_WAITING", 50)
    monkeypatch.setattr(events, "SEND_WITHIN", 0.5)
    async with opened(bus) as one, watching(one.client) as healthy:
        await healthy.next("position")
        await one.registry.register("w", "a1")
        seen = []

        async def follow():
            while True:
                seen.append((await healthy.changes(1))[0].revision)

        await one.client.get("/v1/info")
        before = open_sockets()
        async with beside(follow()):
            with silent_watcher(one.address) as silent:
                await eventually(lambda: open_sockets() >= before + 2)
                slowest = 0.0
                last = [0.0]

                async def dropped():
                    nonlocal slowest
                    started = time.monotonic()
                    assert (await one.client.get("/v1/discover/w?limit=1")).status_code == 200
                    slowest = max(slowest, time.monotonic() - started)
                    if time.monotonic() - last[0] < 1:
                        return False
                    last[0] = time.monotonic()
                    return await metric(one.client, "rollcall_http_watchers_dropped_total") == 1

                count = await pour(one, dropped)

                await eventually(lambda: len(seen) == count + 1)
                assert seen == [*range(1, count + 2)]
                assert slowest < 2
                assert await metric(one.client, "rollcall_http_watchers") == 1
                # Its connection is given up, although it never reads: only its own end is left.
                await eventually(lambda: open_sockets() <= before + 1, what="the socket of the slow client is closed")
                assert silent.fileno() >= 0


async def test_a_watcher_that_falls_behind_is_told_why_it_is_dropped_and_can_come_back(bus, monkeypatch):
    monkeypatch.setattr(events, "MOST_WAITING", 50)
    async with opened(bus) as one:
        await one.registry.register("w", "a1")
        reader, writer = await asyncio.open_connection(sock=silent_watcher(one.address), limit=2**14)
        await reader.readuntil(b"event: position")

        for number in range(220):  # 11 MB: more than the buffers between the two hold
            await one.registry.update("w", "a1", {"metadata": {"blob": "x" * 50_000, "n": number}})
        said = await asyncio.wait_for(reader.read(), 20)
        writer.close()

        ending = said[said.rindex(b"event: dropped") :]
        last = said[said.rindex(b"\nid: ") :].split(b"\n")[1].removeprefix(b"id: ").decode()
        assert b"too slow" in ending and b"Last-Event-ID" in ending
        behind = 221 - int(last.rpartition(":")[2])
        assert behind > 50
        async with watching(one.client, last) as again:
            event = (await again.changes(1))[0]
            assert event.revision == 221 - behind + 1


# The end


async def test_a_watch_is_told_that_the_server_goes_and_holds_nobody_up(bus):
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(bus.served())
        serving = await stack.enter_async_context(AsyncExitStack())
        url = await serving.enter_async_context(face(bus))
        http = await stack.enter_async_context(httpx.AsyncClient(base_url=url, timeout=20))
        streams_ = [await stack.enter_async_context(watching(http)) for _ in range(3)]
        for stream in streams_:
            await stream.next("position")
        started = time.monotonic()

        rest = [asyncio.create_task(stream.rest()) for stream in streams_]
        await serving.aclose()

        assert time.monotonic() - started < 3
        for one in rest:
            assert [(event.name, "going down" in event.data["reason"]) for event in await one] == [("dropped", True)]


async def test_a_client_that_never_reads_does_not_hold_up_the_end(bus, monkeypatch):
    monkeypatch.setattr(events, "SEND_WITHIN", 0.3)
    async with AsyncExitStack() as stack:
        registry = await stack.enter_async_context(bus.served())
        await registry.register("w", "a1")
        serving = await stack.enter_async_context(AsyncExitStack())
        url = await serving.enter_async_context(face(bus))
        http = await stack.enter_async_context(httpx.AsyncClient(base_url=url, timeout=20))
        host, port = url.removeprefix("http://").split(":")
        stack.enter_context(silent_watcher((host, int(port))))

        async def watches():
            return await metric(http, "rollcall_http_watchers") == 1

        await eventually(watches)
        for number in range(200):
            await registry.update("w", "a1", {"metadata": {"blob": "x" * 50_000, "n": number}})

        started = time.monotonic()
        await serving.aclose()

        assert time.monotonic() - started < 5

"""The protocol by hand: what any client in any language can rely on."""

import asyncio
import json

from rollcall.bus import streams
from rollcall.core.instants import instant
from tests.bus.plain import plain
from tests.conftest import eventually


async def test_a_plain_publish_registers_an_agent_also_while_no_worker_runs(bus):
    async with bus.worker(), plain(bus):
        pass
    async with plain(bus) as client:
        await client.client.publish(f"{client.root}.register.worker.a1", b'{"name":"a1"}')
        await client.client.flush()

        async with bus.worker():
            await eventually(lambda: client.changes("a1") == ["registered"])
            assert (await client.question("get.a1"))["name"] == "a1"


async def test_an_outcome_is_the_entry_and_goes_only_to_the_one_who_asked(bus):
    async with bus.served(), plain(bus) as client, plain(bus) as other:
        entry = await client.ask("register.wor=20ker.a=2F1", {"name": "x", "capabilities": ["ocr"]})

        assert entry["id"] == "a/1"
        assert entry["role"] == "wor ker"
        assert (entry["revision"], entry["liveness"]) == (1, "live")
        assert entry["last_seen"] == entry["registered_at"]
        assert entry["subject"].endswith(f".outcome.{client.token}.wor=20ker.a=2F1")
        assert not [m for m in other.heard if ".outcome." in m.subject]


async def test_a_change_is_broadcast_with_what_a_watcher_needs(bus):
    async with bus.served(), plain(bus) as client:
        await client.ask("register.worker.a1", {"name": "x"})
        await client.ask("deregister.worker.a1", {"reason": "done — näher"})

        first, last = [m for m in client.heard if ".changes." in m.subject]
        assert first.subject.endswith(".changes.worker.a1")
        assert first.headers["Rollcall-Change"] == "registered"
        assert first.headers["Nats-Sequence"] == "1"
        assert first.headers["Rollcall-Epoch"] == (await client.question("info"))["epoch"]
        assert last.headers["Rollcall-Change"] == "deregistered"
        assert last.headers["KV-Operation"] == "PURGE"
        assert json.loads(last.data)["name"] == "x"
        history = (await client.question("history.a1"))["changes"]
        assert [change["kind"] for change in history] == ["registered", "deregistered"]
        assert history[1]["reason"] == "done — näher"


async def test_every_answer_says_worker_epoch_revision_and_guard(bus):
    async with bus.served(), plain(bus) as client:
        await client.ask("register.worker.a1", {"name": "x"})
        for subject in ("discover.worker", "discover.nobody", "get.a1", "get.nobody", "list", "history.a1", "since"):
            answer = await client.question(subject)
            assert {"worker", "epoch", "revision", "guard"} <= answer.keys(), subject


async def test_the_worker_is_a_micro_service_with_its_endpoints(bus):
    async with bus.served(), plain(bus) as client:
        inbox, heard = client.client.new_inbox(), []

        async def hear(message):
            heard.append(json.loads(message.data))

        await client.client.subscribe(inbox, cb=hear)
        await client.client.publish("$SRV.INFO.rollcall", reply=inbox)
        mine = await eventually(lambda: next((i for i in heard if i["metadata"]["realm"] == bus.realm), None))
        assert {endpoint["name"] for endpoint in mine["endpoints"]} == {
            "discover",
            "get",
            "list",
            "history",
            "since",
            "asof",
            "messages",
            "info",
        }


async def test_hello_tells_the_known_the_unknown_and_the_superseded_apart(bus):
    async with bus.served(), plain(bus) as client:
        answer = await client.question("hello.worker.a1", {"incarnation": 5})
        assert (answer["known"], answer["superseded"]) == (False, False)

        await client.ask("register.worker.a1", {"name": "x", "incarnation": 5})

        answer = await client.question("hello.worker.a1", {"incarnation": 5})
        assert (answer["known"], answer["superseded"], answer["revision"]) == (True, False, 1)
        answer = await client.question("hello.worker.a1", {"incarnation": 4})
        assert (answer["known"], answer["superseded"]) == (False, True)
        assert (await client.question("hello.worker.a1"))["known"]
        assert (await client.question("hello.worker.=41"))["error"] == "invalid"


async def test_beats_renew_leases_carry_health_and_belong_to_one_life(bus):
    async with bus.served(), plain(bus) as client:
        await client.ask("register.worker.a1", {"name": "x", "incarnation": 5, "ttl": 60})
        first = await client.question("get.a1")

        await client.send("heartbeat.worker.a1", {"incarnation": 4, "cpu_percent": 99})
        await client.send("heartbeat.worker.a1", {"incarnation": 5, "cpu_percent": 12.5, "loop_lag": 0.1, "new": 1})

        async def healthy():
            return (await client.question("get.a1")).get("health")

        assert (await eventually(healthy))["cpu_percent"] == 12.5
        entry = await client.question("get.a1")
        assert entry["expires_at"] > first["expires_at"]
        assert entry["last_seen"] > first["last_seen"]
        assert entry["revision"] == first["revision"]


async def test_a_combined_beat_counts_for_agents_of_that_host_only(bus):
    async with bus.served(), plain(bus) as client:
        for id, host in (("a1", "h1"), ("a2", "h2")):
            await client.ask(f"register.worker.{id}", {"name": id, "ttl": 0.6, "host": host})

        async def beat_and_look():
            await client.send("heartbeats.h1", b'[["worker.a1",0],["worker.a2",0]]')
            return "lost" in client.changes("a2")

        await eventually(beat_and_look)
        assert "lost" not in client.changes("a1")


async def test_a_silent_agent_is_suspect_then_lost_and_recovers_with_a_beat(bus):
    async with bus.served(), plain(bus) as client:
        await client.ask("register.worker.a1", {"name": "x", "ttl": 0.9})
        await eventually(lambda: "lost" in client.changes("a1"))
        signs = [json.loads(m.data)["liveness"] for m in client.heard if ".signs." in m.subject]
        assert signs == ["suspect"]
        assert (await client.question("discover.worker"))["count"] == 0
        lost = await client.question("get.a1")
        assert (lost["liveness"], bool(lost["lost_at"])) == ("lost", True)

        await client.send("heartbeat.worker.a1")

        await eventually(lambda: "recovered" in client.changes("a1"))
        assert (await client.question("get.a1"))["liveness"] == "live"


async def test_a_stuck_agent_is_told_and_not_removed(bus):
    async with bus.served(), plain(bus) as client:
        await client.ask("register.worker.a1", {"name": "x"})
        await client.send("heartbeat.worker.a1", {"loop_lag": 7.5})
        await eventually(lambda: [m for m in client.heard if ".signs." in m.subject])
        entry = await client.question("get.a1")
        assert (entry["liveness"], entry["stuck_for"]) == ("stuck", 7.5)

        await client.send("heartbeat.worker.a1", {"loop_lag": 0.0})
        await eventually(lambda: len([m for m in client.heard if ".signs." in m.subject]) == 2)
        assert (await client.question("get.a1"))["liveness"] == "live"


async def test_an_update_may_carry_a_beat(bus):
    async with bus.served(), plain(bus) as client:
        first = await client.ask("register.worker.a1", {"name": "x", "ttl": 60})
        await asyncio.sleep(0.02)

        second = await client.ask("update.worker.a1", {"name": "y"}, beat="1")
        await asyncio.sleep(0.02)
        third = await client.ask("update.worker.a1", {"name": "z"})

        assert second["expires_at"] > first["expires_at"]
        assert second["last_seen"] > first["last_seen"]
        # The wall clock and the monotonic one are read in turn, so the same end may be told a millisecond apart.
        assert abs(instant(third["expires_at"]) - instant(second["expires_at"])) <= 5


async def test_a_tombstone_ends_without_bringing_anybody_back(bus):
    async with bus.served(tombstone_ttl=2), plain(bus) as client, bus.worker_connection() as inside:
        await client.ask("register.worker.a1", {"name": "first"})
        for number in range(5):
            await client.ask("update.worker.a1", {"name": f"name {number}"})
        await client.ask("deregister.worker.a1")
        assert await streams.subjects_held(inside, bus.subjects.roll_stream) == {bus.subjects.roll("worker.a1")}

        async def ended():
            return not await streams.subjects_held(inside, bus.subjects.roll_stream)

        await eventually(ended)
        assert (await client.question("list", {"include": ["all"], "status": ["all"]}))["count"] == 0
        assert client.changes("a1")[-1] == "deregistered"
        # Whether this worker has already forgotten the tombstone or not, a new life gets the place.
        assert (await client.ask("register.scout.a1", {"name": "second"}))["registered_seq"] > 1
        assert (await client.question("get.a1"))["role"] == "scout"


async def test_a_registration_on_a_tombstone_works_while_it_stands(bus):
    async with bus.served(), plain(bus) as client:
        await client.ask("register.worker.a1", {"name": "first"})
        await client.ask("deregister.worker.a1")

        assert (await client.ask("register.scout.a1", {"name": "second"}))["name"] == "second"
        assert (await client.question("discover.scout"))["count"] == 1
        assert (await client.question("discover.worker"))["count"] == 0


async def test_commands_of_one_agent_keep_their_order(bus):
    async with bus.served(), plain(bus) as client:
        names = [await client.send("register.worker.a1", {"name": "0"})]
        names += [await client.send("update.worker.a1", {"name": str(number)}) for number in range(1, 200)]
        names += [await client.send("deregister.worker.a1"), await client.send("update.worker.a1", {"name": "late"})]

        outcomes = [await client.outcome(name) for name in names]

        assert [outcome["revision"] for outcome in outcomes[:201]] == list(range(1, 202))
        assert outcomes[201]["error"] == "not_found"
        assert client.changes("a1") == ["registered"] + ["updated"] * 199 + ["deregistered"]


async def test_the_inbox_is_purged_up_to_the_position(bus, monkeypatch):
    monkeypatch.setattr("rollcall.worker.position.PURGE_EVERY", 0.3)
    async with bus.served(), plain(bus) as client, bus.worker_connection() as inside:
        for number in range(50):
            await client.ask(f"register.worker.a{number}", {"name": "x"})

        async def small():
            return (await streams.state(inside, bus.subjects.inbox_stream)).messages == 0

        await eventually(small, within=20)


async def test_the_beacon_tells_each_roles_last_revision(bus):
    async with bus.served(), plain(bus) as client:
        beacons = []

        async def hear(message):
            beacons.append(json.loads(message.data))

        await client.client.subscribe(f"{client.root}.beacon", cb=hear)
        await client.ask("register.worker.a1", {"name": "x"})
        await client.ask("register.scout.a2", {"name": "x"})

        await eventually(lambda: beacons and beacons[-1]["roles"] == {"worker": 1, "scout": 2})
        assert beacons[-1]["leader"] == "w1"


async def test_bounds_of_a_realm_are_told_as_busy(bus):
    async with bus.served(max_agents=2, max_roles=2), plain(bus) as client:
        await client.ask("register.worker.a1", {"name": "x"})
        await client.ask("register.scout.a2", {"name": "x"})

        assert (await client.ask("register.worker.a3", {"name": "x"}))["error"] == "busy"
        await client.ask("deregister.worker.a1")
        assert (await client.ask("register.third.a3", {"name": "x"}))["error"] == "busy"
        assert (await client.ask("register.worker.a3", {"name": "x"}))["revision"]


async def test_an_agent_can_touch_no_stream_whatever_it_publishes(bus):
    async with bus.served(), plain(bus) as client, bus.worker_connection() as inside:
        await client.ask("register.worker.a1", {"name": "x"})
        before = await streams.state(inside, bus.subjects.roll_stream)
        attempts = [
            (bus.subjects.roll("worker.a1"), b"{}", {"Nats-Rollup": "all"}),
            (bus.subjects.lease("leader"), b"{}", {}),
            (f"$JS.API.STREAM.PURGE.{bus.subjects.roll_stream}", b"", {}),
            (f"$JS.API.STREAM.DELETE.{bus.subjects.inbox_stream}", b"", {}),
            (f"{client.root}.register.worker.a9", b'{"name":"x"}', {"Nats-Rollup": "all"}),
            (f"{client.root}.register.worker.a8", b'{"name":"x"}', {"Nats-Schedule": "@at 2020-01-01T00:00:00Z"}),
            (f"{client.root}.changes.worker.a1", b'{"id":"a1"}', {"Rollcall-Change": "deregistered"}),
            (f"{client.root}.beacon", b"{}", {}),
        ]
        for subject, payload, headers in attempts:
            await client.client.publish(subject, payload, headers=headers)
            await client.client.publish(subject, payload, headers=headers, reply=bus.subjects.roll("worker.a1"))
        await client.client.flush()

        assert (await client.ask("register.worker.last", {"name": "x"}))["revision"] > 1
        entry = await client.question("get.a1")
        assert (entry["name"], entry["revision"]) == ("x", 1)
        after = await streams.state(inside, bus.subjects.roll_stream)
        assert (after.epoch, after.first) == (before.epoch, before.first)

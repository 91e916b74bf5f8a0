"""Faults that were found once, each as the rule it broke."""

import asyncio
import sqlite3
import threading
import time

import pytest
from msgspec import structs
from nats.aio.msg import Msg
from nats.errors import StaleConnectionError

import rollcall
from rollcall import ChangeKind, Position
from rollcall.bus import follow, streams
from rollcall.bus.connection import barrier, request, without_password
from rollcall.bus.follow import Follower
from rollcall.bus.roll import Roll
from rollcall.core.errors import Unauthorized
from rollcall.sdk.watch import ANYWHERE, Watch
from tests.bus.plain import plain
from tests.conftest import eventually, ids, leads


async def test_since_under_load_never_skips_a_change(bus):
    async with bus.served() as registry, bus.registry() as reader:
        epoch = (await registry.info())["epoch"]
        writing = asyncio.create_task(
            registry.register_many({"role": "worker", "id": f"a{number}"} for number in range(2000))
        )
        seen: list[int] = []
        position = Position(epoch, 0)
        while len(seen) < 2000:
            answer = await reader.since(position)
            seen += [change.revision for change in answer.changes]
            position = Position(epoch, answer.upto)
            assert answer.changes or not writing.done() or len(seen) == 2000, f"skipped after {position}"
        await writing
        assert seen == list(range(1, 2001))


async def test_the_beacon_of_a_restarted_worker_knows_each_roles_revision(bus):
    async with bus.served() as registry:
        await registry.register("worker", "a")
        page = await registry.discover("worker")
        await registry.update("worker", "a", {"name": "new"})
    async with bus.served() as registry:
        changed = await registry.discover("worker", if_revision=page.revision, epoch=page.epoch)
        assert (changed.not_modified, ids(changed)) == (False, ["a"])


async def test_a_role_that_is_gone_is_never_not_modified(bus):
    async with bus.served(tombstone_ttl=1) as registry:
        await registry.register("worker", "a")
        page = await registry.discover("worker")
        await registry.deregister("worker", "a")

        async def forgotten():
            return "worker" not in (await registry.info())["roles"]

        await eventually(forgotten)
        later = await registry.discover("worker", if_revision=page.revision, epoch=page.epoch)
        assert (later.not_modified, ids(later)) == (False, [])


@pytest.mark.parametrize("subject, payload", [("heartbeat.worker.a1", b""), ("heartbeats.h1", b'[["worker.a1", 0]]')])
async def test_a_beat_that_says_nothing_of_the_loop_ends_being_stuck(bus, subject, payload):
    async with bus.served() as registry, plain(bus) as client:
        await registry.register("worker", "a1", incarnation=0, host="h1")
        await client.send("heartbeat.worker.a1", {"loop_lag": 9})
        await eventually(lambda: _liveness(registry, "stuck"))

        await client.send(subject, payload)

        await eventually(lambda: _liveness(registry, "live"))


async def _liveness(registry, wanted):
    return (await registry.get("a1")).liveness == wanted


async def test_registering_again_with_other_content_renews_the_lease(bus):
    async with bus.served() as registry:
        first = await registry.register("worker", "a", incarnation=1)
        await asyncio.sleep(0.05)
        second = await registry.register("worker", "a", incarnation=1, labels={"new": "yes"})
        assert second.expires_at > first.expires_at


async def test_a_pick_of_large_records_fits_a_reply(bus):
    async with bus.served() as registry:
        big = {"role": "worker", "description": "x" * 4000, "metadata": {"a": "y" * 50_000}}
        await registry.register_many({**big, "id": f"a{number}"} for number in range(40))

        assert 10 < len(await registry.pick("worker", 40)) < 40
        page = await registry.discover("worker", explain=True)
        assert len(page) == 40


async def test_an_answer_never_repeats_the_headers_of_the_question(bus):
    async with bus.served(), plain(bus) as client:
        reply = await client.client.request(f"{client.root}.hello.worker.a1", b"{}", headers={"X-Mine": "1"})
        assert not reply.headers


async def test_an_agent_cannot_forge_what_the_registry_tells(bus):
    async with bus.served() as registry, bus.agent_connection() as attacker, registry.mirror("worker") as mirror:
        entry = await registry.register("worker", "a1", endpoints={"http": "http://true"})
        await mirror.wait_for(lambda m: "a1" in m)
        headers = {
            "Rollcall-Change": "deregistered",
            "Rollcall-Epoch": (await registry.info())["epoch"],
            "Nats-Sequence": str(entry.revision + 1),
            "Nats-Time-Stamp": "2026-11-20T00:00:00Z",
        }
        body = b'{"id":"a1","role":"worker","name":"a1","registered_at":"t","updated_at":"t"}'
        for subject in ("changes.worker.a1", "signs.worker.a1", "rejected.worker.a1", "beacon", "rollcall"):
            await attacker.publish(f"rollcall.{bus.realm}.{subject}", body, headers=headers)
        await attacker.flush()
        await registry.register("worker", "a2")
        await mirror.wait_for(lambda m: "a2" in m)
        assert mirror.get("a1").endpoints == {"http": "http://true"}


async def test_a_wrong_password_is_refused_at_once_and_never_shown(bus):
    url = bus.url.replace("nats://", "nats://somebody:s3cret@")
    started = time.monotonic()
    with pytest.raises(Unauthorized) as caught:
        async with rollcall.connect(url, timeout=20):
            pass
    assert time.monotonic() - started < 10
    assert "s3cret" not in str(caught.value)
    assert without_password("nats://u:p@a:1,nats://b:2") == "nats://a:1,nats://b:2"


async def test_a_worker_leaves_at_any_moment_of_its_term(bus):
    """Also in the very moment in which it wins the lease, or renews it."""
    for number in range(24):
        async with asyncio.timeout(10), bus.worker():
            await asyncio.sleep(number % 4 * 0.001 + number % 3 * 0.125)


async def test_many_that_nobody_answers_end_together(bus):
    async with bus.served() as registry:
        await registry.register("worker", "a")
    async with bus.registry() as registry:
        started = time.monotonic()
        outcomes = await registry.register_many(
            ({"role": "worker", "id": f"b{number}"} for number in range(50)), timeout=1
        )
        assert all(isinstance(outcome, rollcall.Unavailable) for outcome in outcomes)
        assert time.monotonic() - started < 10


async def test_saying_how_one_feels_is_heard_at_once(bus):
    async with bus.served() as registry, registry.agent("worker", "x", id="x1", ttl=600) as me:
        me.feel(active_connections=3)

        async def heard():
            health = (await registry.get("x1")).health
            return health is not None and health.active_connections == 3

        await eventually(heard, within=5)


async def test_seen_is_stored_while_agents_come(bus):
    """Storing when agents were seen walks over all of them, while more come."""
    async with bus.served() as registry:
        deadline = time.monotonic() + 2.5
        count = 0
        while time.monotonic() < deadline:
            outcomes = await registry.register_many(
                {"role": "worker", "id": f"a{number}"} for number in range(count, count + 500)
            )
            assert all(isinstance(outcome, rollcall.Entry) for outcome in outcomes)
            for number in range(count, count + 500, 10):
                await registry.heartbeat("worker", f"a{number}")
            count += 500
        assert (await registry.info())["agents"] == count


async def test_a_batch_that_ends_and_renews_an_agent_leaves_the_agent_on_disk(bus):
    async with bus.worker("w1"), bus.registry() as registry:
        await leads(registry)
        await registry.register("worker", "a", capabilities=["old"])
    async with bus.worker("w2"), bus.registry() as registry:
        await leads(registry)
        await registry.deregister("worker", "a")
        await registry.register("worker", "a", capabilities=["new"])
    for _ in range(2):  # once folded in one batch, and once more from the file alone
        async with bus.worker("w1"), bus.registry() as registry:
            await leads(registry)
            assert ids(await registry.list()) == ["a"]
            with pytest.raises(rollcall.Conflict):
                await registry.register("worker", "a", mode=rollcall.Mode.CREATE)
    with sqlite3.connect(f"file:{bus.home / 'w1.db'}?mode=ro", uri=True) as database:
        assert database.execute("SELECT capability, id FROM capabilities").fetchall() == [("new", "a")]
    database.close()


async def test_since_says_too_old_where_the_roll_gave_changes_up_meanwhile(bus):
    async with bus.worker("w1"), bus.registry() as registry:
        await leads(registry)
        first = await registry.register("worker", "a")
        epoch = (await registry.info())["epoch"]
    async with bus.worker("w2"), bus.registry() as registry:
        await leads(registry)
        for number in range(30):
            await registry.update("worker", "a", {"name": str(number)})
    async with bus.worker("w1"), bus.registry() as registry:
        await leads(registry)
        assert (await registry.since(Position(epoch, first.revision))).too_old


async def test_a_beat_that_crosses_the_word_lost_still_counts(bus, monkeypatch):
    """The broadcast is faster than the leader's own fold: whoever beats on hearing it is early."""
    async with bus.worker() as worker, bus.registry() as registry:
        await leads(registry)
        write = Roll.write

        async def write_then_hear(roll, key, data, lines, **options):
            await write(roll, key, data, lines, **options)
            if any(b"lost" in line for line in lines):
                await worker._beats._on_one(Msg(_client=None, subject=bus.subjects.heartbeat(key), data=b""))

        monkeypatch.setattr(Roll, "write", write_then_hear)
        await registry.register("worker", "a", ttl=0.6)

        async def recovered():
            return ChangeKind.RECOVERED in [change.kind for change in await registry.history("a")]

        await eventually(recovered, within=5)


async def test_a_dead_agent_that_others_update_is_lost_all_the_same(bus):
    async with bus.served() as registry:
        await registry.register("worker", "lively", ttl=1.5)
        await registry.register("worker", "silent", ttl=1.5)

        async def lost():
            await registry.heartbeat("worker", "lively")
            await registry.update("worker", "silent", {"labels": {"at": str(time.monotonic())}})
            return (await registry.get("silent")).lost_at

        await eventually(lost, within=8)
        assert (await registry.get("lively")).lost_at is None


async def test_of_two_lives_in_one_process_the_one_that_stays_goes_on_beating(bus):
    async with bus.served() as registry:
        first = registry.agent("worker", "x", id="same", ttl=1.5)
        await first.__aenter__()
        async with registry.agent("worker", "x", id="same", ttl=1.5, mode=rollcall.Mode.TAKEOVER):
            await first.__aexit__(None, None, None)
            await asyncio.sleep(2.5)  # longer than its ttl: only beats keep it
            assert (await registry.get("same")).liveness == "live"


async def test_an_agent_that_shortens_its_ttl_beats_faster(bus):
    async with bus.served() as registry, registry.agent("worker", "x", id="x1", ttl=60) as me:
        await me.update(ttl=1.0)
        await asyncio.sleep(2.0)  # twice the new ttl: only beats keep it
        assert (await registry.get("x1")).liveness == "live"


async def test_an_agent_that_is_cancelled_while_it_registers_leaves_no_ghost(bus):
    async with bus.served() as registry:
        cancelled = set()
        for number in range(8):
            entering = asyncio.create_task(registry.agent("worker", "x", id=f"x{number}", ttl=None).__aenter__())
            await asyncio.sleep(number * 0.0002)
            entering.cancel()
            await asyncio.wait((entering,))
            if entering.cancelled():
                cancelled.add(f"x{number}")
        await registry.register("scout", "last")
        assert cancelled
        assert cancelled.isdisjoint(ids(await registry.list()))


async def test_a_watch_that_is_cancelled_while_it_opens_deafens_nobody(bus):
    async with bus.served() as registry:
        for _ in range(20):
            opening = asyncio.create_task(registry.watch().open())
            await asyncio.sleep(0)
            opening.cancel()
            await asyncio.wait((opening,))
        assert await registry.info(timeout=5)


async def test_what_is_no_change_in_the_roll_blocks_nobody(bus):
    async with bus.served() as registry, bus.worker_connection() as inside:
        await registry.register("worker", "a")
        await inside.publish(bus.subjects.roll("worker.a"), b'{"stream":"x","seq":1}')
        await inside.publish(bus.subjects.roll("worker.b"), b"nonsense")
        await inside.flush()

        assert (await registry.update("worker", "a", {"name": "new"})).name == "new"
        assert (await registry.register("worker", "b")).id == "b"
        with pytest.raises(rollcall.NotFound):
            await registry.deregister("worker", "nobody")


async def test_an_agent_cannot_answer_for_the_registry(bus):
    async with bus.served() as registry, bus.agent_connection() as attacker:

        async def forge(message):
            await message.respond(b'{"agents":[],"count":0}')

        for subject in ("discover.*", "get.*", "list"):
            await attacker.subscribe(f"rollcall.{bus.realm}.{subject}", cb=forge, queue="rollcall")
        await attacker.flush()
        await registry.register("worker", "a")
        assert [len(await registry.discover("worker")) for _ in range(50)] == [1] * 50


async def test_only_a_roll_call_is_a_roll_call(bus, monkeypatch):
    answered = []
    monkeypatch.setattr(rollcall.Agent, "answer_roll_call", lambda _, window: answered.append(window))
    async with bus.served() as registry, registry.agent("worker", "x"), bus.agent_connection() as attacker:
        await eventually(lambda: calls(registry), what="a call beside the one that every new roll makes")
        await eventually(lambda: answered)
        before = len(answered)

        await attacker.publish(f"rollcall.{bus.realm}.info", reply=f"rollcall.{bus.realm}.rollcall")
        await barrier(attacker)
        await eventually(lambda: calls(registry))

        await eventually(lambda: len(answered) > before)
        assert len(answered) == before + 1


async def calls(registry):
    try:
        return await registry.call_roll()
    except rollcall.Busy:
        return None


def test_threads_that_still_ask_when_the_sync_block_ends_are_told(nats_server):
    ended = threading.Event()

    def ask(registry):
        try:
            while True:
                registry.info()
        except BaseException:
            ended.set()

    with rollcall.sync.connect(nats_server.url, realm="nobody-serves-here") as registry:
        thread = threading.Thread(target=ask, args=(registry,), daemon=True)
        thread.start()
    assert ended.wait(10)


async def test_whoever_hears_of_a_change_sees_it_in_the_next_answer(bus):
    async with bus.served() as registry, bus.registry() as other, other.watch("worker") as watch:
        for number in range(60):
            writing = asyncio.create_task(registry.register("worker", f"a{number}"))
            change = await anext(watch)
            assert change.id in ids(await other.discover("worker"))
            await writing


async def test_what_a_lagging_replica_does_not_hold_yet_is_not_taken_for_gone(bus, monkeypatch):
    """A consumer lives on one replica; the leader of the stream may be ahead of it."""
    stream = bus.subjects.inbox_stream
    async with bus.worker_connection() as inside:
        await streams.request(inside, f"STREAM.CREATE.{stream}", {"name": stream, "subjects": ["lagging.>"]})
        for _ in range(10):
            await inside.request("lagging.a", b"x", timeout=2)
        state = streams.state

        async def of_the_leader(client, name):
            return structs.replace(await state(client, name), last=20)

        async def next_at_the_leader(client, name, seq):
            return seq + 1 if seq < 20 else None

        monkeypatch.setattr(streams, "state", of_the_leader)
        monkeypatch.setattr(streams, "next_after", next_at_the_leader)
        follower, seen = Follower(inside, stream, 0), []

        async def read():
            async for batch in follower.batches():
                seen.extend(stored.seq for stored in batch)

        reading = asyncio.create_task(read())
        await eventually(lambda: seen == list(range(1, 11)))
        follower.begin_again("the bus was away")
        follower.expect(20)
        await asyncio.sleep(3 * follow.HEARTBEAT)
        assert (follower.upto, follower.current.is_set()) == (10, False)

        for _ in range(10):
            await inside.request("lagging.a", b"x", timeout=2)
        await eventually(lambda: follower.upto == 20 and follower.current.is_set())
        assert seen == list(range(1, 21))
        reading.cancel()


async def never_answers(_):
    """Hears a question."""


async def test_a_cancellation_that_comes_with_an_error_ends_the_task(bus):
    async with bus.worker_connection() as inside:
        await inside.subscribe("deaf", cb=never_answers)
        await barrier(inside)
        asking = asyncio.create_task(request(inside, "deaf", b"", timeout=30))
        await eventually(lambda: inside._resp_map)

        # As when the bus goes away: all questions fail, and terms end, in one moment.
        for waiting in inside._resp_map.values():
            waiting.set_exception(StaleConnectionError())
        asking.cancel()

        await asyncio.wait([asking], timeout=5)
        assert asking.cancelled()


async def test_a_change_that_was_lost_is_told_though_who_answers_is_behind(bus, monkeypatch):
    hear = Watch._on_change

    async def hear_all_but_the_second(self, message):
        if message.headers["Nats-Sequence"] != "2":
            await hear(self, message)

    monkeypatch.setattr(Watch, "_on_change", hear_all_but_the_second)
    async with bus.served() as registry, registry.watch() as watch:
        since = registry.since

        async def behind(position, **more):
            answer = await since(position, **more)
            if more.get("at_least", ANYWHERE).revision < 2:
                # A worker that is some milliseconds behind answers whoever does not say what it must know.
                return structs.replace(answer, told=(), upto=min(answer.upto, 1))
            return answer

        monkeypatch.setattr(registry, "since", behind)
        await registry.register_many({"role": "worker", "id": f"a{number}", "ttl": None} for number in range(3))

        told = [(await asyncio.wait_for(anext(watch), 10)).revision for _ in range(3)]
        assert sorted(told) == [1, 2, 3]

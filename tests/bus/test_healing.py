"""A roll that was lost is made anew from what workers know; nothing acknowledged is missing, and everybody is told."""

import asyncio
import json

import pytest

from rollcall.bus import headers as h
from rollcall.bus import shapes, streams
from rollcall.bus.subjects import key
from tests.conftest import eventually, ids, leads


async def delete(inside, *names):
    for name in names:
        await streams.request(inside, f"STREAM.DELETE.{name}")


async def healed_from(registry, epoch):
    """The state of the registry once it has another roll than that of `epoch`, and somebody leads."""

    async def other():
        info = await registry.info()
        return info if info["epoch"] != epoch and info["leader"] else None

    return await eventually(other, what=f"another roll than {epoch}")


async def test_a_roll_deleted_under_a_running_worker_is_made_anew_from_its_snapshot(bus):
    async with bus.served() as registry, bus.worker_connection() as inside:
        await registry.register_many({"role": "worker", "id": f"a{number}"} for number in range(300))
        await registry.deregister("worker", "a7")
        before = await registry.list()
        epoch = before.epoch

        await delete(inside, bus.subjects.roll_stream)

        info = await healed_from(registry, epoch)
        after = await registry.list()
        assert {one.id: one.incarnation for one in after} == {one.id: one.incarnation for one in before}
        assert min(one.revision for one in after) > max(one.revision for one in before)
        assert (info["healed"]["epoch"], info["healed"]["why"]) == (epoch, "the roll was deleted")
        assert (await registry.register("worker", "next")).revision > max(one.revision for one in after)
        assert ids(await registry.discover("worker"))[0] == "a0"


async def test_nobody_is_answered_an_empty_roll_while_it_is_made_anew(bus):
    async with bus.served() as registry, bus.worker_connection() as inside:
        await registry.register_many({"role": "worker", "id": f"a{number}"} for number in range(50))
        epoch = (await registry.info())["epoch"]

        await delete(inside, bus.subjects.roll_stream)

        while (page := await registry.discover("worker", exact=True)).epoch == epoch:
            assert len(page) == 50
        assert len(page) == 50


async def test_a_roll_rolled_back_is_made_anew(bus):
    async with bus.served() as registry, bus.worker_connection() as inside:
        for number in range(5):
            await registry.register("worker", f"a{number}", incarnation=1)
        epoch = (await registry.info())["epoch"]
        await roll_back(bus, inside, keep=2)

        info = await healed_from(registry, epoch)

        assert ids(await registry.list()) == [f"a{number}" for number in range(5)]
        assert "rolled back from 5 to 2" in info["healed"]["why"]


async def test_a_roll_rolled_back_and_written_since_is_not_taken_for_the_old_one(bus):
    async with bus.served() as registry, bus.worker_connection():
        for number in range(5):
            await registry.register("worker", f"a{number}", incarnation=1)
        epoch = (await registry.info())["epoch"]
    await roll_back_with(bus, keep=2, more=4)
    async with bus.served() as registry:
        info = await healed_from(registry, epoch)

        assert ids(await registry.list()) == [f"a{number}" for number in range(5)]
        assert "written since" in info["healed"]["why"]


async def roll_back(bus, inside, *, keep):
    """As a power cut does: the stream is there, under its epoch, and ends earlier."""
    roll = bus.subjects.roll_stream
    stored = [await message(inside, roll, seq) for seq in range(1, keep + 1)]
    epoch = (await streams.state(inside, roll)).epoch
    await delete(inside, roll)
    await streams.ensure(inside, shapes.roll_config(bus.subjects, 1), epoch=epoch)
    for subject, data, headers in stored:
        await inside.request(subject, data, headers=headers)


async def roll_back_with(bus, *, keep, more):
    async with bus.worker_connection() as inside:
        await roll_back(bus, inside, keep=keep)
        _, data, headers = await message(inside, bus.subjects.roll_stream, 1)
        for number in range(more):
            record = json.loads(data) | {"id": f"b{number}"}
            subject = bus.subjects.roll(key("worker", record["id"]))
            await inside.request(subject, json.dumps(record).encode(), headers=headers)


async def message(inside, stream, seq):
    answer = await inside.request(f"$JS.API.DIRECT.GET.{stream}", json.dumps({"seq": seq}).encode(), timeout=2)
    headers = {name: answer.headers[name] for name in (h.CHANGE, h.EPOCH)}
    return answer.headers["Nats-Subject"], answer.data, headers


async def test_a_roll_lost_while_no_worker_ran_is_made_anew(bus):
    async with bus.served() as registry, bus.worker_connection() as inside:
        await registry.register("worker", "a", labels={"zone": "b"})
        epoch = (await registry.info())["epoch"]
    async with bus.worker_connection() as inside:
        await delete(inside, bus.subjects.roll_stream)
    async with bus.served() as registry:
        assert (await healed_from(registry, epoch))["agents"] == 1
        assert (await registry.get("a")).labels == {"zone": "b"}


async def test_everything_but_the_snapshot_may_be_lost_at_once(bus):
    subjects = bus.subjects
    async with bus.served() as registry, bus.worker_connection() as inside:
        await registry.register("worker", "a")
        epoch = (await registry.info())["epoch"]

        await delete(inside, subjects.roll_stream, subjects.inbox_stream, subjects.leases_stream)

        await healed_from(registry, epoch)
        later = await registry.register("worker", "b", timeout=15)
        assert ids(await registry.list()) == ["a", "b"]
        assert later.registered_seq > 0


async def test_a_watch_is_told_why_and_of_nothing_that_did_not_happen(bus):
    async with bus.served() as registry, bus.worker_connection() as inside, registry.watch() as watch:
        await registry.register("worker", "a")
        await anext(watch)
        epoch = (await registry.info())["epoch"]

        await delete(inside, bus.subjects.roll_stream)
        await healed_from(registry, epoch)
        await registry.register("worker", "b")
        change = await asyncio.wait_for(anext(watch), 10)

        assert (change.kind, change.id) == ("registered", "b")
        assert change.epoch == watch.position.epoch != epoch
        assert "the roll was deleted" in watch.reason


async def test_the_most_advanced_worker_seeds_and_nobody_elses_knowledge_is_lost(bus):
    async with bus.registry() as registry, bus.worker_connection() as inside:
        async with bus.worker("w1"):
            await leads(registry)
            await registry.register("worker", "both", incarnation=1)
            async with bus.worker("w2"):
                pass
            await registry.register("worker", "only-w1", incarnation=1)
            epoch = (await registry.info())["epoch"]
        await delete(inside, bus.subjects.roll_stream)

        async with bus.worker("w2"), bus.worker("w1"):
            await healed_from(registry, epoch)

            await eventually(lambda: has(registry, "both", "only-w1"))


async def test_a_worker_that_returns_offers_what_the_others_never_knew(bus):
    async with bus.registry() as registry, bus.worker_connection() as inside:
        async with bus.worker("w1"):
            await leads(registry)
            await registry.register("worker", "both", incarnation=1)
            await registry.register("worker", "leaves", incarnation=1)
            async with bus.worker("w2"):
                pass
            await registry.register("worker", "only-w1", incarnation=1)
            await registry.update("worker", "both", {"labels": {"zone": "b"}})
            await registry.deregister("worker", "leaves")
            epoch = (await registry.info())["epoch"]
        await delete(inside, bus.subjects.roll_stream)
        async with bus.worker("w2"):
            await healed_from(registry, epoch)
            assert ids(await registry.list()) == ["both", "leaves"]
            await registry.register("worker", "new", incarnation=1)
            await registry.update("worker", "new", {"labels": {"is": "new"}})

            async with bus.worker("w1"):
                await eventually(lambda: has(registry, "both", "only-w1", "new"), what="what only w1 knew")
                assert (await registry.get("both")).labels == {"zone": "b"}
                assert (await registry.get("new")).labels == {"is": "new"}


async def test_a_worker_that_is_behind_by_nothing_but_time_brings_nobody_back(bus):
    async with bus.registry() as registry, bus.worker_connection() as inside:
        async with bus.worker("w1", tombstone_ttl=1):
            await leads(registry)
            await registry.register("worker", "stays")
            await registry.register("worker", "leaves")
            async with bus.worker("w2", tombstone_ttl=1):
                pass
            await registry.deregister("worker", "leaves")
            epoch = (await registry.info())["epoch"]
            await eventually(lambda: gone(registry, "leaves"))
            await delete(inside, bus.subjects.roll_stream)
            await healed_from(registry, epoch)

            async with bus.worker("w2", tombstone_ttl=1):
                await registry.register("worker", "after")
                await eventually(lambda: has(registry, "stays", "after"))


async def has(registry, *expected):
    return sorted(ids(await registry.list())) == sorted(expected)


async def gone(registry, id):
    return id not in ids(await registry.list())


async def test_a_worker_that_knows_nothing_takes_what_a_broken_off_seeding_left(bus):
    async with bus.served() as registry, bus.worker_connection() as inside:
        await registry.register("worker", "a", incarnation=1)
        await registry.register("worker", "b", incarnation=1)
        epoch = (await registry.info())["epoch"]
    async with bus.worker_connection() as inside:
        await streams.set_epoch(inside, bus.subjects.roll_stream, "")
        async with bus.worker("knows-nothing"), bus.registry() as registry:
            await healed_from(registry, epoch)
            assert ids(await registry.list()) == ["a", "b"]


async def test_history_and_since_say_where_a_healed_roll_begins(bus):
    async with bus.served() as registry, bus.worker_connection() as inside:
        await registry.register("worker", "a")
        epoch = (await registry.info())["epoch"]
        await delete(inside, bus.subjects.roll_stream)
        info = await healed_from(registry, epoch)
        first = await registry.register("worker", "b")

        assert [change.kind for change in await registry.history("a")] == ["registered"]
        since = await registry.since(type(registry.watch().position)(info["epoch"], info["healed"]["upto"]))
        assert [change.id for change in since.changes] == ["b"]
        old = await registry.since(type(registry.watch().position)(epoch, 1))
        assert old.too_old
        assert first.revision > info["healed"]["upto"]


@pytest.mark.parametrize("which", ["inbox_stream", "leases_stream"])
async def test_inbox_and_leases_deleted_under_a_running_worker_are_made_anew(bus, which):
    async with bus.served() as registry, bus.worker_connection() as inside:
        before = await registry.register("worker", "a")

        await delete(inside, getattr(bus.subjects, which))

        async def answered():
            try:
                return await registry.register("worker", "b", timeout=1, incarnation=1)
            except Exception:
                return None

        after = await eventually(answered, what="an answer")
        assert after.revision > before.revision
        assert ids(await registry.list()) == ["a", "b"]
        assert after.registered_seq > before.registered_seq


async def test_a_purged_roll_is_made_anew_and_nobody_is_forgotten(bus, monkeypatch):
    monkeypatch.setattr("rollcall.worker.worker.CHECK_EVERY", 0.3)
    async with bus.served() as registry, bus.worker_connection() as inside:
        for number in range(5):
            await registry.register("worker", f"a{number}")
        epoch = (await registry.info())["epoch"]

        await streams.request(inside, f"STREAM.PURGE.{bus.subjects.roll_stream}")

        info = await healed_from(registry, epoch)
        assert ids(await registry.list()) == [f"a{number}" for number in range(5)]
        assert "took agents out of the roll" in info["healed"]["why"]


async def test_one_agent_taken_out_of_the_roll_is_put_back_also_beside_tombstones(bus):
    async with bus.served() as registry, bus.worker_connection() as inside:
        for id in ("a1", "a2", "gone"):
            await registry.register("worker", id)
        await registry.deregister("worker", "gone")
        epoch = (await registry.info())["epoch"]

        await streams.purge_subject(inside, bus.subjects.roll_stream, bus.subjects.roll("worker.a1"))
        entry = await registry.update("worker", "a1", {"description": "still here"}, timeout=10)

        assert entry.description == "still here"
        assert ids(await registry.list()) == ["a1", "a2"]
        assert (await registry.info())["epoch"] != epoch

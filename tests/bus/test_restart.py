"""A worker that comes back: from its snapshot, from the roll, and with nobody lost because it was away."""

import asyncio
import sqlite3

import pytest

from rollcall.core.errors import Misconfigured
from rollcall.store import schema
from tests.conftest import eventually, ids


async def test_a_worker_comes_back_with_what_it_knew(bus):
    async with bus.served() as registry:
        await registry.register("worker", "a", labels={"x": "y"})
        await registry.register("worker", "b")
        await registry.deregister("worker", "b")
        before = await registry.get("a")
        epoch = (await registry.info())["epoch"]
    async with bus.served() as registry:
        after = await registry.get("a")
        assert (after.revision, after.labels, after.last_seen) == (before.revision, {"x": "y"}, before.last_seen)
        assert (await registry.info())["epoch"] == epoch
        assert [change.kind for change in await registry.history("b")] == ["registered", "deregistered"]


@pytest.mark.parametrize("damage", ["deleted", "garbage", "truncated"])
async def test_a_snapshot_that_is_gone_or_corrupt_is_rebuilt_from_the_roll(bus, damage):
    async with bus.served() as registry:
        for number in range(50):
            await registry.register("worker", f"a{number}")
    snapshot = bus.home / "w1.db"
    match damage:
        case "deleted":
            snapshot.unlink()
        case "garbage":
            snapshot.write_bytes(b"this is no database, and never was" * 200)
        case "truncated":
            snapshot.write_bytes(snapshot.read_bytes()[:50])

    async with bus.served() as registry:
        assert len(await registry.discover("worker")) == 50
    kept = list(bus.home.glob("w1.db.corrupt-*"))
    assert bool(kept) == (damage != "deleted")


async def test_a_snapshot_of_a_newer_rollcall_is_refused_and_left_alone(bus):
    async with bus.served() as registry:
        await registry.register("worker", "a")
    with sqlite3.connect(bus.home / "w1.db") as database:
        database.execute(f"PRAGMA user_version = {schema.VERSION + 1}")
    database.close()

    with pytest.raises(Misconfigured, match="upgrade rollcall"):
        async with bus.worker():
            pass
    assert not list(bus.home.glob("*.corrupt-*"))


async def test_two_workers_never_share_a_snapshot(bus):
    async with bus.worker():
        with pytest.raises(Misconfigured, match="another rollcall uses"):
            async with bus.worker():
                pass


async def test_nobody_is_lost_because_the_registry_was_away(bus):
    async with bus.served() as registry:
        await registry.register("worker", "a", ttl=1)
    await asyncio.sleep(1.2)  # longer than the ttl: this is the absence itself
    async with bus.served() as registry:
        assert (await registry.get("a")).liveness == "live"

        async def lost():
            return (await registry.get("a")).liveness == "lost"

        await eventually(lost)


async def test_what_ended_while_a_worker_was_away_is_forgotten(bus):
    async with bus.worker("w1", tombstone_ttl=1), bus.registry() as registry:
        await eventually(lambda: _registers(registry, "a"))
        await registry.register("worker", "stays")
    async with bus.worker("w2", tombstone_ttl=1), bus.registry() as registry, bus.worker_connection() as inside:
        await eventually(lambda: _deregisters(registry, "a"))

        async def ended():
            stored = await inside.request(
                f"$JS.API.STREAM.INFO.{bus.subjects.roll_stream}", b'{"subjects_filter": ">"}'
            )
            return b"worker.a" not in stored.data

        await eventually(ended)
    async with bus.worker("w1", tombstone_ttl=1), bus.registry() as registry:
        assert ids(await registry.list()) == ["stays"]
        # Its place is free, and the roll takes it.
        assert await eventually(lambda: _registers(registry, "a"))


async def _registers(registry, id):
    try:
        return await registry.register("worker", id)
    except Exception:
        return None


async def _deregisters(registry, id):
    try:
        return await registry.deregister("worker", id)
    except Exception:
        return None


async def test_a_new_worker_learns_the_history_that_the_roll_still_has(bus):
    async with bus.served() as registry:
        await registry.register("worker", "a")
        await registry.update("worker", "a", {"name": "new"})
    async with bus.worker("w2"), bus.registry() as registry:
        assert [change.kind for change in await registry.history("a")] == ["registered", "updated"]
        assert (await registry.get("a")).name == "new"


async def test_the_snapshot_is_readable_by_anybody_with_sqlite(bus):
    async with bus.served() as registry:
        await registry.register("worker", "a", capabilities=["ocr", "plan"])
        await registry.update("worker", "a", {"capabilities": ["plan", "fly"]})
        await registry.register("scout", "gone")
        await registry.deregister("scout", "gone")
        with sqlite3.connect(f"file:{bus.home / 'w1.db'}?mode=ro", uri=True) as database:
            agents = database.execute("SELECT id, role, status, revision FROM agents").fetchall()
            able = database.execute("SELECT capability, id FROM capabilities ORDER BY capability").fetchall()
            buried = database.execute("SELECT id FROM tombstones").fetchall()
        database.close()
    assert agents == [("a", "worker", "running", 2)]
    assert able == [("fly", "a"), ("plan", "a")]
    assert buried == [("gone",)]

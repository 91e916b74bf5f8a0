"""Forgetting: who was lost for long leaves the roll, and a late beat brings nobody back."""

import asyncio

from rollcall.worker import WorkerSettings, serving
from rollcall.worker.clock import Clock
from tests.bus.others import wire
from tests.bus.plain import plain
from tests.conftest import eventually, ids

DAY = 24 * 3600 * 1000


class Tomorrow(Clock):
    """A wall clock that is 25 hours ahead."""

    def wall(self):
        return super().wall() + 25 * DAY // 24


async def lose(bus, client, id="a1", **more):
    """Registers an agent that has just been lost."""
    async with wire(bus) as one:
        await client.ask(f"register.worker.{id}", {"name": id, "ttl": 60, **more})
        await one.hello(f"worker.{id}")
        await one.close()
    await eventually(lambda: client.changes(id)[-1:] == ["lost"])


async def test_who_was_lost_for_long_is_forgotten_and_a_late_beat_does_not_bring_it_back(bus):
    async with bus.served(forget_after=1, disconnect_grace=0) as registry, plain(bus) as client:
        await lose(bus, client, owner="fleet", incarnation=5)
        lost_at = (await registry.get("a1")).lost_at

        await eventually(lambda: client.changes("a1") == ["registered", "lost", "expired"], within=5)

        expired = (await registry.history("a1"))[-1]
        assert f"lost since {lost_at}" in expired.reason
        assert expired.at - (await registry.history("a1"))[-2].at >= 1000
        assert ids(await registry.list()) == []
        await client.send("heartbeat.worker.a1")
        await eventually(lambda: [one["error"] for one in client.rejected()] == ["not_found"])
        assert ids(await registry.list()) == []
        assert client.changes("a1")[-1] == "expired"

        # Its place is free for anybody.
        entry = await client.ask("register.scout.a1", {"name": "another", "incarnation": 1})
        assert (entry["role"], entry["liveness"]) == ("scout", "live")


async def test_who_is_back_in_time_is_not_forgotten(bus):
    async with bus.served(forget_after=1, disconnect_grace=0) as registry, plain(bus) as client:
        await lose(bus, client)
        await client.send("heartbeat.worker.a1")
        await eventually(lambda: client.changes("a1")[-1] == "recovered")

        await asyncio.sleep(2.0)  # longer than it would have taken
        assert ids(await registry.discover("worker", exact=True)) == ["a1"]
        assert client.changes("a1") == ["registered", "lost", "recovered"]


async def test_an_update_of_a_lost_agent_does_not_put_it_off(bus):
    async with bus.served(forget_after=1, disconnect_grace=0), plain(bus) as client:
        await lose(bus, client)
        updates = 0

        while client.changes("a1")[-1] != "expired":
            await client.ask("update.worker.a1", {"labels": {"n": str(updates)}})
            updates += 1
            assert updates < 50
            await asyncio.sleep(0.1)

        assert updates > 3


async def test_a_worker_that_starts_knows_since_when_an_agent_is_lost(bus):
    async with bus.served(disconnect_grace=0), plain(bus) as client:
        await lose(bus, client)
        await client.ask("register.worker.lively", {"name": "x", "ttl": 60})
    settings = WorkerSettings(
        url=bus.url, realm=bus.realm, name="w1", snapshot=bus.home / "w1.db", nkey_seed=bus.server.worker_seed
    )
    async with plain(bus) as client, serving(settings, clock=Tomorrow()):
        await eventually(lambda: client.changes("a1") == ["expired"], within=5)
        assert client.changes("lively") == []


async def test_a_worker_without_a_snapshot_knows_it_too(bus):
    async with bus.served(disconnect_grace=0), plain(bus) as client:
        await lose(bus, client)
    settings = WorkerSettings(
        url=bus.url, realm=bus.realm, name="w2", snapshot=bus.home / "w2.db", nkey_seed=bus.server.worker_seed
    )
    async with plain(bus) as client, serving(settings, clock=Tomorrow()):
        await eventually(lambda: client.changes("a1") == ["expired"], within=5)


async def test_the_forgotten_are_remembered_within_the_bound_of_agents(bus):
    async with bus.served(forget_after=1, disconnect_grace=0, max_agents=2), plain(bus) as client:
        for id in ("a1", "a2"):
            await lose(bus, client, id)
        assert (await client.ask("register.worker.a3", {"name": "x"}))["error"] == "busy"
        await eventually(lambda: client.changes().count("expired") == 2, within=5)

        refused = await client.ask("register.worker.a3", {"name": "x"})

        assert refused["error"] == "busy"
        assert "ROLLCALL_MAX_AGENTS" in refused["message"]
        assert (await client.ask("register.worker.a1", {"name": "x"}))["liveness"] == "live"

"""The leader is killed: another leads within two seconds, nothing acknowledged is lost, nothing happens twice."""

import asyncio
import time
from collections import Counter

import rollcall
from rollcall.bus.follow import Follower
from rollcall.bus.roll import read_change
from tests.conftest import Bus, eventually, leads
from tests.processes import Process

REGISTRATIONS = 3000
CALLERS = 100


def worker(bus: Bus, name: str) -> Process:
    home = bus.home / name
    home.mkdir()
    seed = home / "worker.nk"
    seed.write_text(bus.server.worker_seed)
    seed.chmod(0o600)
    ready = home / "ready.json"
    arguments = ("worker", "--nats", bus.url, "--realm", bus.realm, "--data-dir", str(home / "data"))
    process = Process(*arguments, "--key", str(seed), "--name", name, "--ready-file", str(ready), home=home)
    process.ready(ready)
    return process


async def test_kill_9_of_the_leader_under_load_loses_and_repeats_nothing(bus):
    with worker(bus, "w1") as first, worker(bus, "w2") as second:
        async with bus.registry() as registry, registry.watch() as watch:
            await leads(registry)
            acknowledged: dict[str, int] = {}
            killed_at = 0

            async def register(caller: int) -> None:
                for number in range(REGISTRATIONS // CALLERS):
                    id = f"a{caller}-{number}"
                    while id not in acknowledged:
                        try:
                            entry = await registry.register(f"role{caller % 5}", id, incarnation=1, timeout=2)
                            acknowledged[id] = entry.revision
                        except rollcall.Unavailable:
                            pass  # said again; the same life saying the same changes nothing

            async def kill() -> None:
                nonlocal killed_at
                await eventually(lambda: len(acknowledged) > REGISTRATIONS // 3)
                leader = await leads(registry)
                killed_at = len(acknowledged)
                {"w1": first, "w2": second}[leader].kill()

            await asyncio.gather(kill(), *(register(caller) for caller in range(CALLERS)))

            assert 0 < killed_at < REGISTRATIONS
            entries = {entry.id: entry for entry in await registry.list()}
            assert entries.keys() == acknowledged.keys()
            assert {id: entry.revision for id, entry in entries.items()} == acknowledged
            told = [await asyncio.wait_for(anext(watch), 10) for _ in range(REGISTRATIONS)]
            assert Counter(change.id for change in told).most_common(1)[0][1] == 1
            assert [change.revision for change in told] == sorted(change.revision for change in told)
            assert {change.kind for change in told} == {"registered"}
        await _the_roll_has_each_agent_once(bus, set(acknowledged))


async def _the_roll_has_each_agent_once(bus: Bus, expected: set[str]) -> None:
    """Not what anybody remembers, but what the server stored."""
    seen: Counter[str] = Counter()
    async with bus.worker_connection() as inside:
        async for batch in Follower(inside, bus.subjects.roll_stream, 0).batches():
            for stored in batch:
                change = read_change(stored, "")
                assert change is not None
                seen[change.id] += 1
            if batch[-1].pending == 0:
                break
    assert seen.keys() == expected
    assert set(seen.values()) == {1}


async def test_a_second_worker_leads_within_two_seconds_of_kill_9(bus):
    with worker(bus, "w1") as first, worker(bus, "w2") as second:
        async with bus.registry() as registry:
            await leads(registry)
            await registry.register("worker", "before")
            leader = await leads(registry)
            {"w1": first, "w2": second}[leader].kill()
            killed = time.monotonic()

            await registry.register("worker", "after", timeout=10)

            assert time.monotonic() - killed < 2.0
            assert [entry.id for entry in await registry.discover("worker")] == ["before", "after"]


async def test_commands_sent_while_nobody_leads_are_answered_by_the_next_leader(bus):
    async with bus.registry() as registry:
        with worker(bus, "w1") as first:
            await leads(registry)
            first.kill()
            waiting = [
                asyncio.create_task(registry.register("worker", f"a{number}", timeout=30)) for number in range(20)
            ]
            await asyncio.sleep(0)
        with worker(bus, "w2"):
            entries = await asyncio.gather(*waiting)
            assert sorted(entry.id for entry in entries) == sorted(f"a{number}" for number in range(20))


async def test_a_worker_that_leaves_gives_the_lease_back_at_once(bus):
    with worker(bus, "w2"):
        async with bus.registry() as registry:
            async with bus.worker("w1"):
                await leads(registry)
            started = time.monotonic()
            await registry.register("worker", "a", timeout=10)
            assert time.monotonic() - started < 2.0

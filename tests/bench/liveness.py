"""How soon a death is told: of processes that are killed, and of those that stand still."""

import asyncio
import statistics
import tempfile
import time
from pathlib import Path

import rollcall
from rollcall.core.instants import instant
from tests.chaos.recorder import Recorder
from tests.chaos.rig import Agents, Rig, leader
from tests.conftest import eventually

DEATHS = 100
AHEAD = 10
GRACE = 0.2
FROZEN = 20
HEALTHY = 200
TTL = 2.0

Rows = list[tuple[str, str, str]]


async def deaths() -> Rows:
    """kill -9 of a process with one agent, again and again, until `lost` at a watcher."""
    with tempfile.TemporaryDirectory(prefix="rollcall-bench-") as home:
        async with Rig(Path(home)).running() as rig, rig.registry() as registry:
            await rig.worker(disconnect_grace=GRACE)
            await leader(registry)
            recorder = Recorder(rig)
            async with recorder.watching():
                took: list[float] = []
                for start in range(0, DEATHS, AHEAD):
                    doomed = [rig.starting_agents(f"d{number}-") for number in range(start, start + AHEAD)]
                    for agent in doomed:
                        await agent.registered()
                    # Processes that have just started still keep both cores busy.
                    await asyncio.sleep(0.5)
                    took += [await _death(recorder, agent) for agent in doomed]
    ordered = sorted(took)
    p50, p99 = statistics.median(ordered), ordered[int(len(ordered) * 0.99) - 1]
    told = f"p50 {p50 * 1000:.0f} ms, p99 {p99 * 1000:.0f} ms"
    return [
        (f"kill -9 to lost at a watcher, {DEATHS} times, grace {GRACE} s", told, f"p99 <= {GRACE * 1000 + 100:.0f} ms")
    ]


async def _death(recorder: Recorder, agent: Agents) -> float:
    (id,) = agent.ids
    killed = time.monotonic()
    agent.process.popen.kill()
    await eventually(lambda: recorder.when("lost", id), within=10)
    agent.kill()
    return (recorder.when("lost", id) or 0.0) - killed


async def frozen() -> Rows:
    """SIGSTOP, until `lost` at a watcher, counted from the last beat; most of the fleet goes on."""
    with tempfile.TemporaryDirectory(prefix="rollcall-bench-") as home:
        async with Rig(Path(home)).running() as rig, rig.registry() as registry:
            await rig.worker()
            await leader(registry)
            recorder = Recorder(rig)
            async with recorder.watching():
                await rig.agents("healthy", HEALTHY, ttl=TTL)
                doomed = [rig.starting_agents(f"f{number}-", ttl=TTL) for number in range(FROZEN)]
                for agent in doomed:
                    await agent.registered()
                await asyncio.sleep(1)
                late = await asyncio.gather(*(_freeze(registry, recorder, agent, n) for n, agent in enumerate(doomed)))
    told = f"ttl + {statistics.median(late) * 1000:.0f} ms, at most + {max(late) * 1000:.0f} ms"
    return [(f"SIGSTOP to lost at a watcher, {FROZEN} times, ttl {TTL:g} s", told, "ttl + 300 ms")]


async def _freeze(registry: rollcall.Registry, recorder: Recorder, agent: Agents, number: int) -> float:
    """Seconds beyond the ttl."""
    (id,) = agent.ids
    await asyncio.sleep(number * 0.1)
    agent.pause()
    # Whatever was on its way has arrived; nothing follows.
    await asyncio.sleep(0.2)
    heard = instant((await registry.get(id)).last_seen or "") / 1000
    heard_ago = time.time() - heard
    asked = time.monotonic()
    await eventually(lambda: recorder.when("lost", id), within=10)
    return (recorder.when("lost", id) or 0.0) - asked + heard_ago - TTL

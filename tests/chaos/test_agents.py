"""One agent dies, freezes, is stuck, or leaves while nobody listens: each is told for what it is."""

import asyncio
import time
from signal import Signals

import rollcall
from tests.chaos.figures import Stopwatch, record
from tests.chaos.recorder import Recorder
from tests.chaos.rig import Rig, leader
from tests.conftest import eventually

GRACE = 0.2


async def test_an_agent_that_is_killed_is_lost_after_the_grace(rig: Rig, long: bool):
    recorder, times = Recorder(rig), 5 if long else 3
    await rig.worker(disconnect_grace=GRACE)
    async with rig.registry() as registry, recorder.watching() as watch:
        await leader(registry)
        took = []
        for number in range(times):
            agent = await rig.agents(f"a{number}-", ttl=30)
            recorder.mortal |= agent.ids
            (id,) = agent.ids
            # Who is registered says hello next, and by that its connection is known.
            await asyncio.sleep(1)
            killed = time.monotonic()
            agent.kill()
            await eventually(lambda id=id: recorder.when("lost", id), within=3, what=f"{id} lost")
            took.append(recorder.when("lost", id) - killed)

        assert min(took) >= GRACE and max(took) < GRACE + 1.0
        assert {entry.liveness for entry in await registry.list()} == {"lost"}
        await recorder.check(watch)
    record("agent kill -9", f"grace {GRACE} s", times=times, right_after=max(took))


async def test_an_agent_frozen_longer_than_its_ttl_is_lost_and_recovers(rig: Rig):
    recorder = Recorder(rig)
    await rig.worker()
    async with rig.registry() as registry, recorder.watching() as watch:
        await leader(registry)
        agent = await rig.agents("a", ttl=1.5)
        recorder.mortal = agent.ids

        agent.pause()
        frozen = Stopwatch()
        await eventually(lambda: recorder.when("lost", "a0"), within=5)
        lost_after = frozen.seconds
        assert lost_after > 1.0
        agent.resume()
        thawed = Stopwatch()
        await eventually(lambda: recorder.when("recovered", "a0"), within=5)

        assert (await registry.get("a0")).liveness == "live"
        assert recorder.changes("a0") == ["registered", "lost", "recovered"]
        await recorder.check(watch)
    record("agent SIGSTOP longer than ttl", f"ttl 1.5 s, lost after {lost_after:.2f} s", right_after=thawed.seconds)


async def test_an_agent_whose_loop_stands_still_is_stuck_and_not_lost(rig: Rig):
    recorder = Recorder(rig)
    await rig.worker()
    async with rig.registry() as registry, recorder.watching() as watch:
        await leader(registry)
        agent = await rig.agents("a", ttl=3, block=6)

        agent.signal(Signals.SIGUSR1)
        began = Stopwatch()
        entry = await eventually(lambda: _is(registry, "a0", "stuck"), within=8)
        assert entry.stuck_for >= 5
        await eventually(lambda: _is(registry, "a0", "live"), within=6)

        assert began.seconds >= 5.5
        assert recorder.changes("a0") == ["registered"]
        await recorder.check(watch)
    record("agent's loop blocked", "6 s, ttl 3 s: stuck, never lost", right_after=max(0.0, began.seconds - 6))


async def test_an_agent_that_leaves_while_the_bus_is_away_ends_at_once_and_is_lost_later(rig: Rig):
    recorder = Recorder(rig)
    await rig.worker(disconnect_grace=GRACE)
    async with rig.registry() as registry, recorder.watching() as watch:
        await leader(registry)
        leaving = await rig.agents("a", ttl=2)
        staying = await rig.agents("b", ttl=2)
        recorder.mortal = leaving.ids

        await rig.server.end()
        leaving.signal(Signals.SIGTERM)
        gone = Stopwatch()
        await eventually(lambda: leaving.process.popen.poll() is not None, within=10)
        assert gone.seconds < 5
        await rig.server.start()
        back = Stopwatch()
        await eventually(lambda: recorder.when("lost", "a0"), within=15)

        took = back.seconds
        assert staying.process.popen.poll() is None
        assert (await registry.get("b0")).liveness == "live"
        await recorder.check(watch)
    record("clean leave while the bus is down", f"the process ended after {gone.seconds:.1f} s", right_after=took)


async def _is(registry: rollcall.Registry, id: str, liveness: str) -> rollcall.Entry | None:
    entry = await registry.get(id)
    return entry if entry.liveness == liveness else None

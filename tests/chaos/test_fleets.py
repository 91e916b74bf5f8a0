"""Very many fall silent at once: the dead are told as dead, the silent are doubted first, and the guard always ends."""

import asyncio

import pytest

import rollcall
from tests.chaos.figures import Stopwatch, record
from tests.chaos.recorder import Recorder
from tests.chaos.rig import Agents, Rig, leader
from tests.conftest import eventually

FLEET = 500
PROCESSES = 10
EACH = FLEET // PROCESSES


async def fleets(rig: Rig, ttl: float) -> list[Agents]:
    """The whole fleet, in processes that can be killed one by one."""
    all_ = [rig.starting_agents(f"f{number}-", EACH, ttl=ttl) for number in range(PROCESSES)]
    for fleet in all_:
        await fleet.registered(60)
    # Who is registered says hello next, and by that its connection is known.
    await asyncio.sleep(1)
    return all_


def ids(some: list[Agents]) -> set[str]:
    return set().union(*(fleet.ids for fleet in some))


@pytest.mark.parametrize("share", [50, 90, 100])
async def test_of_a_fleet_whoever_is_killed_is_lost_after_the_grace_and_nobody_else(rig: Rig, share: int):
    recorder = Recorder(rig)
    await rig.worker(disconnect_grace=0.5)
    async with rig.registry() as registry, recorder.watching() as watch:
        await leader(registry)
        doomed = (await fleets(rig, ttl=10))[: PROCESSES * share // 100]
        recorder.mortal = ids(doomed)

        for fleet in doomed:
            fleet.process.popen.kill()
        killed = Stopwatch()
        await eventually(lambda: recorder.lost() == recorder.mortal, within=5, what="all of them lost")
        took = killed.seconds
        await asyncio.sleep(1)

        assert (await registry.info())["guard"] is None
        assert await _liveness(registry) == {"lost": len(recorder.mortal), "live": FLEET - len(recorder.mortal)}
        await recorder.check(watch)
    record(f"{share} % of 500 agents killed at once", "grace 0.5 s, real scale-down", right_after=took)


async def test_silence_of_ninety_per_cent_is_doubted_then_believed_and_ends_when_they_beat_again(rig: Rig):
    ttl = 3.0
    recorder = Recorder(rig)
    await rig.worker()
    async with rig.registry() as registry, recorder.watching() as watch:
        await leader(registry)
        frozen = (await fleets(rig, ttl))[: PROCESSES * 9 // 10]
        recorder.mortal = ids(frozen)

        for fleet in frozen:
            fleet.pause()
        silent = Stopwatch()
        guard = await eventually(lambda: _guard(registry), within=ttl + 1, what="the guard")
        assert guard["silent"] > 0.15 * FLEET and "fell silent" in guard["why"]
        await eventually(recorder.lost, within=2 * ttl + 2, what="the first to be lost")
        first = silent.seconds
        await eventually(lambda: recorder.lost() == recorder.mortal, within=2 * ttl + 2, what="all of them lost")
        last = silent.seconds
        assert first > ttl
        assert last <= 2 * ttl + 1
        await eventually(lambda: _rests(registry), within=3, what="the end of the guard")

        for fleet in frozen:
            fleet.resume()
        thawed = Stopwatch()
        await eventually(lambda: _all_live(registry), within=8, what="all of them live again")
        took = thawed.seconds

        await recorder.check(watch)
    did = f"ttl {ttl:g} s: the first lost after {first:.1f} s, the last after {last:.1f} s; then all beat again"
    record("90 % silent without disconnect", did, right_after=took)


async def test_silence_that_ends_while_the_guard_holds_costs_nobody_his_place(rig: Rig):
    ttl = 3.0
    recorder = Recorder(rig)
    await rig.worker()
    async with rig.registry() as registry, recorder.watching() as watch:
        await leader(registry)
        all_ = await fleets(rig, ttl)

        for fleet in all_:
            fleet.pause()
        await asyncio.sleep(ttl + 0.7)
        assert await _guard(registry)
        for fleet in all_:
            fleet.resume()
        thawed = Stopwatch()
        await eventually(lambda: _all_live(registry), within=5)
        took = thawed.seconds
        await eventually(lambda: _rests(registry), within=3, what="the end of the guard")

        assert recorder.lost() == set()
        await recorder.check(watch)
    record("everybody silent, back within 2 ttl", f"ttl {ttl:g} s, silent for {ttl + 0.7:g} s", right_after=took)


async def _guard(registry: rollcall.Registry) -> dict | None:
    return (await registry.info())["guard"]


async def _rests(registry: rollcall.Registry) -> bool:
    return await _guard(registry) is None


async def _liveness(registry: rollcall.Registry) -> dict[str, int]:
    counts = {"lost": 0, "live": 0}
    for entry in await registry.list():
        counts[entry.liveness] = counts.get(entry.liveness, 0) + 1
    return counts


async def _all_live(registry: rollcall.Registry) -> bool:
    return (await registry.info())["liveness"] == {"live": FLEET}

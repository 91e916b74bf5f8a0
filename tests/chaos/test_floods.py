"""Whoever floods the registry harms himself: the others are answered, nobody is lost, and memory stays bounded."""

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest

import rollcall
from tests.chaos.figures import Stopwatch, record
from tests.chaos.recorder import Recorder
from tests.chaos.rig import Rig, leader, script
from tests.conftest import eventually
from tests.processes import Process


class Flood:
    """A flood that runs in a process of its own."""

    def __init__(self, rig: Rig, kind: str, **said: Any) -> None:
        self._told = rig.home / "flood.json"
        options = {"url": rig.url, "realm": rig.realm, "ready": self._told, **said}
        arguments = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        self.process = Process(kind, *arguments, home=rig.home, command=script("flood.py"))

    async def ended(self, within: float) -> dict[str, Any]:
        await eventually(lambda: self.process.popen.poll() is not None, within=within, what="the end of the flood")
        assert self.process.popen.returncode == 0, self.process.said()
        return json.loads(Path(self._told).read_text())


@pytest.mark.parametrize("kind", ["beats", "updates"])
async def test_one_agent_that_floods_keeps_nobody_from_being_answered(rig: Rig, kind: str):
    recorder = Recorder(rig)
    worker = await rig.worker()
    async with rig.registry() as registry, recorder.watching() as watch:
        await leader(registry)
        await rig.agents("a", 50, ttl=2)
        await registry.register("flood", "noisy", ttl=30, incarnation=0)
        before, waited = worker.memory(), []

        flood = Flood(rig, kind, rate=10_000, count=30_000)
        number = 0
        while flood.process.popen.poll() is None:
            number += 1
            asked = time.monotonic()
            await registry.register("calm", f"c{number}", ttl=None)
            waited.append(time.monotonic() - asked)
            await asyncio.sleep(0.02)
        told = await flood.ended(1)

        assert told["sent"] == 30_000
        assert max(waited) < 2
        assert await _live(registry)
        assert worker.memory() - before < 100
        await recorder.check(watch)
    slowest = f"the slowest of {len(waited)} others was answered after {max(waited) * 1000:.0f} ms"
    did = f"{told['sent']:,} {kind} in {told['seconds']:.1f} s; {slowest}; {told['answers']}"
    record(f"one agent flooding {kind}", did, memory=f"{before} -> {worker.memory()} MB")


async def test_beats_of_a_hundred_thousand_strangers_leave_nothing_behind(rig: Rig):
    recorder = Recorder(rig)
    worker = await rig.worker(max_agents=1000)
    async with rig.registry() as registry, recorder.watching() as watch:
        await leader(registry)
        await rig.agents("a", 50, ttl=2)
        before = worker.memory()

        told = await Flood(rig, "beats", ids=100_000, rate=40_000, count=100_000).ended(20)
        done = Stopwatch()
        await registry.register("calm", "after", ttl=None)
        took = done.seconds

        assert took < 2
        assert (await registry.info())["agents"] == 51
        assert await _live(registry)
        assert worker.memory() - before < 50
        await recorder.check(watch)
    record(
        "100,000 distinct ids: beats",
        f"{told['seconds']:.1f} s, nobody knows them",
        right_after=took,
        memory=f"{before} -> {worker.memory()} MB",
    )


async def test_a_hundred_thousand_registrations_beyond_the_bound_are_refused_with_the_reason(rig: Rig):
    recorder = Recorder(rig)
    worker = await rig.worker(max_agents=1000)
    async with rig.registry() as registry, recorder.watching() as watch:
        await leader(registry)
        await rig.agents("a", 50, ttl=2)
        before = worker.memory()

        told = await Flood(rig, "joins", ids=100_000, rate=20_000, count=100_000).ended(60)
        done = Stopwatch()
        with pytest.raises(rollcall.Busy, match="holds 1000 agents, its bound"):
            await registry.register("calm", "late", ttl=None)
        await registry.deregister("flood", "noisy0")
        await registry.register("calm", "late", ttl=None)
        took = done.seconds

        assert told["answers"]["registered"] == 950
        assert set(told["answers"]) == {"registered", "busy"}
        assert took < 2
        assert await _live(registry)
        assert worker.memory() - before < 100
        await recorder.check(watch)
    did = f"max_agents 1000; {told['sent']:,} in {told['seconds']:.1f} s: {told['answers']}"
    memory = f"{before} -> {worker.memory()} MB"
    record("100,000 distinct ids: registrations", did, right_after=took, memory=memory)


async def _live(registry: rollcall.Registry) -> bool:
    return {entry.liveness for entry in await registry.list()} == {"live"}

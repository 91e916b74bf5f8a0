"""A leader that stood still, and hears late that it leads no more, does nothing that another has done meanwhile."""

import asyncio

from tests.chaos.recorder import Recorder
from tests.chaos.rig import Rig, leader, script
from tests.conftest import eventually

AGENTS = [f"a{number}" for number in range(300)]


async def test_a_leader_that_stood_still_does_nothing_that_another_has_done(rig: Rig):
    recorder = Recorder(rig)
    first = await rig.worker("w1", command=script("late_worker.py"))
    async with rig.registry() as registry, recorder.watching() as watch:
        await leader(registry)
        await rig.worker("w2")
        await asyncio.gather(*(registry.register("r", id, incarnation=1, ttl=None) for id in AGENTS))

        first.pause()
        await eventually(lambda: led_by(registry, "w2"), within=10)
        await asyncio.gather(*(registry.deregister("r", id, timeout=10) for id in AGENTS))
        again = {"incarnation": 1, "ttl": None, "labels": {"mark": "3"}, "timeout": 10}
        await asyncio.gather(*(registry.register("r", id, **again) for id in AGENTS))
        first.resume()
        await eventually(lambda: "no longer leads" in first.said(), within=10)

        await recorder.check(watch)
        assert {tuple(recorder.changes(id)) for id in AGENTS} == {("registered", "deregistered", "registered")}


async def led_by(registry, name):
    return await leader(registry) == name

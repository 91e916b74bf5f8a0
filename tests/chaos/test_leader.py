"""The leader is killed at every step, frozen, or loses its clock: nothing acknowledged is lost."""

import asyncio
from signal import Signals

import pytest

from tests.chaos.figures import Stopwatch, record
from tests.chaos.load import Load
from tests.chaos.recorder import Recorder
from tests.chaos.rig import Rig, leader, script
from tests.conftest import eventually

STEPS = ("take", "publish", "store", "fold", "commit", "answer", "position")


@pytest.mark.parametrize("step", STEPS)
async def test_a_leader_killed_at_a_step_loses_and_repeats_nothing(rig: Rig, step: str):
    recorder = Recorder(rig)
    times = "3" if step == "position" else "300"
    doomed = await rig.worker("w1", command=script("failing_worker.py", step, times))
    async with rig.registry() as registry, recorder.watching() as watch:
        assert await leader(registry) == "w1"
        await rig.worker("w2")
        load = Load(registry, recorder)
        async with load.running():
            await eventually(lambda: doomed.popen.poll() is not None, within=15, what=f"its end at {step}")
            died = Stopwatch()
            assert doomed.popen.returncode == -9, doomed.said()
            await load.right_again()
            right_after = died.seconds
            await load.more(300)

        assert await leader(registry) == "w2"
        assert right_after < 5
        await recorder.check(watch)
    record(f"leader kill -9 after {step}", "20 callers, a second worker", right_after=right_after)


async def test_a_leader_frozen_longer_than_its_lease_harms_nobody(rig: Rig):
    recorder = Recorder(rig)
    first = await rig.worker("w1", disconnect_grace=0.5)
    async with rig.registry() as registry, recorder.watching() as watch:
        await leader(registry)
        await rig.worker("w2", disconnect_grace=0.5)
        await rig.agents("a", 20, ttl=1.5)
        load = Load(registry, recorder)
        async with load.running():
            await load.more(200)
            first.pause()
            frozen = Stopwatch()
            await load.right_again()
            right_after = frozen.seconds
            assert await leader(registry) == "w2"
            await asyncio.sleep(max(0.0, 3 - frozen.seconds))
            first.resume()
            await load.more(300)
            await asyncio.sleep(2)

        assert right_after < 5
        await recorder.check(watch)
    record("leader SIGSTOP longer than its lease", "3 s, ttl 1.5 s, a second worker led", right_after=right_after)


async def test_a_clock_that_jumps_an_hour_ahead_or_back_decides_nothing(rig: Rig):
    recorder = Recorder(rig)
    worker = await rig.worker(command=script("clock_worker.py"), forget_after=60, tombstone_ttl=30)
    async with rig.registry() as registry, recorder.watching() as watch:
        await leader(registry)
        await rig.agents("a", 20, ttl=1.5)
        dead = await rig.agents("dead", ttl=1.5)
        recorder.mortal = dead.ids
        dead.kill()
        await eventually(lambda: recorder.lost() == dead.ids, within=5)
        load = Load(registry, recorder, pause=0.01)
        async with load.running():
            for jumps in ([Signals.SIGUSR1], [Signals.SIGUSR2, Signals.SIGUSR2]):
                await load.more(100)
                for jump in jumps:
                    worker.popen.send_signal(jump)
                    await asyncio.sleep(0.1)
                await load.more(100)
                await asyncio.sleep(2)

        assert recorder.changes("dead0") == ["registered", "lost"]
        assert not {one.id for one in recorder.told if one.kind == "expired"}
        assert {entry.liveness for entry in await registry.discover("agent", include=["all"])} == {"live", "lost"}
        await recorder.check(watch)
    record("worker's clock +1 h and -1 h", "20 agents with ttl 1.5 s, one lost before, under load", times=2)


async def test_agents_outlive_an_absence_of_every_worker(rig: Rig):
    recorder = Recorder(rig)
    ttl, away = 1.0, 3
    workers = ("w1", "w2")
    async with rig.registry() as registry:
        for name in workers:
            await rig.worker(name)
        await leader(registry)
        await rig.agents("a", 50, ttl=ttl)
        async with recorder.watching() as watch:
            load = Load(registry, recorder)
            async with load.running():
                await load.more(200)
                for name in workers:
                    rig.workers[name].kill()
                await asyncio.sleep(away)
                for name in workers:
                    rig.starting(name)
                back = Stopwatch()
                await load.right_again()
                took = back.seconds
                await asyncio.sleep(ttl + 1)

            assert took < 5
            await recorder.check(watch)
    record("every worker kill -9", f"away for {away} s, ttl {ttl} s, under load", right_after=took)

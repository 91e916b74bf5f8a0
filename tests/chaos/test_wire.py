"""Connections that are half open: nothing arrives any more, and no side is told so."""

import asyncio
from pathlib import Path

from rollcall import View
from tests.chaos.far_side import FarSide
from tests.chaos.far_side import far_side as far_side
from tests.chaos.figures import Stopwatch, record
from tests.chaos.load import Load
from tests.chaos.proxy import Proxy
from tests.chaos.recorder import Recorder
from tests.chaos.rig import Rig, leader, script
from tests.chaos.server import Server
from tests.conftest import eventually
from tests.processes import ROLLCALL


async def test_agents_behind_a_half_open_connection_are_lost_after_their_ttl_and_recover(
    tmp_path: Path, far_side: FarSide, long: bool
):
    """After about 15 s the server gives the connection up by itself, and so does the agent."""
    async with Rig(tmp_path, [Server(tmp_path / "nats", host=far_side.address)]).running() as rig:
        recorder = Recorder(rig)
        await rig.worker()
        async with rig.registry() as registry, recorder.watching() as watch:
            await leader(registry)
            far = await rig.agents("far", 3, ttl=2, command=far_side.command + script("agents.py"))
            await rig.agents("near", 20, ttl=2)
            recorder.mortal = far.ids

            far_side.cut()
            silent = Stopwatch()
            await eventually(lambda: recorder.lost() == far.ids, within=6, what="the far ones lost")
            lost_after = silent.seconds
            await asyncio.sleep(20 if long else 0)
            far_side.mend()
            mended = Stopwatch()
            await eventually(lambda: all(recorder.when("recovered", id) for id in far.ids), within=20, what="all back")
            took = mended.seconds

            assert lost_after > 1.3
            await recorder.check(watch)
    record("half-open connection of agents", f"ttl 2 s, lost after {lost_after:.1f} s", right_after=took)


async def test_a_leader_behind_a_half_open_connection_is_followed_by_another(tmp_path: Path, far_side: FarSide):
    async with Rig(tmp_path, [Server(tmp_path / "nats", host=far_side.address)]).running() as rig:
        recorder = Recorder(rig)
        await rig.worker("w1", command=far_side.command + ROLLCALL)
        async with rig.registry() as registry, recorder.watching() as watch:
            assert await leader(registry) == "w1"
            await rig.worker("w2")
            await rig.agents("a", 20, ttl=1.5)
            load = Load(registry, recorder)
            async with load.running():
                await load.more(200)
                far_side.cut()
                cut = Stopwatch()
                await load.right_again()
                took = cut.seconds
                await asyncio.sleep(max(0.0, 3.5 - cut.seconds))
                far_side.mend()
                await load.more(500)
                await asyncio.sleep(2)

            assert took < 5
            await recorder.check(watch)
    record("half-open connection of the leader", "3.5 s, a second worker, ttl 1.5 s", right_after=took)


async def test_a_watcher_behind_a_half_open_connection_says_that_it_is_stale_and_misses_nothing(rig: Rig):
    recorder = Recorder(rig)
    await rig.worker()
    async with Proxy(rig.url).running() as proxy, rig.registry() as registry:
        await leader(registry)
        async with recorder.watching(proxy.url) as watch:
            load = Load(registry, recorder, callers=5, pause=0.01)
            async with load.running():
                await load.more(100)
                assert watch.state is View.CURRENT
                proxy.freeze()
                await eventually(lambda: watch.state is View.STALE, within=8)
                await proxy.mend()
                mended = Stopwatch()
                await eventually(lambda: watch.state is View.CURRENT, within=8)
                took = mended.seconds

            seen = await recorder.check(watch)
            assert not seen.compared_anew
    record("half-open connection of a watcher", "stale after 5 s", right_after=took)

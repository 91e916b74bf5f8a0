"""The bus goes and comes back: nobody is lost because of it, and everything goes on."""

import asyncio
from pathlib import Path
from signal import Signals

import pytest

import rollcall
from tests.chaos.figures import Stopwatch, record
from tests.chaos.load import Load
from tests.chaos.proxy import Proxy
from tests.chaos.recorder import Recorder
from tests.chaos.rig import Rig, leader, script
from tests.chaos.server import Server
from tests.conftest import eventually


@pytest.mark.parametrize("how", ["SIGTERM", "SIGKILL"])
async def test_a_server_that_is_restarted_under_load_costs_nothing(rig: Rig, long: bool, how: str):
    recorder, times = Recorder(rig), 3 if long else 2
    await rig.worker("w1")
    async with rig.registry() as registry, recorder.watching() as watch:
        await leader(registry)
        await rig.worker("w2")
        await rig.agents("a", 20, ttl=1.5)
        load, took = Load(registry, recorder), []
        async with load.running():
            for _ in range(times):
                await load.more(200)
                await rig.server.restart(Signals[how])
                took.append(await load.right_again())

        assert max(took) < 5
        await asyncio.sleep(1.7)
        await recorder.check(watch)
    record(f"nats-server {how}", "restarted at once under load, two workers", times=times, right_after=max(took))


async def test_a_server_that_is_away_longer_than_every_ttl_loses_nobody_but_the_silent(rig: Rig):
    recorder = Recorder(rig)
    await rig.worker()
    async with rig.registry() as registry, recorder.watching() as watch:
        await leader(registry)
        await rig.agents("a", 50, ttl=1)
        await rig.agents("b", 5, ttl=1, command=script("plain_agents.py"))
        await registry.register("agent", "silent", ttl=1.5)
        recorder.mortal = {"silent"}

        await rig.server.restart(away=3)
        back = Stopwatch()
        await eventually(lambda: _answered(registry), within=10)
        assert (await registry.get("silent")).liveness != "lost"
        await eventually(lambda: recorder.lost() == {"silent"}, within=10, what="the silent one lost")
        await eventually(lambda: _live(registry, 55), within=10)
        took = back.seconds

        await recorder.check(watch)
    record("nats-server away longer than every ttl", "3 s, 55 agents with ttl 1 s; one was silent", right_after=took)


async def test_a_server_in_lame_duck_mode_loses_nobody(tmp_path: Path):
    """Half of the connections end before the worker's own, and new ones are not taken: their silence proves nothing."""
    short = {"lame_duck_duration": "30s", "lame_duck_grace_period": "1s"}
    async with Rig(tmp_path, [Server(tmp_path / "nats", extra=short)]).running() as rig:
        recorder = Recorder(rig)
        await rig.worker()
        async with rig.registry() as registry, recorder.watching() as watch:
            await leader(registry)
            for number in range(2):
                await rig.agents(f"a{number}-", 10, ttl=1.5)
            load = Load(registry, recorder, pause=0.01)
            async with load.running():
                await load.more(50)

                rig.server.signal(Signals.SIGUSR2)
                await eventually(lambda: rig.server.process.poll() is not None, within=30, what="its end")
                await rig.server.start()

                took = await load.right_again()
                await asyncio.sleep(3)

            assert took < 5
            assert recorder.lost() == set()
            await recorder.check(watch)
    record("nats-server lame duck", "it closed one connection a second and ended; ttl 1.5 s", right_after=took)


@pytest.mark.parametrize("kind", ["agents.py", "plain_agents.py"])
async def test_a_thousand_agents_that_come_back_at_once_are_all_live_again(rig: Rig, kind: str):
    """The SDK's agents of a process share two connections; plain ones have one each."""
    recorder = Recorder(rig)
    await rig.worker()
    async with rig.registry() as registry, recorder.watching() as watch:
        await leader(registry)
        fleets = [rig.starting_agents(f"a{n}-", 250, ttl=3, command=script(kind)) for n in range(4)]
        for fleet in fleets:
            await fleet.registered(60)
        await eventually(lambda: _live(registry, 1000))

        await rig.server.restart()
        back = Stopwatch()
        await registry.register("worker", "probe", timeout=10, ttl=None)
        served = back.seconds
        await eventually(lambda: _live(registry, 1001), within=15)
        took = back.seconds
        await asyncio.sleep(max(0.0, 4 - took))

        assert recorder.lost() == set()
        assert await _live(registry, 1001)
        await recorder.check(watch)
    who = "SDK, 4 processes" if kind == "agents.py" else "plain clients, 1,000 connections"
    record("reconnect storm of 1,000 agents", f"{who}; a command answered after {served:.2f} s", right_after=took)


async def test_a_watcher_that_was_cut_off_hears_of_each_change_once_and_in_order(rig: Rig, long: bool):
    recorder = Recorder(rig)
    away = 60.0 if long else 2.5
    await rig.worker()
    async with Proxy(rig.url).running() as proxy, rig.registry() as registry:
        await leader(registry)
        async with recorder.watching(proxy.url) as watch:
            load = Load(registry, recorder, callers=8, pause=0.005)
            async with load.running():
                await load.more(200)
                proxy.cut()
                await asyncio.sleep(0.3)  # what had arrived by then is still told
                heard = len(recorder.told)
                await asyncio.sleep(away)
                assert len(recorder.told) == heard
                await proxy.mend()
                back = Stopwatch()
                await eventually(lambda: len(recorder.told) > heard, within=10)
                took = back.seconds
                await load.more(200)

            seen = await recorder.check(watch)
            assert not seen.compared_anew
    missed = f"{away:g} s under churn, {len(recorder.told)} changes in all"
    record("watcher disconnected and resumed", missed, right_after=took)


async def _answered(registry: rollcall.Registry) -> bool:
    try:
        return bool(await registry.info(timeout=1))
    except rollcall.Unavailable:
        return False


async def _live(registry: rollcall.Registry, count: int) -> bool:
    try:
        return (await registry.info(timeout=1))["liveness"]["live"] == count
    except rollcall.Unavailable:
        return False

"""Two thousand agents, none of which dies, while the server restarts twice and the leader is killed twice."""

import asyncio
from signal import Signals

import rollcall
from tests.chaos.figures import record
from tests.chaos.load import Load
from tests.chaos.recorder import Recorder
from tests.chaos.rig import Rig, leader
from tests.conftest import eventually

AGENTS = 2000
PROCESSES = 4
TTL = 6.0


async def test_nobody_is_lost_who_did_not_die(rig: Rig, minutes: float):
    recorder = Recorder(rig)
    workers = ("w1", "w2")
    async with rig.registry() as registry:
        for name in workers:
            await rig.worker(name)
        fleets = [rig.starting_agents(f"s{n}-", AGENTS // PROCESSES, ttl=TTL) for n in range(PROCESSES)]
        for fleet in fleets:
            await fleet.registered(60)
        async with recorder.watching() as watch:
            part, took = max(1.0, (minutes * 60 - 25) / 5), []
            load = Load(registry, recorder, callers=5, pause=0.02)
            async with load.running():
                for fault in ("kill the leader", "restart the server") * 2:
                    await asyncio.sleep(part)
                    if fault == "restart the server":
                        await rig.server.restart(Signals.SIGTERM if len(took) == 1 else Signals.SIGKILL, away=1)
                        took.append(await load.right_again())
                    else:
                        name = await leader(registry)
                        rig.workers[name].kill()
                        took.append(await load.right_again())
                        await rig.worker(name)
                await asyncio.sleep(part)
            await eventually(lambda: _live(registry), within=10, what="all of them live")

            assert recorder.lost() == set()
            await recorder.check(watch)
    did = f"{minutes:g} min, {AGENTS:,} agents with ttl {TTL:g} s, {load.acknowledged:,} commands"
    record("soak", did, times=len(took), right_after=max(took), wrong_lost=0)


async def _live(registry: rollcall.Registry) -> bool:
    try:
        page = await registry.discover("agent", timeout=2)
    except rollcall.Unavailable:
        return False
    return len(page) == AGENTS

"""Every fault, by chance, one after the other, under load: `pytest tests/chaos/test_mix.py --minutes 30 --seed 7`."""

import asyncio
import random

import rollcall
from tests.chaos.figures import Stopwatch, record
from tests.chaos.load import Load
from tests.chaos.mix import TTL, Mix
from tests.chaos.proxy import Proxy
from tests.chaos.recorder import Recorder
from tests.chaos.rig import Rig
from tests.conftest import eventually


async def test_whatever_happens_nothing_acknowledged_is_lost(rig: Rig, minutes: float, seed: int):
    recorder = Recorder(rig)
    async with Proxy(rig.url).running() as proxy, rig.registry() as registry:
        load = Load(registry, recorder, callers=10, ids=20, pause=0.01)
        mix = Mix(rig, registry, recorder, load, proxy, random.Random(seed))
        try:
            await mix.begin()
            async with recorder.watching(proxy.url) as watch:
                clock = Stopwatch()
                async with load.running():
                    while clock.seconds < minutes * 60 - 15:
                        await mix.one_fault()
                        assert not recorder.oddities, recorder.story(recorder.oddities[0].split()[2])
                await asyncio.sleep(TTL + 1)
                await eventually(lambda: _all_live(registry, mix.living), within=15, what="every living agent live")
                await recorder.check(watch)
        except BaseException as error:
            error.add_note(f"the same faults again: --seed {seed}; so far: {mix.done}")
            raise
    did = f"{minutes:g} min, {load.acknowledged:,} commands acknowledged, {len(mix.done)} faults: {mix.counts}"
    record("random mix of faults", did, times=len(mix.done), right_after=load.longest_gap, seed=seed)


async def _all_live(registry: rollcall.Registry, ids: set[str]) -> bool:
    try:
        page = await registry.discover("agent", timeout=1)
    except rollcall.Unavailable:
        return False
    return ids <= {entry.id for entry in page}

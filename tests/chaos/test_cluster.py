"""Three servers, streams on all of them, two workers: a node is killed again and again."""

import asyncio
from pathlib import Path
from signal import Signals

import pytest

from tests.chaos.cluster import cluster, formed, in_step, stream_leader
from tests.chaos.figures import Stopwatch, record
from tests.chaos.load import Load
from tests.chaos.recorder import Recorder
from tests.chaos.rig import Rig, leader
from tests.conftest import eventually


@pytest.mark.timeout(300)
async def test_a_cluster_whose_leading_node_goes_again_and_again_loses_nothing(tmp_path: Path, long: bool):
    """By kill -9, and as a server leaves that is told to (lame duck)."""
    ends = [Signals.SIGUSR2, *[Signals.SIGKILL] * (10 if long else 1)]
    async with Rig(tmp_path, cluster(tmp_path)).running() as rig:
        recorder = Recorder(rig)
        async with rig.inside() as inside:
            await eventually(lambda: formed(inside), within=20, what="a cluster")
        await rig.worker("w1", replicas=3)
        async with rig.registry() as registry, recorder.watching() as watch, rig.inside() as inside:
            await leader(registry, within=30)
            await rig.worker("w2", replicas=3)
            await rig.agents("a", 20, ttl=1.5)
            streams = (rig.subjects.roll_stream, rig.subjects.inbox_stream, rig.subjects.leases_stream)
            nodes, took = {server.name: server for server in rig.servers}, dict.fromkeys(ends, ())
            load = Load(registry, recorder, pause=0.005)
            async with load.running():
                for how in ends:
                    await load.more(100)
                    name = await eventually(lambda: stream_leader(inside, rig.subjects.roll_stream), within=15)
                    down = Stopwatch()
                    nodes[name].signal(how)
                    await load.right_again(within=40)
                    took[how] += (down.seconds,)
                    await nodes[name].end()
                    await nodes[name].start()
                    await load.more(100, within=40)
                    await eventually(lambda: in_step(inside, streams), within=30, what="three nodes in step")
            await asyncio.sleep(2)

            await recorder.check(watch)
    for how, each in took.items():
        did = f"the roll's leading node, {how.name}, under load"
        record("3-node cluster", did, times=len(each), right_after=max(each), each=[round(one, 2) for one in each])

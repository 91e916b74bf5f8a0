"""What the server or the disk forgot is made anew: nothing acknowledged is missing, and watchers are told why."""

import asyncio
import shutil
from pathlib import Path
from signal import Signals

import pytest

import rollcall
from rollcall.bus import streams
from tests.chaos.figures import Stopwatch, record
from tests.chaos.load import Load
from tests.chaos.recorder import Recorder
from tests.chaos.rig import Rig, leader, script
from tests.conftest import eventually

LOST = {
    "the roll": ("roll_stream",),
    "the inbox": ("inbox_stream",),
    "the leases": ("leases_stream",),
    "everything": ("roll_stream", "inbox_stream", "leases_stream"),
}


@pytest.mark.parametrize("what", LOST)
async def test_what_is_deleted_under_load_is_made_anew_and_nothing_acknowledged_is_missing(rig: Rig, what: str):
    recorder = Recorder(rig)
    await rig.worker("w1")
    async with rig.registry() as registry, recorder.watching() as watch, rig.inside() as inside:
        await leader(registry)
        await rig.worker("w2")
        agents = await rig.agents("a", 20, ttl=1.5)
        epoch = (await registry.info())["epoch"]
        load = Load(registry, recorder)
        async with load.running():
            await load.more(300)
            for stream in LOST[what]:
                await streams.request(inside, f"STREAM.DELETE.{getattr(rig.subjects, stream)}")
            took = await load.right_again()
            await load.more(300)
        await asyncio.sleep(1.6)

        assert took < 5
        await recorder.check(watch)
        healed = "roll_stream" in LOST[what]
        assert ((await registry.info())["epoch"] != epoch) is healed
        assert ("the roll was deleted" in watch.reason) is healed
        assert {entry.id for entry in await registry.discover("agent")} == agents.ids
    record(f"{what} deleted under load", "two workers, 20 callers, 20 agents", right_after=took)


async def test_a_leader_killed_while_it_seeds_the_roll_leaves_it_to_the_next_one(rig: Rig):
    recorder = Recorder(rig)
    await rig.worker("w1")
    async with rig.registry() as registry, recorder.watching() as watch, rig.inside() as inside:
        await leader(registry)
        load = Load(registry, recorder)
        async with load.running():
            await load.more(300)
            # Of those that folded as much, the last one by name seeds.
            doomed = [
                await rig.worker(name, command=script("failing_worker.py", "seed", "50")) for name in ("w2", "w3")
            ]
            await streams.request(inside, f"STREAM.DELETE.{rig.subjects.roll_stream}")
            deleted = Stopwatch()
            await load.right_again()
            took = deleted.seconds
            await load.more(300)

        dead = [process for process in doomed if process.popen.poll() == -9]
        assert dead
        assert took < 10
        await recorder.check(watch)
    did = f"{len(dead)} workers died so, one after the other"
    record("leader kill -9 while it seeds a lost roll", did, right_after=took)


@pytest.mark.parametrize("workers", ["running", "down"])
async def test_a_server_that_comes_back_with_an_older_disk_costs_nothing_acknowledged(rig: Rig, workers: str):
    """As after a power cut, or a restored backup: every stream ends earlier, under the same epoch."""
    recorder = Recorder(rig)
    await rig.worker("w1")
    async with rig.registry() as registry, recorder.watching() as watch:
        await leader(registry)
        await rig.worker("w2")
        load = Load(registry, recorder)
        async with load.running():
            await load.more(300)
            await rig.server.end(Signals.SIGTERM)
            backup = rig.home / "backup"
            shutil.copytree(rig.server.home / "jetstream", backup)
            await rig.server.start()
            await load.more(500)
            if workers == "down":
                rig.workers["w1"].kill()
                rig.workers["w2"].kill()
            await rig.server.end(Signals.SIGKILL)
            shutil.rmtree(rig.server.home / "jetstream")
            shutil.copytree(backup, rig.server.home / "jetstream")
            await rig.server.start()
            began = Stopwatch()
            if workers == "down":
                rig.starting("w2")
                rig.starting("w1")
            await load.right_again()
            took = began.seconds
            await load.more(300)

        assert took < 5
        await recorder.check(watch)
        assert "rolled back" in watch.reason
    record("the server's disk rolled back", f"by 500 commands, two workers {workers}", right_after=took)


async def test_with_the_roll_and_every_snapshot_gone_the_living_agents_make_the_roll_whole(rig: Rig):
    ttl = 3.0
    worker = await rig.worker("w1")
    async with rig.registry() as registry, rig.inside() as inside:
        await leader(registry)
        agents = await rig.agents("a", 100, ttl=ttl)
        worker.kill()
        for stream in LOST["everything"]:
            await streams.request(inside, f"STREAM.DELETE.{getattr(rig.subjects, stream)}")
        shutil.rmtree(rig.snapshot("w1").parent)

        await rig.worker("w1")
        began = Stopwatch()

        async def whole() -> bool:
            try:
                return {entry.id for entry in await registry.discover("agent")} == agents.ids
            except rollcall.Unavailable:
                return False

        await eventually(whole, within=10)
        took = began.seconds
        assert took < ttl / 3 + 1.5
    record("roll and snapshots gone", "100 living agents announced themselves again", right_after=took)


async def test_a_snapshot_deleted_while_its_worker_was_down_is_made_anew_from_the_roll(rig: Rig):
    recorder = Recorder(rig)
    await rig.worker("w1")
    async with rig.registry() as registry, recorder.watching() as watch:
        await leader(registry)
        load = Load(registry, recorder)
        async with load.running():
            await load.more(500)
            rig.workers["w1"].kill()
            for part in _parts(rig.snapshot("w1")):
                part.unlink()
            began = Stopwatch()
            await rig.worker("w1")
            await load.right_again()
            took = began.seconds
            await load.more(100)

        assert took < 5
        await recorder.check(watch)
    record("snapshot deleted", "while its worker was down, under load", right_after=took)


def _parts(snapshot: Path) -> list[Path]:
    return [
        part for part in snapshot.parent.iterdir() if part.name.startswith(snapshot.name) and "lock" not in part.name
    ]

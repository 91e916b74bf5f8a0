"""mindx, sections 6 and 7: what changes on one side reaches the other while a sync is watching."""

import asyncio
import json
import stat
import time
from contextlib import asynccontextmanager

import pytest

from rollcall import NotFound
from rollcall.faces.files.mindx import keep_in_sync
from tests.conftest import eventually
from tests.contract.mindx import Home, history, right, signed, syncing, told
from tests.processes import Process


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path / "mindX")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """What is collected here comes in milliseconds."""
    monkeypatch.setattr("rollcall.faces.files.mindx.watching.COLLECT", 0.2)


@asynccontextmanager
async def watching(home, core, **settings):
    """A sync that goes on and on, and has synced once; gives its answers."""
    await core.register("worker", "first", ttl=None)
    answers = []
    task = asyncio.create_task(_collected(syncing(home, core, **settings), core, answers))
    try:
        await eventually(lambda: in_file(home, "first") or task.done(), what="the first sync")
        yield answers
        assert not task.done(), task.exception()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _collected(tool, core, answers):
    async for answer in keep_in_sync(tool, core):
        answers.append(answer)


def in_file(home, id):
    """The entry of an id, if there is a file that can be read, and it has one."""
    try:
        return home.entries.get(id)
    except (FileNotFoundError, ValueError):
        return None


async def on_roll(core, id):
    try:
        return await core.get(id)
    except NotFound:
        return None


async def reaches_the_file(home, core, id):
    """A new agent of the roll comes to the file."""
    await core.register("worker", id, ttl=None)
    return await eventually(lambda: in_file(home, id), what=f"{id} in the file")


async def reaches_the_roll(home, core, id):
    """A new entry of the file comes to the roll."""
    home.edit(id, **signed(id))
    return await eventually(lambda: on_roll(core, id), what=f"{id} on the roll")


async def test_changes_reach_the_other_side_and_do_not_come_back(home, bus):
    """As a command, in a process of its own."""
    home.write(signed("f1", capabilities=["old"]))
    command = ["sync", "mindx", str(home.root), "--watch", "--nats", bus.url, "--realm", bus.realm]

    async with bus.served() as core:
        with Process(*command, home=home.root.parent) as process:
            await eventually(lambda: on_roll(core, "f1"), what="the first sync")
            await _changes_on_both_sides(home, core)
            assert process.popen.poll() is None, process.said()
            assert process.interrupt() is not None
        assert process.popen.returncode == 0
        revisions = [one.revision for id in ("f1", "f2", "r1") for one in await core.history(id)]
        items = await history(home)

    assert right("r1", home.entry("r1")["identity"])
    # f1: registered, of the file, of the core. f2 and r1: registered; r1 may get what its entry says of it.
    assert len(revisions) <= 6
    assert len(items) <= 8


async def _changes_on_both_sides(home, core):
    await reaches_the_file(home, core, "r1")
    await reaches_the_roll(home, core, "f2")
    home.edit("f1", capabilities=["of the file"])
    await eventually(lambda: capable(core, "f1", "of the file"), what="capabilities on the roll")
    await core.update("worker", "f1", {"capabilities": ["of the core"]})
    await eventually(lambda: home.entry("f1")["capabilities"] == ["of the core"], what="capabilities in the file")
    # Two more, so that whatever might come back has had its time.
    await reaches_the_file(home, core, "r2")
    await reaches_the_roll(home, core, "f3")


async def capable(core, id, capability):
    return capability in (await core.get(id)).capabilities


async def test_many_changes_are_collected(home, bus):
    home.write()

    async with bus.served() as core, watching(home, core):
        before = len(await history(home))
        await core.register_many([{"role": "worker", "id": f"r{n}", "ttl": None} for n in range(20)])
        await eventually(lambda: in_file(home, "r19") and in_file(home, "r0"), what="all in the file")
        items = await history(home)

    assert len(items) - before < 10


async def test_a_file_that_is_deleted_is_made_again_and_nobody_leaves_the_roll(home, bus):
    home.write(signed("f1"))

    async with bus.served() as core, watching(home, core, deletions="propagate"):
        await eventually(lambda: on_roll(core, "f1"))
        home.agents.unlink()
        await reaches_the_file(home, core, "r1")

        assert await on_roll(core, "f1")
        assert await on_roll(core, "first")
        await reaches_the_roll(home, core, "f2")


async def test_a_file_that_is_cut_off_is_left_alone_until_it_is_right_again(home, bus):
    home.write(signed("f1"))

    async with bus.served() as core, watching(home, core) as answers:
        before = home.agents.read_bytes()
        home.agents.write_bytes(before[:-20])
        cut = home.state()
        await core.register("worker", "r1", ttl=None)
        _, said = await eventually(lambda: next((one for one in answers if not one[0]), None), what="a refusal")
        assert home.agents.name in said
        assert home.state() == cut
        assert await on_roll(core, "f1")

        home.text(before)
        await eventually(lambda: in_file(home, "r1"), what="r1 in the file")
        await reaches_the_roll(home, core, "f2")


async def test_a_file_that_becomes_a_link_or_read_only_does_not_end_the_sync(home, bus, tmp_path):
    home.write(signed("f1"))

    async with bus.served() as core, watching(home, core):
        target = tmp_path / "target.json"
        target.write_bytes(home.agents.read_bytes())
        beside = home.agents.with_name("link")
        beside.symlink_to(target)
        beside.replace(home.agents)
        await reaches_the_file(home, core, "r1")
        json.loads(target.read_text())

        home.agents.chmod(0o444)
        await reaches_the_file(home, core, "r2")
        assert stat.S_IMODE(home.agents.stat().st_mode) == 0o444
        await reaches_the_roll(home, core, "f2")


async def test_a_directory_that_comes_later_is_watched(home, bus):
    async with bus.served() as core, watching(home, core):
        assert right("first", home.entry("first")["identity"])
        await reaches_the_roll(home, core, "f1")


# --- events -----------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def telling(home, core):
    """A sync that goes on and on, and has told of an agent; gives what it tells."""
    events = []
    task = asyncio.create_task(_told(syncing(home, core, on_event=events.append), core, events))
    try:
        await eventually(lambda: _probed(core, events), what="a word about any agent")
        yield events
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_what_happens_on_the_roll_is_told_as_mindx_tells_it(home, bus):
    async with bus.served() as core, telling(home, core) as events:
        await core.register("planner", "r1", description="Plans", ttl=None)
        (came,) = await eventually(lambda: told(events, "agent.registered", "r1"))
        (created,) = await eventually(lambda: told(events, "identity.created", "r1"))
        await core.deregister("planner", "r1")
        (left,) = await eventually(lambda: told(events, "agent.deregistered", "r1"))

    assert (came["agent_type"], came["description"], came["status"]) == ("planner", "Plans", "active")
    assert created["public_key"] == home.entry("r1")["identity"]["public_key"]
    assert left["agent_type"] == "planner"
    assert {"deregistered_by", "had_shutdown_method"} <= left.keys()
    for event in (came, created, left):
        assert abs(event["timestamp"] - time.time()) < 60
    assert abs(came["registered_at"] - time.time()) < 60
    assert "instance" not in json.dumps(events)


async def test_an_event_counts_the_agents_as_they_are_after_it(home, bus):
    async with bus.served() as core, telling(home, core) as events:
        for n in range(3):
            await core.register("planner", f"r{n}", ttl=None)
            (came,) = await eventually(lambda id=f"r{n}": told(events, "agent.registered", id))
            total = len(await core.list())
            await core.deregister("planner", f"r{n}")
            (left,) = await eventually(lambda id=f"r{n}": told(events, "agent.deregistered", id))

            assert (came["total_agents"], left["total_agents"]) == (total, total - 1)


async def _told(tool, core, events):
    async for ok, said in keep_in_sync(tool, core, on_event=events.append):
        assert ok, said


async def _probed(core, events):
    """Agents come until one is told of: from then on somebody listens."""
    await core.register("probe", f"probe-{time.monotonic_ns()}", ttl=None)
    return [event for event in events if "agent.registered" in event.values()]

"""houmao, sections 5, 10 and 11: the directory and the roll are kept in step, in both directions."""

import asyncio
import json
import os
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from rollcall import Entry, NotFound, Registry
from rollcall.core import codec
from rollcall.core.instants import instant
from rollcall.faces.files.houmao import incoming, outgoing
from rollcall.faces.files.houmao.directory import Directory
from rollcall.faces.files.houmao.forms import external
from rollcall.faces.files.houmao.incoming import Imported, Incoming
from rollcall.faces.files.houmao.mapping import external_fields, kept, kept_external
from rollcall.faces.files.houmao.outgoing import Exported, Mirroring
from tests.conftest import eventually
from tests.contract.houmao import (
    FILESYSTEM,
    GATEWAY,
    LIVE,
    OVER,
    STALWART,
    STATES,
    Document,
    Files,
    Json,
    document,
    foreign,
    legacy,
    stamp,
    text,
    today,
    with_,
)
from tests.processes import Process, rollcall

POINTERS = {"manifest_path": "/run/m.json", "tmux_session_name": "w-1"}
GONE = today(document(), lease=timedelta(minutes=-1))
GONE["liveness"]["published_at"] = stamp(datetime.now(UTC) - timedelta(hours=1))


@pytest.fixture
def files(tmp_path):
    return Files(tmp_path / "registry")


@pytest.fixture
async def core(bus):
    """A registry that answers."""
    async with bus.served() as registry:
        yield registry


async def taken_in(core: Registry, files: Files) -> Imported:
    """What `rollcall files import` does."""
    return await Incoming(core, files.root).take_in()


async def exported(core: Registry, files: Files) -> Exported:
    """What `rollcall files export` does."""
    entries = list(await core.list(exact=True))
    return outgoing.export(Directory(files.root), entries, datetime.now(UTC))


def counts(of: Imported | Exported) -> dict[str, int]:
    """What happened, without what did not."""
    names = ("registered", "updated", "unchanged", "deregistered", "written", "removed", "stale", "refused", "left")
    found = ((name, getattr(of, name, 0)) for name in names)
    counted = {name: len(value) if isinstance(value, list) else value for name, value in found}
    return {name: count for name, count in counted.items() if count}


async def absent(core: Registry, id: str) -> bool:
    """Whether nobody of that id is on the roll."""
    with suppress(NotFound):
        await core.get(id)
        return False
    return True


async def record(core: Registry, id: str = "gpu-1") -> Document:
    """The record of an agent on the roll."""
    held = kept(await core.get(id))
    return {} if held is None else held.model_dump()


# --- import -----------------------------------------------------------------------------------------------------------


async def test_agents_of_every_state_are_taken_in(core, files):
    files.put(*(today(document(state, id=f"a-{state}")) for state in STATES))

    assert counts(await taken_in(core, files)) == {"registered": 4}

    found = {entry.id: entry for entry in await core.list()}
    assert {id: str(entry.status) for id, entry in found.items()} == {
        "a-active": "running",
        "a-relaunching": "paused",
        "a-stopped": "stopped",
        "a-retired": "retired",
    }
    for entry in found.values():
        assert (entry.role, entry.name, entry.owner) == ("claude", "gpu", "houmao:gen-1")
    assert {str(entry.liveness) for entry in found.values() if entry.id in ("a-active", "a-relaunching")} == {"live"}
    assert {str(entry.liveness) for entry in found.values() if entry.id in ("a-stopped", "a-retired")} == {"unknown"}


async def test_what_was_taken_in_is_the_record_whole(core, files):
    every = [
        today(document(id="a", gateway=GATEWAY, mailbox=STALWART)),
        today(with_(document(id="b", mailbox=FILESYSTEM), "runtime.session_root", None)),
        document("stopped", id="c"),
    ]
    files.put(*every, foreign(id="far-1"))

    await taken_in(core, files)

    for of in every:
        held = kept(await core.get(of["agent_id"]))
        assert held is not None
        assert held.model_dump() == of
    held_far = kept_external(await core.get("far-1"))
    assert held_far is not None
    assert held_far.model_dump() == foreign(id="far-1")


async def test_to_import_twice_changes_nothing(core, files):
    files.put(*(today(document(state, id=f"a-{state}")) for state in STATES), foreign(id="far-1"))
    await taken_in(core, files)
    before, state = {entry.id: entry.revision for entry in await core.list()}, files.state()

    assert counts(await taken_in(core, files)) == {"unchanged": 5}

    assert {entry.id: entry.revision for entry in await core.list()} == before
    assert files.state() == state


async def test_the_lease_of_the_file_is_the_lease_of_the_roll(core, files):
    of = today(document(), lease=timedelta(minutes=20))
    files.put(of)
    await taken_in(core, files)

    entry = await core.get("gpu-1")

    ends = datetime.fromisoformat(of["liveness"]["lease_expires_at"]).timestamp()
    assert entry.expires_at is not None
    assert abs(instant(entry.expires_at) / 1000 - ends) < 2


@pytest.mark.parametrize("skew", [timedelta(hours=-3), timedelta(hours=3)], ids=["behind", "ahead"])
async def test_the_clock_of_whoever_published_does_not_matter(core, files, skew):
    # Only where the lease ends counts: it is an absolute time.
    of = today(document(), lease=timedelta(hours=6))
    of["liveness"]["published_at"] = stamp(datetime.now(UTC) + skew)
    of["lifecycle"]["state_updated_at"] = stamp(datetime.now(UTC) + skew)
    files.put(of)

    assert counts(await taken_in(core, files)) == {"registered": 1}
    assert str((await core.get("gpu-1")).liveness) == "live"
    files.put(with_(of, "generation_id", "gen-2"))
    assert [one.error for one in (await taken_in(core, files)).refused] == ["conflict"]


async def test_a_record_v2_is_taken_in(core, files):
    now = datetime.now(UTC)
    files.put(legacy(published_at=stamp(now), lease_expires_at=stamp(now + timedelta(hours=1))))

    assert counts(await taken_in(core, files)) == {"registered": 1}
    assert (await record(core))["schema_version"] == 3


async def test_two_agents_may_have_one_name(core, files):
    files.put(*(today(document(id=id, name="gpu")) for id in ("a", "b")))

    assert counts(await taken_in(core, files)) == {"registered": 2}
    assert sorted(entry.id for entry in await core.list() if entry.name == "gpu") == ["a", "b"]


def junk(number: int) -> bytes:
    """What stands in a file that is none."""
    of = today(document(id=f"bad-{number}"))
    kinds = [
        b"",
        text(of)[: number * 7],
        text(of).replace(b"gpu", b"\xff\xfe"),
        text(with_(of, "schema_version", 4)),
        text(with_(of, "agent_name", "a/b")),
        text(with_(of, "liveness", None)),
        text(of | {"unknown": 1}),
        b"[" * 5000,
        text([of]),
        rb'{"agent_id": "\ud800"}',
    ]
    return kinds[number % len(kinds)]


async def test_malformed_records_among_many_are_told_and_the_others_taken_in(core, files):
    files.put(*(today(document(id=f"a-{number}")) for number in range(270)))
    for number in range(30):
        files.put_bytes(f"bad-{number}", junk(number))

    told = await taken_in(core, files)

    assert counts(told) == {"registered": 270, "stale": 30}
    assert sorted(one.path for one in told.stale) == sorted(str(files.path(f"bad-{number}")) for number in range(30))
    assert all("record" in one.why for one in told.stale)
    assert len(await core.list()) == 270


async def test_odd_entries_are_stale_and_do_no_harm(core, files, tmp_path):
    files.put(today(document(id="good")))
    top = files.root / "live_agents"
    (top / "empty").mkdir()
    (top / "index.json").write_text("{}")
    (top / "piped").mkdir()
    os.mkfifo(top / "piped/record.json")
    (top / "nested/record.json").mkdir(parents=True)
    shutil.copytree(top / "good", tmp_path / "elsewhere")
    (top / "linked").symlink_to(tmp_path / "elsewhere")
    (top / "half").mkdir()
    (top / "half/record.json").symlink_to(tmp_path / "elsewhere/record.json")
    (top / "wide").mkdir()
    (top / "wide/record.json").write_bytes(b" " * (1 << 21))

    told = await taken_in(core, files)

    assert counts(told)["registered"] == 1
    stale = {Path(one.path).parent.name for one in told.stale}
    assert stale == {"empty", "piped", "nested", "linked", "half", "wide"}
    assert [entry.id for entry in await core.list()] == ["good"]


async def test_a_record_under_the_id_of_another_is_not_taken_in(core, files):
    files.put_bytes("somebody", text(today(document(id="gpu-1"))))

    told = await taken_in(core, files)

    assert counts(told) in ({"refused": 1}, {"stale": 1})
    assert list(await core.list()) == []


@pytest.mark.parametrize("kind", ["live_agents", "external_agents"])
async def test_a_directory_that_is_a_link_is_not_followed(core, files, tmp_path, kind):
    other = Files(tmp_path / "other")
    other.put(today(document()), foreign(id="far-1"))
    files.root.mkdir()
    (files.root / kind).symlink_to(other.root / kind)

    await taken_in(core, files)

    assert list(await core.list()) == []


async def test_an_agent_whose_lease_is_over_is_stale(core, files):
    files.put(GONE, with_(with_(GONE, "agent_id", "b"), "lifecycle.state", "relaunching"))

    told = await taken_in(core, files)

    assert counts(told) == {"stale": 2}
    assert list(await core.list()) == []


async def test_an_agent_with_a_secret_is_not_taken_in(core, files):
    files.put(with_(document("stopped"), "lifecycle.stop_reason", "Bearer aB3dE5gH7jK9mN1pQ2rS4tU6vW8xY0z"))

    told = await taken_in(core, files)

    assert counts(told) in ({"refused": 1}, {"stale": 1})
    assert "aB3dE5gH7jK9" not in str(told)
    assert list(await core.list()) == []


async def test_no_directory_is_an_empty_one(core, files):
    assert counts(await taken_in(core, files)) == {}
    assert not files.root.exists()


# --- whose an agent is ------------------------------------------------------------------------------------------------


async def test_a_refresh_of_a_generation_is_taken_in(core, files):
    files.put(today(document()))
    await taken_in(core, files)
    first = await core.get("gpu-1")
    files.edit("gpu-1", "gateway", GATEWAY)

    assert counts(await taken_in(core, files)) == {"updated": 1}

    entry = await core.get("gpu-1")
    assert (entry.owner, entry.incarnation) == (first.owner, first.incarnation)
    assert (await record(core))["gateway"] == GATEWAY


async def test_what_was_so_before_may_be_so_again(core, files):
    files.put(today(document()))
    await taken_in(core, files)
    for gateway in (GATEWAY, None, GATEWAY, None):
        files.edit("gpu-1", "gateway", gateway)

        assert counts(await taken_in(core, files)) == {"updated": 1}
        assert (await record(core))["gateway"] == gateway


@pytest.mark.parametrize("state", OVER)
async def test_a_stop_is_taken_in(core, files, state):
    files.put(today(document(gateway=GATEWAY)))
    await taken_in(core, files)
    files.put(document(state))

    assert counts(await taken_in(core, files)) == {"updated": 1}

    entry = await core.get("gpu-1")
    assert (str(entry.status), str(entry.liveness), entry.owner) == (state, "unknown", "houmao:gen-1")
    assert await record(core) == document(state)


@pytest.mark.parametrize("state", STATES)
async def test_another_generation_stands_down_before_an_active_one(core, files, state):
    files.put(today(document()))
    await taken_in(core, files)
    files.put(today(document(state, generation="gen-2")))

    told = await taken_in(core, files)

    assert counts(told) == {"refused": 1}
    assert (told.refused[0].id, told.refused[0].error) == ("gpu-1", "conflict")
    assert told.refused[0].message.startswith(
        "Shared-registry ownership conflict for agent_id `gpu-1` before publish: active generation `gen-1` already owns"
        " that logical identity, so generation `gen-2` must stand down."
    )
    assert (await core.get("gpu-1")).owner == "houmao:gen-1"
    assert files.read("gpu-1") == today(document(state, generation="gen-2")) or state in LIVE


@pytest.mark.parametrize("before", ["relaunching", *OVER])
@pytest.mark.parametrize("after", ["active", "stopped"])
async def test_another_generation_takes_over_whoever_is_not_active(core, files, before, after):
    files.put(today(document(before)))
    await taken_in(core, files)
    held = await core.get("gpu-1")
    files.put(today(document(after, generation="gen-2")))

    assert counts(await taken_in(core, files)) == {"updated": 1}

    entry = await core.get("gpu-1")
    assert entry.owner == "houmao:gen-2"
    assert entry.incarnation > held.incarnation
    assert await record(core) == files.read("gpu-1")


async def test_a_generation_of_another_tool_takes_over(core, files):
    files.put(document("stopped"))
    await taken_in(core, files)
    new = with_(today(document(generation="gen-2")), "identity.tool", "codex")
    files.put(new)

    assert counts(await taken_in(core, files)) == {"updated": 1}
    assert ((await core.get("gpu-1")).role, await record(core)) == ("codex", new)


async def test_a_file_never_takes_over_an_agent_of_rollcalls_own(core, files):
    async with core.agent("claude", "gpu", id="gpu-1", owner="ada", pointers=POINTERS):
        files.put(today(document()))

        told = await taken_in(core, files)

        assert counts(told) == {"refused": 1}
        assert (await core.get("gpu-1")).owner == "ada"


async def test_an_external_record_that_changed_is_taken_in(core, files):
    files.put(foreign(id="far-1"))
    await taken_in(core, files)
    now = stamp(datetime.now(UTC))
    new = foreign(id="far-1", generation="gen-2", updated_at_utc=now, verified_at_utc=now, remote_agent_ref="tpu")
    files.put(new)

    assert counts(await taken_in(core, files)) == {"updated": 1}
    held = kept_external(await core.get("far-1"))
    assert held is not None
    assert held.model_dump() == new


# --- export -----------------------------------------------------------------------------------------------------------


async def test_what_was_taken_in_is_written_elsewhere_letter_for_letter(core, files, tmp_path):
    files.put(
        *(today(document(state, id=f"a-{state}", mailbox=STALWART)) for state in STATES),
        today(document(id="g", gateway=GATEWAY)),
        foreign(id="far-1"),
    )
    await taken_in(core, files)
    other = Files(tmp_path / "other")

    assert counts(await exported(core, other)) == {"written": 6}

    for path, (data, *_) in files.state().items():
        assert (other.root / path).read_bytes() == data


async def test_nothing_is_written_that_stands_there(core, files):
    files.put(*(today(document(state, id=f"a-{state}")) for state in STATES), foreign(id="far-1"))
    await taken_in(core, files)
    state = files.state()

    for _ in range(2):
        assert counts(await exported(core, files)) == {"unchanged": 5}
    assert files.state() == state


async def test_to_and_fro_settles(core, files, tmp_path):
    other = Files(tmp_path / "other")
    async with core.agent("worker", "w", id="w1", pointers=POINTERS):
        files.put(today(document("active", id="a", gateway=GATEWAY)), document("stopped", id="b"))
        await taken_in(core, files)
        for one in (files, other):
            await exported(core, one)
        revisions = {entry.id: entry.revision for entry in await core.list()}
        state = files.state(), other.state()

        for one in (files, other, files):
            assert counts(await taken_in(core, one)) == {"unchanged": 3}
            assert counts(await exported(core, one)) == {"unchanged": 3}

        assert {entry.id: entry.revision for entry in await core.list()} == revisions
        assert (files.state(), other.state()) == state


async def test_a_native_agent_is_written_and_one_without_pointers_is_left(core, files):
    async with (
        core.agent("worker", "w", id="w1", pointers=POINTERS, ttl=60),
        core.agent("worker", "w", id="w2"),
        core.agent("worker", "w", id="w.3", pointers=POINTERS),
    ):
        told = await exported(core, files)

    assert counts(told) == {"written": 1, "left": 2}
    assert {one.id: "manifest_path" in one.why for one in told.left} == {"w2": True, "w.3": False}
    of = files.read("w1")
    assert of is not None
    assert (of["identity"]["tool"], of["lifecycle"]["state"]) == ("worker", "active")
    assert files.state().keys() == {"live_agents/w1/record.json"}


async def test_a_pointer_with_a_secret_is_not_written(core, files):
    async with core.agent("w", "w", id="w1", pointers=POINTERS | {"session_root": "http://a:b3c4d5@host/"}):
        told = await exported(core, files)

    assert counts(told) == {"left": 1}
    assert "$.runtime.session_root" in told.left[0].why
    assert not files.root.exists()


@pytest.mark.parametrize("lease", [timedelta(hours=1), timedelta(days=36500)], ids=["hours", "a hundred years"])
async def test_a_file_of_another_active_generation_is_left_alone_and_told(core, files, lease):
    files.put(today(document(), lease=lease))
    await taken_in(core, files)
    files.put(today(document(generation="gen-2"), lease=lease))
    state = files.state()

    told = await exported(core, files)

    assert counts(told) == {"left": 1}
    assert "must stand down" in told.left[0].why
    assert files.state() == state


@pytest.mark.parametrize("junk", [b"", b"{", b"\xff", text({})])
async def test_a_file_that_cannot_be_read_is_replaced(core, files, junk):
    files.put(document("stopped"))
    await taken_in(core, files)
    files.put_bytes("gpu-1", junk)

    assert counts(await exported(core, files)) == {"written": 1}
    assert files.read("gpu-1") == document("stopped")


async def test_a_stop_in_a_file_that_the_roll_does_not_know_yet_is_not_written_over(core, files):
    files.put(today(document()))
    await taken_in(core, files)
    of = with_(document("stopped"), "lifecycle.state_updated_at", stamp(datetime.now(UTC) + timedelta(seconds=2)))
    files.put(of)
    state = files.state()

    assert counts(await exported(core, files)) == {"left": 1}
    assert files.state() == state
    assert counts(await taken_in(core, files)) == {"updated": 1}
    assert counts(await exported(core, files)) == {"unchanged": 1}
    assert files.state() == state


async def test_a_change_in_a_file_is_not_written_over_by_what_only_came_from_it(core, files):
    # Houmao attaches a gateway right after the launch, while a mirror hears of the registration.
    files.put(today(document()))
    await taken_in(core, files)
    files.edit("gpu-1", "gateway", GATEWAY)
    state = files.state()

    await exported(core, files)

    assert files.state() == state
    assert counts(await taken_in(core, files)) == {"updated": 1}
    assert counts(await exported(core, files)) == {"unchanged": 1}
    assert files.state() == state


async def test_a_stop_of_the_roll_is_written_over_an_older_state(core, files):
    files.put(today(document()))
    await taken_in(core, files)
    await core.update("claude", "gpu-1", {"status": "stopped"})

    assert counts(await exported(core, files)) == {"written": 1}
    assert holds(files, "gpu-1", "lifecycle.state", "stopped")()


async def test_who_left_the_roll_does_not_come_back_by_an_old_file(core, files):
    files.put(document("stopped", id="a"), today(document(id="b")))
    await taken_in(core, files)
    for id in ("a", "b"):
        await core.deregister("claude", id)

    told = await taken_in(core, files)

    assert counts(told) == {"stale": 2}
    assert all("left the roll" in one.why for one in told.stale)
    assert list(await core.list()) == []
    files.put(today(document(id="b", generation="gen-2")))
    assert counts(await taken_in(core, files))["registered"] == 1
    assert [entry.owner for entry in await core.list()] == ["houmao:gen-2"]


async def test_a_lost_agent_is_written_as_stopped_and_as_active_once_it_beats_again(core, files):
    of = today(document(gateway=GATEWAY), lease=timedelta(seconds=2))
    files.put(of)
    await taken_in(core, files)
    await eventually(lambda: lost(core, "gpu-1"), what="lost")

    assert counts(await exported(core, files)) == {"written": 1}

    after = files.read("gpu-1")
    assert after is not None
    assert after["lifecycle"]["state"] == "stopped"
    assert (after["generation_id"], after["runtime"]) == (of["generation_id"], of["runtime"])
    # What was written is no news: the agent may come back.
    assert counts(await taken_in(core, files)) == {"unchanged": 1}
    await core.heartbeat("claude", "gpu-1")
    await eventually(lambda: found(core, "gpu-1"), what="recovered")
    assert counts(await exported(core, files)) == {"written": 1}
    assert holds(files, "gpu-1", "lifecycle.state", "active")()
    assert holds(files, "gpu-1", "gateway", GATEWAY)()


async def lost(core: Registry, id: str) -> bool:
    return (await core.get(id)).lost_at is not None


async def found(core: Registry, id: str) -> bool:
    return not await lost(core, id)


async def test_a_directory_that_cannot_be_written_is_told(core, files):
    files.put(document("stopped"))
    await taken_in(core, files)
    shutil.rmtree(files.root)
    files.root.write_text("in the way")

    told = await exported(core, files)

    assert counts(told) == {"left": 1}
    assert told.left[0].id == "gpu-1"
    assert files.root.read_text() == "in the way"


# --- mirror -----------------------------------------------------------------------------------------------------------


Life = AsyncIterator[list[Any]]


@pytest.fixture
def quick(monkeypatch):
    """Whatever is looked at now and then is looked at soon."""
    for module, name in ((outgoing, "LOOK_EVERY"), (incoming, "LOOK_EVERY"), (incoming, "LOOK_AGAIN")):
        monkeypatch.setattr(module, name, 0.1)


@asynccontextmanager
async def running(source: AsyncIterator[Any]) -> Life:
    """Lets it go on meanwhile; what it told is in the list."""
    told: list[Any] = []

    async def go() -> None:
        async for one in source:
            told.append(one)

    task = asyncio.create_task(go())
    try:
        await eventually(lambda: told or task.done(), what="a first look")
        yield told
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def mirroring(core: Registry, files: Files) -> Any:
    return running(Mirroring(core, files.root).run())


def watching(core: Registry, files: Files) -> Any:
    return running(incoming.watch(core, files.root))


def holds(files: Files, id: str, place: str, value: Json) -> Callable[[], bool]:
    """Whether a record says something."""

    def does() -> bool:
        of: Any = files.read(id)
        for name in place.split("."):
            of = of and of.get(name)
        return bool(of == value)

    return does


def says(core: Registry, id: str, right: Callable[[Entry], object]) -> Callable[[], Awaitable[bool]]:
    """Whether an agent is on the roll and as it should be."""

    async def does() -> bool:
        with suppress(NotFound):
            return bool(right(await core.get(id)))
        return False

    return does


async def test_a_mirror_follows_the_roll(core, files, quick):
    async with mirroring(core, files):
        await core.register("worker", "w1", name="w", pointers=POINTERS)
        await eventually(holds(files, "w1", "lifecycle.state", "active"), what="registered")

        await core.update("worker", "w1", {"status": "stopped"})
        await eventually(holds(files, "w1", "lifecycle.state", "stopped"), what="stopped")
        await core.update("worker", "w1", {"status": "running", "pointers": {"manifest_path": "/moved.json"}})
        await eventually(holds(files, "w1", "runtime.manifest_path", "/moved.json"), what="updated")
        assert holds(files, "w1", "lifecycle.state", "active")()
        await core.deregister("worker", "w1")
        await eventually(lambda: not files.path("w1").parent.exists(), what="deregistered")


async def test_a_mirror_writes_the_lease_as_beats_make_it_longer(core, files, quick):
    async with mirroring(core, files), core.agent("w", "w", id="w1", pointers=POINTERS, ttl=1.5):
        await eventually(lambda: files.read("w1"), what="written")
        first = files.read("w1")["liveness"]["lease_expires_at"]

        await eventually(lambda: files.read("w1")["liveness"]["lease_expires_at"] > first, what="a later lease")
        assert holds(files, "w1", "lifecycle.state", "active")()


async def test_what_is_taken_away_from_a_mirror_comes_back(core, files, quick):
    async with mirroring(core, files), core.agent("w", "w", id="w1", pointers=POINTERS, ttl=60):
        await eventually(lambda: files.read("w1"), what="written")

        files.path("w1").unlink()
        await eventually(lambda: files.read("w1"), what="the file again")
        files.remove("w1")
        await eventually(lambda: files.read("w1"), what="the entry again")
        shutil.rmtree(files.root)
        await eventually(lambda: files.read("w1"), what="the directory again")


async def test_a_link_put_in_the_place_of_a_mirror_is_replaced_and_not_followed(core, files, quick, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    async with mirroring(core, files), core.agent("w", "w", id="w1", pointers=POINTERS, ttl=60):
        await eventually(lambda: files.read("w1"), what="written")
        elsewhere.mkdir()

        shutil.rmtree(files.root / "live_agents")
        (files.root / "live_agents").symlink_to(elsewhere)
        await eventually(lambda: not (files.root / "live_agents").is_symlink() and files.read("w1"), what="replaced")
        files.remove("w1")
        files.path("w1").parent.symlink_to(elsewhere)
        await core.update("w", "w1", {"status": "stopped"})
        await eventually(holds(files, "w1", "lifecycle.state", "stopped"), what="replaced again")

    assert list(elsewhere.iterdir()) == []
    assert not files.path("w1").parent.is_symlink()


async def test_a_mirror_that_cannot_write_says_so_once_and_goes_on_when_it_can(core, files, quick):
    files.root.write_text("in the way")
    async with mirroring(core, files) as told, core.agent("w", "w", id="w1", pointers=POINTERS, ttl=60):
        await eventually(lambda: [one for each in told for one in each.left], what="told")
        await eventually(lambda: len(told) > 6, what="some more looks")
        assert len([one for each in told for one in each.left if one.id == "w1"]) == 1

        files.root.unlink()
        await eventually(lambda: files.read("w1"), what="written")


async def test_a_mirror_of_a_read_only_directory_goes_on_when_it_can(core, files, quick, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(30, "Read-only file system")

    async with mirroring(core, files) as told, core.agent("w", "w", id="w1", pointers=POINTERS, ttl=60):
        with monkeypatch.context() as patched:
            patched.setattr(Directory, "write", refuse)
            await core.update("w", "w1", {"status": "stopped"})
            await eventually(lambda: [one for each in told for one in each.left], what="told")
        await eventually(holds(files, "w1", "lifecycle.state", "stopped"), what="written")

    assert "Read-only file system" in str([one.why for each in told for one in each.left])


async def test_a_mirror_leaves_the_file_of_another_active_generation_alone(core, files, quick):
    files.put(today(document(id="w1", generation="other")))
    state = files.state()
    async with mirroring(core, files) as told, core.agent("claude", "gpu", id="w1", pointers=POINTERS):
        await eventually(lambda: [one for each in told for one in each.left], what="told")

    assert files.state() == state


async def test_what_was_there_before_a_mirror_is_not_taken_away(core, files, quick):
    files.put(today(document(id="other")), document("stopped", id="past"))
    files.put_bytes("bad", b"{")
    state = files.state()
    async with mirroring(core, files), core.agent("w", "w", id="w1", pointers=POINTERS):
        await eventually(lambda: files.read("w1"), what="written")

    assert {path: of for path, of in files.state().items() if "/w1/" not in path} == state


async def test_a_slow_disk_keeps_nobody_who_left(core, files, quick, monkeypatch):
    real = outgoing.export

    def slow(*given: Any) -> Exported:
        time.sleep(0.15)  # a disk takes longer than it is from one look at everybody to the next
        return real(*given)

    async with mirroring(core, files):
        await core.register("worker", "w1", name="w", pointers=POINTERS)
        await eventually(lambda: files.read("w1"), what="written")
        monkeypatch.setattr(outgoing, "export", slow)
        await core.deregister("worker", "w1")

        await eventually(lambda: not files.path("w1").parent.exists(), within=5, what="removed")


async def test_a_mirror_follows_agents_of_other_registries(core, files, quick):
    await core.announce(codec.as_profile(external_fields(external(foreign(id="far-1")))), "claim")
    async with mirroring(core, files):
        await eventually(lambda: files.read("far-1", "external_agents") == foreign(id="far-1"), what="written")

        await core.deregister("claude", "far-1")
        await eventually(lambda: files.read("far-1", "external_agents") is None, what="removed")


# --- watch ------------------------------------------------------------------------------------------------------------


async def test_a_watch_follows_the_files(core, files, quick):
    files.put(today(document(id="a")))
    async with watching(core, files):
        await eventually(says(core, "a", lambda entry: entry.owner == "houmao:gen-1"), what="registered")

        files.put(today(document(id="b")))
        await eventually(says(core, "b", lambda entry: entry.owner == "houmao:gen-1"), what="another")
        files.put(document("stopped", id="a"))
        await eventually(says(core, "a", lambda entry: entry.status == "stopped"), what="stopped")
        files.put(today(document(id="a", generation="gen-2")))
        await eventually(says(core, "a", lambda entry: entry.owner == "houmao:gen-2"), what="relaunched")
        files.remove("b")
        await eventually(lambda: absent(core, "b"), what="removed")

    assert [entry.id for entry in await core.list()] == ["a"]


async def test_a_watch_begins_when_there_is_a_directory(core, files, quick):
    async with watching(core, files):
        files.put(today(document()))

        await eventually(says(core, "gpu-1", lambda entry: entry.status == "running"), what="registered")


async def test_a_directory_that_is_lost_while_watched_deregisters_nobody(core, files, quick):
    every = [today(document(id=f"a-{number}")) for number in range(8)]
    files.put(*every)
    async with watching(core, files) as told:
        await eventually(lambda: registered(core, 8), what="registered")

        looks = len(told)
        shutil.rmtree(files.root)
        files.put(today(document(id="new")))
        await eventually(says(core, "new", lambda entry: entry.status == "running"), what="another")
        await eventually(lambda: len(told) > looks + 2, what="some looks")
        assert await registered(core, 9)


async def registered(core: Registry, count: int) -> bool:
    return len(await core.list()) == count


async def test_a_watched_record_that_breaks_is_told_once_and_its_agent_stays(core, files, quick):
    files.put(today(document(id="a")), today(document(id="b")))
    async with watching(core, files) as told:
        files.put_bytes("a", b"\xff")
        await eventually(lambda: [one for each in told for one in each.stale], what="told")
        files.edit("b", "gateway", GATEWAY)
        await eventually(says(core, "b", lambda entry: "gateway" in str(entry.extensions)), what="the other follows")
        assert len([one for each in told for one in each.stale]) == 1

        files.put(document("stopped", id="a"))
        await eventually(says(core, "a", lambda entry: entry.status == "stopped"), what="it is right again")


async def test_a_watch_does_not_follow_a_link(core, files, quick, tmp_path):
    other = Files(tmp_path / "other")
    other.put(today(document(id="x")))
    files.put(today(document(id="a")))
    async with watching(core, files) as told:
        (files.root / "live_agents/x").symlink_to(other.path("x").parent)

        await eventually(lambda: [one for each in told for one in each.stale], what="told")
        assert await absent(core, "x")


# --- both at once -----------------------------------------------------------------------------------------------------


async def test_mirror_and_watch_of_one_directory_follow_each_other_and_come_to_rest(core, files, quick):
    async with (
        mirroring(core, files) as written,
        watching(core, files) as read,
        core.agent("w", "w", id="w1", pointers=POINTERS, ttl=60),
    ):
        files.put(today(document(id="a")))
        await eventually(says(core, "a", lambda entry: entry.status == "running"), what="from the file")
        await eventually(lambda: files.read("w1"), what="from the roll")
        await rest(core, files, written, read)
        files.edit("a", "gateway", GATEWAY)
        await eventually(says(core, "a", lambda entry: "43123" in str(entry.extensions)), what="a change of the file")
        await core.update("claude", "a", {"status": "stopped"})
        await eventually(holds(files, "a", "lifecycle.state", "stopped"), what="a change of the roll")
        await core.update("w", "w1", {"status": "retired"})
        await eventually(holds(files, "w1", "lifecycle.state", "retired"), what="of its own")

        await rest(core, files, written, read)

        assert str((await core.get("a")).status) == "stopped"
        assert str((await core.get("w1")).status) == "retired"


async def test_what_houmao_does_stays_done_while_both_follow_each_other(core, files, quick):
    async with mirroring(core, files) as written, watching(core, files) as read:
        files.put(today(document(id="a")), today(document(id="b")))
        await eventually(lambda: registered(core, 2), what="launched")
        await rest(core, files, written, read)

        files.put(document("stopped", id="a"))
        await eventually(says(core, "a", lambda entry: entry.status == "stopped"), what="stopped")
        files.put(today(document(id="a", generation="gen-2", session="again")))
        await eventually(says(core, "a", lambda entry: entry.owner == "houmao:gen-2"), what="relaunched")
        files.remove("b")
        await eventually(lambda: absent(core, "b"), what="purged")
        await rest(core, files, written, read)

    assert holds(files, "a", "terminal.current_session_name", "again")()
    assert files.read("b") is None


async def rest(core: Registry, files: Files, *told: list[Any]) -> None:
    """Waits until everybody has looked several times and nothing changed."""

    async def now() -> Any:
        return {entry.id: entry.revision for entry in await core.list()}, files.state()

    async def quiet() -> bool:
        before, looks = await now(), [len(each) for each in told]
        await eventually(
            lambda: all(len(each) >= look + 3 for each, look in zip(told, looks, strict=True)), what="some looks"
        )
        return bool(await now() == before)

    await eventually(quiet, what="rest")


async def test_two_realms_may_share_a_directory(bus, core, files, quick, nats_server, tmp_path):
    other_bus = type(bus)(nats_server, f"{bus.realm}-b", tmp_path)
    async with other_bus.served(name="w2") as other:
        async with (
            mirroring(core, files) as one,
            watching(other, files) as two,
            core.agent("w", "w", id="w1", pointers=POINTERS, ttl=60),
        ):
            await eventually(says(other, "w1", lambda entry: entry.status == "running"), what="in the other realm")
            await core.update("w", "w1", {"status": "stopped"})
            await eventually(says(other, "w1", lambda entry: entry.status == "stopped"), what="stopped there too")

            await rest(other, files, one, two)


# --- the commands -----------------------------------------------------------------------------------------------------


@pytest.fixture
def run(bus, files):
    """`rollcall files` on the directory, with its exit code."""
    env = {**os.environ, "ROLLCALL_NATS": bus.url, "ROLLCALL_REALM": bus.realm, "COLUMNS": "200"}

    async def run(command: str) -> tuple[int, Json]:
        done = await asyncio.to_thread(rollcall, "files", command, "--root", str(files.root), "--json", env=env)
        assert "Traceback" not in done.stderr, done.stderr
        return done.returncode, json.loads(done.stdout)

    return run


async def test_what_the_commands_tell(core, files, run):
    root = str(files.root)
    files.put(today(document(id="a")), document("stopped", id="b"), foreign(id="far-1"))
    nothing = {"root": root, "registered": 0, "updated": 0, "unchanged": 0, "deregistered": 0}
    assert await run("import") == (0, nothing | {"registered": 3, "stale": [], "refused": []})
    assert await run("import") == (0, nothing | {"unchanged": 3, "stale": [], "refused": []})
    assert await run("export") == (0, {"root": root, "written": 0, "unchanged": 3, "removed": 0, "left": []})

    files.put(today(document(id="a", generation="gen-2")), document("retired", id="b"))
    files.put_bytes("bad", b"{")
    code, told = await run("import")
    assert code == 1
    assert {name: told[name] for name in nothing} == nothing | {"updated": 1, "unchanged": 1}
    path = str(files.path("bad"))
    assert told["stale"] == [{"path": path, "why": f"Invalid JSON in registry record `{path}`."}]
    assert [(one["id"], one["error"]) for one in told["refused"]] == [("a", "conflict")]
    assert "must stand down" in told["refused"][0]["message"]
    code, told = await run("export")
    assert code == 1
    assert [one["id"] for one in told["left"]] == ["a"]


async def test_the_commands_that_go_on_until_they_are_interrupted(core, bus, files, tmp_path):
    env = {"ROLLCALL_NATS": bus.url, "ROLLCALL_REALM": bus.realm}
    root = ("--root", str(files.root), "--json")
    with (
        Process("files", "mirror", *root, home=tmp_path, env=env) as mirror,
        Process("files", "watch", *root, home=tmp_path, env=env) as watch,
    ):
        files.put(today(document(id="a")))
        await eventually(says(core, "a", lambda entry: entry.status == "running"), what="watched")
        await core.update("claude", "a", {"status": "stopped"})
        await eventually(holds(files, "a", "lifecycle.state", "stopped"), what="mirrored")

        ended = await asyncio.gather(*(asyncio.to_thread(one.interrupt) for one in (mirror, watch)))

        assert max(ended) < 5
        assert (mirror.popen.returncode, watch.popen.returncode) == (0, 0)
        assert "Traceback" not in mirror.said() + watch.said()

"""`rollcall backup` and `rollcall restore`: what they say, what they refuse, and their exit codes."""

import sqlite3
import stat

import pytest

import rollcall
from rollcall.identity.keys import new_key
from rollcall.store.schema import VERSION
from rollcall.worker import IdentitySettings
from tests.conftest import ids
from tests.unit.test_backup import flipped

CONFLICTS, INVALID, REFUSED, SET_UP = 1, 2, 4, 6


@pytest.fixture
def file(bus):
    return bus.home / "roll.backup"


async def test_a_backup_says_what_is_in_it(bus, say, file):
    async with bus.served() as registry:
        await registry.register("worker", "a", ttl=None)
        await registry.register("worker", "b", ttl=None)
        await registry.deregister("worker", "b")
        epoch = (await registry.info())["epoch"]

        told = await say.json("backup", str(file))
        shown = await say("backup", str(file))

    assert {name: told[name] for name in ("file", "realm", "epoch", "revision", "agents", "changes")} == {
        "file": str(file),
        "realm": bus.realm,
        "epoch": epoch,
        "revision": 3,
        "agents": 1,
        "changes": 3,
    }
    assert len(told["checksum"]) == 64
    assert f"1 agents and 3 changes of realm {bus.realm} are in {file}" in shown.stdout.replace("\n", "")
    assert "revision 3 of epoch" in shown.stdout
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


async def test_who_is_missing_comes_back_and_who_differs_stays(bus, say, file):
    async with bus.served() as registry:
        for id in ("same", "left", "differs"):
            await registry.register("worker", id, ttl=None)
        made = await say.json("backup", str(file))
        await registry.deregister("worker", "left")
        await registry.update("worker", "differs", {"description": "newer"})

        dry = await say.json("restore", str(file), "--dry-run", exits=CONFLICTS)
        assert (dry["dry_run"], dry["restored"], dry["unchanged"]) == (True, 1, 1)
        assert ids(await registry.list(exact=True)) == ["same", "differs"]
        assert "1 would be restored" in (await say("restore", str(file), "--dry-run", exits=CONFLICTS)).stdout

        shown = await say("restore", str(file), exits=CONFLICTS)
        assert f"a backup of {made['at']}: revision 3 of realm {bus.realm}" in shown.stdout
        assert "1 restored, 1 are there as they were, 1 differ and stay as they are" in shown.stdout
        for word in ("worker differs", "revision 5", "revision 3", "description"):
            assert word in shown.stdout
        assert sorted(ids(await registry.list(exact=True))) == ["differs", "left", "same"]
        assert (await registry.get("differs")).description == "newer"

        again = await say.json("restore", str(file), exits=CONFLICTS)
        assert (again["restored"], again["unchanged"]) == (0, 2)
        assert [one["id"] for one in again["conflicts"]] == ["differs"]
        assert again["backup"] == {name: made[name] for name in again["backup"]}


async def test_without_conflicts_a_restore_is_just_done(bus, say, file):
    async with bus.served() as registry:
        await registry.register("worker", "a", ttl=None)
        await say("backup", str(file))
        await registry.deregister("worker", "a")
        before = (await registry.info())["epoch"]

        told = await say.json("restore", str(file))

        assert (told["restored"], told["conflicts"]) == (1, [])
        assert told["epoch"] == (await registry.info())["epoch"] > before
        assert (await say.json("restore", str(file)))["unchanged"] == 1


async def test_a_file_that_is_no_whole_backup_is_refused_and_changes_nothing(bus, say, file):
    async with bus.served() as registry:
        await registry.register("worker", "a", ttl=None, description="find me in the file")
        await say("backup", str(file))
        await registry.deregister("worker", "a")
        revision = (await registry.info(exact=True))["revision"]
        data = file.read_bytes()

        file.write_bytes(flipped(data, data.find(b"find me")))
        assert "is corrupt" in (await say("restore", str(file), exits=INVALID)).stderr
        file.write_bytes(data[: len(data) // 2])
        assert "nothing was restored" in (await say("restore", str(file), exits=INVALID)).stderr.replace("\n", " ")
        file.write_bytes(b"no database")
        await say("restore", str(file), exits=INVALID)
        await say("restore", str(file), "--dry-run", exits=INVALID)
        assert "is no backup" in (await say("restore", str(bus.home / "w1.db"), exits=INVALID)).stderr
        file.write_bytes(data)
        with sqlite3.connect(file) as newer:
            newer.execute(f"PRAGMA user_version = {VERSION + 1}")
        assert "upgrade rollcall" in (await say("restore", str(file), exits=SET_UP)).stderr
        assert "there is no file" in (await say("restore", str(file) + "x", exits=SET_UP)).stderr

        assert (await registry.info(exact=True))["revision"] == revision
        assert ids(await registry.list()) == []
        file.write_bytes(data)
        await say("restore", str(file))


async def test_whom_nothing_proves_is_refused_by_name(bus, say, file):
    async with bus.served() as registry, rollcall.connect(bus.url, realm=bus.realm, key=new_key()) as owner:
        await owner.register("worker", "signed", ttl=None)
        await owner.update("worker", "signed", {"description": "x"})
        await registry.register("worker", "free", ttl=None)
        await say("backup", str(file))
        await owner.deregister("worker", "signed")
        await registry.deregister("worker", "free")

        shown = await say("restore", str(file), exits=CONFLICTS)

        assert "refused: worker signed: it belongs to" in shown.stderr
        assert "an operator may restore it" in shown.stderr.replace("\n", " ")
        assert ids(await registry.list(exact=True)) == ["free"]


async def test_where_there_are_operators_nobody_else_restores(bus, say, file):
    chief = (await say("keys", "new", "chief", exits=0)).stdout
    public = next(word for word in chief.split() if word.startswith("U"))
    identity = IdentitySettings(operators=frozenset({public}))
    async with bus.served(identity=identity) as registry:
        await registry.register("worker", "a", ttl=None)
        await say("backup", str(file))
        await registry.deregister("worker", "a")

        await say("restore", str(file), exits=REFUSED)
        await say("restore", str(file), "--dry-run", exits=REFUSED)
        assert ids(await registry.list()) == []

        await say("restore", str(file), "--key", "chief")
        assert ids(await registry.list(exact=True)) == ["a"]


async def test_a_snapshot_is_backed_up_also_while_no_worker_runs(bus, say, file):
    data = bus.home / "data"
    async with bus.served() as registry:
        await registry.register("worker", "a", ttl=None)
    (data / "snapshots").mkdir(parents=True)
    (bus.home / "w1.db").rename(data / "snapshots" / f"{bus.realm}.db")

    shown = await say("backup", str(file), ROLLCALL_DATA_DIR=str(data))

    assert "no worker answers; what is on disk is copied" in shown.stderr.replace("\n", " ")
    assert "1 agents" in shown.stdout
    elsewhere = bus.home / "elsewhere"
    assert "no worker of realm" in (await say("backup", str(file), "--data-dir", str(elsewhere), exits=SET_UP)).stderr


async def test_the_snapshot_of_a_worker_is_not_overwritten_by_its_backup(bus, say):
    async with bus.served() as registry:
        await registry.register("worker", "a", ttl=None)

        assert "another name" in (await say("backup", str(bus.home / "w1.db"), exits=SET_UP)).stderr

        await registry.register("worker", "b", ttl=None)
    async with bus.served() as registry:
        assert ids(await registry.list()) == ["a", "b"]


async def test_a_place_that_cannot_be_written_is_said(bus, say, file):
    async with bus.served() as registry:
        await registry.register("worker", "a", ttl=None)

        for to in (bus.home / "nowhere" / "x", bus.home):
            done = await say("backup", str(to), exits=SET_UP)
            assert "rollcall: " in done.stderr
        assert ids(await registry.list()) == ["a"]

"""mindx, section 7: plan, status, history and rollback, each by a process that just started."""

import hashlib
import json

import pytest

from rollcall import NotFound
from tests.contract.mindx import (
    SYNC_KEYS,
    Home,
    coordinator,
    done,
    entry,
    history,
    idle,
    refused,
    running,
    signed,
    synced,
    syncing,
)


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path / "mindX")


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def changes_of(item, id, field):
    return [one for one in item["changes"] if (one["id"], one["field"]) == (id, field)]


def saying(text):
    """A running agent `a` whose description changes."""
    return coordinator(running("a", description=text))


# --- plan and status --------------------------------------------------------------------------------------------------


async def test_a_plan_writes_nothing(home, bus):
    home.write(entry("f1"), signed("f2"))

    async with bus.served() as core:
        await core.register("worker", "r1", ttl=None)
        before = home.tree()
        plan = await synced(home, core, "plan")

        assert home.tree() == before
        assert [one.id for one in await core.list()] == ["r1"]
        result = await synced(home, core)

    for name in ("agents_added", "agents_changed", "keys_updated", "agents_synced"):
        assert plan[name] == result[name], name


async def test_a_plan_of_a_missing_root_makes_nothing(home):
    await synced(home, coordinator("a"), "plan")

    assert not home.root.exists()


async def test_a_plan_tells_conflicts(home):
    home.write(signed("a"))
    await synced(home, saying("old"))
    home.edit("a", description="of the file")

    plan = await synced(home, saying("of the runtime"), "plan")

    assert [(one["id"], one["field"]) for one in plan["conflicts"]] == [("a", "description")]


async def test_a_plan_of_nothing_to_do_says_so(home):
    home.write(signed("a"))
    await synced(home, coordinator("a"))

    plan = await synced(home, coordinator("a"), "plan")

    assert (plan["agents_added"], plan["agents_changed"], plan["keys_updated"]) == (0, 0, 0)


async def test_a_plan_is_no_item_of_the_history(home):
    home.write(signed("a"))
    await synced(home, saying("old"))
    before = await history(home)

    await synced(home, saying("new"), "plan")

    assert await history(home) == before


async def test_status_tells_the_last_sync_and_the_hash_of_the_file(home):
    home.write(signed("a"))
    result = await synced(home, saying("new"))

    said = json.dumps(await done(syncing(home, saying("new")), "status"))

    assert result["sync_id"] in said
    assert sha256(home.agents.read_bytes()) in said


async def test_status_tells_open_conflicts(home):
    home.write(signed("a"))
    await synced(home, saying("old"))
    home.edit("a", description="of the file")
    before = json.dumps(await done(syncing(home, saying("old")), "status"))
    await synced(home, saying("of the runtime"), policy="hold")

    after = json.dumps(await done(syncing(home, saying("of the runtime")), "status"))

    assert "of the runtime" not in before
    assert "of the runtime" in after


async def test_status_tells_no_conflict_that_was_decided(home):
    home.write(signed("a"))
    await synced(home, saying("old"))
    home.edit("a", description="of the file")
    await synced(home, saying("of the runtime"), policy="hold")
    await synced(home, saying("of the runtime"), policy="file")
    await synced(home, saying("of the runtime"), policy="file")

    said = await done(syncing(home, saying("of the runtime")), "status")

    assert [value for name, value in said.items() if "conflict" in name] == [[]]


async def test_status_before_the_first_sync(home):
    home.write(signed("a"))
    before = home.tree()

    await done(syncing(home, coordinator("a")), "status")

    assert home.tree() == before


# --- history ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("action", ["plan", "status", "history"])
async def test_whoever_asks_about_a_corrupt_file_is_answered(home, action):
    home.text("{")
    before = home.tree()

    ok, said = await syncing(home, coordinator("a")).execute(action)

    assert ok or isinstance(said, str)
    assert home.tree() == before


async def test_before_the_first_sync_there_is_no_history(home):
    assert await history(home) == []


async def test_the_history_is_told_newest_first(home):
    home.write(signed("a"))
    ids = [(await synced(home, saying(f"text {n}")))["sync_id"] for n in range(3)]

    assert [item["sync_id"] for item in await history(home)] == ids[::-1]


async def test_an_item_tells_what_changed_and_from_where(home):
    home.write(signed("a"))
    await synced(home, saying("old"))
    before = home.agents.read_bytes()
    result = await synced(home, saying("new"))

    item = (await history(home))[0]

    assert item["sync_id"] == result["sync_id"]
    assert item["started_at"] <= item["finished_at"]
    assert isinstance(item["started_at"], float)
    (change,) = changes_of(item, "a", "description")
    assert (change["before"], change["after"]) == ("old", "new")
    assert change["origin"] == "runtime"
    assert "result" in item
    said = json.dumps(item)
    assert sha256(before) in said
    assert sha256(home.agents.read_bytes()) in said


async def test_an_item_tells_a_change_that_came_from_the_file(home, bus):
    async with bus.served() as core:
        home.write(signed("f1", capabilities=["old"]))
        await synced(home, core)
        home.edit("f1", capabilities=["new"])
        await synced(home, core)

    (change,) = changes_of((await history(home))[0], "f1", "capabilities")
    assert (change["before"], change["after"], change["origin"]) == (["old"], ["new"], "file")


async def test_the_last_fifty_are_kept(home):
    home.write(signed("a"))
    ids = []
    for n in range(53):
        result = await done(syncing(home, saying(f"text {n}")), "sync_all", validate_signatures=False)
        ids.append(result["sync_id"])

    assert [item["sync_id"] for item in await history(home)] == ids[:2:-1]


async def test_the_oldest_item_that_is_kept_can_be_rolled_back(home):
    home.write(signed("a"))
    files = []
    for n in range(52):
        files.append(home.agents.read_bytes())
        await done(syncing(home, saying(f"text {n}")), "sync_all", validate_signatures=False)
    oldest = (await history(home))[-1]["sync_id"]

    await synced_back(home, saying("text 51"), oldest)

    assert home.agents.read_bytes() == files[2]


# --- rollback ---------------------------------------------------------------------------------------------------------


async def synced_back(home, runtime, sync_id, **settings):
    return await done(syncing(home, runtime, **settings), "rollback", sync_id=sync_id)


async def test_a_rollback_brings_the_file_as_it_was_before_that_sync(home):
    home.text('{"registered_agents":   {"a":{"id":"a", "description":"old","x":1.0}},"own":null}\n\n')
    before = home.agents.read_bytes()
    first = await synced(home, coordinator("a", "new"))
    await synced(home, saying("later"))

    await synced_back(home, saying("later"), first["sync_id"])

    assert home.agents.read_bytes() == before


async def test_a_rollback_is_an_item_itself(home):
    home.write(signed("a"))
    await synced(home, saying("old"))
    second = await synced(home, saying("new"))
    count = len(await history(home))

    await synced_back(home, saying("new"), second["sync_id"])

    items = await history(home)
    assert len(items) == count + 1
    assert items[0]["sync_id"] not in [item["sync_id"] for item in items[1:]]
    (change,) = changes_of(items[0], "a", "description")
    assert (change["before"], change["after"]) == ("new", "old")


async def test_a_rollback_can_be_rolled_back(home):
    home.write(signed("a"))
    await synced(home, saying("old"))
    second = await synced(home, saying("new"))
    after = home.agents.read_bytes()
    await synced_back(home, saying("new"), second["sync_id"])
    back = (await history(home))[0]["sync_id"]
    assert home.entry("a")["description"] == "old"

    await synced_back(home, saying("new"), back)

    assert home.agents.read_bytes() == after


async def test_a_rollback_keeps_wallets(home):
    home.write(entry("a"))
    result = await synced(home, coordinator("a", "new"))
    wallets = home.held()

    await synced_back(home, coordinator("a", "new"), result["sync_id"])

    assert "new" not in home.entries
    assert home.held() == wallets
    assert len(wallets) == 2


async def test_a_rollback_brings_the_core_back(home, bus):
    async with bus.served() as core:
        await core.register("worker", "r1", ttl=None, name="R", capabilities=["old"])
        home.write(signed("f1"))
        await synced(home, core)
        home.edit("r1", capabilities=["new"])
        home.edit("f1", name="Anew", unknown={"x": 1})
        home.edit("f2", **signed("f2"))
        edited = home.agents.read_bytes()
        second = await synced(home, core)
        assert list((await core.get("r1")).capabilities) == ["new"]
        await core.get("f2")

        await synced_back(home, core, second["sync_id"])

        assert list((await core.get("r1")).capabilities) == ["old"]
        assert (await core.get("f1")).name == "Name of f1"
        with pytest.raises(NotFound):
            await core.get("f2")
        assert home.agents.read_bytes() == edited
        other = Home(home.root.with_name("other"))
        await synced(other, core)
        assert "unknown" not in other.entry("f1")


async def test_a_rollback_undoes_all_later_syncs_in_the_core(home, bus):
    async with bus.served() as core:
        home.write(signed("f1", capabilities=["a"]))
        await synced(home, core)
        home.edit("f1", capabilities=["b"])
        before = home.agents.read_bytes()
        second = await synced(home, core)
        home.edit("f1", capabilities=["c"])
        home.edit("f2", **signed("f2"))
        await synced(home, core)

        await synced_back(home, core, second["sync_id"])

        assert home.agents.read_bytes() == before
        assert [(one.id, list(one.capabilities)) for one in await core.list()] == [("f1", ["a"])]
        await idle(home, core)


async def test_a_rollback_brings_null_back_as_null(home, bus):
    other = Home(home.root.with_name("other"))

    async with bus.served() as core:
        home.write(signed("f1", unknown=None))
        await synced(home, core)
        home.edit("f1", unknown=5)
        second = await synced(home, core)
        await synced_back(home, core, second["sync_id"])
        await synced(other, core)

    assert other.entry("f1").get("unknown", "not there") is None


async def test_a_rollback_brings_back_who_was_deregistered(home, bus):
    async with bus.served() as core:
        home.write(signed("f1", capabilities=["x"]), signed("f2"))
        await synced(home, core)
        home.remove("f1")
        second = await synced(home, core, deletions="propagate")
        with pytest.raises(NotFound):
            await core.get("f1")

        await synced_back(home, core, second["sync_id"])

        assert list((await core.get("f1")).capabilities) == ["x"]


async def test_a_rollback_leaves_running_agents_running(home, bus):
    async with bus.served() as core:
        home.write(signed("f1"))
        await core.register("worker", "r1", ttl=None)
        first = await synced(home, core)

        await synced_back(home, core, first["sync_id"])

        assert (await core.get("r1")).status == "running"
    assert list(home.entries) == ["f1"]


@pytest.mark.parametrize("sync_id", ["nobody", "", None, "../../etc/passwd"])
async def test_an_unknown_sync_cannot_be_rolled_back(home, sync_id):
    home.write(signed("a"))
    await synced(home, saying("new"))
    before = home.state()

    await refused(syncing(home, saying("new")), "rollback", sync_id=sync_id)

    assert home.state() == before


async def test_a_corrupt_file_can_be_rolled_back_or_is_left_alone(home):
    home.write(signed("a"))
    before = home.agents.read_bytes()
    first = await synced(home, saying("new"))
    home.text("{")

    ok, _ = await syncing(home, saying("new")).execute("rollback", sync_id=first["sync_id"])

    assert home.agents.read_bytes() == (before if ok else b"{")


async def test_the_results_of_an_item_are_those_of_the_sync(home):
    home.write(signed("a"))
    result = await synced(home, coordinator("a", "new"))

    said = (await history(home))[0]["result"]

    if isinstance(said, dict):
        shared = SYNC_KEYS & said.keys()
        assert {name: said[name] for name in shared} == {name: result[name] for name in shared}


async def test_after_a_rollback_the_sync_can_be_done_again(home):
    home.write(signed("a"))
    await synced(home, saying("old"))
    second = await synced(home, saying("new"))
    await synced_back(home, saying("new"), second["sync_id"])

    await synced(home, saying("newest"))

    assert home.entry("a")["description"] == "newest"
    await idle(home, saying("newest"))

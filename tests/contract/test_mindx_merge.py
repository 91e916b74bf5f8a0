"""mindx, sections 7 and 8: the three-way merge of the file with the core, or with a running mindX."""

import copy
import json
import random
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from rollcall import Liveness, NotFound, Status
from tests.conftest import eventually, leads
from tests.contract.mindx import (
    IGNORED,
    PLACEHOLDERS,
    Home,
    carried,
    coordinator,
    done,
    entry,
    env_var,
    identity,
    idle,
    named,
    refused,
    registry,
    right,
    running,
    signed,
    synced,
    syncing,
    told,
    without,
)
from tests.contract.test_mindx_vectors import ADDRESSES


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path / "one")


@pytest.fixture
def other(tmp_path):
    """A second mindX beside the same core."""
    return Home(tmp_path / "two")


async def known(home, core, *entries):
    """The file and the core agree on these."""
    home.write(*entries)
    await synced(home, core)


async def has(core, id):
    try:
        return await core.get(id)
    except NotFound:
        return None


# --- with a running mindX ---------------------------------------------------------------------------------------------


FIELDS = {"type": "agent_type", "description": "description"}
each_field = pytest.mark.parametrize("field", FIELDS)


@each_field
async def test_what_only_the_runtime_changed_comes_to_the_file(home, field):
    home.write(signed("a"))
    await synced(home, coordinator("a"))

    result = await synced(home, coordinator(running("a", **{FIELDS[field]: "anew"})))

    assert home.entry("a")[field] == "anew"
    assert (result["agents_changed"], result["conflicts"]) == (1, [])


@each_field
async def test_what_only_the_file_changed_stays_in_the_file(home, field):
    home.write(signed("a"))
    runtime = coordinator("a")
    await synced(home, runtime)
    home.edit("a", **{field: "anew"})

    result = await synced(home, runtime)

    assert home.entry("a")[field] == "anew"
    assert result["conflicts"] == []
    await idle(home, runtime)


@each_field
async def test_what_both_changed_alike_is_no_conflict(home, field):
    home.write(signed("a"))
    await synced(home, coordinator("a"))
    home.edit("a", **{field: "anew"})
    before = home.state()

    result = await synced(home, coordinator(running("a", **{FIELDS[field]: "anew"})))

    assert result["conflicts"] == []
    assert home.state() == before


async def test_different_fields_changed_on_both_sides_are_no_conflict(home):
    home.write(signed("a"))
    await synced(home, coordinator("a"))
    home.edit("a", description="of the file", mine=[1])

    result = await synced(home, coordinator(running("a", agent_type="of the runtime")))

    after = home.entry("a")
    assert (after["type"], after["description"], after["mine"]) == ("of the runtime", "of the file", [1])
    assert result["conflicts"] == []


POLICIES = {"runtime": "of the runtime", "file": "of the file", "hold": "of the file"}


@pytest.mark.parametrize("policy", POLICIES)
async def test_a_conflict_is_decided_by_the_policy_and_always_told(home, policy):
    home.write(signed("a"), signed("b"))
    await synced(home, coordinator("a", "b"))
    home.edit("a", description="of the file")
    runtime = coordinator(running("a", description="of the runtime"), "b")

    result = await synced(home, runtime, policy=policy)

    assert home.entry("a")["description"] == POLICIES[policy]
    (conflict,) = result["conflicts"]
    winner = conflict.pop("winner")
    assert conflict == {"id": "a", "field": "description", "file": "of the file", "runtime": "of the runtime"}
    if policy == "hold":
        assert winner not in ("file", "runtime")
    else:
        assert winner == policy


async def test_the_runtime_wins_unless_told_otherwise(home):
    home.write(signed("a"))
    await synced(home, coordinator("a"))
    home.edit("a", type="of the file")

    result = await synced(home, coordinator(running("a", agent_type="of the runtime")))

    assert home.entry("a")["type"] == "of the runtime"
    assert [one["winner"] for one in result["conflicts"]] == ["runtime"]


@pytest.mark.parametrize("policy", ["runtime", "file"])
async def test_a_decided_conflict_is_settled(home, policy):
    home.write(signed("a"))
    await synced(home, coordinator("a"))
    home.edit("a", description="of the file")
    runtime = coordinator(running("a", description="of the runtime"))
    await synced(home, runtime, policy=policy)

    assert (await synced(home, runtime, policy=policy))["conflicts"] == []
    await idle(home, runtime, policy=policy)


async def test_a_held_conflict_stays_open_until_it_is_decided(home):
    home.write(signed("a"))
    await synced(home, coordinator("a"))
    home.edit("a", description="of the file")
    runtime = coordinator(running("a", description="of the runtime"))
    first = await synced(home, runtime, policy="hold")
    await idle(home, runtime, policy="hold")
    second = await synced(home, runtime, policy="hold")

    third = await synced(home, runtime, policy="runtime")

    assert second["conflicts"] == first["conflicts"]
    assert [one["winner"] for one in third["conflicts"]] == ["runtime"]
    assert home.entry("a")["description"] == "of the runtime"


@pytest.mark.parametrize("field", ["instance", "registered_at", "status"])
async def test_what_is_no_field_of_the_file_is_no_change(home, field):
    home.write(signed("a"))
    await synced(home, coordinator("a"))
    before = home.state()

    other = {"instance": object(), "registered_at": 5.0, "status": "active"}[field]
    await synced(home, coordinator(running("a", **{field: other})))

    assert home.state() == before


@pytest.mark.parametrize("field", IGNORED)
async def test_the_time_of_an_entry_is_no_change(home, field):
    home.write(signed("a", last_updated=5.5, last_updated_at=5.5))
    runtime = coordinator("a")
    await synced(home, runtime)
    home.edit("a", **{field: 99.5})

    await idle(home, runtime)

    assert home.entry("a")[field] == 99.5


async def test_the_time_of_the_file_is_no_change(home):
    home.write(signed("a"))
    await synced(home, coordinator("a"))
    home.text(json.dumps({**home.read(), "last_updated_at": 99.5}, indent=2))

    await idle(home, coordinator("a"))


async def test_an_agent_that_stops_stays_in_the_file_and_is_told(home):
    home.write(signed("a"), signed("b"))
    await synced(home, coordinator("a", "b"))

    result = await synced(home, coordinator("a"))

    assert list(home.entries) == ["a", "b"]
    assert result["agents_synced"] == 1
    await idle(home, coordinator("a"))


async def test_propagated_an_agent_that_stops_leaves_the_file_but_not_its_wallet(home):
    home.write(signed("a"), entry("b"))
    await synced(home, coordinator("a", "b"), deletions="propagate")
    wallets = home.held()

    await synced(home, coordinator("a"), deletions="propagate")

    assert list(home.entries) == ["a"]
    assert home.held() == wallets != {}


# --- with the core ----------------------------------------------------------------------------------------------------


async def test_an_entry_of_the_file_is_registered_as_defined_and_not_running(home, bus):
    home.write(signed("f1", 6, name="F One", type="planner", capabilities=["plan", "ünï"]))

    async with bus.served() as core:
        await synced(home, core)
        found = await core.get("f1")

    assert (found.id, found.name, found.role) == ("f1", "F One", "planner")
    assert found.capabilities == ("plan", "ünï")
    assert (found.status, found.liveness, found.ttl) == (Status.DEFINED, Liveness.UNKNOWN, None)
    assert found.owner.lower() == f"eip191:{ADDRESSES[6]}".lower()


async def test_an_agent_from_the_file_is_not_discovered_as_running(home, bus):
    home.write(signed("f1", type="planner"))

    async with bus.served() as core:
        await synced(home, core)

        assert list(await core.discover("planner")) == []
        assert [one.id for one in await core.discover("planner", include=["all"], status=["all"])] == ["f1"]


async def test_an_agent_that_is_not_enabled_is_paused(home, bus):
    home.write(signed("off", enabled=False))

    async with bus.served() as core:
        await core.register("worker", "r1", ttl=None)
        await synced(home, core)
        home.edit("r1", enabled=False)
        await synced(home, core)

        assert (await core.get("off")).status is Status.PAUSED
        assert (await core.get("r1")).status is Status.PAUSED
        await idle(home, core)


async def test_a_running_agent_of_the_core_gets_an_entry(home, bus):
    async with bus.served() as core:
        await core.register("planner", "r1", name="R One", description="Plans", capabilities=["plan"], ttl=None)
        await synced(home, core)

    after = home.entry("r1")
    assert (after["name"], after["type"], after["description"]) == ("R One", "planner", "Plans")
    assert (after["capabilities"], after["enabled"]) == (["plan"], True)
    assert right("r1", after["identity"])


async def test_a_sync_does_not_disturb_a_living_agent(home, bus):
    async with bus.served() as core:
        async with core.agent("worker", "R One", id="r1", capabilities=["x"]):
            before = await core.get("r1")
            await synced(home, core)
            home.edit("r1", capabilities=["y"])
            await synced(home, core)
            after = await core.get("r1")

    assert after.capabilities == ("y",)
    assert (after.status, after.liveness) == (Status.RUNNING, Liveness.LIVE)
    assert (after.incarnation, after.ttl, after.host) == (before.incarnation, before.ttl, before.host)


CHANGES = {
    "capabilities": ["anew", "and more"],
    "name": "Anew",
    "version": "2.0.0",
    "roles": ["r"],
    "description": "Anew",
    "no description": None,
    "module_path": "a.b.c",
    "access_control": {"allowed_agents": ["*"], "deep": {"null": None, "list": [None, {"x": None}]}},
    "unknown": {"b": None, "a": [1.5, {"z": None}]},
    "unknown null": None,
    "type": "planner",
}


@pytest.mark.parametrize("name", CHANGES)
async def test_what_only_the_file_changed_comes_to_the_core_and_to_other_files(home, other, bus, name):
    field = {"no description": "description", "unknown null": "unknown"}.get(name, name)

    async with bus.served() as core:
        await known(home, core, signed("a", unknown={"was": 1}), signed("b"))
        await synced(other, core)
        home.edit("a", **{field: CHANGES[name]})
        before = home.entry("a")
        result = await synced(home, core)
        found = await core.get("a")
        await synced(other, core)

        await idle(home, core)
        await idle(other, core)

    assert result["conflicts"] == []
    assert without(home.entry("a"), *IGNORED) == without(before, *IGNORED)
    assert other.entry("a")[field] == CHANGES[name]
    assert carried(home, other) == {}
    if name == "capabilities":
        assert found.capabilities == ("anew", "and more")
    if name == "name":
        assert found.name == "Anew"
    if name == "type":
        assert (found.role, found.status) == ("planner", Status.DEFINED)


async def test_true_is_another_value_than_1(home, other, bus):
    async with bus.served() as core:
        await known(home, core, signed("a", unknown={"x": [1]}))
        await synced(other, core)
        home.edit("a", unknown={"x": [True]})
        await synced(home, core)
        await synced(other, core)

    assert home.entry("a")["unknown"]["x"][0] is other.entry("a")["unknown"]["x"][0] is True


async def test_what_was_taken_out_of_an_entry_leaves_the_core_and_other_files(home, other, bus):
    async with bus.served() as core:
        await known(home, core, signed("a", notes={"x": 1}, access_control={"p": 1, "q": 2}))
        await synced(other, core)
        home.edit("a", access_control={"q": 2})
        content = home.read()
        del content["registered_agents"]["a"]["notes"]
        home.text(json.dumps(content, indent=2))
        await synced(home, core)
        await synced(other, core)

    assert "notes" not in home.entry("a") | other.entry("a")
    assert home.entry("a")["access_control"] == other.entry("a")["access_control"] == {"q": 2}


async def test_what_only_the_core_changed_comes_to_the_file(home, bus):
    async with bus.served() as core:
        await core.register("worker", "r1", ttl=None, capabilities=["old"])
        await known(home, core, signed("f1"))
        await core.update("worker", "r1", {"capabilities": ["new"], "name": "Anew"})
        await core.update("worker", "f1", {"capabilities": ["new"]})
        result = await synced(home, core)
        await idle(home, core)

    assert (home.entry("r1")["capabilities"], home.entry("r1")["name"]) == (["new"], "Anew")
    assert home.entry("f1")["capabilities"] == ["new"]
    assert (result["agents_changed"], result["conflicts"]) == (2, [])


async def test_a_beat_is_no_change(home, bus):
    async with bus.served() as core:
        await core.register("worker", "r1")
        await synced(home, core)
        await core.heartbeat("worker", "r1")

        await idle(home, core)


async def test_what_file_and_core_changed_alike_is_no_conflict(home, bus):
    async with bus.served() as core:
        await core.register("worker", "r1", ttl=None)
        await synced(home, core)
        await core.update("worker", "r1", {"capabilities": ["alike"]})
        home.edit("r1", capabilities=["alike"])

        assert (await synced(home, core))["conflicts"] == []
        await idle(home, core)


async def test_fields_that_file_and_core_changed_come_together(home, bus):
    async with bus.served() as core:
        await core.register("worker", "r1", ttl=None)
        await synced(home, core)
        await core.update("worker", "r1", {"capabilities": ["of the core"]})
        home.edit("r1", name="Of The File")
        result = await synced(home, core)
        found = await core.get("r1")

    assert result["conflicts"] == []
    assert (found.name, found.capabilities) == ("Of The File", ("of the core",))
    assert (home.entry("r1")["name"], home.entry("r1")["capabilities"]) == ("Of The File", ["of the core"])


OF_POLICY = {
    "runtime": ("runtime", 1.5, ["core"], ["core"]),
    "file": ("file", 1.5, ["file"], ["file"]),
    "newest, of long ago": ("newest", 1.5, ["core"], ["core"]),
    "newest, of the future": ("newest", 9e9, ["file"], ["file"]),
    "hold": ("hold", 1.5, ["file"], ["core"]),
}


@pytest.mark.parametrize("name", OF_POLICY)
async def test_a_conflict_with_the_core_is_decided_by_the_policy_and_always_told(home, bus, name):
    policy, last_updated, in_file, in_core = OF_POLICY[name]

    async with bus.served() as core:
        await core.register("worker", "r1", ttl=None, capabilities=["base"])
        await synced(home, core)
        await core.update("worker", "r1", {"capabilities": ["core"]})
        home.edit("r1", capabilities=["file"], last_updated=last_updated)
        result = await synced(home, core, policy=policy)
        found = await core.get("r1")
        await idle(home, core, policy=policy)

    assert home.entry("r1")["capabilities"] == in_file
    assert list(found.capabilities) == in_core
    (conflict,) = result["conflicts"]
    assert (conflict["id"], conflict["field"]) == ("r1", "capabilities")
    assert (conflict["file"], conflict["runtime"]) == (["file"], ["core"])
    if policy != "hold":
        assert conflict["winner"] == ("file" if in_file == ["file"] else "runtime")


async def test_only_the_field_in_conflict_is_held(home, bus):
    async with bus.served() as core:
        await core.register("worker", "r1", ttl=None, capabilities=["base"])
        await synced(home, core)
        await core.update("worker", "r1", {"capabilities": ["core"]})
        home.edit("r1", capabilities=["file"], name="Anew")
        result = await synced(home, core, policy="hold")
        found = await core.get("r1")

    assert (found.name, found.capabilities) == ("Anew", ("core",))
    assert [one["field"] for one in named(result["conflicts"], "r1")] == ["capabilities"]


async def test_an_entry_taken_out_of_the_file_stays_in_the_core_and_is_told(home, bus):
    async with bus.served() as core:
        await core.register("worker", "r1", ttl=None)
        await known(home, core, signed("f1"), signed("f2"))
        home.remove("f1")
        home.remove("r1")
        result = await synced(home, core)

        assert await has(core, "f1")
        assert await has(core, "r1")
        assert all(id in json.dumps(result) for id in ("f1", "r1"))
        await idle(home, core)


async def test_an_agent_that_left_the_core_stays_in_the_file_and_is_told(home, bus):
    async with bus.served() as core:
        await core.register("worker", "r1", ttl=None)
        await known(home, core, signed("f1"))
        await core.deregister("worker", "f1")
        await core.deregister("worker", "r1")
        result = await synced(home, core)

        assert {"f1", "r1"} <= home.entries.keys()
        assert all(id in json.dumps(result) for id in ("f1", "r1"))
        await idle(home, core)


async def test_propagated_an_entry_taken_out_of_the_file_leaves_the_core(home, bus):
    events = []

    async with bus.served() as core:
        await known(home, core, signed("f1"), entry("f2"), signed("f3"))
        wallets = home.held()
        home.remove("f1")
        home.remove("f2")
        await synced(home, core, deletions="propagate", on_event=events.append)

        assert not await has(core, "f1")
        assert not await has(core, "f2")
        assert await has(core, "f3")
        await idle(home, core, deletions="propagate")
    assert list(home.entries) == ["f3"]
    assert home.held() == wallets != {}


async def test_propagated_an_agent_that_left_the_core_leaves_the_file(home, bus):
    async with bus.served() as core:
        await core.register("worker", "r1", ttl=None)
        await known(home, core, signed("f1"), signed("f2"))
        wallets = home.held()
        await core.deregister("worker", "f1")
        await core.deregister("worker", "r1")
        await synced(home, core, deletions="propagate")

        assert list(home.entries) == ["f2"]
        await idle(home, core, deletions="propagate")
    assert home.held() == wallets != {}


async def test_what_is_new_on_a_side_is_not_taken_for_deleted_on_the_other(home, bus):
    async with bus.served() as core:
        await known(home, core, signed("f1"))
        await core.register("worker", "new", ttl=None)
        home.edit("f2", **signed("f2"))
        await synced(home, core, deletions="propagate")

        assert {one.id for one in await core.list()} == home.entries.keys() == {"f1", "f2", "new"}


async def test_a_file_that_is_new_deletes_nobody(home, other, bus):
    async with bus.served() as core:
        await known(home, core, signed("f1"))
        await synced(other, core, deletions="propagate")

        assert await has(core, "f1")
    assert list(other.entries) == ["f1"]


async def test_changes_of_one_system_reach_another_through_the_core(home, other, bus):
    async with bus.served() as core:
        await known(home, core, signed("f1"))
        await known(other, core, signed("f2", 4))
        await synced(home, core)
        home.edit("f2", capabilities=["from one"])
        other.edit("f1", description="from two")
        for one in (home, other, home):
            await synced(one, core)

    for one in (home, other):
        assert one.entry("f1")["description"] == "from two"
        assert one.entry("f2")["capabilities"] == ["from one"]


async def test_an_agent_that_cannot_be_registered_does_not_stop_the_others(home, bus):
    too_long = "x" * 200

    async with bus.served() as core:
        home.write(signed("f1"), entry(too_long, identity=identity(too_long, 5)), signed("f2"))
        before = home.state()
        for added in (2, 0):
            result = await done(syncing(home, core))

            assert {one.id for one in await core.list()} == {"f1", "f2"}
            (error,) = result["errors"]
            assert error.startswith(f"Failed to sync agent {too_long}: ")
            assert result["agents_added"] == added
    assert home.state() == before


async def test_a_change_that_the_core_refuses_is_told_and_not_counted(home, bus):
    async with bus.served() as core:
        await known(home, core, signed("f1"), signed("f2"))
        home.edit("f1", name="n" * 5000)
        home.edit("f2", name="Anew")
        before = home.state()
        for changed in (1, 0):
            result = await done(syncing(home, core))

            (error,) = result["errors"]
            assert error.startswith("Failed to sync agent f1: ")
            assert result["agents_changed"] == changed
        names = [(await core.get(id)).name for id in ("f1", "f2")]

        assert names == ["Name of f1", "Anew"]
        home.edit("f1", name="Right")
        await synced(home, core)
        assert (await core.get("f1")).name == "Right"
    assert home.state() != before


ODD = {
    "capabilities of anything": {"capabilities": [1, {"x": None}]},
    "capabilities null": {"capabilities": None},
    "a type null": {"type": None},
    "a type that is a number": {"type": 5},
    "a name that is a number": {"name": 5},
    "an empty name": {"name": ""},
    "a description that is an object": {"description": {"x": None}},
    "enabled null": {"enabled": None},
    "another id": {"id": "somebody else"},
    "an id that is a number": {"id": 5},
    "numbers": {"x": 1e308, "y": -0.0, "z": 10**30, "w": 1.0},
    "an identity that is a text": {"identity": "x"},
    "an identity that is a list": {"identity": [{}]},
    "a time that is a text": {"last_updated": "2025-01-01"},
    "too large for a record": {"documentation": "x" * 100_000},
    "half a character": {"x": "\ud83d"},
}


@pytest.mark.parametrize("name", ODD)
async def test_odd_values_do_no_harm(home, bus, name):
    odd = {**signed("odd"), **ODD[name]}
    home.text(json.dumps(registry({"f1": signed("f1"), "odd": odd, "f2": signed("f2")}), indent=2))

    async with bus.served() as core:
        await done(syncing(home, core))
        after = home.entry("odd")
        before = home.state()
        again = await done(syncing(home, core))

        assert home.state() == before
        assert (again["agents_added"], again["agents_changed"], again["keys_updated"]) == (0, 0, 0)
        assert {one.id for one in await core.list()} >= {"f1", "f2"}
    may_change = {"last_updated", *(["identity"] if "identity" in ODD[name] else [])}
    assert json.dumps(without(after, *may_change)) == json.dumps(without(odd, *may_change))


@pytest.mark.parametrize("id", ["", "*", ">", "a.b", "a/b", "../x", " ", "a\nb", "ü" * 70], ids=ascii)
async def test_odd_ids_do_no_harm(home, bus, id):
    home.text(json.dumps(registry({"f1": signed("f1"), id: entry(id), "f2": signed("f2")}), indent=2))

    async with bus.served() as core:
        await done(syncing(home, core))
        before = home.state()
        again = await done(syncing(home, core))

        assert home.state() == before
        assert (again["agents_added"], again["agents_changed"], again["keys_updated"]) == (0, 0, 0)
        assert {one.id for one in await core.list()} >= {"f1", "f2"}
    assert list(home.entries) == ["f1", id, "f2"]


async def test_an_agent_that_is_enabled_again_is_what_it_was(home, bus):
    async with bus.served() as core:
        await core.register("worker", "r1", ttl=None)
        await known(home, core, signed("f1"))
        for enabled, runs, defined in [(False, Status.PAUSED, Status.PAUSED), (True, Status.RUNNING, Status.DEFINED)]:
            for id in ("r1", "f1"):
                home.edit(id, enabled=enabled)
            await synced(home, core)

            assert [(await core.get(id)).status for id in ("r1", "f1")] == [runs, defined]
            await idle(home, core)


async def test_another_key_of_an_agent_comes_to_other_files(home, other, bus):
    async with bus.served() as core:
        await known(home, core, signed("a", 3))
        await synced(other, core)
        home.edit("a", identity=identity("a", 4))
        await synced(home, core)
        await synced(other, core)

    assert home.entry("a")["identity"] == other.entry("a")["identity"] == identity("a", 4)


async def test_a_living_agent_whose_type_changes_lives_on(home, bus):
    async with bus.served() as core:
        async with core.agent("worker", "R One", id="r1", ttl=1.5):
            await synced(home, core)
            home.edit("r1", type="planner")
            await synced(home, core)
            moved = await core.get("r1")
            await eventually(lambda: _beaten_since(core, moved), what="another beat")
            after = await core.get("r1")
            await idle(home, core)

    assert home.entry("r1")["type"] == "planner"
    assert (after.role, after.status, after.liveness) == ("planner", Status.RUNNING, Liveness.LIVE)


async def _beaten_since(core, before):
    return (await core.get(before.id)).last_seen > before.last_seen


async def test_a_registry_that_does_not_answer_is_not_an_empty_one(home, bus):
    home.write(signed("f1"), signed("f2"))

    async with bus.registry() as core:
        async with bus.worker():
            await leads(core)
            await synced(home, core)
        before = home.state()

        said = await refused(syncing(home, core, deletions="propagate"))

    assert said.startswith("Registry sync failed: ")
    assert home.state() == before


# --- events -----------------------------------------------------------------------------------------------------------


async def test_a_new_wallet_is_told(home):
    events = []

    await synced(home, coordinator("my-agent"), on_event=events.append)

    (event,) = told(events, "identity.created", "my-agent")
    assert event["public_key"] == home.entry("my-agent")["identity"]["public_key"]
    assert event["env_var"] == env_var("my-agent")
    assert abs(event["timestamp"] - time.time()) < 60
    assert "metadata" in event


# --- whatever happens -------------------------------------------------------------------------------------------------


IDS = ["a", "b-1", "ü x", "d"]
IDENTITIES = [
    None,
    {},
    {"public_key": PLACEHOLDERS[0]},
    {"public_key": ADDRESSES[6], "signature": "00" * 65},
    "right",
]
TEXTS = st.sampled_from(["x", "y", "z"])
IN_FILE = st.fixed_dictionaries(
    {"type": TEXTS, "description": st.none() | TEXTS, "identity": st.sampled_from(IDENTITIES)},
    optional={"enabled": st.booleans(), "extra": st.none() | TEXTS, "last_updated": st.floats(0, 9e9)},
)
RUNNING = st.fixed_dictionaries({}, optional={"agent_type": TEXTS, "description": TEXTS})
SIDES = st.tuples(
    st.dictionaries(st.sampled_from(IDS), IN_FILE, max_size=3),
    st.dictionaries(st.sampled_from(IDS), RUNNING, max_size=3),
)
SETTINGS = st.fixed_dictionaries(
    {
        "policy": st.sampled_from(["runtime", "file", "newest", "hold"]),
        "deletions": st.sampled_from(["keep", "propagate"]),
        "direction": st.sampled_from(["both", "both", "runtime_to_file", "file_to_runtime"]),
    }
)


def written(id, said):
    said = dict(said)
    wanted = said.pop("identity")
    if wanted == "right":
        said["identity"] = identity(id, 5)
    elif wanted is not None:
        said["identity"] = dict(wanted)
    return said


# Without shrinking: an example takes as long as its wallets.
@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate])
@given(steps=st.lists(SIDES, min_size=1, max_size=3), chosen=SETTINGS)
async def test_every_merge_settles(steps, chosen):
    with tempfile.TemporaryDirectory() as directory:
        home = Home(Path(directory))
        for in_file, in_runtime in steps:
            agents = {id: written(id, said) for id, said in in_file.items()}
            home.text(json.dumps(registry(agents), indent=2))
            runtime = coordinator(*({"agent_id": id, "status": "active", **said} for id, said in in_runtime.items()))
            result = await done(syncing(home, runtime, **chosen))
            before, wallets, errors = home.state(), home.held(), result["errors"]

            again = await done(syncing(home, runtime, **chosen))

            assert home.state() == before
            assert home.held() == wallets
            assert (again["agents_added"], again["agents_changed"], again["keys_updated"]) == (0, 0, 0)
            assert again["errors"] == errors


@pytest.mark.parametrize("seed", range(3))
async def test_every_merge_with_the_core_settles(home, other, bus, seed):
    chance = random.Random(seed)
    homes = (home, other)
    for one in homes:
        one.write()

    async with bus.served() as core:
        for _ in range(4):
            one = chance.choice(homes)
            for id in chance.sample(IDS, 2):
                if id in one.entries and chance.random() < 0.2:
                    one.remove(id)
                    continue
                fields = {"capabilities": [chance.choice("xyz")], "extra": chance.choice([None, {"n": None}, 1])}
                one.edit(id, **{**fields, "description": chance.choice([None, "x"])})
            held = chance.choice(IDS)
            if found := await has(core, held):
                await core.update(found.role, held, {"capabilities": [chance.choice("xyz")]})
            chosen = {"policy": chance.choice(["runtime", "file"])}
            for each in (home, other, home, other):
                await synced(each, core, **chosen)
            left = copy.deepcopy([each.read() for each in homes])
            revision = (await core.info())["revision"]

            for each in homes:
                await idle(each, core, **chosen)
            assert [each.read() for each in homes] == left
            assert (await core.info())["revision"] == revision

"""houmao, sections 5 and 6: stopping, retiring, purging and relaunching agents, and who is meant by a name."""

import asyncio
import json
import os
import uuid
from datetime import UTC, datetime, timedelta

import pytest
import pytest_asyncio

from rollcall import Conflict, Entry, NotFound, Registry
from rollcall.core import codec
from rollcall.faces.files.houmao import lifecycle
from rollcall.faces.files.houmao.finding import found, in_session
from rollcall.faces.files.houmao.forms import external, local
from rollcall.faces.files.houmao.lookup import Ambiguous
from rollcall.faces.files.houmao.mapping import external_fields, fields_of, kept
from tests.conftest import eventually
from tests.contract.houmao import (
    GATEWAY,
    LIVE,
    OVER,
    STALWART,
    STATES,
    Document,
    Json,
    document,
    foreign,
    today,
    with_,
)
from tests.processes import rollcall

pytestmark = pytest.mark.asyncio(loop_scope="module")

POINTERS = {
    "manifest_path": "/run/m.json",
    "tmux_session_name": "w-1",
    "session_root": "/run",
    "agent_def_dir": "/defs",
}
STILL_ACTIVE = "shared-registry record still claims active lifecycle state; stop the agent first"


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def served(realm):
    async with realm.served() as registry:
        yield registry


@pytest_asyncio.fixture(loop_scope="module")
async def core(served):
    """One registry for all tests here; each finds it empty."""
    yield served
    for entry in await served.list(exact=True):
        await served.deregister(entry.role, entry.id)


async def put(core: Registry, *records: Document) -> Entry:
    """Agents as they came from a directory; the last one's entry."""
    for of in records:
        fields = fields_of(local(of), None, datetime.now(UTC)) if "agent_id" in of else external_fields(external(of))
        entry = await core.announce(codec.as_profile(fields), "claim")
    return entry


async def record(core: Registry, id: str = "gpu-1") -> Document:
    """The record that came from the directory, as the roll has it now."""
    held = kept(await core.get(id))
    assert held is not None
    return held.model_dump()


def just_now(text: str) -> bool:
    return abs(datetime.now(UTC) - datetime.fromisoformat(text)) < timedelta(seconds=30)


# --- stop -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", LIVE)
@pytest.mark.parametrize("ref", ["gpu-1", "gpu", "HOUMAO-gpu"])
async def test_to_stop_an_agent_keeps_what_it_needs_to_be_started_again(core, state, ref):
    before = today(document(state, gateway=GATEWAY, mailbox=STALWART))
    await put(core, before)

    await lifecycle.stop(core, ref)

    after = await record(core)
    assert {name for name in after if after[name] != before[name]} == {"lifecycle", "terminal", "liveness", "gateway"}
    assert (after["liveness"], after["gateway"]) == (None, None)
    assert after["terminal"] == before["terminal"] | {"current_session_name": None}
    lifecycle_ = after["lifecycle"]
    assert (lifecycle_["state"], lifecycle_["stop_reason"]) == ("stopped", "operator_stop")
    assert lifecycle_["relaunchable"] is True
    assert just_now(lifecycle_["stopped_at"])
    assert just_now(lifecycle_["state_updated_at"])
    entry = await core.get("gpu-1")
    assert (str(entry.status), entry.owner, entry.ttl) == ("stopped", "houmao:gen-1", None)


async def test_who_is_stopped_already_is_left_as_it_is(core):
    before = await put(core, document("stopped"))

    assert (await lifecycle.stop(core, "gpu-1")).revision == before.revision
    assert await record(core) == document("stopped")


async def test_who_is_retired_is_not_stopped(core):
    await put(core, document("retired"))

    with pytest.raises(Conflict):
        await lifecycle.stop(core, "gpu-1")
    assert await record(core) == document("retired")


async def test_an_agent_of_rollcalls_own_is_stopped(core):
    await core.register("worker", "w1", name="w", pointers=POINTERS)

    assert str((await lifecycle.stop(core, "w")).status) == "stopped"


# --- retire -----------------------------------------------------------------------------------------------------------


async def test_to_retire_a_stopped_agent_takes_it_out_of_use_for_good(core):
    before = document("stopped", mailbox=STALWART)
    await put(core, before)

    entry = await lifecycle.retire(core, "gpu")

    after = await record(core)
    assert after == before | {"lifecycle": after["lifecycle"]}
    assert after["lifecycle"] == before["lifecycle"] | {
        "state": "retired",
        "relaunchable": False,
        "state_updated_at": after["lifecycle"]["state_updated_at"],
    }
    assert just_now(after["lifecycle"]["state_updated_at"])
    assert (str(entry.status), entry.owner) == ("retired", "houmao:gen-1")
    assert (await lifecycle.retire(core, "gpu")).revision == entry.revision


async def test_who_was_stopped_without_a_reason_is_retired_with_one(core):
    await put(core, with_(document("stopped"), "lifecycle.stop_reason", None))

    await lifecycle.retire(core, "gpu")

    assert (await record(core))["lifecycle"]["stop_reason"] == "cleanup_session"


@pytest.mark.parametrize("step", [lifecycle.retire, lifecycle.purge])
@pytest.mark.parametrize("state", LIVE)
async def test_who_is_active_is_neither_retired_nor_purged(core, step, state):
    await put(core, today(document(state)))

    with pytest.raises(Conflict, match=STILL_ACTIVE):
        await step(core, "gpu-1")

    assert (await record(core))["lifecycle"]["state"] == state


# --- purge ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", OVER)
async def test_who_is_over_may_be_purged(core, state):
    await put(core, document(state))

    await lifecycle.purge(core, "gpu")

    assert list(await core.list()) == []


async def test_who_is_lost_may_be_purged(core):
    await core.register("worker", "w1", name="w", ttl=0.5)
    await eventually(lambda: lost(core), what="lost")

    await lifecycle.purge(core, "w1")

    assert list(await core.list()) == []


async def lost(core: Registry) -> bool:
    return (await core.get("w1")).lost_at is not None


# --- relaunch ---------------------------------------------------------------------------------------------------------


async def test_a_relaunch_is_a_new_generation_in_a_new_session(core):
    before = await put(core, document("stopped", mailbox=STALWART))

    entry = await lifecycle.relaunch(core, "HOUMAO-gpu", session="gpu-2")

    after = await record(core)
    assert str(uuid.UUID(after["generation_id"])) == after["generation_id"]
    assert after["lifecycle"] == document()["lifecycle"] | {"state_updated_at": after["lifecycle"]["state_updated_at"]}
    assert after["terminal"] == {"kind": "tmux", "current_session_name": "gpu-2", "last_session_name": "gpu-2"}
    assert (after["runtime"], after["mailbox"]) == (document()["runtime"], STALWART)
    begins, ends = (datetime.fromisoformat(after["liveness"][name]) for name in ("published_at", "lease_expires_at"))
    assert (ends - begins, just_now(after["liveness"]["published_at"])) == (timedelta(hours=24), True)
    assert entry.owner == f"houmao:{after['generation_id']}"
    assert entry.incarnation > before.incarnation
    assert (str(entry.status), str((await core.get("gpu-1")).liveness)) == ("running", "live")


async def test_a_relaunch_without_a_session_names_the_last_one(core):
    await put(core, document("stopped"))

    await lifecycle.relaunch(core, "gpu")

    assert (await record(core))["terminal"]["current_session_name"] == "gpu-1777888800000"


NOT_RELAUNCHED = {
    "active": today(document()),
    "relaunching": today(document("relaunching")),
    "retired": document("retired"),
    "stopped for good": with_(document("stopped"), "lifecycle.relaunchable", False),
}


@pytest.mark.parametrize("of", NOT_RELAUNCHED.values(), ids=NOT_RELAUNCHED)
async def test_who_cannot_be_started_anew_is_refused(core, of):
    entry = await put(core, of)

    with pytest.raises(Conflict):
        await lifecycle.relaunch(core, "gpu-1")

    assert (await core.get("gpu-1")).revision == entry.revision


async def test_stop_relaunch_and_stop_again(core):
    await put(core, today(document()))
    seen = set()
    for _ in range(3):
        await lifecycle.stop(core, "gpu")
        await lifecycle.relaunch(core, "gpu")
        seen.add((await record(core))["generation_id"])

    assert len(seen) == 3
    assert [str(entry.status) for entry in await core.list()] == ["running"]


async def test_whoever_was_faster_wins(core):
    await put(core, document("stopped"))

    done = await asyncio.gather(*(lifecycle.relaunch(core, "gpu") for _ in range(4)), return_exceptions=True)

    assert sorted(type(one).__name__ for one in done) == ["Conflict", "Conflict", "Conflict", "Entry"]


async def test_an_agent_of_rollcalls_own_is_relaunched(core):
    first = await core.register("worker", "w1", name="w", pointers=POINTERS, ttl=60)
    await lifecycle.stop(core, "w1")

    entry = await lifecycle.relaunch(core, "w1")

    assert entry.incarnation > first.incarnation
    assert (str(entry.status), entry.pointers) == ("running", POINTERS)


# --- who is meant -----------------------------------------------------------------------------------------------------


STEPS = [lifecycle.stop, lifecycle.retire, lifecycle.purge, lifecycle.relaunch]


@pytest.mark.parametrize("step", STEPS)
async def test_a_name_of_several_agents_is_ambiguous(core, step):
    await put(core, document("stopped", id="b"), today(document(id="a")))

    with pytest.raises(Ambiguous) as refused:
        await step(core, "gpu")

    paths = "/home/ada/.houmao/runtime"
    assert refused.value.message == (
        "Local managed-agent resolution is ambiguous for --agent-name `gpu` (friendly name).\n"
        "Candidates:\n"
        f"- agent_id=a agent_name=gpu lifecycle_state=active tmux_session_name=gpu-1777888800000"
        f" manifest_path={paths}/a/manifest.json session_root={paths}/a\n"
        f"- agent_id=b agent_name=gpu lifecycle_state=stopped tmux_session_name=gpu-1777888800000"
        f" manifest_path={paths}/b/manifest.json session_root={paths}/b\n"
        "Retry with `--agent-id <id>`."
    )
    assert sorted(str(entry.status) for entry in await core.list()) == ["running", "stopped"]


@pytest.mark.parametrize("step", STEPS)
async def test_nobody_is_told(core, step):
    await put(core, document("stopped"))

    for ref in ("cpu", "HOUMAO-gpu-1", "gp"):
        with pytest.raises(NotFound):
            await step(core, ref)


async def ids(core: Registry, ref: str) -> list[str]:
    return [one.agent_id for one in await found(core, ref)]


async def test_an_id_comes_before_a_name_and_a_name_before_its_alias(core):
    await put(
        core, *(document("stopped", id=id, name=name) for id, name in (("x", "y"), ("y", "HOUMAO-y"), ("z", "z")))
    )

    assert await ids(core, "y") == ["y"]
    assert await ids(core, "HOUMAO-y") == ["y"]
    assert await ids(core, "HOUMAO-z") == ["z"]
    assert await ids(core, "HOUMAO-x") == []


async def test_our_own_come_before_those_of_others(core):
    await put(core, foreign(id="far-1", name="gpu"))
    assert await ids(core, "gpu") == await ids(core, "far-1") == ["far-1"]
    await put(core, document("stopped"))

    assert await ids(core, "gpu") == ["gpu-1"]


@pytest.mark.parametrize("state", STATES)
async def test_an_agent_is_known_in_any_state(core, state):
    await put(core, today(document(state)))

    assert await ids(core, "gpu") == ["gpu-1"]


async def test_a_session_is_matched_exactly_and_never_of_a_stopped_agent(core):
    await put(
        core,
        today(document(id="a", session="s-1")),
        today(document(id="b", session="s-11")),
        document("stopped", id="c", session="s-1"),
        today(document("relaunching", id="d", session="s-1")),
    )

    async def of(session: str) -> list[str]:
        return [one.agent_id for one in await in_session(core, session)]

    assert [await of(session) for session in ("s-1", "s-11", "s", "S-1")] == [["a"], ["b"], [], []]


# --- the commands -----------------------------------------------------------------------------------------------------


@pytest.fixture
def run(realm):
    env = {**os.environ, "ROLLCALL_NATS": realm.url, "ROLLCALL_REALM": realm.realm, "COLUMNS": "200"}

    async def run(*arguments: str) -> tuple[int, str, str]:
        done = await asyncio.to_thread(rollcall, *arguments, env=env)
        assert "Traceback" not in done.stderr, done.stderr
        return done.returncode, done.stdout, done.stderr

    return run


async def test_the_commands(core, run):
    await put(core, today(document()))

    assert (await run("retire", "gpu"))[0] == 4
    code, out, _ = await run("stop", "gpu", "--json")
    assert (code, json.loads(out)["status"]) == (0, "stopped")
    code, out, _ = await run("relaunch", "gpu-1", "--session", "gpu-2", "--json")
    assert (code, json.loads(out)["pointers"]["tmux_session_name"]) == (0, "gpu-2")
    assert (await run("stop", "HOUMAO-gpu"))[0] == 0
    code, out, _ = await run("retire", "gpu", "--json")
    assert (code, json.loads(out)["status"]) == (0, "retired")
    assert (await run("relaunch", "gpu"))[0] == 4
    assert (await run("purge", "gpu", "--json"))[0] == 0
    assert (await run("purge", "gpu"))[0] == 3
    assert list(await core.list()) == []


async def test_the_commands_of_an_ambiguous_name(core, run):
    await put(core, document("stopped", id="b"), today(document(id="a")))

    for command in (("stop",), ("resolve",), ("resolve", "--json")):
        code, out, err = await run(*command, "gpu")
        assert code == 4, command
        said = " ".join((out + err).split())
        assert "Local managed-agent resolution is ambiguous for --agent-name `gpu` (friendly name)." in said
        assert "- agent_id=a agent_name=gpu lifecycle_state=active tmux_session_name=gpu-1777888800000" in said
        assert "Retry with `--agent-id <id>`." in said
        if "--json" in command:
            assert [one["agent_id"] for one in json.loads(out)["candidates"]] == ["a", "b"]


async def test_the_command_that_resolves(core, run):
    await put(core, today(document(gateway=GATEWAY)))

    async def resolved(*arguments: str) -> tuple[int, Json]:
        code, out, _ = await run("resolve", *arguments, "--json")
        return code, json.loads(out)

    for arguments in (("gpu-1",), ("gpu",), ("HOUMAO-gpu",), ("--session", "gpu-1777888800000")):
        code, told = await resolved(*arguments)
        assert (code, told["agent_id"], told["status"]) == (0, "gpu-1", "live_with_gateway")
        assert told["gateway"] == {name: GATEWAY[name] for name in ("host", "port", "protocol_version")}
    code, told = await resolved("nobody")
    assert (code, told["status"], told["agent_id"]) == (1, "unknown", None)


@pytest.mark.parametrize(
    ("state", "next_step"), {"stopped": "relaunch", "retired": "retired", "relaunching": "again later"}.items()
)
async def test_the_command_that_resolves_an_inactive_agent_says_so(core, run, state, next_step):
    await put(core, today(document(state)))

    _, out, err = await run("resolve", "gpu")

    said = " ".join((out + err).split())
    assert "Local managed-agent resolution for --agent-name `gpu` matched an inactive registry record." in said
    assert f"agent_id=gpu-1 agent_name=gpu lifecycle_state={state} tmux_session_name=gpu-1777888800000" in said
    assert next_step in said

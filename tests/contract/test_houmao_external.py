"""houmao, section 8: agents that another registry owns, and that this registry only talks about."""

import asyncio
import json
import os
import re
import threading
from collections.abc import Iterator
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import pytest_asyncio

from rollcall import Conflict, Denied, Invalid, NotFound, RollcallError, Unavailable
from rollcall.core import codec
from rollcall.faces.files.houmao import external, lifecycle
from rollcall.faces.files.houmao.forms import external as record_of
from rollcall.faces.files.houmao.mapping import external_fields, kept_external
from rollcall.faces.files.houmao.record import ExternalRecord
from tests.contract.houmao import IDENTITY_TEXTS, Document, foreign
from tests.processes import rollcall

pytestmark = pytest.mark.asyncio(loop_scope="module")

SUMMARY = {
    "agent_id": "gpu-1",
    "agent_name": "gpu",
    "generation_id": "there-1",
    "tool": "codex",
    "backend": "codex_headless",
    "tmux_session_name": "gpu-1777888800000",
    "manifest_path": "/there/manifest.json",
    "session_root": "/there",
    "has_gateway": False,
    "has_mailbox": True,
    "published_at": "2026-05-04T09:00:00+00:00",
    "lease_expires_at": "2126-05-04T09:00:00+00:00",
}


class Remote:
    """Another registry: what it is asked, and what it answers."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.answers: dict[str, tuple[int, bytes]] = {}
        self.knows("gpu-1", SUMMARY)
        remote = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                remote.asked.append((self.command, self.path))
                status, body = remote.answers.get(self.path, (404, b'{"detail":"Agent not found: x"}'))
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_POST = do_PUT = do_DELETE = do_GET  # noqa: N815  names of the standard library

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def knows(self, ref: str, said: object, status: int = 200) -> None:
        self.answers[f"/houmao/agents/{ref}"] = (status, said if isinstance(said, bytes) else json.dumps(said).encode())

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def remote() -> Iterator[Remote]:
    one = Remote()
    yield one
    one.close()
    assert {method for method, _ in one.asked} <= {"GET"}


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


@pytest.fixture
def register(core, remote):
    """`rollcall external register` of the agent there under a name here."""

    async def register(name: str = "far", **more: object) -> Document:
        said = {"api_base_url": remote.url, "agent_ref": "gpu-1", **more}
        return await external.register(core, name=name, **said)  # type: ignore[arg-type]

    return register


async def kept(core, id: str) -> ExternalRecord:
    found = kept_external(await core.get(id))
    assert found is not None
    return found


# --- register ---------------------------------------------------------------------------------------------------------


async def test_an_agent_of_another_registry_is_registered(core, register, remote):
    told = await register()

    assert told["action"] == "registered"
    said = told["external_agent"]
    assert re.fullmatch("external-[0-9a-f]{32}", said["external_agent_id"])
    assert said["created_at_utc"] == said["updated_at_utc"] == said["verified_at_utc"]
    assert datetime.fromisoformat(said["created_at_utc"]).utcoffset() is not None
    assert {name: said[name] for name in said if not name.endswith("_utc")} == {
        "kind": "external_communication_only",
        "local_name": "far",
        "external_agent_id": said["external_agent_id"],
        "pair_api_base_url": remote.url,
        "remote_agent_ref": "gpu-1",
        "gateway_expected": False,
        "lifecycle_owner": "remote",
        "cached_identity": {
            "tracked_agent_id": said["external_agent_id"],
            "transport": "headless",
            "tool": "codex",
            **dict.fromkeys(IDENTITY_TEXTS),
            "agent_id": said["external_agent_id"],
            "agent_name": "far",
            "external_agent_id": said["external_agent_id"],
            "remote_pair_api_base_url": remote.url,
            "remote_agent_ref": "gpu-1",
            "lifecycle_state": said["cached_identity"]["lifecycle_state"],
            "management_kind": "external_communication_only",
            "lifecycle_owner": "remote",
        },
    }
    assert remote.asked == [("GET", "/houmao/agents/gpu-1")]


async def test_it_is_on_the_roll_without_a_lease_and_never_live_by_itself(core, register):
    id = (await register())["external_agent"]["external_agent_id"]

    entry = await core.get(id)

    assert (entry.name, entry.role, entry.ttl, str(entry.liveness)) == ("far", "codex", None, "unknown")
    record = await kept(core, id)
    assert entry.owner == f"houmao:{record.generation_id}"
    assert record.local_name == "far"


@pytest.mark.parametrize(
    ("backend", "transport"),
    {
        "claude_headless": "headless",
        "codex_headless": "headless",
        "kimi_headless": "headless",
        "local_interactive": "tui",
        "codex_app_server": "tui",
    }.items(),
)
async def test_how_it_is_talked_to(register, remote, backend, transport):
    remote.knows("gpu-1", SUMMARY | {"backend": backend})

    assert (await register())["external_agent"]["cached_identity"]["transport"] == transport


@pytest.mark.parametrize("ref", ["gpu-1", "gpu"])
async def test_it_is_asked_for_by_its_reference_there(register, remote, ref):
    remote.knows(ref, SUMMARY)

    assert (await register(agent_ref=ref))["external_agent"]["remote_agent_ref"] == ref
    assert remote.asked[-1] == ("GET", f"/houmao/agents/{ref}")


async def test_an_existing_name_is_refused(core, register):
    first = (await register())["external_agent"]["external_agent_id"]

    with pytest.raises(Conflict) as refused:
        await register()

    assert refused.value.message == (
        f"External managed-agent `far` is already registered as `{first}`."
        " Use `--replace` to update that external import."
    )
    assert len(await core.list()) == 1


async def test_an_existing_name_is_replaced(core, register, remote):
    first = (await register())["external_agent"]
    before = await kept(core, first["external_agent_id"])
    remote.knows("other", SUMMARY | {"tool": "claude"})

    told = await register(agent_ref="other", replace=True)

    assert told["action"] == "replaced"
    after = await kept(core, told["external_agent"]["external_agent_id"])
    assert (after.external_agent_id, after.created_at_utc) == (before.external_agent_id, before.created_at_utc)
    assert after.generation_id != before.generation_id
    assert (after.remote_agent_ref, after.cached_identity.tool) == ("other", "claude")
    assert len(await core.list()) == 1


async def test_a_new_name_may_be_registered_as_a_replacement(register):
    assert (await register(replace=True))["action"] == "registered"


@pytest.mark.parametrize("replace", [False, True])
async def test_a_name_of_our_own_is_refused(core, register, replace, remote):
    await core.register("worker", "w1", name="far")
    await core.register("worker", "w2", name="far", status="stopped", ttl=None)

    with pytest.raises(Conflict) as refused:
        await register(replace=replace)

    assert refused.value.message == (
        "External managed-agent local name `far` conflicts with local lifecycle registry record(s): w1, w2."
        " Local lifecycle records take precedence; choose a different external `--name`."
    )
    assert remote.asked == []


@pytest.mark.parametrize("name", ["", "a b", "a/b", "..", "HOUMAO-far", "houmao_far", "-far"])
async def test_another_name_is_refused(core, register, name, remote):
    with pytest.raises(Invalid):
        await register(name)

    assert (list(await core.list()), remote.asked) == ([], [])


@pytest.mark.parametrize(
    "url", ["https://127.0.0.1:1", "http://127.0.0.1", "127.0.0.1:1", "http://127.0.0.1:1/api", ""]
)
async def test_another_address_is_refused(core, register, url):
    with pytest.raises(Invalid, match="pair_api_base_url"):
        await register(api_base_url=url)

    assert list(await core.list()) == []


async def test_an_address_is_brought_to_one_form(register, remote):
    url = remote.url.replace("http://127.0.0.1", "HTTP://LocalHost") + "/"

    assert (await register(api_base_url=url))["external_agent"]["pair_api_base_url"] == (
        remote.url.replace("127.0.0.1", "localhost")
    )


UNVERIFIED = {
    "not there": (404, b'{"detail":"Agent not found: gpu-1"}', NotFound),
    "ambiguous there": (409, b'{"detail":"Ambiguous agent name: 2 agents","agent_ids":["a","b"]}', Conflict),
    "not allowed": (401, b"{}", RollcallError),
    "broken": (500, b"oops", Unavailable),
    "another server": (200, b"<html>hello</html>", Unavailable),
    "a list": (200, b"[]", Unavailable),
    "sent elsewhere": (302, b"", Unavailable),
    "very much": (200, b'{"tool":"' + b"x" * 2_000_000 + b'"}', Unavailable),
}


@pytest.mark.parametrize(("status", "body", "error"), UNVERIFIED.values(), ids=UNVERIFIED)
async def test_whoever_cannot_be_verified_is_not_registered(core, register, remote, status, body, error):
    remote.knows("gpu-1", body, status)

    with pytest.raises(error):
        await register()

    assert list(await core.list()) == []


async def test_a_registry_that_is_not_there_is_told(core, register):
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:1"):
        await register(api_base_url="http://127.0.0.1:1")

    assert list(await core.list()) == []


async def test_what_the_other_registry_says_is_not_trusted(core, register, remote):
    remote.knows("gpu-1", {"tool": 7, "backend": ["x"], "agent_name": None, "session_root": "", "extra": {"a": 1}})

    told = await register()

    assert told["external_agent"]["cached_identity"]["transport"] == "tui"
    await kept(core, told["external_agent"]["external_agent_id"])


async def test_a_secret_in_a_reference_is_refused(core, register, remote):
    secret = "ghp_aB3dE5gH7jK9mN1pQ2rS4tU6vW8xY0zA2bC4"
    remote.knows(secret, SUMMARY)

    with pytest.raises(Invalid):
        await register(agent_ref=secret)

    assert list(await core.list()) == []


GATEWAY = {"host": "127.0.0.1", "port": 43123, "protocol_version": "v1"}
GATEWAYS = {
    "one": (200, {"status": "live_with_gateway", "gateway": GATEWAY}, {"gateway_available": True, "gateway": GATEWAY}),
    "none": (200, {"status": "live_without_gateway", "gateway": None}, {"gateway_available": False}),
    "no answer": (500, "oops", {"gateway_available": False}),
    "no such route": (404, {"detail": "Not Found"}, {"gateway_available": False}),
}


@pytest.mark.parametrize(("status", "said", "gateway"), GATEWAYS.values(), ids=GATEWAYS)
async def test_with_a_gateway_expected_it_is_told_whether_there_is_one(core, register, remote, status, said, gateway):
    remote.knows("gpu-1/resolve", said, status)

    told = await register(gateway=True)

    assert told["external_agent"]["gateway_expected"] is True
    assert {name: value for name, value in told.items() if name.startswith("gateway")} == gateway
    again = await external.verify(core, name="far")
    assert {name: value for name, value in again.items() if name.startswith("gateway")} == gateway


async def test_without_a_gateway_expected_none_is_told(register, remote):
    remote.knows("gpu-1/resolve", {"gateway": GATEWAY})

    told = await register()

    assert told.keys() == {"action", "external_agent"}
    assert remote.asked == [("GET", "/houmao/agents/gpu-1")]


# --- list, get --------------------------------------------------------------------------------------------------------


async def put(core, *records: Document) -> None:
    """Agents of other registries, as a directory had them."""
    for of in records:
        await core.announce(codec.as_profile(external_fields(record_of(of))), "claim")


async def test_the_list_is_in_the_order_of_names_and_ids_and_asks_nobody(core):
    await put(core, *(foreign(id=id, name=name) for id, name in (("z", "b"), ("y", "c"), ("x", "a"), ("w", "d"))))
    await core.register("worker", "w1", name="own")

    assert [one.local_name for one in await external.list_all(core)] == ["a", "b", "c", "d"]


@pytest.mark.parametrize("by", [{"id": "far-1"}, {"name": "far"}, {"name": "HOUMAO-far"}], ids=str)
async def test_one_is_found_by_its_id_or_its_name(core, by):
    await put(core, foreign(id="far-1", name="far"), foreign(id="far-2", name="other"))

    entry, record = await external.get(core, **by)

    assert (entry.id, record.external_agent_id) == ("far-1", "far-1")


@pytest.mark.parametrize(
    ("by", "option"),
    [({"id": "x"}, "--agent-id"), ({"name": "x"}, "--agent-name"), ({"id": "own"}, "--agent-id")],
    ids=str,
)
async def test_nothing_found_is_told(core, by, option):
    await core.register("worker", "own", name="own")
    await put(core, foreign(id="far-1", name="far"))

    for step in (external.get, external.verify, external.remove):
        with pytest.raises(NotFound) as refused:
            await step(core, **by)
        (value,) = by.values()
        assert refused.value.message == f"No external communication-only managed agent matches {option} `{value}`."


@pytest.mark.parametrize("by", [{}, {"id": "far-1", "name": "far"}], ids=str)
async def test_exactly_one_of_id_and_name_is_given(core, by):
    await put(core, foreign(id="far-1", name="far"))

    for step in (external.get, external.verify, external.remove):
        with pytest.raises(Invalid, match="exactly one"):
            await step(core, **by)


async def test_what_is_told_is_the_record_without_version_and_generation():
    of = foreign(id="far-1", name="far")
    of["cached_identity"] |= dict.fromkeys(IDENTITY_TEXTS, "x") | {"lifecycle_state": "active"}

    told = external.told(record_of(of))

    assert told == {name: value for name, value in of.items() if name not in ("schema_version", "generation_id")} | {
        "cached_identity": {
            **of["cached_identity"],
            "tracked_agent_id": "far-1",
            "agent_id": "far-1",
            "external_agent_id": "far-1",
            "agent_name": "far",
            "remote_pair_api_base_url": "http://10.0.0.7:9889",
            "remote_agent_ref": "gpu",
            "session_name": None,
            "tmux_session_name": None,
            "tmux_window_name": None,
            "manifest_path": None,
            "session_root": None,
            "management_kind": "external_communication_only",
            "lifecycle_owner": "remote",
        }
    }


# --- verify, remove ---------------------------------------------------------------------------------------------------


async def test_to_verify_is_to_ask_again(core, remote):
    await put(core, foreign(id="far-1", name="far", pair_api_base_url=remote.url, remote_agent_ref="gpu-1"))
    before = await kept(core, "far-1")

    told = await external.verify(core, name="far")

    assert told["action"] == "verified"
    after = await kept(core, "far-1")
    assert after.generation_id != before.generation_id
    assert after.cached_identity.tool == "codex"
    assert after.created_at_utc == before.created_at_utc
    assert after.updated_at_utc == after.verified_at_utc > before.updated_at_utc


async def test_who_cannot_be_verified_stays_as_it_was(core, remote):
    await put(core, foreign(id="far-1", name="far", pair_api_base_url=remote.url, remote_agent_ref="nobody"))
    before = await core.get("far-1")

    with pytest.raises(NotFound):
        await external.verify(core, id="far-1")

    assert (await core.get("far-1")).revision == before.revision


async def test_to_remove_is_to_forget(core, remote):
    await put(core, foreign(id="far-1", name="far", pair_api_base_url=remote.url))
    record = await kept(core, "far-1")

    assert await external.remove(core, id="far-1") == {
        "action": "removed",
        "removed": True,
        "remote_lifecycle_untouched": True,
        "external_agent": external.told(record),
    }
    assert list(await core.list()) == []
    assert remote.asked == []


async def test_whoever_changed_meanwhile_is_not_removed(core, monkeypatch):
    await put(core, foreign(id="far-1", name="far"))
    stale = await external.get(core, id="far-1")

    async def as_it_was(*_: object, **__: object) -> object:
        return stale

    now = dict.fromkeys(("updated_at_utc", "verified_at_utc"), "2026-05-04T10:30:00+00:00")
    fields = external_fields(record_of(foreign(id="far-1", name="far", generation="gen-2", **now)))
    await core.announce(codec.as_profile(fields), "takeover", expected=stale[0].revision)
    monkeypatch.setattr(external, "get", as_it_was)

    with pytest.raises(Conflict) as refused:
        await external.remove(core, id="far-1")

    assert refused.value.message == "External managed-agent `far` changed before removal. Reload and retry."
    assert (await core.get("far-1")).owner == "houmao:gen-2"


# --- whose they are ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [lifecycle.stop, lifecycle.retire, lifecycle.purge, lifecycle.relaunch])
async def test_its_lifecycle_is_not_ours(core, step):
    await put(core, foreign(id="far-1", name="far"))

    for ref in ("far-1", "far"):
        with pytest.raises(Denied, match=r"http://10\.0\.0\.7:9889"):
            await step(core, ref)
    assert str((await core.get("far-1")).status) == "running"


# --- the commands -----------------------------------------------------------------------------------------------------


async def test_the_commands(realm, core, remote):
    env = {**os.environ, "ROLLCALL_NATS": realm.url, "ROLLCALL_REALM": realm.realm, "COLUMNS": "200"}

    async def run(*arguments: str) -> tuple[int, Document, str]:
        done = await asyncio.to_thread(rollcall, "external", *arguments, "--json", env=env)
        assert "Traceback" not in done.stderr, done.stderr
        return done.returncode, json.loads(done.stdout) if done.stdout else {}, done.stderr

    where = ("--api-base-url", remote.url, "--agent-ref", "gpu-1")

    code, registered, _ = await run("register", "--name", "far", *where)
    assert (code, registered["action"]) == (0, "registered")
    one = registered["external_agent"]
    assert (await run("register", "--name", "far", *where))[0] == 4
    assert (await run("list"))[1] == {"external_agents": [one]}
    assert (await run("get", "--agent-name", "far"))[1] == {"external_agent": one}
    assert (await run("get", "--agent-id", one["external_agent_id"]))[1] == {"external_agent": one}
    assert (await run("verify", "--agent-name", "far"))[1]["action"] == "verified"
    assert (await run("get"))[0] == 2
    code, removed, _ = await run("remove", "--agent-name", "far")
    assert (code, removed["action"], removed["removed"], removed["remote_lifecycle_untouched"]) == (
        *(0, "removed", True, True),
    )
    code, _, said = await run("get", "--agent-name", "far")
    assert code == 3
    assert "No external communication-only managed agent matches --agent-name `far`." in " ".join(said.split())
    assert (await run("list"))[1] == {"external_agents": []}

"""houmao, section 9: the registry routes of the passive server."""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta

import httpx
import pytest
import pytest_asyncio

from rollcall import Registry
from rollcall.core import codec
from rollcall.faces.cli.http import Environment, default_address
from rollcall.faces.files.houmao.forms import external, local
from rollcall.faces.files.houmao.mapping import external_fields, fields_of
from rollcall.faces.http.access import Access, Scope, Token
from rollcall.faces.http.houmao.routes import Houmao
from rollcall.faces.http.settings import Dialect
from tests.conftest import eventually
from tests.contract.houmao import (
    FILESYSTEM,
    GATEWAY,
    STALWART,
    STATES,
    Document,
    Json,
    document,
    foreign,
    today,
    with_,
)
from tests.contract.noa import Listening

pytestmark = pytest.mark.asyncio(loop_scope="module")

POINTERS = {"manifest_path": "/run/m.json", "tmux_session_name": "w-1"}


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


def client(core: Registry, *tokens: Token, end: Callable[[], None] | None = None) -> httpx.AsyncClient:
    app = Houmao(core, Access(tokens), end).app()
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1:9891")


@pytest_asyncio.fixture(loop_scope="module")
async def http(core) -> AsyncIterator[httpx.AsyncClient]:
    async with client(core) as one:
        yield one


async def put(core: Registry, *records: Document) -> None:
    """Agents as they came from a directory."""
    for of in records:
        fields = fields_of(local(of), None, datetime.now(UTC)) if "agent_id" in of else external_fields(external(of))
        await core.announce(codec.as_profile(fields), "claim")


async def got(http: httpx.AsyncClient, path: str, status: int = 200) -> Json:
    answer = await http.get(path)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    return answer.json()


def summary(of: Document) -> Document:
    """What is told of an active agent."""
    return {
        "agent_id": of["agent_id"],
        "agent_name": of["agent_name"],
        "generation_id": of["generation_id"],
        "tool": of["identity"]["tool"],
        "backend": of["identity"]["backend"],
        "tmux_session_name": of["terminal"]["current_session_name"],
        "manifest_path": of["runtime"]["manifest_path"],
        "session_root": of["runtime"]["session_root"] or "",
        "has_gateway": of["gateway"] is not None,
        "has_mailbox": of["mailbox"] is not None,
        "published_at": of["liveness"]["published_at"],
        "lease_expires_at": of["liveness"]["lease_expires_at"],
    }


# --- the server -------------------------------------------------------------------------------------------------------


async def test_the_health_is_that_of_the_passive_server(http):
    assert await got(http, "/health") == {"status": "ok", "houmao_service": "houmao-passive-server"}


async def test_the_current_instance(http):
    told = await got(http, "/houmao/server/current-instance")

    assert list(told) == ["schema_version", "status", "pid", "api_base_url", "server_root", "started_at_utc"]
    assert (told["schema_version"], told["status"], told["api_base_url"]) == (1, "ok", "http://127.0.0.1:9891")
    assert isinstance(told["pid"], int)
    started = datetime.fromisoformat(told["started_at_utc"])
    assert timedelta() <= datetime.now(UTC) - started < timedelta(minutes=1)
    assert await got(http, "/houmao/server/current-instance") == told


# --- the list ---------------------------------------------------------------------------------------------------------


async def test_an_empty_list(http):
    assert await got(http, "/houmao/agents") == {"agents": []}


SHAPES = {
    "plain": document(),
    "with a gateway and a mailbox": document(gateway=GATEWAY, mailbox=STALWART),
    "with a filesystem mailbox": document(mailbox=FILESYSTEM),
    "without a session root": with_(document(), "runtime.session_root", None),
    "of another tool": document(identity={"backend": "codex_app_server", "tool": "codex"}),
}


@pytest.mark.parametrize("of", SHAPES.values(), ids=SHAPES)
async def test_what_is_told_of_an_active_agent(core, http, of):
    of = today(of)
    await put(core, of)

    assert await got(http, "/houmao/agents") == {"agents": [summary(of)]}
    assert await got(http, "/houmao/agents/gpu-1") == summary(of)


async def test_agents_are_listed_by_name(core, http):
    pairs = (("1", "c"), ("2", "a"), ("3", "B"), ("5", "b"), ("4", "b"))
    await put(core, *(today(document(id=id, name=name)) for id, name in pairs))

    listed = (await got(http, "/houmao/agents"))["agents"]

    assert [(one["agent_name"], one["agent_id"]) for one in listed] == [
        *(("B", "3"), ("a", "2"), ("b", "4"), ("b", "5"), ("c", "1")),
    ]


async def test_only_active_agents_of_our_own_are_listed(core, http):
    await put(core, *(today(document(state, id=state)) for state in STATES), foreign(id="far-1"))
    await core.register("worker", "no-pointers", name="x")
    await core.register("worker", "native", name="y", pointers=POINTERS)

    listed = (await got(http, "/houmao/agents"))["agents"]

    assert [one["agent_id"] for one in listed] == ["active", "native"]


async def test_who_is_lost_is_not_listed(core, http):
    of = today(document(), lease=timedelta(seconds=1))
    await put(core, of)
    assert len((await got(http, "/houmao/agents"))["agents"]) <= 1

    async def empty() -> bool:
        return bool((await got(http, "/houmao/agents"))["agents"] == [])

    await eventually(empty, what="not listed any more")
    await got(http, "/houmao/agents/gpu-1", 404)
    assert (await got(http, "/houmao/agents/gpu-1/resolve"))["status"] == "offline"


# --- one agent --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ref", ["gpu-1", "gpu", "HOUMAO-gpu"])
async def test_an_agent_is_found_by_its_id_its_name_and_the_alias(core, http, ref):
    await put(core, today(document()), today(document(id="b", name="cpu")))

    assert (await got(http, f"/houmao/agents/{ref}"))["agent_id"] == "gpu-1"


async def test_an_agent_with_the_prefix_is_found_without_it(core, http):
    await put(core, today(document(name="HOUMAO-gpu")))

    assert (await got(http, "/houmao/agents/gpu"))["agent_id"] == "gpu-1"


async def test_an_id_comes_first(core, http):
    await put(core, today(document(id="a", name="b")), today(document(id="b", name="c")))

    assert (await got(http, "/houmao/agents/b"))["agent_id"] == "b"


@pytest.mark.parametrize("ref", ["nobody", "a%20b", "%C3%A4"])
async def test_nobody_is_not_found(core, http, ref):
    await put(core, today(document()))

    told = await got(http, f"/houmao/agents/{ref}", 404)

    assert told == {"detail": f"Agent not found: {httpx.URL(f'http://x/{ref}').path[1:]}"}


@pytest.mark.parametrize("state", ["stopped", "retired", "relaunching"])
async def test_who_is_not_active_is_not_found(core, http, state):
    await put(core, today(document(state)))

    assert await got(http, "/houmao/agents/gpu-1", 404) == {"detail": "Agent not found: gpu-1"}


async def test_an_ambiguous_name_is_told_with_its_ids(core, http):
    await put(core, *(today(document(id=id)) for id in ("b", "c", "a")))

    assert await got(http, "/houmao/agents/gpu", 409) == {
        "detail": "Ambiguous agent name: 3 agents share this name. Disambiguate by agent_id.",
        "agent_ids": ["a", "b", "c"],
    }


async def test_a_name_is_not_ambiguous_for_those_who_are_over(core, http):
    await put(core, document("stopped", id="old"), document("retired", id="older"), today(document(id="new")))

    assert (await got(http, "/houmao/agents/gpu"))["agent_id"] == "new"


# --- resolve ----------------------------------------------------------------------------------------------------------


EMPTY = dict.fromkeys(
    [
        *("agent_id", "agent_name", "generation_id", "lifecycle_state", "relaunchable", "tool", "backend"),
        *("manifest_path", "session_root", "gateway"),
    ]
)


def resolved(of: Document, ref: str, status: str) -> Document:
    """What is told of one agent that was found."""
    gateway = of["gateway"] and {name: of["gateway"][name] for name in ("host", "port", "protocol_version")}
    return {
        "status": status,
        "agent_ref": ref,
        "agent_id": of["agent_id"],
        "agent_name": of["agent_name"],
        "generation_id": of["generation_id"],
        "lifecycle_state": of["lifecycle"]["state"],
        "relaunchable": of["lifecycle"]["relaunchable"],
        "tool": of["identity"]["tool"],
        "backend": of["identity"]["backend"],
        "manifest_path": of["runtime"]["manifest_path"],
        "session_root": of["runtime"]["session_root"],
        "gateway": gateway,
        "candidates": [],
    }


async def told_of(http: httpx.AsyncClient, ref: str) -> Json:
    """Without the sentence for people."""
    told = await got(http, f"/houmao/agents/{ref}/resolve")
    assert isinstance(told["detail"], str)
    assert told["detail"]
    return {name: value for name, value in told.items() if name != "detail"}


STATUSES = {
    "active": (document(), "live_without_gateway"),
    "with a gateway": (document(gateway=GATEWAY, mailbox=STALWART), "live_with_gateway"),
    "without a session root": (with_(document(), "runtime.session_root", None), "live_without_gateway"),
    "not relaunchable": (with_(document(), "lifecycle.relaunchable", False), "live_without_gateway"),
    "relaunching": (document("relaunching"), "offline"),
    "stopped": (document("stopped"), "offline"),
    "retired": (document("retired"), "offline"),
}


@pytest.mark.parametrize(("of", "status"), STATUSES.values(), ids=STATUSES)
async def test_what_is_told_of_an_agent_in_any_state(core, http, of, status):
    of = today(of)
    await put(core, of)

    for ref in ("gpu-1", "gpu", "HOUMAO-gpu"):
        assert await told_of(http, ref) == resolved(of, ref, status)


async def test_nobody_is_unknown(http):
    told = await got(http, "/houmao/agents/nobody/resolve")

    assert told == {
        "status": "unknown",
        "detail": "Agent not found: nobody",
        "agent_ref": "nobody",
        **EMPTY,
        "candidates": [],
    }


async def test_an_ambiguous_name_is_told_with_its_candidates(core, http):
    of = {"a": today(document(id="a")), "b": document("stopped", id="b")}
    await put(core, of["b"], of["a"])

    told = await told_of(http, "gpu")

    names = ("agent_id", "agent_name", "lifecycle_state", "relaunchable", "tool", "backend", "manifest_path")
    assert told == {
        "status": "ambiguous",
        "agent_ref": "gpu",
        **EMPTY,
        "candidates": [
            {name: resolved(of[id], "gpu", "")[name] for name in (*names, "session_root")} for id in ("a", "b")
        ],
    }


async def test_an_agent_of_rollcalls_own_is_told_as_it_is_written(core, http):
    await core.register("worker", "w1", name="w", pointers=POINTERS, ttl=60)

    told = await told_of(http, "w")

    assert (told["status"], told["tool"], told["backend"]) == ("live_without_gateway", "worker", "local_interactive")
    assert (told["relaunchable"], told["session_root"]) == (False, None)


# --- what changes nothing ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
async def test_the_routes_of_agents_only_tell(core, http, method):
    await put(core, today(document()))

    answer = await http.request(method, "/houmao/agents/gpu-1", json={})

    assert answer.status_code == 405
    assert len((await got(http, "/houmao/agents"))["agents"]) == 1


async def test_a_route_that_is_not_there(http):
    assert await got(http, "/houmao/nothing", 404) == {"detail": "Not Found"}


async def test_the_server_is_shut_down_only_by_whoever_may(core):
    ended: list[bool] = []
    tokens = (Token("for-readers", Scope.READ), Token("for-admins", Scope.ADMIN))
    async with client(core, *tokens, end=lambda: ended.append(True)) as http:

        async def shut_down(token: str) -> httpx.Response:
            return await http.post("/houmao/server/shutdown", headers={"Authorization": f"Bearer {token}"})

        for token in ("", "wrong", "for-readers"):
            assert (await shut_down(token)).status_code in (401, 403)
        assert ended == []
        answer = await shut_down("for-admins")

        assert (answer.status_code, answer.json()) == (200, {"status": "ok"})
        await eventually(lambda: ended == [True], what="ended")


async def test_a_server_of_the_dialect(core, realm, tmp_path):
    await put(core, of := today(document()))
    with Listening(tmp_path, realm.url, "--realm", realm.realm, dialects=("houmao", "all")) as listening:
        alone, together = await asyncio.to_thread(lambda: [one["url"] for one in listening.told])
        async with httpx.AsyncClient() as http:
            for url in (alone, together):
                assert await got(http, f"{url}/houmao/agents/gpu") == await got(http, f"{url}/houmao/agents/gpu-1")
                assert (await got(http, f"{url}/houmao/agents/gpu"))["manifest_path"] == of["runtime"]["manifest_path"]
                # An encoded slash belongs to the name, and bytes that are no text are no name.
                assert await got(http, f"{url}/houmao/agents/a%2Fb", 404) == {"detail": "Agent not found: a/b"}
                assert (await http.get(f"{url}/houmao/agents/%FF")).status_code in (400, 404)
            instance = await got(http, f"{alone}/houmao/server/current-instance")
            assert (instance["pid"], instance["api_base_url"]) == (listening.process.popen.pid, alone)
            assert (await got(http, f"{alone}/health"))["houmao_service"] == "houmao-passive-server"

            answer = await http.post(f"{alone}/houmao/server/shutdown")

        assert (answer.status_code, answer.json()) == (200, {"status": "ok"})
        assert await asyncio.to_thread(listening.process.popen.wait, 15) == 0


async def test_the_server_listens_where_the_original_does():
    assert default_address(Dialect.HOUMAO, Environment()) == "127.0.0.1:9891"


async def test_tokens_guard_what_is_read(core):
    async with client(core, Token("for-readers", Scope.READ)) as http:
        for path in ("/houmao/agents", "/houmao/agents/x", "/houmao/agents/x/resolve"):
            assert (await http.get(path)).status_code == 401
            assert (await http.get(path, headers={"Authorization": "Bearer for-readers"})).status_code in (200, 404)


async def test_a_registry_that_does_not_answer_is_told(bus):
    async with bus.registry() as core, client(core) as http:
        assert (await http.get("/houmao/agents")).status_code == 503

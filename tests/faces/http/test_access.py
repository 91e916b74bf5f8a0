"""Who may do what: tokens and their scopes, addresses, other origins, and what is never written down."""

import hmac
import json
import socket

import httpx
import pytest
import pytest_asyncio

from rollcall.core.errors import Misconfigured
from rollcall.faces.cli.http import address, token
from rollcall.faces.http.access import Scope, Token
from rollcall.faces.http.metrics import WorkerMetrics
from rollcall.faces.http.server import serving, serving_app
from rollcall.faces.http.settings import Dialect, FaceSettings, Listener, VersSettings
from tests.faces.http.opened import shared_realm

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(nats_server, tmp_path_factory):
    """How a test opens a face of its own, on the worker of all tests here."""
    async with shared_realm(nats_server, tmp_path_factory.mktemp("access")) as facing:
        yield facing


READ, WRITE, ADMIN = (Token(f"{scope.name.lower()}-secret", scope) for scope in Scope)
OTHER = Token("another-admin", Scope.ADMIN)

ROUTES = [
    ("GET", "/v1/agents", Scope.READ),
    ("GET", "/v1/agents/a1", Scope.READ),
    ("GET", "/v1/agents/a1/history", Scope.READ),
    ("GET", "/v1/discover/w", Scope.READ),
    ("GET", "/v1/since", Scope.READ),
    ("GET", "/v1/watch", Scope.READ),
    ("GET", "/v1/info", Scope.READ),
    ("GET", "/v1/guard", Scope.READ),
    ("GET", "/v1/pending", Scope.READ),
    ("GET", "/metrics", Scope.READ),
    ("POST", "/v1/agents", Scope.WRITE),
    ("PATCH", "/v1/agents/a1", Scope.WRITE),
    ("POST", "/v1/agents/a1/heartbeat", Scope.WRITE),
    ("DELETE", "/v1/agents/a1", Scope.WRITE),
    ("POST", "/v1/guard/release", Scope.ADMIN),
    ("POST", "/v1/rollcall", Scope.ADMIN),
    ("POST", "/v1/pending/a1/approve", Scope.ADMIN),
    ("POST", "/v1/pending/a1/deny", Scope.ADMIN),
]


async def status(http, method, path, token=None):
    """How a route answers; of a watch just the start is read."""
    headers = {"authorization": f"Bearer {token}"} if token else {}
    body = {"json": {}} if method in ("POST", "PATCH") else {}
    async with http.stream(method, path, headers=headers, **body) as answer:
        if answer.status_code in (401, 403):
            told = json.loads(await answer.aread())
            assert (told["status"], answer.headers["content-type"]) == (answer.status_code, "application/problem+json")
            assert ("www-authenticate" in answer.headers) == (answer.status_code == 401)
        return answer.status_code


async def test_every_route_asks_for_its_scope(served):
    async with served(tokens=(READ, WRITE, ADMIN)) as one:
        for method, path, scope in ROUTES:
            assert await status(one.client, method, path) == 401, (method, path)
            assert await status(one.client, method, path, "wrong") == 401, (method, path)
            for token in (READ, WRITE, ADMIN):
                got = await status(one.client, method, path, token.secret)
                assert (got == 403) == (token.scope < scope), (method, path, token, got)
                assert got != 401, (method, path, token)


async def test_the_list_of_routes_above_is_whole(served):
    async with served() as one:
        document = (await one.client.get("/openapi.json")).json()

        told = {
            (method.upper(), path.replace("{id}", "a1").replace("{role}", "w"))
            for path, item in document["paths"].items()
            for method in item
        }
        assert told == {(method, path) for method, path, _ in ROUTES}


async def test_a_refused_request_changes_nothing(served):
    async with served(tokens=(READ, WRITE)) as one:
        entry = await one.registry.register("w", "a1")
        before = (await one.registry.info())["agents"]

        for method, path, scope in ROUTES:
            if scope > Scope.READ:
                await status(one.client, method, path, READ.secret)
                await status(one.client, method, path)

        assert (await one.registry.get("a1")).revision == entry.revision
        assert (await one.registry.info())["agents"] == before


async def test_without_a_token_that_only_reads_reading_is_open(served):
    async with served(tokens=(WRITE,)) as one:
        assert await status(one.client, "GET", "/v1/agents") == 200
        assert await status(one.client, "POST", "/v1/agents") == 401
        assert await status(one.client, "POST", "/v1/rollcall", WRITE.secret) == 403


@pytest.mark.parametrize("path", ["/registry/vms", "/agents/register", "/agents/discover", "/v1/agents"])
async def test_with_a_token_every_dialect_needs_one_to_change_anything(served, path):
    async with served(tokens=(ADMIN,)) as one:
        body = {"id": "a1", "name": "x", "role": "w", "address": "127.0.0.1", "type": "w"}

        before = (await one.registry.info())["agents"]

        refused = await one.client.post(path, json=body)
        wrong = await one.client.post(path, json=body, headers={"authorization": "Bearer wrong"})

        if path != "/agents/discover":  # that one asks, and changes nothing
            assert (refused.status_code, wrong.status_code) == (401, 401)
        assert (await one.registry.info())["agents"] == before


async def test_several_tokens_of_one_scope_count_alike(served):
    async with served(tokens=(ADMIN, OTHER)) as one:
        assert await status(one.client, "POST", "/v1/guard/release", ADMIN.secret) == 200
        assert await status(one.client, "POST", "/v1/guard/release", OTHER.secret) == 200


async def test_the_token_of_vers_counts_for_vers_only(served):
    async with served(tokens=(ADMIN,), vers=VersSettings(token="vers-secret")) as one:
        vers = {"authorization": "Bearer vers-secret"}
        body = {"id": "vm1", "name": "x", "role": "worker", "address": "127.0.0.1", "registeredBy": "test"}

        assert (await one.client.post("/registry/vms", json=body, headers=vers)).status_code == 201
        assert (await one.client.post("/v1/agents", json=body, headers=vers)).status_code == 401
        assert (await one.client.post("/agents/register", json=body, headers=vers)).status_code == 401


async def test_only_the_whole_token_is_one(served):
    right = ["Bearer admin-secret", "bearer   admin-secret", "BEARER admin-secret"]
    wrong = [
        "Bearer admin-secre",
        "Bearer admin-secret2",
        "Bearer ADMIN-SECRET",
        "Bearer admin-secret x",
        "Bearer",
        "Basic admin-secret",
        "admin-secret",
        "",
        "Bearer \xff\xfe",
    ]
    async with served(tokens=(ADMIN,)) as one:
        for header in right + wrong:
            answer = await one.client.post("/v1/guard/release", headers={"authorization": header.encode("latin-1")})
            assert answer.status_code == (200 if header in right else 401), header


async def test_a_token_in_the_address_is_none(served):
    async with served(tokens=(ADMIN,)) as one:
        assert (await one.client.post("/v1/guard/release?token=admin-secret")).status_code == 401


async def test_tokens_are_compared_in_constant_time_and_all_of_them(served, monkeypatch):
    compared = []
    constant = hmac.compare_digest

    def noted(one, other):
        compared.append(bytes(other) if isinstance(other, bytes) else other.encode())
        return constant(one, other)

    monkeypatch.setattr(hmac, "compare_digest", noted)
    async with served(tokens=(ADMIN, OTHER, WRITE)) as one:
        for token in (ADMIN.secret, WRITE.secret, "wrong"):
            compared.clear()
            await status(one.client, "POST", "/v1/guard/release", token)
            # The first that fits does not end the search: how long it takes says nothing about which it was.
            assert set(compared) == {b"admin-secret", b"another-admin", b"write-secret"}


async def test_a_token_is_never_shown():
    assert "secret" not in repr(ADMIN)
    assert "secret" not in repr(FaceSettings(tokens=(ADMIN, OTHER)))


# Addresses


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org", ""])
async def test_without_a_token_only_this_machine_is_listened_to(bus, host):
    with pytest.raises(Misconfigured, match="--token"):
        async with serving(bus.url, bus.realm, [Listener(host, 0)], FaceSettings()):
            pass


async def test_one_open_address_among_several_is_refused_before_any_is_opened(bus):
    listeners = [Listener("127.0.0.1", 0), Listener("0.0.0.0", 0)]

    with pytest.raises(Misconfigured, match=r"0\.0\.0\.0"):
        async with serving(bus.url, bus.realm, listeners, FaceSettings()):
            pass


async def test_every_way_to_say_this_machine_is_listened_on(bus):
    listeners = [Listener(host, 0) for host in ("127.0.0.1", "127.0.0.9", "localhost", "::1")]
    async with bus.served(), serving(bus.url, bus.realm, listeners, FaceSettings()) as found:
        async with httpx.AsyncClient() as http:
            for listener in found:
                assert (await http.get(f"{listener.url}/v1/info")).status_code == 200


async def test_with_a_token_any_address_may_be_listened_on(bus):
    async with (
        bus.served(),
        serving(bus.url, bus.realm, [Listener("0.0.0.0", 0)], FaceSettings(tokens=(ADMIN,))) as found,
    ):
        async with httpx.AsyncClient() as http:
            url = f"http://127.0.0.1:{found[0].port}"
            assert (await http.post(f"{url}/v1/guard/release")).status_code == 401


async def test_a_port_in_use_is_told_with_a_way_out(bus):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        with pytest.raises(Misconfigured, match=f"{port}.*in use.*another port"):
            async with serving(bus.url, bus.realm, [Listener("127.0.0.1", port)], FaceSettings()):
                pass


@pytest.mark.parametrize("text", ["nonsense", "127.0.0.1", "127.0.0.1:99999", "127.0.0.1:-1", "127.0.0.1:x", ":", ""])
async def test_what_is_no_address_is_refused(text):
    with pytest.raises(Misconfigured, match=r"no address.*127\.0\.0\.1:8080"):
        address(text)


async def test_addresses_are_read_in_all_their_forms():
    read = {text: (address(text).host, address(text).port) for text in ("[::1]:0", "localhost:80", "8080", "0.0.0.0:1")}

    assert read == {
        "[::1]:0": ("::1", 0),
        "localhost:80": ("localhost", 80),
        "8080": ("127.0.0.1", 8080),
        "0.0.0.0:1": ("0.0.0.0", 1),
    }


async def test_a_token_may_name_its_scope_and_come_from_a_file(tmp_path):
    (tmp_path / "token").write_text("from-file\n")
    (tmp_path / "empty").write_text("\n")

    assert token("abc") == Token("abc", Scope.ADMIN)
    assert token("read:abc") == Token("abc", Scope.READ)
    assert token("write:a:b") == Token("a:b", Scope.WRITE)
    with pytest.raises(Misconfigured):
        token("nothing:abc")
    assert token(f"read:@{tmp_path / 'token'}") == Token("from-file", Scope.READ)
    for wrong in ("", "read:", "a b", f"@{tmp_path / 'empty'}", f"@{tmp_path / 'none'}"):
        with pytest.raises(Misconfigured) as refused:
            token(wrong)
        assert "a b" not in str(refused.value)


# Other origins


async def test_other_origins_may_do_nothing_unless_asked(served):
    async with served() as one:
        origin = {"origin": "https://page.example"}

        answer = await one.client.get("/v1/agents", headers=origin)
        preflight = await one.client.options("/v1/agents", headers={**origin, "access-control-request-method": "POST"})

        assert not [name for name in answer.headers if name.startswith("access-control")]
        assert not [name for name in preflight.headers if name.startswith("access-control")]
        assert preflight.status_code == 405


async def test_an_origin_that_was_asked_for_may_call_and_no_other(served):
    async with served(origins=("https://page.example",), tokens=(ADMIN,)) as one:

        def preflight(origin):
            headers = {
                "origin": origin,
                "access-control-request-method": "PATCH",
                "access-control-request-headers": "authorization,if-match",
            }
            return one.client.options("/v1/agents/a1", headers=headers)

        mine, other = await preflight("https://page.example"), await preflight("https://other.example")
        answer = await one.client.get("/v1/agents", headers={"origin": "https://page.example"})
        refused = await one.client.post("/v1/agents", json={}, headers={"origin": "https://page.example"})

        assert (mine.status_code, mine.headers["access-control-allow-origin"]) == (200, "https://page.example")
        assert "authorization" in mine.headers["access-control-allow-headers"].lower()
        assert "access-control-allow-origin" not in other.headers
        assert "etag" in answer.headers["access-control-expose-headers"].lower()
        assert (refused.status_code, "access-control-allow-origin" in refused.headers) == (401, True)


@pytest.mark.parametrize("origin", ["https://page.example", "null", "http://127.0.0.1:1"])
async def test_a_page_of_another_origin_changes_nothing_by_requests_that_ask_nobody(served, origin):
    """Browsers send simple requests without a preflight: no token would be needed on this machine."""
    async with served() as one:
        headers = {"origin": origin}
        for path, body in (
            ("/v1/agents", {"role": "w", "id": "forged", "name": "x"}),
            ("/v1/rollcall", None),
            ("/v1/guard/release", None),
            ("/agents/register", {"id": "forged", "name": "x", "type": "w"}),
            ("/registry/vms", {"id": "forged", "name": "x"}),
        ):
            content = json.dumps(body).encode() if body else b""
            answer = await one.client.post(path, content=content, headers=headers)
            assert answer.status_code == 403, (path, answer.text)
        assert (await one.client.get("/v1/agents/forged", headers=headers)).status_code == 404


async def test_a_page_of_this_server_may_call_it(served):
    async with served() as one:
        answer = await one.client.post("/v1/guard/release", headers={"origin": one.url})

        assert answer.status_code == 200


async def test_a_page_that_may_call_can_read_how_it_was_refused(served):
    page = {"origin": "https://page.example"}
    async with served(origins=("https://page.example",), body_bytes=100, rate=2) as one:
        large = await one.client.post("/v1/agents", content=b"x" * 1000, headers=page)
        await one.client.get("/v1/info")
        often = await one.client.get("/v1/info", headers=page)

        assert (large.status_code, often.status_code) == (413, 429)
        for answer in (large, often):
            assert answer.headers["access-control-allow-origin"] == "https://page.example"
            assert "retry-after" in answer.headers["access-control-expose-headers"].lower()


async def test_the_token_of_vers_is_enough_for_a_listener_that_speaks_nothing_else(bus):
    settings = FaceSettings(vers=VersSettings(token="vers-secret"))
    with pytest.raises(Misconfigured):
        async with serving(bus.url, bus.realm, [Listener("0.0.0.0", 0)], settings):
            pass

    async with bus.served(), serving(bus.url, bus.realm, [Listener("0.0.0.0", 0, Dialect.VERS)], settings) as found:
        async with httpx.AsyncClient() as http:
            refused = await http.post(f"http://127.0.0.1:{found[0].port}/registry/vms", json={})
            assert refused.status_code == 401


async def test_metrics_of_a_worker_are_told_to_whoever_has_a_token(bus):
    async with bus.worker() as worker:
        with pytest.raises(Misconfigured):
            async with serving_app(WorkerMetrics(worker.info, ()), Listener("0.0.0.0", 0), ()):
                pass
        async with serving_app(WorkerMetrics(worker.info, (READ,)), Listener("0.0.0.0", 0), (READ,)) as found:
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{found.port}") as http:
                right = await http.get("/metrics", headers={"authorization": f"Bearer {READ.secret}"})
                wrong = [
                    (await http.get("/metrics", headers=headers)).status_code
                    for headers in ({}, {"authorization": "Bearer wrong"})
                ]

        assert (right.status_code, wrong) == (200, [401, 401])
        assert "rollcall_leader" in right.text

"""Section 4 of the vers contract: tokens, and where a face listens."""

import socket
from contextlib import contextmanager

import httpx
import pytest

from tests.contract.vers import VMS, Face, at, faces, fresh, nowhere, raw, refused, registered, standing, vm
from tests.processes import rollcall

pytest_plugins = ["tests.contract.vers_servers"]

TOKEN = "secret-of-vers"
OTHER = "secret-of-rollcall"
COMMON = ("--dialect", "all", "--listen", "127.0.0.1:0")
MISSING = "Unauthorized — missing Authorization header"
INVALID = "Unauthorized — invalid token"

EVERY_CALL = [
    ("GET", VMS),
    ("HEAD", VMS),
    ("POST", VMS),
    ("GET", f"{VMS}/x"),
    ("PATCH", f"{VMS}/x"),
    ("DELETE", f"{VMS}/x"),
    ("POST", f"{VMS}/x/heartbeat"),
    ("GET", "/registry/discover/worker"),
    ("GET", "/registry/unknown"),
    ("GET", "/registry/vms/"),
    ("PUT", f"{VMS}/x"),
    ("OPTIONS", VMS),
    ("GET", f"{VMS}/x/children"),
]
CHANGES = [
    ("POST", VMS),
    ("PATCH", f"{VMS}/x"),
    ("DELETE", f"{VMS}/x"),
    ("POST", f"{VMS}/x/heartbeat"),
]
READS = [("GET", VMS), ("HEAD", VMS), ("GET", "/registry/discover/worker"), ("GET", "/health")]
WRONG = [
    "Bearer wrong",
    f"Bearer {TOKEN}x",
    f"Bearer {TOKEN[:-1]}",
    f"Bearer {TOKEN.upper()}",
    f"Bearer {TOKEN} {TOKEN}",
    f"Bearer x {TOKEN}",
    f"Bearer{TOKEN}",
    f"Bearer:{TOKEN}",
    "Bearer",
    TOKEN,
    f"Basic {TOKEN}",
    f"Token {TOKEN}",
    f'Bearer "{TOKEN}"',
    "Bearer tökén",
    "Bearer \u2014".encode(),
    "Bearer \xff".encode("latin-1"),
]
RIGHT = [f"Bearer {TOKEN}", f"bearer {TOKEN}", f"BEARER {TOKEN}", f"bEaReR {TOKEN}", f"Bearer    {TOKEN}"]


@pytest.fixture(scope="module")
def served(vers_up, port, tmp_path_factory):
    """One face for each way to say who may come in."""
    with faces(
        vers_up["nats"],
        tmp_path_factory.mktemp("auth"),
        guarded=Face(env={"VERS_AUTH_TOKEN": TOKEN}),
        open=Face(
            env={"VERS_AUTH_TOKEN": "", "PORT": str(port), "DATA_DIR": "/nonexistent/of-the-original"}, listen=()
        ),
        tokened=Face(("--token", OTHER)),
        both=Face((*COMMON, "--token", OTHER), {"VERS_AUTH_TOKEN": TOKEN}),
    ) as all_of_them:
        yield all_of_them


@pytest.fixture(scope="module")
def common(served):
    """A client of the listener that carries all dialects, of the face that has both tokens."""
    with httpx.Client(base_url=served["both"].told["listeners"][1]["url"], timeout=30) as client:
        yield client


@pytest.fixture
def guarded(served):
    return served["guarded"].http


@pytest.fixture(scope="module")
def port() -> int:
    """A port that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def unauthorized(answer, error):
    """That refusal; a HEAD shows only its head."""
    if answer.request.method == "HEAD":
        assert (answer.status_code, answer.content) == (401, b"")
    else:
        refused(answer, 401, error)


def bearing(token):
    return {"authorization": f"Bearer {token}"}


# --- VERS_AUTH_TOKEN --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "path"), EVERY_CALL)
def test_without_the_header_every_call_is_unauthorized_before_routing(guarded, method, path):
    unauthorized(guarded.request(method, path), MISSING)


@pytest.mark.parametrize(("method", "path"), EVERY_CALL)
def test_with_a_wrong_token_every_call_is_unauthorized_before_routing(guarded, method, path):
    unauthorized(guarded.request(method, path, headers=bearing("wrong")), INVALID)


@pytest.mark.parametrize("value", ["", " ", "   ", "\t"])
def test_an_empty_header_is_a_missing_one(guarded, value):
    status, text, _ = raw(guarded, "GET", VMS, headers=[("Authorization", value)])

    assert (status, text) == (401, f'{{"error":"{MISSING}"}}')


@pytest.mark.parametrize("value", WRONG, ids=ascii)
def test_anything_but_bearer_and_the_token_is_invalid(guarded, value):
    if isinstance(value, str):
        value = value.encode()

    refused(guarded.get(VMS, headers={"authorization": value}), 401, INVALID)


@pytest.mark.parametrize("value", RIGHT)
def test_the_scheme_comes_in_any_case_and_with_any_blanks(guarded, value):
    assert guarded.get(VMS, headers={"authorization": value}).status_code == 200


@pytest.mark.parametrize("body", [b"{", b"null", b"x" * 200_000])
def test_a_body_is_not_looked_at_without_a_token(guarded, body):
    refused(guarded.post(VMS, content=body), 401, MISSING)


def test_without_a_token_nothing_changes(guarded):
    entry = registered_by(guarded, TOKEN)

    guarded.patch(at(entry["id"]), json={"name": "two"})
    guarded.delete(at(entry["id"]))
    guarded.post(at(entry["id"], "heartbeat"))

    assert guarded.get(at(entry["id"]), headers=bearing(TOKEN)).json() == entry


def test_with_the_token_everything_works(guarded):
    headers = bearing(TOKEN)
    id = registered_by(guarded, TOKEN)["id"]

    assert guarded.get(at(id), headers=headers).status_code == 200
    assert guarded.patch(at(id), json={}, headers=headers).status_code == 200
    assert guarded.post(at(id, "heartbeat"), headers=headers).status_code == 200
    assert guarded.get("/registry/discover/worker", headers=headers).status_code == 200
    assert guarded.delete(at(id), headers=headers).status_code == 200
    refused(guarded.get(at(id), headers=headers), 404, "VM not found")
    nowhere(guarded.get("/registry/unknown", headers=headers))


@pytest.mark.parametrize("headers", [{}, bearing("wrong")])
def test_health_is_always_open(guarded, headers):
    assert guarded.get("/health", headers=headers).json()["status"] == "ok"


@pytest.mark.parametrize("path", ["/", "/nowhere", "/registryx", "/v1/agents"])
def test_what_is_not_under_registry_needs_no_token(guarded, path):
    nowhere(guarded.get(path))


def test_an_empty_token_leaves_the_registry_open(served):
    client = served["open"].http

    assert registered(client)["status"] == "running"
    assert client.get(VMS, headers=bearing("anything")).status_code == 200


def test_an_open_registry_warns_once_at_start(served):
    for _ in range(3):
        served["open"].http.get(VMS)

    assert served["open"].process.said().count("VERS_AUTH_TOKEN") == 1


def test_a_guarded_registry_does_not_warn(served):
    assert "VERS_AUTH_TOKEN" not in served["guarded"].process.said()


def test_no_token_ever_stands_in_the_log(served, guarded):
    guarded.get(VMS, headers=bearing(TOKEN))
    guarded.get(VMS, headers=bearing("a-wrong-one"))

    for one in served.values():
        said = one.process.said()
        assert TOKEN not in said
        assert OTHER not in said
        assert "a-wrong-one" not in said


# --- --token ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "path"), CHANGES)
def test_with_token_alone_changes_need_it(served, method, path):
    client = served["tokened"].http

    refused(client.request(method, path), 401, MISSING)
    refused(client.request(method, path, headers=bearing("wrong")), 401, INVALID)
    assert client.request(method, path, headers=bearing(OTHER)).status_code in (400, 404)


@pytest.mark.parametrize(("method", "path"), READS)
def test_with_token_alone_reads_are_open(served, method, path):
    assert served["tokened"].http.request(method, path).status_code == 200


def test_with_token_alone_a_vm_lives_its_life(served):
    client = served["tokened"].http
    id = registered_by(client, OTHER)["id"]

    assert standing(client, id)["id"] == id
    assert client.post(at(id, "heartbeat"), headers=bearing(OTHER)).status_code == 200
    assert client.delete(at(id), headers=bearing(OTHER)).status_code == 200


@pytest.mark.parametrize("token", [TOKEN, OTHER])
def test_with_both_either_is_accepted_for_the_registry(served, token):
    client = served["both"].http
    id = registered_by(client, token)["id"]

    assert client.get(at(id), headers=bearing(token)).status_code == 200
    assert client.delete(at(id), headers=bearing(token)).status_code == 200


@pytest.mark.parametrize(("method", "path"), EVERY_CALL)
def test_with_both_every_call_needs_one(served, method, path):
    unauthorized(served["both"].http.request(method, path), MISSING)
    unauthorized(served["both"].http.request(method, path, headers=bearing("wrong")), INVALID)


def registered_by(client, token):
    answer = client.post(VMS, json=vm(id=fresh()), headers=bearing(token))
    assert answer.status_code == 201, answer.text
    return answer.json()


OTHER_DIALECTS = [
    ("POST", "/v1/agents"),
    ("PATCH", "/v1/agents/x"),
    ("DELETE", "/v1/agents/x"),
    ("POST", "/agents/register"),
    ("DELETE", "/agents/x"),
]


@pytest.mark.parametrize(("method", "path"), OTHER_DIALECTS)
def test_the_token_of_vers_opens_no_other_dialect(common, method, path):

    assert common.request(method, path, json={}).status_code == 401
    assert common.request(method, path, json={}, headers=bearing(TOKEN)).status_code in (401, 403)
    assert common.request(method, path, json={}, headers=bearing(OTHER)).status_code not in (401, 403)


@pytest.mark.parametrize("token", [TOKEN, OTHER])
def test_the_token_of_vers_opens_the_registry_on_the_common_listener(common, token):
    id = registered_by(common, token)["id"]

    unauthorized(common.get(at(id)), MISSING)
    assert common.get(at(id), headers=bearing(token)).status_code == 200
    assert common.delete(at(id), headers=bearing(token)).status_code == 200


def test_the_token_of_vers_is_not_asked_for_elsewhere_on_the_common_listener(common):
    assert common.get("/health").json()["uptime"] > 0
    assert common.get("/v1/agents").status_code == 200


# --- where it listens -------------------------------------------------------------------------------------------------


def test_without_listen_the_port_is_that_of_the_environment(served, port):
    assert served["open"].told["http"].endswith(f":{port}")
    assert httpx.get(f"http://127.0.0.1:{port}/health").json()["status"] == "ok"


def test_the_data_dir_of_the_original_is_ignored(served):
    assert registered(served["open"].http)["status"] == "running"


def test_the_ready_file_says_who_listens_where(served):
    told = served["guarded"].told

    assert told["pid"] == served["guarded"].process.popen.pid
    assert told["listeners"] == [{"dialect": "vers", "url": told["http"]}]
    assert told["http"].startswith("http://127.0.0.1:")


def test_dialects_and_addresses_are_paired_in_order(served):
    told = served["both"].told

    assert [one["dialect"] for one in told["listeners"]] == ["vers", "all"]
    assert told["http"] == told["listeners"][0]["url"]
    nowhere(httpx.get(told["listeners"][0]["url"] + "/v1/info"))
    assert httpx.get(told["listeners"][1]["url"] + "/v1/info").status_code == 200


def test_without_listen_and_port_it_is_3000(vers_up, monkeypatch):
    monkeypatch.delenv("PORT", raising=False)
    with taken(3000):
        done = rollcall("http", "--nats", vers_up["nats"], "--dialect", "vers")

    assert done.returncode != 0
    assert ":3000" in done.stderr


@contextmanager
def taken(port):
    """Somebody listens there, so that nobody else can."""
    try:
        listener = socket.create_server(("127.0.0.1", port))
    except OSError:
        yield
        return
    with listener:
        yield

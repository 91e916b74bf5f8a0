"""mindx, section 6: the routes, on a listener of `rollcall http --dialect mindx`."""

import asyncio
import json
import time
from types import SimpleNamespace

import httpx
import pytest

import rollcall
from rollcall import Status
from tests.contract.mindx import Home, hides_keys, signed, synced
from tests.contract.noa import unique
from tests.contract.test_mindx_vectors import ADDRESSES, SIGNATURES
from tests.processes import Process

ENTRY = ["agent_id", "agent_type", "description", "status", "registered_at"]
LISTS = ["/agents", "/registry/agents"]
TOKEN = "open-sesame"


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    """A registry of its own, a face for everybody and one that wants a token, both with the wallets of one mindX."""
    place = tmp_path_factory.mktemp("mindx-http")
    home = Home(place / "mindX").hold("signer", 1)
    env = {"MINDX_ROOT": str(home.root)}
    up = Process("up", "--nats-port", "0", "--http", "off", "--ready-file", str(place / "up.json"), home=place)
    with up:
        nats = up.ready(place / "up.json")["nats"]
        common = ["http", "--nats", nats, "--dialect", "mindx", "--listen", "127.0.0.1:0", "--ready-file"]
        with (
            Process(*common, str(place / "open.json"), home=place, env=env) as open_to_all,
            Process(*common, str(place / "closed.json"), "--token", TOKEN, home=place, env=env) as closed,
            httpx.Client(base_url=open_to_all.ready(place / "open.json")["http"], timeout=30) as http,
            httpx.Client(base_url=closed.ready(place / "closed.json")["http"], timeout=30) as guarded,
        ):
            yield SimpleNamespace(home=home, nats=nats, http=http, guarded=guarded, processes=[open_to_all, closed])


@pytest.fixture
def http(faces):
    return faces.http


def on_the_roll(faces, doing):
    """What a coroutine of the registry gives."""

    async def asked():
        async with rollcall.connect(faces.nats) as core:
            return await doing(core)

    return asyncio.run(asked())


def posted(http, id, **said):
    return http.post("/agents", json={"agent_type": "worker", "agent_id": id, "config": {}, **said})


def registered(http, **said):
    """The id of an agent that was registered over HTTP."""
    id = unique("agent")
    answer = posted(http, id, **said)
    assert answer.is_success, answer.text
    return id


def told(http, path="/agents"):
    answer = http.get(path)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("application/json")
    return answer.json()


@pytest.mark.parametrize("path", LISTS)
def test_agents_are_told_as_the_map_of_the_coordinator(http, path):
    before = time.time()
    id = registered(http, agent_type="planner", config={"description": "Plans"})

    entry = told(http, path)[id]

    assert set(ENTRY) <= set(entry)
    assert "instance" not in entry
    assert (entry["agent_id"], entry["agent_type"], entry["status"]) == (id, "planner", "active")
    assert isinstance(entry["registered_at"], float)
    assert before - 5 < entry["registered_at"] < time.time() + 5


@pytest.mark.parametrize("path", LISTS)
def test_agents_are_told_in_the_documented_shape_on_request(http, path):
    registered(http)
    entries = told(http, path)

    answer = told(http, f"{path}?shape=registry")

    assert list(answer) == ["success", "registry"]
    assert answer["success"] is True
    assert answer["registry"].keys() == {"total_agents", "active_agents", "registered_agents"}
    assert answer["registry"]["total_agents"] == len(entries)
    assert answer["registry"]["active_agents"] == sum(one["status"] == "active" for one in entries.values())
    assert len(answer["registry"]["registered_agents"]) == len(entries)


@pytest.mark.parametrize("path", LISTS)
def test_agents_are_told_as_a_list_on_request(http, path):
    registered(http)

    answer = told(http, f"{path}?shape=list")

    assert list(answer) == ["agents"]
    by_id = {one["agent_id"]: one for one in answer["agents"]}
    assert by_id == told(http, path)


def test_an_agent_registered_over_http_is_on_the_roll(http, faces):
    id = registered(http, agent_type="planner", config={"capabilities": ["plan"]})

    found = on_the_roll(faces, lambda core: core.get(id))

    assert (found.role, found.status, found.ttl) == ("planner", Status.RUNNING, None)


def test_an_agent_of_the_roll_is_told_over_http(http, faces):
    id = unique("native")

    on_the_roll(faces, lambda core: core.register("planner", id, description="Plans", ttl=None))

    entry = told(http)[id]
    assert (entry["agent_type"], entry["description"], entry["status"]) == ("planner", "Plans", "active")


@pytest.mark.parametrize(("status", "word"), [(Status.DEFINED, "defined"), (Status.PAUSED, "disabled")])
def test_the_status_has_the_word_of_mindx(http, faces, status, word):
    id = unique("native")
    on_the_roll(faces, lambda core: core.register("planner", id, status=status, ttl=None))

    assert told(http)[id]["status"] == word


def test_entries_of_the_file_are_told_as_defined_or_disabled(http, faces, tmp_path):
    home, here, off = Home(tmp_path), unique("file"), unique("file")
    home.write(signed(here, description=None), signed(off, enabled=False))
    on_the_roll(faces, lambda core: synced(home, core))

    entries = told(http)

    assert (entries[here]["status"], entries[off]["status"]) == ("defined", "disabled")
    assert entries[here]["description"] is None
    assert entries[off]["description"] == f"What {off} does"


def test_an_id_that_exists_is_a_failure_that_says_so(http, faces):
    id = registered(http, agent_type="first")
    before = told(http)[id]

    answer = posted(http, id, agent_type="second")

    assert "already exists" in answer.text
    assert "FAILURE" in answer.text
    assert told(http)[id] == before


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b'{"agent_id": "x"}', b'{"agent_type": "t"}', b'{"agent_type": 1, "agent_id": 2}'],
)
def test_a_body_that_says_no_agent_registers_nobody(http, body):
    before = told(http)

    answer = http.post("/agents", content=body, headers={"Content-Type": "application/json"})

    assert 400 <= answer.status_code < 500, answer.text
    assert told(http) == before


@pytest.mark.parametrize("id", ["plain", "with blank", "a/b", "ünï", "a.b-c*>"])
def test_an_agent_is_deregistered(http, faces, id):
    id = unique(id)
    posted(http, id)
    assert id in told(http)

    answer = http.delete("/agents/" + httpx.URL("x:/", params={"": id}).query.decode()[1:].replace("+", "%20"))

    assert answer.is_success, answer.text
    assert id not in told(http)


def test_nobody_is_deregistered_twice(http):
    id = registered(http)
    http.delete(f"/agents/{id}")

    assert http.delete(f"/agents/{id}").status_code == 404
    assert http.delete("/agents/nobody").status_code == 404


def test_an_id_is_free_again_after_it_was_deregistered(http):
    id = registered(http, agent_type="first")
    http.delete(f"/agents/{id}")

    assert posted(http, id, agent_type="second").is_success
    assert told(http)[id]["agent_type"] == "second"


@pytest.mark.parametrize(("number", "message", "signature"), SIGNATURES[:3])
def test_an_agent_signs_with_its_wallet(http, number, message, signature):
    answer = http.post("/agents/signer/sign", json={"message": message})

    assert (answer.status_code, answer.json()) == (200, {"signature": signature})


def test_an_agent_without_a_wallet_signs_nothing(http, faces):
    before = faces.home.held()

    answer = http.post("/agents/nobody/sign", json={"message": "m"})

    assert 400 <= answer.status_code < 500
    assert "signature" not in answer.json()
    assert faces.home.held() == before


def test_identities_are_told_without_their_keys(http):
    answer = told(http, "/identities")

    assert answer == [{"entity_id": "signer", "public_address": ADDRESSES[1]}]


def test_no_private_key_is_answered_or_logged(http, faces):
    said = [http.get(path).text for path in (*LISTS, "/identities", "/agents/signer")]
    said += [http.post("/agents/signer/sign", json={"message": message}).text for message in ("m", None, 1)]

    hides_keys(faces.home, *said, *(process.said() for process in faces.processes))


CHANGING = {
    "register": ("POST", "/agents", {"agent_type": "worker", "agent_id": "sneaked", "config": {}}),
    "deregister": ("DELETE", "/agents/guarded", None),
    "sign": ("POST", "/agents/signer/sign", {"message": "m"}),
}


@pytest.mark.parametrize("name", CHANGING)
def test_where_there_is_a_token_nothing_changes_and_nobody_signs_without_it(faces, name):
    method, path, body = CHANGING[name]
    posted(faces.http, "guarded")

    answer = faces.guarded.request(method, path, json=body)

    assert answer.status_code == 401, answer.text
    entries = told(faces.http)
    assert "guarded" in entries
    assert "sneaked" not in entries


def test_with_the_token_an_agent_signs(faces):
    bearer = {"Authorization": f"Bearer {TOKEN}"}

    answer = faces.guarded.post("/agents/signer/sign", json={"message": SIGNATURES[1][1]}, headers=bearer)

    assert json.loads(answer.text) == {"signature": SIGNATURES[1][2]}

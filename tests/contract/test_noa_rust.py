"""noa, section 9: the Rust variant, on a listener of its own beside a Go one."""

import uuid

import pytest

from tests.contract.noa import NOT_BODIES, Now, moment, unique

FIELDS = [
    "id",
    "name",
    "agent_type",
    "capabilities",
    "status",
    "endpoint",
    "metadata",
    "registered_at",
    "last_heartbeat",
]
STATES = {"Active", "Inactive", "Maintenance", "Error"}

NOBODY = str(uuid.uuid4())


def body(**more):
    return {"name": "r", "agent_type": "worker", "capabilities": ["ocr"], "endpoint": "http://localhost:9", **more}


def registered(rust, **more):
    return rust.told("POST", "/agents/register", body(**more))


def test_register_answers_the_agent(rust):
    with Now() as now:
        agent = registered(rust, agent_type="scout", metadata={"zone": "a"})

    assert set(FIELDS) <= set(agent)
    assert {key: agent[key] for key in ("name", "agent_type", "capabilities", "endpoint", "metadata")} == {
        "name": "r",
        "agent_type": "scout",
        "capabilities": ["ocr"],
        "endpoint": "http://localhost:9",
        "metadata": {"zone": "a"},
    }
    assert agent["status"] in STATES
    assert moment(agent["registered_at"]) in now
    assert moment(agent["last_heartbeat"]) in now


def test_the_id_is_a_uuid(rust):
    id = registered(rust)["id"]

    assert str(uuid.UUID(id)) == id


def test_without_metadata_it_is_empty(rust):
    assert registered(rust)["metadata"] == {}


@pytest.mark.parametrize("key", ["name", "agent_type", "capabilities", "endpoint"])
def test_four_keys_are_required(rust, key):
    name = unique()
    answer = rust.ask("POST", "/agents/register", {k: v for k, v in body(name=name).items() if k != key})

    assert 400 <= answer.status_code < 500
    assert name not in [agent["name"] for agent in rust.get("/agents")]


@pytest.mark.parametrize(
    "wrong", [{"name": 5}, {"capabilities": "ocr"}, {"endpoint": {}}, {"metadata": {"n": 1}}], ids=str
)
def test_a_wrong_type_is_refused(rust, wrong):
    assert 400 <= rust.ask("POST", "/agents/register", body(**wrong)).status_code < 500


@pytest.mark.parametrize("sent", NOT_BODIES.values(), ids=NOT_BODIES)
def test_what_is_no_body_is_refused(rust, sent):
    assert 400 <= rust.ask("POST", "/agents/register", sent).status_code < 500


def test_the_list_is_a_bare_array(rust):
    ids = [registered(rust)["id"] for _ in range(2)]

    answer = rust.get("/agents")

    assert isinstance(answer, list)
    assert [agent["id"] for agent in answer if agent["id"] in ids] == ids


def test_a_single_agent_is_answered_as_registered(rust):
    agent = registered(rust)

    assert rust.get(f"/agents/{agent['id']}") == agent


@pytest.mark.parametrize(("method", "path"), [("GET", "/agents/{}"), ("POST", "/agents/{}/heartbeat")])
@pytest.mark.parametrize("id", ["nobody", "123", "0123456789abcdef"])
def test_what_is_no_uuid_is_refused(rust, method, path, id):
    assert rust.told(method, path.format(id), status=400) == {"error": "Invalid agent ID"}


@pytest.mark.parametrize(("method", "path"), [("GET", "/agents/{}"), ("POST", "/agents/{}/heartbeat")])
def test_an_unknown_uuid_is_not_found(rust, method, path):
    assert rust.told(method, path.format(NOBODY), status=404) == {"error": "Agent not found"}


def test_a_beat_is_received_and_makes_the_agent_active(rust):
    id = registered(rust)["id"]

    with Now() as now:
        answer = rust.told("POST", f"/agents/{id}/heartbeat")

    assert answer == {"status": "heartbeat_received"}
    agent = rust.get(f"/agents/{id}")
    assert agent["status"] == "Active"
    assert moment(agent["last_heartbeat"]) in now


def test_a_beat_makes_an_agent_active_that_was_not(rust, closed):
    id = registered(rust)["id"]
    closed.word(id, "maintenance")
    assert rust.get(f"/agents/{id}")["status"] in STATES - {"Active"}

    rust.told("POST", f"/agents/{id}/heartbeat")

    assert rust.get(f"/agents/{id}")["status"] == "Active"


def test_the_other_listener_shows_the_same_agent(rust, closed):
    id = registered(rust, agent_type="scout", name="seen")["id"]

    agent = closed.agent(id)

    assert (agent["name"], agent["type"], agent["capabilities"]) == ("seen", "scout", ["ocr"])


def test_the_court_is_asked_as_the_rust_code_does(rust, court):
    name = unique("asked")

    registered(rust, name=name)

    context = {"agent_name": name, "agent_type": "worker", "capabilities": ["ocr"]}
    [(path, asked)] = court.asked(name)
    assert path == "/court/trifecta"
    assert asked["context"] == context


def test_whom_the_court_refuses_is_not_registered(rust, court):
    name = court.rules(b'{"valid": false}')

    assert rust.ask("POST", "/agents/register", body(name=name)).status_code == 403
    assert name not in [agent["name"] for agent in rust.get("/agents")]


def test_without_its_court_nobody_is_registered(rust, court):
    with court.away():
        answer = rust.told("POST", "/agents/register", body(), status=503)

    assert answer == {"error": "Validation service unavailable"}


def test_any_origin_may_ask(rust):
    answer = rust.ask("GET", "/agents", headers={"Origin": "http://somewhere.example"})

    assert answer.headers["access-control-allow-origin"] in ("*", "http://somewhere.example")


def test_any_origin_may_ask_before_it_posts(rust):
    asked = {
        "Origin": "http://somewhere.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "content-type",
    }

    answer = rust.ask("OPTIONS", "/agents/register", headers=asked)

    assert answer.status_code in (200, 204)
    assert answer.headers["access-control-allow-origin"] in ("*", "http://somewhere.example")
    assert "POST" in answer.headers["access-control-allow-methods"]
    assert answer.headers["access-control-allow-headers"].lower() in ("*", "content-type")


def test_beside_it_no_other_origin_may_ask(closed):
    answer = closed.ask("GET", "/agents", headers={"Origin": "http://somewhere.example"})

    assert "access-control-allow-origin" not in answer.headers

"""noa, sections 2 to 4: what registration takes, answers and keeps."""

import re

import pytest

from tests.contract.noa import AGENT, HEALTH, HEARTBEAT, NOT_BODIES, Now, moment, ordered, unique

ANSWER = ["success", "agent_id", "id", "name", "status", "registered_at", "message", "endpoints", "expires_at"]

WRONG_TYPES = [
    {"name": 5},
    {"category": []},
    {"version": 1},
    {"version": True},
    {"capabilities": "ocr"},
    {"capabilities": {"ocr": True}},
    {"capabilities": [1]},
    {"endpoints": ["http://h:1"]},
    {"endpoints": "http://h:1"},
    {"endpoints": {"http": 1}},
    {"metadata": []},
    {"metadata": "text"},
    {"heartbeat": True},
    {"heartbeat": []},
    {"heartbeat": {"enabled": "yes"}},
    {"heartbeat": {"enabled": 1}},
    {"heartbeat": {"interval_seconds": "30"}},
    {"heartbeat": {"interval_seconds": 1.5}},
]


def registered(noa, body):
    return noa.told("POST", "/agents/register", body)


def test_the_answer_has_the_keys_of_readme_and_code_in_order(noa):
    assert ordered(registered(noa, {"name": "DataProcessor"}), ANSWER)


def test_the_answer_says_who_and_that_it_went_well(noa):
    answer = registered(noa, {"name": "DataProcessor"})

    assert answer["success"] is True
    assert answer["name"] == "DataProcessor"
    assert answer["status"] == "active"
    assert answer["message"] == "Agent registered successfully"


def test_the_id_is_16_hex_digits_under_both_names(noa):
    answer = registered(noa, {"name": "one"})

    assert re.fullmatch("[0-9a-f]{16}", answer["id"])
    assert answer["agent_id"] == answer["id"]


def test_the_server_makes_the_id_whatever_is_sent(noa):
    answer = registered(noa, {"id": "mine", "agent_id": "mine"})

    assert answer["id"] != "mine"


def test_the_same_name_twice_makes_two_agents(noa):
    name = unique()

    assert noa.register(name=name) != noa.register(name=name)
    assert [agent["name"] for agent in noa.get("/agents")["agents"]].count(name) == 2


def test_the_answer_lists_the_urls_of_the_endpoints(noa):
    answer = registered(noa, {"endpoints": {"http": "http://localhost:5000", "grpc": "grpc://localhost:5001"}})

    assert sorted(answer["endpoints"]) == ["grpc://localhost:5001", "http://localhost:5000"]


@pytest.mark.parametrize("body", [{}, {"endpoints": {}}, {"endpoints": None}], ids=["absent", "empty", "null"])
def test_without_endpoints_the_answer_lists_null(noa, body):
    assert registered(noa, body)["endpoints"] is None


def test_it_is_registered_now_and_said_to_expire_in_24_hours(noa):
    with Now() as now:
        answer = registered(noa, {})

    assert moment(answer["registered_at"]) in now
    assert moment(answer["expires_at"]) - moment(answer["registered_at"]) == pytest.approx(24 * 3600, abs=1e-6)


def test_the_answer_tells_the_time_that_the_agent_shows(noa):
    answer = registered(noa, {})

    assert noa.agent(answer["id"])["registered_at"] == answer["registered_at"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("name", "DataProcessor"),
        ("name", "Größe / 100 % 数据"),
        ("name", "n" * 300),
        ("type", "a/b c.d*>"),
        ("type", "t" * 200),
        ("type", "two\nlines"),
        ("type", " "),
        ("category", "analysis"),
        ("category", "c" * 300),
        ("version", "1.0.0"),
        ("version", "not a version"),
        ("capabilities", ["ocr", "pdf"]),
        ("capabilities", []),
        ("capabilities", ["twice", "twice", ""]),
        ("endpoints", {"http": "http://localhost:5000", "": ""}),
        ("endpoints", {}),
        ("metadata", {"n": 1.5, "nested": {"list": [1, None, True]}, "none": None, "": ""}),
        ("metadata", {}),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_field_is_kept_as_sent(noa, key, value):
    id = noa.register(**{key: value})

    assert noa.agent(id)[key] == value


@pytest.mark.parametrize("key", ["name", "type", "category", "version"])
def test_a_text_that_was_not_sent_is_empty(noa, key):
    assert noa.agent(noa.register())[key] == ""


@pytest.mark.parametrize("key", ["capabilities", "endpoints", "metadata", "heartbeat"])
@pytest.mark.parametrize("sent", [False, True], ids=["absent", "null"])
def test_a_collection_that_was_not_sent_is_null(noa, key, sent):
    id = noa.register(**({key: None} if sent else {}))

    assert noa.agent(id)[key] is None


def test_an_agent_has_its_keys_in_order(noa):
    agent = noa.agent(noa.register(heartbeat={"enabled": True}))

    assert ordered(agent, AGENT)
    assert ordered(agent["health"], HEALTH)
    assert ordered(agent["heartbeat"], HEARTBEAT)


def test_a_new_agent_is_active_and_seen_when_it_registered(noa):
    with Now() as now:
        id = noa.register()

    agent = noa.agent(id)
    assert agent["status"] == "active"
    assert moment(agent["registered_at"]) in now
    assert moment(agent["last_seen"]) in now


def test_the_health_of_a_new_agent_is_unknown_and_the_rest_zero(noa):
    with Now() as now:
        id = noa.register()

    health = noa.agent(id)["health"]
    assert moment(health.pop("last_check")) in now
    zeros = dict.fromkeys(HEALTH[2:-1], 0)
    assert {key: health[key] for key in HEALTH if key in health} == {"status": "unknown", **zeros, "metrics": None}


@pytest.mark.parametrize(
    "heartbeat", [None, {}, {"enabled": False}, {"enabled": False, "interval_seconds": 5}, {"interval_seconds": 5}]
)
def test_heartbeat_is_null_unless_enabled_is_true(noa, heartbeat):
    assert noa.agent(noa.register(heartbeat=heartbeat))["heartbeat"] is None


def test_heartbeat_echoes_the_interval_and_begins_now(noa):
    with Now() as now:
        id = noa.register(heartbeat={"enabled": True, "interval_seconds": 17})

    heartbeat = noa.agent(id)["heartbeat"]
    assert moment(heartbeat.pop("last_beat")) in now
    assert {key: heartbeat[key] for key in ("interval_seconds", "missed_beats", "enabled")} == {
        "interval_seconds": 17,
        "missed_beats": 0,
        "enabled": True,
    }


def test_heartbeat_without_an_interval_has_a_whole_number_there(noa):
    interval = noa.agent(noa.register(heartbeat={"enabled": True}))["heartbeat"]["interval_seconds"]

    assert type(interval) is int


@pytest.mark.parametrize("body", [{}, None], ids=["{}", "null"])
def test_nothing_is_required(noa, body):
    id = registered(noa, body)["id"]

    assert [noa.agent(id)[key] for key in ("name", "type", "category", "version")] == [""] * 4


def test_unknown_keys_are_ignored(noa):
    id = noa.register(name="known", status="busy", health={"status": "bad"}, registered_at=5, other=[1])

    agent = noa.agent(id)
    assert (agent["name"], agent["status"], agent["health"]["status"]) == ("known", "active", "unknown")
    assert "other" not in agent


@pytest.mark.parametrize("body", NOT_BODIES.values(), ids=NOT_BODIES)
def test_what_is_no_body_is_refused(noa, body):
    answer = noa.told("POST", "/agents/register", body, status=400)

    assert answer == {"error": "Invalid request format"}


@pytest.mark.parametrize("wrong", WRONG_TYPES, ids=str)
def test_a_known_key_of_a_wrong_type_is_refused_and_nothing_is_kept(noa, wrong):
    kind = unique()

    answer = noa.told("POST", "/agents/register", {"type": kind, **wrong}, status=400)

    assert answer == {"error": "Invalid request format"}
    assert noa.ids(type=kind) == []


ODD = {
    "beyond a record": b'{"metadata": {"text": "%s"}}' % (b"x" * 100_000),
    "beyond a body": b'{"metadata": {"text": "%s"}}' % (b"x" * 3_000_000),
    "nested": b'{"metadata": {"a": ' + b"[" * 100 + b"]" * 100 + b"}}",
    "nested beyond measure": b'{"metadata": {"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}}",
    "half a pair": b'{"name": "\\ud800"}',
    "no UTF-8": b'{"name": "\xff\xfe"}',
    "zero": b'{"name": "a\\u0000b", "type": "a\\u0000b", "capabilities": ["\\u0000"]}',
    "a great number": b'{"metadata": {"n": 1%s}}' % (b"0" * 400),
    "no number": b'{"metadata": {"n": NaN}}',
    "many": b'{"capabilities": [%s]}' % b",".join(b'"c%d"' % n for n in range(1000)),
    "twice": b'{"name": "a", "name": "b"}',
    "a long key": b'{"metadata": {"%s": 1}, "endpoints": {"%s": "u"}}' % (b"k" * 1000, b"k" * 1000),
}


@pytest.mark.parametrize("body", ODD.values(), ids=ODD)
def test_what_is_odd_is_taken_or_refused_in_the_form_of_the_dialect(noa, body):
    answer = noa.ask("POST", "/agents/register", body)

    assert answer.status_code in (200, 400, 413)
    assert answer.headers["content-type"] == "application/json; charset=utf-8"
    assert ("error" in answer.json()) == (answer.status_code != 200)
    if answer.status_code == 200:
        assert ordered(noa.agent(answer.json()["id"]), AGENT)


def test_a_type_that_is_no_text_is_refused(noa):
    assert noa.told("POST", "/agents/register", {"type": 5}, status=400) == {"error": "Invalid request format"}


def test_a_body_needs_no_content_type(noa):
    assert noa.ask("POST", "/agents/register", b"{}", headers={}).status_code == 200


def test_agents_are_listed_in_the_order_they_came(noa):
    kind = unique()
    came = [noa.register(type=kind, name=name) for name in "cab"]

    assert noa.ids(type=kind) == came
    assert noa.found(type=kind) == came


def test_beats_and_status_do_not_change_the_order(noa):
    kind = unique()
    came = [noa.register(type=kind) for _ in range(3)]

    noa.word(came[0], "busy")
    noa.beat(came[1])

    assert noa.ids(type=kind) == came


@pytest.mark.parametrize("of", ["noa", "go"])
def test_a_client_of_the_readme_reads_id_or_agent_id(request, of):
    face = request.getfixturevalue(of)
    answer = registered(face, {"name": "readme", "type": "worker", "capabilities": ["a"], "endpoints": {"http": "h"}})

    for key in ("id", "agent_id"):
        beaten = face.beat(answer[key], {"health": {"status": "healthy"}, "metrics": {"load": 1}})
        assert (beaten["id"], beaten["status"]) == (answer["id"], "active")

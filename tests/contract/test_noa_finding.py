"""noa, sections 2 to 4: list, discover, details, health, and what is not there."""

from types import SimpleNamespace

import pytest

from tests.contract.noa import AGENT, HEALTH, NOT_BODIES, moment, ordered, unique


@pytest.fixture(scope="module")
def fleet(noa):
    """Three agents of a type of their own."""
    kind, other = unique(), unique()
    return SimpleNamespace(
        kind=kind,
        other=other,
        ocr=noa.register(type=kind, category=other, capabilities=["ocr", "pdf"], name="ocr"),
        pdf=noa.register(type=kind, category="c", capabilities=["pdf"]),
        busy=_busy(noa, kind),
        foreign=noa.register(type=kind + "x", category=other, capabilities=["ocr"]),
    )


def _busy(noa, kind):
    id = noa.register(type=kind)
    noa.word(id, "busy")
    return id


def test_the_list_has_its_keys_in_order_and_counts(noa, fleet):
    answer = noa.get(f"/agents?type={fleet.kind}")

    assert ordered(answer, ["agents", "total"])
    assert answer["total"] == len(answer["agents"]) == 3


def test_the_items_of_the_list_are_whole_agents(noa, fleet):
    items = noa.get(f"/agents?type={fleet.kind}")["agents"]

    assert all(ordered(agent, AGENT) for agent in items)
    assert items[0] == noa.agent(fleet.ocr)


@pytest.mark.parametrize(
    ("filters", "names"),
    [
        ({"type": "{kind}"}, ["ocr", "pdf", "busy"]),
        ({"type": "{kind}", "status": ""}, ["ocr", "pdf", "busy"]),
        ({"type": "{kind}", "status": "active"}, ["ocr", "pdf"]),
        ({"type": "{kind}", "status": "busy"}, ["busy"]),
        ({"type": "{kind}", "status": "ACTIVE"}, []),
        ({"type": "{kind}", "status": "act"}, []),
        ({"type": "{kind}x"}, ["foreign"]),
        ({"type": "{kind}", "category": "c"}, ["ocr", "pdf", "busy"]),
    ],
    ids=str,
)
def test_the_filters_of_the_list_match_exactly_and_all_of_them(noa, fleet, filters, names):
    filters = {key: value.format(kind=fleet.kind) for key, value in filters.items()}

    assert noa.ids(**filters) == [getattr(fleet, name) for name in names]


def test_an_empty_filter_is_no_filter(noa, fleet):
    everyone = noa.ids()

    assert noa.ids(type="", status="") == everyone
    assert {fleet.ocr, fleet.busy, fleet.foreign} <= set(everyone)


def test_a_list_of_nobody_is_an_empty_list(noa):
    answer = noa.get(f"/agents?type={unique()}")

    assert {key: answer[key] for key in ("agents", "total")} == {"agents": [], "total": 0}


def test_discover_has_its_keys_in_order_and_counts(noa, fleet):
    answer = noa.told("POST", "/agents/discover", {"type": fleet.kind})

    assert ordered(answer, ["agents", "query", "total"])
    assert answer["total"] == len(answer["agents"]) == 3


def test_discover_finds_whole_agents(noa, fleet):
    found = noa.told("POST", "/agents/discover", {"type": fleet.kind})["agents"]

    assert found[0] == noa.agent(fleet.ocr)


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ({"type": "{kind}"}, ["ocr", "pdf", "busy"]),
        ({"category": "{other}"}, ["ocr", "foreign"]),
        ({"type": "{kind}", "category": "{other}"}, ["ocr"]),
        ({"type": "{kind}", "status": "active"}, ["ocr", "pdf"]),
        ({"type": "{kind}", "status": "busy"}, ["busy"]),
        ({"type": "{kind}", "status": "busy", "capabilities": ["pdf"]}, []),
        ({"type": "{kind}", "capabilities": ["pdf"]}, ["ocr", "pdf"]),
        ({"type": "{kind}", "capabilities": ["pdf", "ocr"]}, ["ocr"]),
        ({"type": "{kind}", "capabilities": ["pdf", "juggling"]}, []),
        ({"type": "{kind}", "capabilities": ["PDF"]}, []),
        ({"type": "{kind}", "category": "", "capabilities": [], "status": ""}, ["ocr", "pdf", "busy"]),
        ({"type": "{kind}", "unknown": "key"}, ["ocr", "pdf", "busy"]),
        ({"type": "{kind}", "name": "ocr"}, ["ocr", "pdf", "busy"]),
    ],
    ids=str,
)
def test_discover_means_all_of_what_is_given(noa, fleet, query, names):
    query = {
        key: value.format(kind=fleet.kind, other=fleet.other) if isinstance(value, str) else value
        for key, value in query.items()
    }

    assert noa.found(**query) == [getattr(fleet, name) for name in names]


@pytest.mark.parametrize("body", [{}, None], ids=["{}", "null"])
def test_discover_of_nothing_finds_everyone(noa, fleet, body):
    answer = noa.told("POST", "/agents/discover", body)

    assert [agent["id"] for agent in answer["agents"]] == noa.ids()
    assert answer["query"] == {}


def test_the_query_is_echoed_without_what_is_empty_or_unknown(noa):
    asked = {"type": unique(), "category": "", "capabilities": [], "status": "active", "unknown": 5}

    answer = noa.told("POST", "/agents/discover", asked)

    assert answer["query"] == {"type": asked["type"], "status": "active"}


def test_the_whole_query_is_echoed(noa):
    asked = {"type": unique(), "category": "c", "capabilities": ["a", "b"], "status": "active"}

    assert noa.told("POST", "/agents/discover", asked)["query"] == asked


def test_discover_of_nobody_is_an_empty_list(noa):
    answer = noa.told("POST", "/agents/discover", {"type": unique()})

    assert (answer["agents"], answer["total"]) == ([], 0)


@pytest.mark.parametrize("body", NOT_BODIES.values(), ids=NOT_BODIES)
def test_discover_refuses_what_is_no_body(noa, body):
    assert noa.told("POST", "/agents/discover", body, status=400) == {"error": "Invalid request format"}


@pytest.mark.parametrize(
    "wrong",
    [{"type": 5}, {"category": []}, {"status": True}, {"capabilities": "ocr"}, {"capabilities": [1]}],
    ids=str,
)
def test_discover_refuses_a_known_key_of_a_wrong_type(noa, wrong):
    assert noa.told("POST", "/agents/discover", wrong, status=400) == {"error": "Invalid request format"}


def test_the_health_of_an_agent_has_its_keys_in_order(noa, fleet):
    answer = noa.get(f"/agents/{fleet.ocr}/health")

    assert ordered(answer, ["agent_id", "health", "last_seen", "status"])
    assert ordered(answer["health"], HEALTH)


def test_the_health_of_an_agent_says_what_the_agent_says(noa, fleet):
    answer = noa.get(f"/agents/{fleet.busy}/health")
    agent = noa.agent(fleet.busy)

    assert answer["agent_id"] == fleet.busy
    assert [answer[key] for key in ("health", "last_seen", "status")] == [
        agent[key] for key in ("health", "last_seen", "status")
    ]


@pytest.mark.parametrize("path", ["/agents/nobody", "/agents/nobody/health", "/agents/0123456789abcdef"])
def test_an_unknown_agent_is_not_found(noa, path):
    assert noa.get(path, status=404) == {"error": "Agent not found"}


@pytest.mark.parametrize("id", ["%20", "a%0Ab", "%FF", "..%2f..", "x" * 1000, "%F0%9F%A6%8A"], ids=lambda id: id[:10])
def test_an_id_that_nobody_can_have_is_not_found(noa, id):
    assert noa.get(f"/agents/{id}", status=404) == {"error": "Agent not found"}


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("GET", "/nothing"),
        ("POST", "/agents"),
        ("PUT", "/agents/register"),
        ("PATCH", "/agents/x"),
        ("PUT", "/agents/x"),
        ("POST", "/agents/x"),
        ("GET", "/agents/x/heartbeat"),
        ("PUT", "/agents/x/heartbeat"),
        ("GET", "/agents/x/status"),
        ("GET", "/agents/x/message"),
        ("POST", "/agents/x/messages"),
        ("POST", "/agents/x/deregister"),
        ("GET", "/agents/x/y/z"),
        ("GET", "/analytics"),
        ("POST", "/analytics/overview"),
        ("DELETE", "/health"),
        ("POST", "/metrics"),
        ("GET", "/docs"),
        ("GET", "/openapi.json"),
        ("GET", "/registry/vms"),
        ("GET", "/v1/agents"),
        ("OPTIONS", "/agents"),
    ],
)
def test_an_unknown_path_or_method_is_a_text(noa, method, path):
    answer = noa.ask(method, path)

    assert (answer.status_code, answer.text) == (404, "404 page not found")
    assert answer.headers["content-type"].split(";")[0] == "text/plain"


@pytest.mark.parametrize("path", ["/agents", "/health", "/metrics"])
def test_head_is_an_unknown_method(noa, path):
    answer = noa.ask("HEAD", path)

    assert (answer.status_code, answer.content) == (404, b"")


def test_the_service_says_how_it_is_in_order(noa):
    answer = noa.get("/health")

    assert ordered(answer, ["status", "service", "timestamp", "version", "agents", "dependencies"])
    assert ordered(answer["agents"], ["total", "active", "healthy"])
    assert ordered(answer["dependencies"], ["redis", "database", "trifecta_court"])


def test_the_service_is_healthy(noa):
    answer = noa.get("/health")

    assert (answer["status"], answer["service"], answer["version"]) == ("healthy", "agent-registry", "1.0.0")
    assert (answer["dependencies"]["redis"], answer["dependencies"]["database"]) == ("healthy", "healthy")
    moment(answer["timestamp"])


def test_without_a_court_its_state_is_unknown(noa):
    assert noa.get("/health")["dependencies"]["trifecta_court"] == "unknown"

"""noa, section 1: where `compat = "go"` is narrower than the superset."""

import pytest

from tests.contract.noa import ordered, unique


def test_leaving_has_only_the_path_of_the_code(go):
    id = go.register()

    refused = go.ask("DELETE", f"/agents/{id}")

    assert (refused.status_code, refused.text) == (404, "404 page not found")
    assert refused.headers["content-type"].split(";")[0] == "text/plain"
    assert go.agent(id)["id"] == id
    answer = go.told("DELETE", f"/agents/{id}/deregister")
    assert ordered(answer, ["success", "message", "id", "status"])


def test_a_status_word_is_put_not_posted(go):
    id = go.register()

    refused = go.ask("POST", f"/agents/{id}/status", {"status": "busy"})

    assert (refused.status_code, refused.text) == (404, "404 page not found")
    assert go.agent(id)["status"] == "active"
    assert go.word(id, "busy")["status"] == "busy"


@pytest.mark.parametrize("filters", [{"type": "no such type"}, {"status": "no such status"}])
def test_the_filters_of_the_list_are_ignored(go, filters):
    go.register()

    assert go.ids(**filters) == go.ids() != []


def test_discover_filters_also_here(go):
    kind = unique()
    id = go.register(type=kind, capabilities=["a", "b"])
    go.register(type=kind)

    assert go.found(type=kind, capabilities=["a"]) == [id]


def test_discover_of_nobody_is_null(go):
    answer = go.told("POST", "/agents/discover", {"type": unique()})

    assert (answer["agents"], answer["total"]) == (None, 0)


def test_no_messages_are_null(go):
    assert go.get(f"/agents/{go.register()}/messages") == {"messages": None, "total": 0}


def test_messages_are_a_list(go):
    id = go.register()
    go.told("POST", f"/agents/{id}/message", {"content": "hello"})

    assert [message["content"] for message in go.get(f"/agents/{id}/messages")["messages"]] == ["hello"]


def test_the_answer_to_register_is_the_same(go):
    answer = go.told("POST", "/agents/register", {"name": "n", "endpoints": {"http": "http://h:1"}})

    assert ordered(
        answer, ["success", "agent_id", "id", "name", "status", "registered_at", "message", "endpoints", "expires_at"]
    )


def test_the_answer_to_a_beat_is_the_same(go):
    answer = go.beat(go.register())

    assert ordered(answer, ["success", "timestamp", "message", "id", "last_beat", "status"])


def test_agents_are_listed_in_the_order_they_came(go):
    kind = unique()
    came = [go.register(type=kind) for _ in range(3)]

    assert go.found(type=kind) == came


def test_the_service_metrics_are_there_too(go):
    page = go.ask("GET", "/metrics").text

    names = ["agent_registrations_total", "agent_health", "http_request_duration_seconds", "active_agents"]
    assert [name for name in names if f"# TYPE {name} " not in page] == []

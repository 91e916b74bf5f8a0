"""noa, section 3: deregistration, and the messages that go with the agent."""

import re

import pytest

from tests.contract.noa import MESSAGE, NOT_BODIES, Now, moment, ordered, unique, until

WAYS = pytest.mark.parametrize("way", ["/agents/{}", "/agents/{}/deregister"])


@pytest.fixture(scope="module")
def full(noa):
    """An agent that was sent 105 messages, and the ids of these, oldest first."""
    id = noa.register()
    sent = [noa.told("POST", f"/agents/{id}/message", {"data": {"n": n}})["message_id"] for n in range(105)]
    return id, sent


def messages(noa, id):
    return noa.get(f"/agents/{id}/messages")


# Deregistration


@WAYS
def test_both_ways_to_leave_answer_both_sets_of_keys_in_order(noa, way):
    id = noa.register()

    answer = noa.told("DELETE", way.format(id))

    assert ordered(answer, ["success", "message", "id", "status"])
    assert (answer["success"], answer["message"]) == (True, "Agent deregistered successfully")
    assert (answer["id"], answer["status"]) == (id, "deregistered")


@WAYS
def test_a_second_time_it_is_not_found(noa, way):
    id = noa.register()
    noa.told("DELETE", way.format(id))

    assert noa.told("DELETE", way.format(id), status=404) == {"error": "Agent not found"}


@WAYS
def test_an_unknown_agent_cannot_leave(noa, way):
    assert noa.told("DELETE", way.format("nobody"), status=404) == {"error": "Agent not found"}


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/agents/{}", None),
        ("GET", "/agents/{}/health", None),
        ("POST", "/agents/{}/heartbeat", {}),
        ("PUT", "/agents/{}/status", {"status": "active"}),
    ],
)
def test_who_left_is_not_found(noa, method, path, body):
    id = noa.register()
    noa.told("DELETE", f"/agents/{id}")

    assert noa.told(method, path.format(id), body, status=404) == {"error": "Agent not found"}


def test_who_left_is_in_no_list(noa):
    kind = unique()
    id, stays = noa.register(type=kind), noa.register(type=kind)

    noa.told("DELETE", f"/agents/{id}")

    assert noa.ids(type=kind) == [stays]
    assert noa.found(type=kind) == [stays]


def test_the_messages_go_with_the_agent(noa):
    id = noa.register()
    noa.told("POST", f"/agents/{id}/message", {"content": "hello"})

    noa.told("DELETE", f"/agents/{id}")

    until(lambda: messages(noa, id) == {"messages": [], "total": 0}, what="no messages")


# Messages


def test_a_message_is_answered_with_its_id(noa):
    answer = noa.told("POST", f"/agents/{noa.register()}/message", {"type": "task", "content": "do", "data": {"n": 1}})

    assert ordered(answer, ["success", "message_id", "delivered"])
    assert (answer["success"], answer["delivered"]) == (True, True)
    assert re.fullmatch("[0-9a-f]{12}", answer["message_id"])


def test_a_message_is_kept_as_sent(noa):
    id = noa.register()
    said = {"type": "task", "content": "Größe\n", "data": {"n": 1.5, "list": [None, {}]}}

    with Now() as now:
        sent = noa.told("POST", f"/agents/{id}/message", said)

    [kept] = messages(noa, id)["messages"]
    assert ordered(kept, MESSAGE)
    assert moment(kept["timestamp"]) in now
    assert {key: kept[key] for key in MESSAGE if key != "timestamp"} == {"to": id, "id": sent["message_id"], **said}


def test_the_messages_have_their_keys_in_order_and_count(noa):
    id = noa.register()
    noa.told("POST", f"/agents/{id}/message", {})

    answer = messages(noa, id)

    assert ordered(answer, ["messages", "total"])
    assert answer["total"] == 1


@pytest.mark.parametrize("body", [{}, None, {"unknown": 5}], ids=str)
def test_what_a_message_does_not_say_is_empty(noa, body):
    id = noa.register()

    noa.told("POST", f"/agents/{id}/message", body)

    [kept] = messages(noa, id)["messages"]
    assert (kept["type"], kept["content"], kept["data"]) == ("", "", None)


def test_the_path_says_to_whom_a_message_goes(noa):
    id = noa.register()

    noa.told("POST", f"/agents/{id}/message", {"to": "another", "id": "mine", "timestamp": "2001-01-01T00:00:00Z"})

    [kept] = messages(noa, id)["messages"]
    assert kept["to"] == id
    assert kept["id"] != "mine"
    assert messages(noa, "another")["total"] == 0


def test_the_newest_message_comes_first(noa):
    id = noa.register()

    sent = [noa.told("POST", f"/agents/{id}/message", {"content": str(n)})["message_id"] for n in range(3)]

    assert [message["id"] for message in messages(noa, id)["messages"]] == sent[::-1]


def test_reading_does_not_remove(noa):
    id = noa.register()
    noa.told("POST", f"/agents/{id}/message", {})

    assert messages(noa, id) == messages(noa, id)
    assert messages(noa, id)["total"] == 1


def test_the_newest_100_are_kept(noa, full):
    id, sent = full

    answer = messages(noa, id)

    assert [message["id"] for message in answer["messages"]] == sent[:4:-1]
    assert answer["total"] == 100


def test_each_agent_has_messages_of_its_own(noa, full):
    other = noa.register()
    noa.told("POST", f"/agents/{other}/message", {"content": "mine"})

    assert [message["content"] for message in messages(noa, other)["messages"]] == ["mine"]


def test_a_message_to_an_unknown_agent_is_accepted(noa):
    answer = noa.told("POST", f"/agents/{unique('nobody')}/message", {"content": "hello"})

    assert (answer["success"], answer["delivered"]) == (True, True)


@pytest.mark.parametrize("id", ["nobody", "a.b", "a%20b", "%2A", "%3E", "x" * 300], ids=lambda id: id[:10])
def test_an_unknown_agent_has_no_messages(noa, id):
    assert messages(noa, id) == {"messages": [], "total": 0}


@pytest.mark.parametrize("body", NOT_BODIES.values(), ids=NOT_BODIES)
def test_a_message_refuses_what_is_no_body(noa, body):
    id = noa.register()

    assert noa.told("POST", f"/agents/{id}/message", body, status=400) == {"error": "Invalid message format"}
    assert messages(noa, id)["total"] == 0


@pytest.mark.parametrize("wrong", [{"type": 5}, {"type": []}, {"content": 5}, {"content": {"text": "x"}}], ids=str)
def test_a_message_refuses_a_known_key_of_a_wrong_type(noa, wrong):
    id = noa.register()

    assert noa.told("POST", f"/agents/{id}/message", wrong, status=400) == {"error": "Invalid message format"}
    assert messages(noa, id)["total"] == 0


def test_a_wrong_message_to_an_unknown_agent_is_refused(noa):
    assert noa.told("POST", "/agents/nobody/message", b"{", status=400) == {"error": "Invalid message format"}

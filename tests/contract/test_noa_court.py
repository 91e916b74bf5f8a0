"""noa, section 7: the court is asked before anyone is registered. `fast` and `go` are open, `closed` is closed."""

import pytest

from tests.contract.noa import unique, until

REFUSED = "Constitutional validation failed"
UNAVAILABLE = "Validation service unavailable"

EITHER = pytest.mark.parametrize("of", ["fast", "closed"], ids=["open", "closed"])

YES = [b'{"valid": true}', b'{"valid": true, "reason": "r", "scripture": "s", "geometry": {}, "law": [1]}']
NO = [
    b'{"valid": false}',
    b"{}",
    b'{"valid": "true"}',
    b'{"valid": 1}',
    b'{"valid": null}',
    b'{"result": {"valid": true}}',
    b"[]",
    b"true",
    b"null",
    b"not json",
    b"",
    b'{"valid": true',
]


@pytest.fixture
def face(request, of):
    return request.getfixturevalue(of)


def judged(face, name, *, status=200):
    return face.told("POST", "/agents/register", {"name": name}, status=status)


def listed(face, name):
    return name in [agent["name"] for agent in face.get("/agents")["agents"]]


@EITHER
@pytest.mark.parametrize("status", [200, 201, 400, 403, 500])
def test_whom_the_court_calls_valid_is_registered_whatever_the_http_status(face, court, status):
    name = court.rules(YES[0], status=status)

    assert judged(face, name)["success"] is True
    assert listed(face, name)


@EITHER
def test_the_court_may_say_more(face, court):
    assert judged(face, court.rules(YES[1]))["success"] is True


@EITHER
@pytest.mark.parametrize("ruling", NO, ids=str)
def test_anything_else_the_court_says_is_a_refusal_that_keeps_nothing(face, court, ruling):
    name = court.rules(ruling)

    assert judged(face, name, status=403)["error"] == REFUSED
    assert not listed(face, name)


@pytest.mark.parametrize("status", [200, 500])
def test_a_refusal_does_not_depend_on_the_http_status(fast, court, status):
    assert judged(fast, court.rules(b'{"valid": false}', status=status), status=403)["error"] == REFUSED


def test_in_go_a_refusal_is_the_same(go, court):
    assert judged(go, court.rules(b'{"valid": false}'), status=403)["error"] == REFUSED


def test_the_court_is_asked_as_the_contract_says(fast, court):
    name = unique("asked")
    context = {"name": name, "type": "worker", "category": "analysis", "capabilities": ["ocr", "pdf"]}

    fast.register(**context, version="1", metadata={"k": 1}, endpoints={"http": "http://h:1"})

    assert court.asked(name) == [("/court/trifecta", {"action": "register_agent", "context": context})]


def test_what_was_not_sent_is_in_the_context_too(fast, court):
    name = unique("asked")

    fast.register(name=name)

    [(_, body)] = court.asked(name)
    assert sorted(body["context"]) == ["capabilities", "category", "name", "type"]
    assert (body["context"]["type"], body["context"]["category"]) == ("", "")


def test_only_registration_is_judged(fast, court):
    name = unique("asked")
    id = fast.register(name=name)
    before = len(court.heard)

    fast.beat(id)
    fast.word(id, "busy")
    fast.told("POST", f"/agents/{id}/message", {"content": name})
    fast.told("POST", "/agents/discover", {"type": name})
    fast.told("DELETE", f"/agents/{id}")

    assert len(court.heard) == before


def test_a_wrong_body_is_refused_before_the_court_is_asked(fast, court):
    name = unique("asked")

    assert judged(fast, [name], status=400) == {"error": "Invalid request format"}
    assert court.asked(name) == []


def test_open_goes_on_with_a_warning_when_there_is_no_connection(fast, court):
    name = unique("alone")

    with court.away():
        assert judged(fast, name)["success"] is True

    assert listed(fast, name)
    until(lambda: _warned(fast), what="a warning in the log")


def test_closed_registers_nobody_when_there_is_no_connection(closed, court):
    name = unique("alone")

    with court.away():
        assert judged(closed, name, status=503)["error"] == UNAVAILABLE

    assert not listed(closed, name)


def test_in_go_the_court_may_be_away(go, court):
    with court.away():
        assert judged(go, unique("alone"))["success"] is True


def test_open_goes_on_when_the_court_is_too_slow(fast, court):
    name = court.dawdles()

    assert judged(fast, name)["success"] is True
    assert listed(fast, name)


def test_closed_registers_nobody_when_the_court_is_too_slow(closed, court):
    name = court.dawdles()

    assert judged(closed, name, status=503)["error"] == UNAVAILABLE
    assert not listed(closed, name)


def test_a_court_that_returns_judges_again(fast, court):
    with court.away():
        fast.register()

    assert judged(fast, court.rules(b'{"valid": false}'), status=403)["error"] == REFUSED


def test_without_a_court_everyone_is_registered(noa, court):
    before = len(court.heard)

    assert judged(noa, court.rules(b'{"valid": false}'))["success"] is True
    assert len(court.heard) == before


@pytest.mark.parametrize("key", ["reason", "scripture", "geometry", "law"])
def test_what_the_court_says_beside_its_ruling_is_logged(fast, court, key):
    words = unique("because")

    judged(fast, court.rules(b'{"valid": false, "%s": "%s"}' % (key.encode(), words.encode())), status=403)

    until(lambda: words in fast.process.said(), what="the word of the court in the log")


def _warned(face):
    return any(str(line.get("level", "")).startswith("warn") and "court" in str(line) for line in face.logged())

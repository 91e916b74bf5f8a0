"""noa, sections 3 to 5: heartbeats, health, status words, and liveness by the clock."""

import math
import time

import pytest

from tests.contract.conftest import STALE, TICK, T
from tests.contract.noa import AGENT, HEALTH, NOT_BODIES, Now, moment, ordered, unique, until

FULL = {
    "status": "degraded",
    "uptime_seconds": 3600,
    "cpu_percent": 12.5,
    "memory_percent": 40.25,
    "active_connections": 7,
    "error_count": 3,
    "metrics": {"queue": 5, "by": {"kind": [1, None]}},
}

SUPERSET_AND_GO = pytest.mark.parametrize("of", ["fast", "go"])


@pytest.fixture(scope="module", autouse=True)
def long_ago(fast, go):
    """Who registered before the first test here, so that the last ones need not wait: by face and by what they are."""
    return {name: _came(face) for name, face in {"fast": fast, "go": go}.items()}


def _came(face):
    came = {"overdue": [face.register(type=unique(), heartbeat={"enabled": True}) for _ in range(4)]}
    came["quiet"] = [face.register(heartbeat={"enabled": False}), face.register()]
    came["checked"] = [face.register(heartbeat={"enabled": enabled}) for enabled in (True, False)]
    for id in came["overdue"]:
        face.word(id, "busy")
    for id in came["checked"]:
        face.beat(id, {"health": FULL})
    return came


@pytest.fixture
def face(request, of):
    return request.getfixturevalue(of)


@pytest.fixture
def overdue(face, of, long_ago):
    """An agent that was called busy and then missed its beats."""
    id = long_ago[of]["overdue"].pop()
    until(lambda: face.agent(id)["status"] == "unhealthy", what="unhealthy")
    return id


# Heartbeat


def test_the_answer_to_a_beat_has_the_keys_of_readme_and_code_in_order(noa):
    answer = noa.beat(noa.register())

    assert ordered(answer, ["success", "timestamp", "message", "id", "last_beat", "status"])


def test_the_answer_to_a_beat_says_who_and_when(noa):
    id = noa.register()

    with Now() as now:
        answer = noa.beat(id)

    assert (answer["success"], answer["message"]) == (True, "Heartbeat recorded")
    assert (answer["id"], answer["status"]) == (id, "active")
    assert moment(answer["timestamp"]) in now


@pytest.mark.parametrize("enabled", [True, False])
def test_last_beat_is_the_timestamp_enabled_or_not(noa, enabled):
    answer = noa.beat(noa.register(heartbeat={"enabled": enabled}))

    assert answer["last_beat"] == answer["timestamp"]


def test_the_answer_to_a_beat_tells_the_status_word(noa):
    id = noa.register()
    noa.word(id, "busy")

    assert noa.beat(id)["status"] == "busy"


def test_a_beat_moves_last_seen(noa):
    id = noa.register()

    with Now() as now:
        noa.beat(id)

    assert moment(noa.agent(id)["last_seen"]) in now


def test_a_beat_moves_last_beat_of_whom_it_is_enabled(noa):
    id = noa.register(heartbeat={"enabled": True})

    with Now() as now:
        noa.beat(id)

    heartbeat = noa.agent(id)["heartbeat"]
    assert moment(heartbeat["last_beat"]) in now
    assert heartbeat["missed_beats"] == 0


def test_heartbeat_stays_null_after_a_beat(noa):
    id = noa.register()

    noa.beat(id)

    assert noa.agent(id)["heartbeat"] is None


def test_a_beat_changes_nothing_else(noa):
    id = noa.register(name="n", type=unique(), capabilities=["a"], metadata={"k": None})
    before = noa.agent(id)

    noa.beat(id, {"name": "other", "status": "busy", "capabilities": []})

    moved = ("last_seen", "health", "heartbeat")
    after = noa.agent(id)
    assert {k: v for k, v in after.items() if k not in moved} == {k: v for k, v in before.items() if k not in moved}


def test_a_beat_of_an_unknown_agent_is_not_found(noa):
    assert noa.told("POST", "/agents/nobody/heartbeat", {}, status=404) == {"error": "Agent not found"}


@pytest.mark.parametrize("body", [*NOT_BODIES.values(), b'{"health": 5}'], ids=[*NOT_BODIES, "wrong type"])
def test_an_unknown_agent_comes_before_a_wrong_body(noa, body):
    assert noa.told("POST", "/agents/nobody/heartbeat", body, status=404) == {"error": "Agent not found"}


@pytest.mark.parametrize("body", NOT_BODIES.values(), ids=NOT_BODIES)
def test_a_beat_refuses_what_is_no_body(noa, body):
    answer = noa.told("POST", f"/agents/{noa.register()}/heartbeat", body, status=400)

    assert answer == {"error": "Invalid heartbeat data"}


@pytest.mark.parametrize(
    "health",
    [
        "healthy",
        5,
        [],
        {"status": 5},
        {"cpu_percent": "12"},
        {"memory_percent": []},
        {"uptime_seconds": "long"},
        {"uptime_seconds": 1.5},
        {"active_connections": "many"},
        {"active_connections": 1.5},
        {"error_count": True},
        {"error_count": 0.5},
        {"metrics": []},
        {"metrics": "text"},
    ],
    ids=str,
)
def test_a_beat_refuses_health_of_a_wrong_type_and_keeps_what_was(noa, health):
    id = noa.register()
    before = noa.agent(id)

    answer = noa.told("POST", f"/agents/{id}/heartbeat", {"health": health}, status=400)

    assert answer == {"error": "Invalid heartbeat data"}
    assert noa.agent(id) == before


@pytest.mark.parametrize("body", [{}, None, {"unknown": [1]}, {"metrics": {"cpu": 5}}, {"metrics": "text"}], ids=str)
def test_a_beat_without_health_is_taken_and_health_stays(noa, body):
    id = noa.register()
    noa.beat(id, {"health": FULL})
    before = noa.agent(id)["health"]

    noa.beat(id, body)

    assert noa.agent(id)["health"] == before


# Health


def test_health_is_kept_as_sent_and_checked_now(noa):
    id = noa.register()

    with Now() as now:
        noa.beat(id, {"health": FULL})

    health = noa.agent(id)["health"]
    assert ordered(health, HEALTH)
    assert moment(health.pop("last_check")) in now
    assert {key: health[key] for key in FULL} == FULL


@pytest.mark.parametrize("key", ["uptime_seconds", "active_connections", "error_count"])
@pytest.mark.parametrize("value", [0, 86400])
def test_whole_numbers_of_health_stay_whole(noa, key, value):
    id = noa.register()

    noa.beat(id, {"health": {"status": "healthy", key: value}})

    assert f'"{key}":{value},' in noa.ask("GET", f"/agents/{id}").text.replace(": ", ":")


def test_a_whole_number_may_stand_where_any_number_may(noa):
    id = noa.register()

    noa.beat(id, {"health": {"status": "healthy", "cpu_percent": 50}})

    assert noa.agent(id)["health"]["cpu_percent"] == 50


def test_new_health_replaces_all_of_the_old(noa):
    id = noa.register()
    noa.beat(id, {"health": FULL})

    noa.beat(id, {"health": {"status": "healthy", "error_count": 1}})

    health = noa.agent(id)["health"]
    assert {key: health[key] for key in HEALTH if key != "last_check"} == {
        "status": "healthy",
        "uptime_seconds": 0,
        "cpu_percent": 0,
        "memory_percent": 0,
        "active_connections": 0,
        "error_count": 1,
        "metrics": None,
    }


def test_last_check_is_ours_whatever_is_sent(noa):
    id = noa.register()

    with Now() as now:
        noa.beat(id, {"health": {"status": "healthy", "last_check": "2001-01-01T00:00:00Z", "unknown": 5}})

    assert moment(noa.agent(id)["health"]["last_check"]) in now


@pytest.mark.parametrize("word", ["healthy", "degraded", "any word", ""])
def test_any_word_is_a_health(go, word):
    id = go.register()

    go.beat(id, {"health": {"status": word}})

    assert go.agent(id)["health"]["status"] == word


def test_health_without_a_word_is_healthy_at_first(noa):
    id = noa.register()

    noa.beat(id, {"health": {"cpu_percent": 1}})

    assert noa.agent(id)["health"]["status"] == "healthy"


def test_health_without_a_word_keeps_the_last_one_that_was_said(noa):
    id = noa.register()
    noa.beat(id, {"health": {"status": "degraded"}})

    noa.beat(id, {"health": {"cpu_percent": 1}})
    noa.beat(id, {"health": {"cpu_percent": 2}})

    assert noa.agent(id)["health"]["status"] == "degraded"


def test_in_go_health_without_a_word_has_none(go):
    id = go.register()
    go.beat(id, {"health": {"status": "degraded"}})

    go.beat(id, {"health": {"cpu_percent": 1}})

    assert go.agent(id)["health"]["status"] == ""


# Status words


@pytest.mark.parametrize("method", ["PUT", "POST"])
def test_a_status_word_is_set_and_the_agent_answered(noa, method):
    id = noa.register()

    answer = noa.told(method, f"/agents/{id}/status", {"status": "maintenance"})

    assert ordered(answer, AGENT)
    assert (answer["id"], answer["status"]) == (id, "maintenance")
    assert noa.agent(id) == answer


@pytest.mark.parametrize("word", ["active", "inactive", "Größe / %", "", "w" * 500, "unhealthy"], ids=lambda w: w[:12])
def test_any_text_is_a_status(noa, word):
    id = noa.register()

    assert noa.word(id, word)["status"] == word
    assert noa.agent(id)["status"] == word


@pytest.mark.parametrize("body", [{}, None, {"unknown": "key"}], ids=str)
def test_a_missing_status_sets_an_empty_one(noa, body):
    id = noa.register()

    assert noa.told("PUT", f"/agents/{id}/status", body)["status"] == ""


def test_active_again_is_active(noa):
    id = noa.register()
    noa.word(id, "busy")

    assert noa.word(id, "active")["status"] == "active"
    assert noa.agent(id)["status"] == "active"


def test_a_status_word_moves_last_seen_but_not_last_beat(noa):
    id = noa.register(heartbeat={"enabled": True})
    before = noa.agent(id)
    until(lambda: time.time() > moment(before["last_seen"]) + 0.05)

    with Now() as now:
        noa.word(id, "busy")

    after = noa.agent(id)
    assert moment(after["last_seen"]) in now
    assert after["heartbeat"]["last_beat"] == before["heartbeat"]["last_beat"]


def test_a_status_word_changes_nothing_else(noa):
    id = noa.register(name="n", type=unique(), capabilities=[], endpoints={}, metadata={"none": None})
    noa.beat(id, {"health": FULL})
    before = noa.agent(id)

    noa.word(id, "busy")

    moved = ("last_seen", "status")
    after = noa.agent(id)
    assert {k: v for k, v in after.items() if k not in moved} == {k: v for k, v in before.items() if k not in moved}


def test_the_status_of_an_unknown_agent_is_not_found(noa):
    assert noa.told("PUT", "/agents/nobody/status", {"status": "x"}, status=404) == {"error": "Agent not found"}


@pytest.mark.parametrize("body", [*NOT_BODIES.values(), b'{"status": 5}'], ids=[*NOT_BODIES, "wrong type"])
def test_an_unknown_agent_comes_before_a_wrong_status(noa, body):
    assert noa.told("PUT", "/agents/nobody/status", body, status=404) == {"error": "Agent not found"}


@pytest.mark.parametrize(
    "body", [*NOT_BODIES.values(), b'{"status": 5}', b'{"status": ["a"]}'], ids=[*NOT_BODIES, "number", "list"]
)
def test_a_status_refuses_what_is_no_body(noa, body):
    id = noa.register()

    assert noa.told("PUT", f"/agents/{id}/status", body, status=400) == {"error": "Invalid request format"}
    assert noa.agent(id)["status"] == "active"


# Liveness


def missed(age: float) -> int:
    """The rule of section 5."""
    return 0 if age <= T else 1 + math.floor((age - T) / TICK)


def test_missed_beats_are_counted_by_the_clock_and_the_fourth_is_unhealthy(fast):
    id = fast.register(heartbeat={"enabled": True, "interval_seconds": 1})
    seen = set()

    def looked() -> bool:
        with Now() as now:
            agent = fast.agent(id)
        beat, count = moment(agent["heartbeat"]["last_beat"]), agent["heartbeat"]["missed_beats"]
        assert missed(now.begin - beat - 0.01) <= count <= missed(now.end - beat + 0.01)
        assert agent["status"] == ("unhealthy" if count > 3 else "active")
        seen.add(count)
        return count > 4

    until(looked, what="five missed beats")
    assert min(seen) <= 3


@SUPERSET_AND_GO
def test_a_beat_makes_an_overdue_agent_what_it_was(face, overdue):
    answer = face.beat(overdue)

    assert answer["status"] == "busy"
    agent = face.agent(overdue)
    assert (agent["status"], agent["heartbeat"]["missed_beats"]) == ("busy", 0)


@pytest.mark.parametrize("of", ["fast"])
def test_an_overdue_agent_is_unhealthy_in_every_answer(face, overdue):
    kind = face.agent(overdue)["type"]

    assert face.get(f"/agents/{overdue}/health")["status"] == "unhealthy"
    assert [agent["status"] for agent in face.get(f"/agents?type={kind}")["agents"]] == ["unhealthy"]
    assert face.ids(type=kind, status="unhealthy") == [overdue]
    assert face.ids(type=kind, status="busy") == []
    assert face.found(type=kind, status="unhealthy") == [overdue]
    assert face.found(type=kind, status="busy") == []
    assert overdue in face.get("/analytics/health")["unhealthy_agents"]
    assert face.get("/analytics/health")["missed_heartbeats"][overdue] > 3


@pytest.mark.parametrize("of", ["fast"])
def test_a_word_for_an_overdue_agent_is_shown_once_and_kept(face, overdue):
    shown = face.word(overdue, "maintenance")["status"]

    assert shown == "maintenance"
    assert face.agent(overdue)["status"] == "unhealthy"
    face.beat(overdue)
    assert face.agent(overdue)["status"] == "maintenance"


@SUPERSET_AND_GO
def test_whose_beats_nobody_awaits_never_turns_unhealthy(face, of, overdue, long_ago):
    assert [face.agent(id)["status"] for id in long_ago[of]["quiet"]] == ["active", "active"]


@SUPERSET_AND_GO
@pytest.mark.parametrize("who", [0, 1], ids=["enabled", "not enabled"])
def test_health_that_nobody_checked_for_long_is_stale(face, of, who, long_ago):
    def looked() -> bool:
        with Now() as now:
            health = face.agent(long_ago[of]["checked"][who])["health"]
        check = moment(health["last_check"])
        if now.end - check + 0.01 <= STALE:
            assert health["status"] == "degraded"
        if now.begin - check - 0.01 > STALE:
            assert health["status"] == "stale"
        return health["status"] == "stale"

    until(looked, what="stale")


def test_stale_health_keeps_its_numbers_until_a_beat_says_more(fast, noa_people):
    id = noa_people.ids["d"]
    until(lambda: fast.agent(id)["health"]["status"] == "stale", what="stale")

    fast.beat(id)
    still = fast.get(f"/agents/{id}/health")["health"]["status"]
    fast.beat(id, {"health": {"cpu_percent": 5}})

    assert still == "stale"
    assert fast.agent(id)["health"]["status"] == "degraded"

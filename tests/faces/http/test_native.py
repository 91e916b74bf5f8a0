"""The native API over HTTP: what each route answers, and how it says no."""

import asyncio
import itertools
import json
import os
from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio

from rollcall.core import limits
from rollcall.faces.http import events
from rollcall.worker.governing import GoverningSettings
from tests.conftest import Bus, _remove_streams, eventually
from tests.faces.http.opened import Opened, face, opened, raw

pytestmark = pytest.mark.asyncio(loop_scope="module")

_numbers = itertools.count(1)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(nats_server, tmp_path_factory) -> AsyncIterator[Opened]:
    """One face for all tests that bring their own names."""
    bus = Bus(nats_server, f"native-{os.getpid()}", tmp_path_factory.mktemp("native"))
    async with opened(bus) as one:
        yield one
    await _remove_streams(bus)


@pytest.fixture
def http(shared) -> httpx.AsyncClient:
    return shared.client


@pytest.fixture
def role() -> str:
    """A role that no other test uses."""
    return f"role{next(_numbers)}"


async def registered(http, role, id="", **said):
    answer = await http.post("/v1/agents", json={"role": role, "id": id or f"{role}-a", "name": "n", **said})
    assert answer.status_code == 201, answer.text
    return answer.json()


def is_problem(answer, status, code):
    """Whether it is a whole problem of RFC 9457; returns what it says."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert body["status"] == status
    assert body["code"] == code
    assert body["type"] == f"urn:rollcall:error:{code}"
    assert body["title"]
    assert body["detail"]
    return body["detail"]


# Registering


async def test_a_registration_answers_the_entry_where_it_is_and_at_which_revision(http, role):
    answer = await http.post("/v1/agents", json={"role": role, "id": f"{role}-a", "name": "one", "version": "1.2"})

    entry = answer.json()
    assert answer.status_code == 201
    assert answer.headers["content-type"] == "application/json"
    assert (entry["role"], entry["id"], entry["name"], entry["version"]) == (role, f"{role}-a", "one", "1.2")
    assert entry["liveness"] == "live"
    assert answer.headers["location"] == f"/v1/agents/{role}-a"
    assert answer.headers["etag"] == f'"{entry["revision"]}"'
    assert (await http.get(answer.headers["location"])).json()["revision"] == entry["revision"]


async def test_an_agent_that_names_no_id_gets_one_of_its_own(http, role):
    one = (await http.post("/v1/agents", json={"role": role, "name": "x"})).json()
    two = (await http.post("/v1/agents", json={"role": role, "name": "x"})).json()

    assert one["id"] != two["id"]
    assert (await http.get(f"/v1/agents/{one['id']}")).status_code == 200


async def test_what_is_registered_over_http_is_an_ordinary_agent_for_the_sdk(shared, http, role):
    await registered(http, role, labels={"zone": "a"})

    page = await shared.registry.discover(role, labels={"zone": "a"})

    assert [entry.id for entry in page] == [f"{role}-a"]


async def test_what_the_sdk_registers_is_seen_over_http_at_once(shared, http, role):
    entry = await shared.registry.register(role, f"{role}-a", name="one")

    answer = await http.get(f"/v1/discover/{role}")

    assert [(one["id"], one["revision"]) for one in answer.json()["agents"]] == [(f"{role}-a", entry.revision)]


async def test_a_place_that_is_taken_is_a_conflict_that_names_its_holder(http, role):
    held = await registered(http, role, registered_by="ops")

    answer = await http.post("/v1/agents", json={"role": role, "id": f"{role}-a", "name": "two"})

    assert "ops" in is_problem(answer, 409, "conflict")
    assert answer.json()["holder"]["id"] == f"{role}-a"
    assert answer.json()["revision"] == held["revision"]


async def test_the_mode_of_a_registration_is_a_parameter(http, role):
    await registered(http, role)
    body = {"role": role, "id": f"{role}-a", "name": "two"}

    created = await http.post("/v1/agents?mode=create", json=body)
    taken = await http.post("/v1/agents?mode=takeover", json=body)

    is_problem(created, 409, "conflict")
    assert (taken.status_code, taken.json()["name"]) == (201, "two")


async def test_an_owners_agent_is_denied_to_others(http, role):
    await registered(http, role, owner="me")

    answer = await http.post("/v1/agents?mode=takeover", json={"role": role, "id": f"{role}-a", "owner": "you"})

    is_problem(answer, 403, "denied")


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ({"name": "x"}, "role"),
        ({"role": "", "name": "x"}, "role"),
        ({"role": None, "name": "x"}, "role"),
        ({"role": 5, "name": "x"}, "role"),
        ({"role": "a\nb", "name": "x"}, "control"),
        ({"role": "r" * 129, "name": "x"}, "129 bytes"),
        ({"role": "r", "id": "i" * 129, "name": "x"}, "129 bytes"),
        ({"role": "r", "id": 7, "name": "x"}, "id"),
        ({"role": "r", "id": 0, "name": "x"}, "id"),
        ({"role": "r", "id": False, "name": "x"}, "id"),
        ({"role": "r", "id": [], "name": "x"}, "id"),
        ({"role": "r", "name": 5}, "name"),
        ({"role": "r", "name": "n" * 257}, "256"),
        ({"role": "r", "name": "x", "ttl": 0.1}, "ttl"),
        ({"role": "r", "name": "x", "ttl": "30"}, "ttl"),
        ({"role": "r", "name": "x", "status": "sleeping"}, "status"),
        ({"role": "r", "name": "x", "capabilities": "a"}, "capabilities"),
        ({"role": "r", "name": "x", "incarnation": -1}, "incarnation"),
        ({"role": "r", "name": "x", "incarnation": 10**30}, "incarnation"),
        ({"role": "r", "name": "x", "nonsense": 1}, "nonsense"),
        ({"role": "r", "name": "x", "revision": 1}, "revision"),
        ({"role": "r", "name": "x", "mode": "create"}, "mode"),
        ({"role": "r", "name": "x", "timeout": 1}, "timeout"),
        ({"role": "r", "name": "x", "self": 1}, "self"),
        ({"role": "r", "name": "x", "metadata": {"a": {}} | {f"k{n}": 1 for n in range(300)}}, "256"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_a_wrong_registration_is_told_what_is_wrong_with_it(http, body, word):
    answer = await http.post("/v1/agents", json=body)

    assert word in is_problem(answer, 400, "invalid")


async def test_a_claim_to_be_a_key_needs_a_signature(http, role):
    answer = await http.post("/v1/agents", json={"role": role, "name": "x", "owner": "nkey:UABC"})

    is_problem(answer, 401, "unauthorized")


# Bodies


# START is what the route needs, FREE a member that holds any JSON.
WRONG_BODIES = {
    "no json": b"{START, a: b}",
    "half": b"{START",
    "rest": b"{START} tail",
    "a list": b"[]",
    "a text": b'"role"',
    "null": b"null",
    "no utf-8": b'{START, "FREE": {"a": "\xff\xfe"}}',
    "utf-16": '{"status": "paused"}'.encode("utf-16"),
    "a lone surrogate": b'{START, "FREE": {"a": "\\ud800"}}',
    "not a number": b'{START, "FREE": {"a": NaN}}',
    "infinity": b'{START, "FREE": {"a": 1e999}}',
    "very deep": b'{START, "FREE": {"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}}",
    "deep": b'{START, "FREE": {"a": ' + b"[" * 900 + b"]" * 900 + b"}}",
    "deeper than allowed": b'{START, "FREE": {"a": ' + b"[" * 40 + b"]" * 40 + b"}}",
    "duplicate keys": b"{START, START}",
    "duplicate keys inside": b'{START, "FREE": {"a": {"zone": "1", "zone": "2"}}}',
    "the same key in another spelling": b'{START, "status": "paused", "st\\u0061tus": "stopped"}',
}


@pytest.mark.parametrize("body", WRONG_BODIES.values(), ids=WRONG_BODIES)
@pytest.mark.parametrize("what", ["register", "update", "heartbeat"])
async def test_a_body_that_is_no_json_object_changes_nothing(http, role, what, body):
    held = await registered(http, role)
    place = f"/v1/agents/{role}-a"
    method, path, start, free = {
        "register": ("POST", "/v1/agents", f'"role": "{role}", "name": "x"', b"metadata"),
        "update": ("PATCH", place, '"version": "2"', b"metadata"),
        "heartbeat": ("POST", f"{place}/heartbeat", '"error_count": 1', b"metrics"),
    }[what]

    body = body.replace(b"START", start.encode()).replace(b"FREE", free)
    answer = await http.request(method, path, content=body, headers={"content-type": "application/json"})

    is_problem(answer, 400, "invalid")
    now = (await http.get(f"/v1/discover/{role}?exact=true")).json()["agents"]
    assert [(one["revision"], one.get("health")) for one in now] == [(held["revision"], None)]


async def test_a_body_that_is_needed_and_not_there_is_no_json(http):
    for method, path in (("POST", "/v1/agents"), ("PATCH", "/v1/agents/a")):
        answer = await http.request(method, path, headers={"content-type": "application/json"})
        is_problem(answer, 400, "invalid")


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "text/json"]
)
@pytest.mark.parametrize("path", ["/v1/agents", "/v1/agents/none/heartbeat"])
async def test_another_content_type_is_refused_by_name(http, role, path, kind):
    if path.endswith("heartbeat"):
        await registered(http, role)
        path = f"/v1/agents/{role}-a/heartbeat"

    answer = await http.post(path, content=b'{"role":"a","name":"x"}', headers={"content-type": kind})

    assert kind in is_problem(answer, 415, "unsupported_media_type")


@pytest.mark.parametrize(
    "kind", ["application/json; charset=utf-8", "Application/JSON", "application/merge-patch+json"]
)
async def test_json_by_its_other_names_is_understood(http, role, kind):
    await registered(http, role)

    answer = await http.patch(f"/v1/agents/{role}-a", content=b'{"version":"2"}', headers={"content-type": kind})

    assert (answer.status_code, answer.json()["version"]) == (200, "2")


async def test_a_record_larger_than_allowed_is_too_large(http, role):
    big = {str(number): "x" * 1000 for number in range(limits.RECORD_BYTES // 1000 + 1)}

    new = await http.post("/v1/agents", json={"role": role, "name": "x", "metadata": big})
    held = await registered(http, role)
    patched = await http.patch(f"/v1/agents/{role}-a", json={"metadata": big})

    is_problem(new, 413, "too_large")
    is_problem(patched, 413, "too_large")
    assert (await http.get(f"/v1/agents/{role}-a")).json()["revision"] == held["revision"]


async def test_free_form_json_comes_back_as_it_was_sent(http, role):
    sent = {"a": [1, 2.5, None, True, {"b": '\u0000 " \\ é 🐟'}], "big": 2**53, "": {}}

    await registered(http, role, metadata=sent)

    assert (await http.get(f"/v1/agents/{role}-a")).json()["metadata"] == sent


# Reading one


async def test_who_holds_the_present_revision_is_told_that_nothing_changed(http, role):
    await registered(http, role)
    first = await http.get(f"/v1/agents/{role}-a")

    again = await http.get(f"/v1/agents/{role}-a", headers={"if-none-match": f'"0", W/{first.headers["etag"]}'})
    changed = await http.patch(f"/v1/agents/{role}-a", json={"version": "2"})
    then = await http.get(f"/v1/agents/{role}-a", headers={"if-none-match": first.headers["etag"]})

    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", first.headers["etag"])
    assert (then.status_code, then.json()["version"]) == (200, "2")
    assert then.headers["etag"] == changed.headers["etag"] != first.headers["etag"]


async def test_whatever_it_is_at_matches_a_star(http, role):
    await registered(http, role)

    answer = await http.get(f"/v1/agents/{role}-a", headers={"if-none-match": "*"})

    assert answer.status_code == 304


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", ""),
        ("PATCH", ""),
        ("DELETE", ""),
        ("POST", "/heartbeat"),
    ],
)
async def test_an_agent_that_is_not_on_the_roll_is_not_found(http, method, path):
    answer = await http.request(method, f"/v1/agents/nobody{path}", json={})

    assert "nobody" in is_problem(answer, 404, "not_found")


ODD_IDS = [
    "a/b",
    "..",
    ".",
    "a.b.c",
    "a b",
    "ä🐟",
    "%",
    "a%2Fb",
    "*",
    ">",
    "a?b#c",
    "=2F",
    "-",
    "x" * 128,
    "a\\b",
    "a+b",
]


@pytest.mark.parametrize("id", ODD_IDS)
async def test_every_id_that_may_be_registered_can_be_reached(shared, http, id):
    answer = await http.post("/v1/agents", json={"role": "odd/ro.le %", "id": id, "name": "n"})
    place = answer.headers["location"]

    for method, path, status in (
        ("GET", place, 200),
        ("PATCH", place, 200),
        ("POST", f"{place}/heartbeat", 200),
        ("GET", f"{place}/history", 200),
        ("DELETE", place, 200),
        ("GET", place, 404),
    ):
        body = b"{}" if method in ("PATCH", "POST") else b""
        got, _, said = await raw(shared, method, path, body)
        assert (got, path) == (status, path), said
    assert answer.json()["id"] == id


@pytest.mark.parametrize("written", ["..%2Fother", "%2e%2e%2fother", "%2e", "..", "a%2F..%2Fother"])
async def test_no_spelling_of_dots_and_slashes_reaches_another_agent(shared, http, written):
    await shared.registry.register("w", "other", mode="takeover")

    status, _, said = await raw(shared, "DELETE", f"/v1/agents/{written}")

    assert (status, json.loads(said)["code"]) == (404, "not_found")
    assert (await http.get("/v1/agents/other")).status_code == 200


@pytest.mark.parametrize("written", ["%FF", "a%C3", "%00", "a%0Ab", "x" * 129])
async def test_an_id_that_none_can_have_is_invalid(shared, written):
    status, headers, said = await raw(shared, "DELETE", f"/v1/agents/{written}")

    assert (status, json.loads(said)["code"]) == (400, "invalid")
    assert headers["content-type"] == "application/problem+json"


async def test_a_role_with_a_slash_is_one_part_of_the_path(http):
    await http.post("/v1/agents", json={"role": "a/b.c", "id": "slashed", "name": "n"})

    answer = await http.get("/v1/discover/a%2Fb.c")

    assert [one["id"] for one in answer.json()["agents"]] == ["slashed"]


# Changing


async def test_a_patch_takes_away_what_is_null_and_keeps_the_rest(http, role):
    await registered(http, role, version="1", labels={"a": "1", "b": "2"})

    answer = await http.patch(f"/v1/agents/{role}-a", json={"version": None, "labels": {"a": None, "c": "3"}})

    entry = answer.json()
    assert answer.status_code == 200
    assert answer.headers["etag"] == f'"{entry["revision"]}"'
    assert (entry.get("version", ""), entry["labels"]) == ("", {"b": "2", "c": "3"})


async def test_a_patch_happens_only_at_the_revision_that_it_names(http, role):
    held = await registered(http, role)
    path, now = f"/v1/agents/{role}-a", f'"{held["revision"]}"'

    right = await http.patch(path, json={"version": "2"}, headers={"if-match": f'"0", {now}'})
    late = await http.patch(path, json={"version": "3"}, headers={"if-match": now})
    any_ = await http.patch(path, json={"version": "4"}, headers={"if-match": "*"})

    assert (right.status_code, any_.status_code) == (200, 200)
    assert f"revision {right.json()['revision']}" in is_problem(late, 412, "precondition_failed")
    assert (await http.get(path)).json()["version"] == "4"


@pytest.mark.parametrize("tag", ['"x"', "nonsense", '"-1"', '"1e3"', '"' + "9" * 40 + '"', '""'])
async def test_a_tag_that_never_was_matches_nothing(http, role, tag):
    held = await registered(http, role)

    answer = await http.patch(f"/v1/agents/{role}-a", json={"version": "3"}, headers={"if-match": tag})

    is_problem(answer, 412, "precondition_failed")
    assert (await http.get(f"/v1/agents/{role}-a")).json()["revision"] == held["revision"]


async def test_of_many_who_change_the_same_revision_one_wins(http, role):
    held = await registered(http, role)
    tag = {"if-match": f'"{held["revision"]}"'}

    answers = await asyncio.gather(
        *(http.patch(f"/v1/agents/{role}-a", json={"version": str(n)}, headers=tag) for n in range(20))
    )

    assert sorted(answer.status_code for answer in answers) == [200] + [412] * 19
    winner = next(answer.json() for answer in answers if answer.status_code == 200)
    assert (await http.get(f"/v1/agents/{role}-a")).json()["version"] == winner["version"]


@pytest.mark.parametrize(
    "patch",
    [
        {"id": "other"},
        {"role": "other"},
        {"owner": "me"},
        {"ttl": -1},
        {"name": None},
        {"nonsense": {"a": 1}, "ttl": 0},
    ],
)
async def test_a_patch_that_cannot_be_changes_nothing(http, role, patch):
    held = await registered(http, role)

    answer = await http.patch(f"/v1/agents/{role}-a", json=patch)

    is_problem(answer, 400, "invalid")
    assert (await http.get(f"/v1/agents/{role}-a")).json()["revision"] == held["revision"]


async def test_a_patch_that_changes_nothing_makes_no_revision(http, role):
    held = await registered(http, role, version="1")

    answer = await http.patch(f"/v1/agents/{role}-a", json={"version": "1"})

    assert (answer.status_code, answer.json()["revision"]) == (200, held["revision"])


async def test_who_leaves_is_gone_and_its_last_entry_is_the_answer(http, role):
    await registered(http, role, version="7")

    answer = await http.delete(f"/v1/agents/{role}-a?reason=done")
    again = await http.delete(f"/v1/agents/{role}-a")

    told = (await http.get(f"/v1/agents/{role}-a/history")).json()["changes"]
    assert (answer.status_code, answer.json()["version"]) == (200, "7")
    is_problem(again, 404, "not_found")
    assert [(one["kind"], one["reason"]) for one in told] == [("registered", ""), ("deregistered", "done")]


async def test_a_leave_with_a_stale_tag_does_not_happen(http, role):
    held = await registered(http, role)
    await http.patch(f"/v1/agents/{role}-a", json={"version": "2"})

    answer = await http.delete(f"/v1/agents/{role}-a", headers={"if-match": f'"{held["revision"]}"'})

    is_problem(answer, 412, "precondition_failed")
    assert (await http.get(f"/v1/agents/{role}-a")).status_code == 200


# Beats


async def test_a_beat_renews_the_lease_and_says_how_the_agent_feels(http, role):
    before = await registered(http, role)

    answer = await http.post(f"/v1/agents/{role}-a/heartbeat", json={"status": "fine", "cpu_percent": 12.5})

    after = answer.json()
    assert answer.status_code == 200
    assert after["last_seen"] > before["last_seen"]
    assert after["expires_at"] > before["expires_at"]
    assert (after["health"]["status"], after["health"]["cpu_percent"]) == ("fine", 12.5)
    assert after["revision"] == before["revision"]


async def test_a_beat_may_say_nothing(http, role):
    before = await registered(http, role)

    answer = await http.post(f"/v1/agents/{role}-a/heartbeat")

    assert answer.status_code == 200
    assert answer.json()["last_seen"] > before["last_seen"]


@pytest.mark.parametrize("health", [{"cpu_percent": "much"}, {"status": "x" * 257}, {"loop_lag": -1}])
async def test_a_beat_with_a_wrong_health_is_refused(http, role, health):
    await registered(http, role)

    answer = await http.post(f"/v1/agents/{role}-a/heartbeat", json=health)

    is_problem(answer, 400, "invalid")


async def test_a_health_larger_than_a_beat_is_refused(http, role):
    await registered(http, role)

    answer = await http.post(f"/v1/agents/{role}-a/heartbeat", json={"metrics": {"x": "y" * limits.HEALTH_BYTES}})

    assert answer.status_code in (400, 413)
    is_problem(answer, answer.status_code, answer.json()["code"])


# Asking for many


async def test_discover_names_running_live_agents_and_more_when_asked(http, role):
    await registered(http, role, "", capabilities=["a", "b"], version="1.5", labels={"zone": "x"})
    await registered(http, role, f"{role}-b", capabilities=["b"], version="2.0", labels={"zone": "y"})
    await registered(http, role, f"{role}-p", status="paused")

    async def found(**asked):
        return [one["id"][-1] for one in (await http.get(f"/v1/discover/{role}", params=asked)).json()["agents"]]

    assert await found() == ["a", "b"]
    assert await found(status="all") == ["a", "b", "p"]
    assert await found(status=["paused", "running"]) == ["a", "b", "p"]
    assert await found(status="paused") == ["p"]
    assert await found(capability=["a", "b"]) == ["a"]
    assert await found(any_of=["a", "b"]) == ["a", "b"]
    assert await found(label="zone=y") == ["b"]
    assert await found(version=">=1,<2") == ["a"]
    assert await found(include="all", status="all", limit=1) == ["a"]
    assert len(await found(pick=1)) == 1
    assert len(await found(pick=1, by="least_loaded", exact="true")) == 1


async def test_discover_explains_who_does_not_fit(http, role):
    await registered(http, role, capabilities=["a"])

    answer = (await http.get(f"/v1/discover/{role}?capability=b&explain=true")).json()

    assert answer["agents"] == []
    assert "lacks capability b" in json.dumps(answer["explained"])


async def test_a_role_that_nobody_has_is_an_empty_answer(http):
    answer = (await http.get("/v1/discover/never")).json()

    assert (answer["agents"], answer["count"]) == ([], 0)


async def test_who_knows_a_role_is_told_that_nothing_changed(http, role):
    await registered(http, role)
    first = await http.get(f"/v1/discover/{role}")
    tag = {"if-none-match": first.headers["etag"]}

    same = await http.get(f"/v1/discover/{role}", headers=tag)
    weak = await http.get(f"/v1/discover/{role}", headers={"if-none-match": f"W/{first.headers['etag']}"})
    await registered(http, f"{role}-other")
    others = await http.get(f"/v1/discover/{role}", headers=tag)
    await registered(http, role, f"{role}-b")
    then = await http.get(f"/v1/discover/{role}", headers=tag)

    assert first.headers["etag"].startswith('"') and first.headers["etag"].endswith('"')
    assert [(one.status_code, one.content) for one in (same, weak, others)] == [(304, b"")] * 3
    assert (then.status_code, then.json()["count"]) == (200, 2)
    assert then.headers["etag"] != first.headers["etag"]


@pytest.mark.parametrize("tag", ['"0"', "nonsense", '"other:1"', '":"', '"a:-1"', '"a:' + "9" * 30 + '"', "*, x"])
async def test_a_tag_of_no_revision_gets_the_whole_answer(http, role, tag):
    await registered(http, role)

    answer = await http.get(f"/v1/discover/{role}", headers={"if-none-match": tag})

    assert (answer.status_code, answer.json()["count"]) == (200, 1)


async def test_one_of_several_tags_is_enough(http, role):
    await registered(http, role)
    now = (await http.get(f"/v1/discover/{role}")).headers["etag"]

    answer = await http.get(f"/v1/discover/{role}", headers={"if-none-match": f'"1000000000000-aaaaaaaa:7", {now}'})

    assert answer.status_code == 304


async def test_pages_hold_everybody_once(shared, http, role):
    await shared.registry.register_many({"role": role, "id": f"{role}-{n:03}"} for n in range(25))

    for path in (f"/v1/discover/{role}", "/v1/agents"):
        found, cursor = [], {}
        while True:
            page = (await http.get(path, params={"limit": 7, **cursor})).json()
            assert page["count"] == len(page["agents"]) <= 7
            found += [one["id"] for one in page["agents"] if one["role"] == role]
            if page.get("next") is None:
                break
            cursor = {"cursor": page["next"]}
        assert found == [f"{role}-{n:03}" for n in range(25)]


async def test_a_list_names_all_roles_in_all_states_unless_asked_otherwise(http, role):
    await registered(http, role, f"{role}-stopped", status="stopped", labels={"of": role})
    await registered(http, f"{role}-two", f"{role}-b", labels={"of": role})

    async def found(**asked):
        return {
            one["id"]
            for one in (await http.get("/v1/agents", params={"label": f"of={role}", **asked})).json()["agents"]
        }

    assert await found() == {f"{role}-stopped", f"{role}-b"}
    assert await found(status="running") == {f"{role}-b"}
    assert await found(include="lost", status="running") == {f"{role}-b"}


WRONG_QUESTIONS = [
    "limit=0",
    "limit=1001",
    "limit=x",
    "limit=1.5",
    "status=sleeping",
    "include=dead",
    "version=nonsense",
    "label=zone",
    "label==x",
    "cursor=%00",
    "cursor=nonsense!",
    "version=" + "1" * 300,
    "capability=" + "c" * 300,
    "&".join(["status=running"] * 17),
]


@pytest.mark.parametrize(
    "question", [*WRONG_QUESTIONS, "pick=0", "pick=x", "pick=1&by=luck", "exact=perhaps", "explain=2"]
)
async def test_a_wrong_question_about_a_role_is_refused(http, question):
    is_problem(await http.get(f"/v1/discover/anything?{question}"), 400, "invalid")


@pytest.mark.parametrize("question", WRONG_QUESTIONS)
async def test_a_wrong_question_about_all_is_refused(http, question):
    is_problem(await http.get(f"/v1/agents?{question}"), 400, "invalid")


# The past


async def test_history_tells_the_newest_changes_oldest_first(http, role):
    held = await registered(http, role)
    for number in range(3):
        await http.patch(f"/v1/agents/{role}-a", json={"version": str(number)})

    told = (await http.get(f"/v1/agents/{role}-a/history")).json()
    newest = (await http.get(f"/v1/agents/{role}-a/history?limit=2")).json()

    assert [one["kind"] for one in told["changes"]] == ["registered", "updated", "updated", "updated"]
    assert told["changes"][0]["revision"] == held["revision"]
    assert told["changes"][-1]["record"]["version"] == "2"
    assert newest["changes"] == told["changes"][2:]
    assert told["refusals"] == []


async def test_since_tells_what_changed_after_a_position(http, role):
    await registered(http, role)
    start = (await http.get("/v1/agents?limit=1")).json()
    place = {"epoch": start["epoch"], "revision": start["revision"]}
    await registered(http, f"{role}-other")
    await http.patch(f"/v1/agents/{role}-a", json={"version": "2"})

    everything = (await http.get("/v1/since", params=place)).json()
    of_role = (await http.get("/v1/since", params={**place, "role": role})).json()
    first = (await http.get("/v1/since", params={**place, "limit": 1})).json()

    assert [(one["kind"], one["role"]) for one in everything["changes"]] == [
        ("registered", f"{role}-other"),
        ("updated", role),
    ]
    assert [one["role"] for one in of_role["changes"]] == [role]
    assert (first["more"], first["upto"]) == (True, place["revision"] + 1)
    assert (everything["more"], everything["too_old"], everything["agents"]) == (False, False, [])


async def test_since_a_position_of_no_roll_is_the_agents_as_they_are(http, role):
    await registered(http, role)

    for place in ({}, {"epoch": "other", "revision": 7}):
        told = (await http.get("/v1/since", params={**place, "role": role})).json()
        assert (told["too_old"], [one["id"] for one in told["agents"]]) == (True, [f"{role}-a"])


@pytest.mark.parametrize(
    "question", ["revision=-1", "revision=x", "limit=0", "revision=9223372036854775808", "role=%00"]
)
async def test_a_position_that_none_can_be_is_refused(http, question):
    is_problem(await http.get(f"/v1/since?{question}"), 400, "invalid")


# The registry itself


async def test_info_says_who_leads_and_what_there_is(http, shared):
    info = (await http.get("/v1/info")).json()

    assert (info["realm"], info["leader"]) == (shared.registry.realm, "w1")
    assert info["agents"] >= 0


async def test_a_guard_that_rests_is_null_and_has_nothing_to_release(http):
    assert (await http.get("/v1/guard")).json() == {"guard": None}
    assert (await http.post("/v1/guard/release")).json()["released"] is False


async def test_a_guard_that_holds_is_told_and_can_be_released(bus):
    async with opened(bus) as one:
        agents = [{"role": "w", "id": f"a{n}", "ttl": 0.6} for n in range(10)]
        await one.registry.register_many(agents)

        async def guard():
            return (await one.client.get("/v1/guard")).json()["guard"]

        held = await eventually(guard)
        answer = await one.client.post("/v1/guard/release")

        assert "10 of 10" in held["why"]
        assert answer.json()["released"] is True
        await eventually(lambda: _all_lost(one.client))


async def _all_lost(http):
    page = (await http.get("/v1/discover/w?include=all")).json()
    return {agent["liveness"] for agent in page["agents"]} == {"lost"}


async def test_a_roll_call_reaches_the_agents(bus):
    async with opened(bus) as one, one.registry.agent("w", "n", id="a1"):
        # A new roll is called by itself once; until its answers are in, an operator's call is one too many.
        busy = await one.client.post("/v1/rollcall")

        async def called():
            answer = await one.client.post("/v1/rollcall")
            return answer if answer.status_code == 200 else None

        answer = busy if busy.status_code == 200 else await eventually(called)
        again = await one.client.post("/v1/rollcall")

        assert answer.json()["agents"] == 1
        assert answer.json()["window"] > 0
        is_problem(again, 429, "busy")


async def test_what_waits_for_an_approval_is_202_and_settled_by_operators(bus):
    async with opened(bus, worker={"governing": GoverningSettings(approve=("w:register",))}) as one:
        http = one.client

        waits = await http.post("/v1/agents", json={"role": "w", "id": "a/1", "name": "x"})
        pending = (await http.get("/v1/pending")).json()["pending"]
        unknown = await http.post("/v1/pending/other/approve")
        approved = await http.post("/v1/pending/a%2F1/approve")
        await eventually(lambda: _status(http, "/v1/agents/a%2F1", 200))
        await http.post("/v1/agents", json={"role": "w", "id": "a2", "name": "x"})
        denied = await http.post("/v1/pending/a2/deny", params={"reason": "not today"})

        async def refusals():
            return (await http.get("/v1/agents/a2/history")).json()["refusals"]

        told = await eventually(refusals)
        is_problem(waits, 202, "pending")
        assert [one["id"] for one in pending] == ["a/1"]
        is_problem(unknown, 404, "not_found")
        assert (approved.status_code, denied.status_code) == (200, 200)
        assert told[0]["reason"] == "not today"
        is_problem(await http.get("/v1/agents/a2"), 404, "not_found")


async def _status(http, path, status):
    return (await http.get(path)).status_code == status


async def test_without_a_worker_every_question_is_503_that_says_when_to_try_again(bus, monkeypatch):
    monkeypatch.setattr(events, "HEARD_WITHIN", 0.3)
    async with face(bus) as url, httpx.AsyncClient(base_url=url, timeout=20) as http:
        answers = await asyncio.gather(
            http.get("/v1/agents"),
            http.get("/v1/discover/w"),
            http.get("/v1/agents/a1"),
            http.get("/v1/info"),
            http.get("/v1/watch"),
            http.get("/v1/pending"),
            http.post("/v1/agents", json={"role": "w", "name": "x"}),
        )

        for answer in answers:
            is_problem(answer, 503, "unavailable")
            assert int(answer.headers["retry-after"]) >= 1


# What is not there


@pytest.mark.parametrize(
    "path", ["/", "/v1", "/v1/", "/v2/agents", "/v1/agents/", "/v1/agents/a/b", "/favicon.ico", "/v1//agents"]
)
async def test_an_unknown_path_is_a_problem_that_names_it(http, path):
    assert path in is_problem(await http.get(path), 404, "not_found")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("PUT", "/v1/agents/a"),
        ("DELETE", "/v1/agents"),
        ("POST", "/v1/agents/a"),
        ("GET", "/v1/rollcall"),
        ("GET", "/v1/agents/a/heartbeat"),
        ("POST", "/v1/watch"),
        ("PATCH", "/v1/info"),
        ("OPTIONS", "/v1/agents"),
        ("TRACE", "/v1/info"),
        ("DELETE", "/openapi.json"),
    ],
)
async def test_a_wrong_method_is_a_problem_that_names_the_right_one(http, method, path):
    answer = await http.request(method, path)

    assert method in is_problem(answer, 405, "method_not_allowed")
    assert answer.headers["allow"]


async def test_bytes_that_are_no_path_are_refused_and_harm_nobody(shared, http):
    status, _, _ = await raw(shared, "GET", b"/v1/agents/\xff\xfe".decode("latin-1"))

    assert status in (400, 404)
    assert (await http.get("/v1/info")).status_code == 200


async def test_there_are_pages_for_people(http):
    answer = await http.get("/docs")

    assert answer.status_code == 200
    assert "/openapi.json" in answer.text


@pytest.mark.parametrize("path", ["/v1/agents", "/v1/discover/nobody", "/v1/info", "/metrics"])
async def test_head_is_get_without_a_body(http, path):
    answer = await http.head(path)

    assert (answer.status_code, answer.content) == (200, b"")

"""Sections 1, 3.3 and 9 of the vers contract: what time does to an entry, and what a restart does."""

import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.contract.vers import (
    VMS,
    at,
    exactly,
    later_than,
    listed,
    milliseconds,
    refused,
    registered,
    standing,
    started,
    until,
    vm,
    which,
)

STALE_MS = 600
DISCOVER = "/registry/discover/worker"
RUNNING = {"status": "running"}


class Home:
    """A registry that may be killed and started again, with the same data."""

    def __init__(self, home, *arguments, **env):
        self.home = home
        self.arguments = arguments
        self.env = env

    def up(self):
        return started(
            *(
                "up",
                "--nats-port",
                "0",
                "--http",
                "127.0.0.1:0",
                "--data-dir",
                str(self.home / "kept"),
                *self.arguments,
            ),
            home=self.home,
            env=self.env,
        )


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return Home(tmp_path_factory.mktemp("stale"), ROLLCALL_VERS_STALE_MS=str(STALE_MS), ROLLCALL_VERS_RESTART_GRACE="0")


@pytest.fixture(scope="module")
def http(home):
    """A client of a registry in which entries turn stale after less than a second."""
    with home.up() as (_, told), httpx.Client(base_url=told["http"], timeout=30) as client:
        yield client


@pytest.fixture(scope="module")
def old(http):
    """VMs of which nobody has heard for too long: status -> entry."""
    entries = {status: registered(http, status=status) for status in ("running", "paused", "stopped")}
    until(lambda: not running(http, entries["running"]), what="stale")
    for entry in entries.values():
        later_than(entry["lastSeen"], STALE_MS)
    return entries


@pytest.fixture(scope="module")
def stock(http):
    """Running VMs that are stale, one for each test that wants one."""
    entries = [registered(http, metadata={"a": None}) for _ in range(8)]
    until(lambda: not running(http, entries[-1]), what="stale")
    return entries


@pytest.fixture
def stale(stock):
    """A running VM of the test's own that is stale."""
    return stock.pop()


def running(http, entry):
    return entry["id"] in [one["id"] for one in listed(http, **RUNNING)]


def test_an_entry_turns_stale_after_the_threshold_and_not_before(http):
    entry = registered(http)
    threshold = milliseconds(entry["lastSeen"]) + STALE_MS

    until(lambda: not running(http, entry), what="stale")

    assert time.time() * 1000 > threshold


def test_the_stale_are_not_discovered(http, old):
    assert which(listed(http, DISCOVER), [old["running"]["id"]]) == []


def test_the_stale_are_not_listed_as_running(http, old):
    assert which(listed(http, **RUNNING), [old["running"]["id"]]) == []
    assert which(listed(http, role="worker", **RUNNING), [old["running"]["id"]]) == []


def test_the_stale_are_listed_without_a_filter_and_still_read_running(http, old):
    assert [one for one in listed(http) if one["id"] == old["running"]["id"]] == [old["running"]]


def test_the_stale_are_listed_by_role(http, old):
    assert which(listed(http, role="worker"), [old["running"]["id"]]) == [old["running"]["id"]]


@pytest.mark.parametrize("status", ["running", "paused", "stopped"])
def test_get_answers_the_stale_as_they_are(http, old, status):
    assert standing(http, old[status]["id"]) == old[status]


@pytest.mark.parametrize("status", ["paused", "stopped"])
def test_for_other_statuses_staleness_plays_no_part(http, old, status):
    assert which(listed(http, status=status), [old[status]["id"]]) == [old[status]["id"]]


def test_a_stale_entry_still_occupies_its_id(http, old):
    refused(http.post(VMS, json=vm(id=old["running"]["id"])), 409, "VM already registered")
    assert standing(http, old["running"]["id"]) == old["running"]


def test_a_heartbeat_brings_the_stale_back(http, stale):
    def back():
        assert http.post(at(stale["id"], "heartbeat")).status_code == 200
        return running(http, stale) and which(listed(http, DISCOVER), [stale["id"]])

    until(back, what="back")
    again = standing(http, stale["id"])
    assert again == {**stale, "lastSeen": again["lastSeen"]}


def test_a_patch_brings_the_stale_back(http, stale):
    def back():
        assert http.patch(at(stale["id"]), json={}).status_code == 200
        return running(http, stale) and which(listed(http, DISCOVER), [stale["id"]])

    until(back, what="back")
    again = standing(http, stale["id"])
    assert again == {**stale, "lastSeen": again["lastSeen"]}


def test_whoever_came_back_turns_stale_again(http, stale):
    http.post(at(stale["id"], "heartbeat"))

    until(lambda: not running(http, stale), what="stale again")

    assert time.time() * 1000 > milliseconds(standing(http, stale["id"])["lastSeen"]) + STALE_MS


@pytest.mark.parametrize("call", ["delete", "patch"])
def test_the_stale_can_be_deleted_and_changed(http, stale, call):
    answer = http.delete(at(stale["id"])) if call == "delete" else http.patch(at(stale["id"]), json={"name": "two"})

    assert answer.status_code == 200


def test_a_paused_vm_that_runs_again_is_live_from_then_on(http, old):
    entry = registered(http, status="paused")
    later_than(entry["lastSeen"], STALE_MS)

    def back():
        assert http.patch(at(entry["id"]), json={"status": "running"}).status_code == 200
        return running(http, entry)

    until(back, what="runs")


def test_a_beating_vm_never_turns_stale(http):
    entry = registered(http)
    deadline = milliseconds(entry["lastSeen"]) + 1.5 * STALE_MS

    seen = entry["lastSeen"]
    while milliseconds(seen) < deadline:
        seen = http.post(at(entry["id"], "heartbeat")).json()["lastSeen"]
        shown = running(http, entry)
        # A machine that stood still for so long proves nothing.
        assert shown or time.time() * 1000 > milliseconds(seen) + STALE_MS


# --- restart ----------------------------------------------------------------------------------------------------------

GRACE_MS = 2500
TOKEN = "secret-of-up"
BEARING = {"authorization": f"Bearer {TOKEN}"}


@pytest.fixture(scope="module", autouse=True)
def restarts(tmp_path_factory):
    """Two registries are killed and started again while the other tests run: they mostly wait."""
    with ThreadPoolExecutor(2) as pool:
        yield {story.__name__: pool.submit(story, tmp_path_factory.mktemp("restart")) for story in (bare, graceful)}


def bare(place):
    """A registry without grace, with a token: what was answered before the kill, and what is answered after it."""
    home = Home(place, "--http-token", TOKEN, ROLLCALL_VERS_STALE_MS=str(STALE_MS), ROLLCALL_VERS_RESTART_GRACE="0")
    with home.up() as (process, told), httpx.Client(base_url=told["http"], headers=BEARING) as http:
        before = registered(http, metadata=None, services={"a": None})
        process.kill()

    with home.up() as (_, told), httpx.Client(base_url=told["http"], headers=BEARING) as http:
        later_than(before["lastSeen"], STALE_MS)
        shown = [*listed(http, **RUNNING), *listed(http, DISCOVER)]
        again = http.post(VMS, json=vm(id=before["id"]))
        stranger = httpx.post(f"{told['http']}{VMS}", json=vm())
        return before, standing(http, before["id"]), shown, again, stranger


def graceful(place):
    """A registry with grace: when it came back at the earliest, when the entry was shown no more, and the entry."""
    home = Home(place, ROLLCALL_VERS_STALE_MS=str(GRACE_MS))
    with home.up() as (process, told), httpx.Client(base_url=told["http"]) as http:
        entry = registered(http)
        process.kill()

    began = time.time() * 1000
    with home.up() as (_, told), httpx.Client(base_url=told["http"]) as http:
        until(lambda: not running(http, entry), what="stale after the grace")
        return began, time.time() * 1000, standing(http, entry["id"])


def test_what_was_answered_survives_a_kill(restarts):
    before, after, _, again, _ = restarts["bare"].result()

    assert exactly({**after, "lastSeen": ""}) == exactly({**before, "lastSeen": ""})
    refused(again, 409, "VM already registered")


def test_without_grace_the_old_are_stale_at_once_after_a_restart(restarts):
    _, _, shown, _, _ = restarts["bare"].result()

    assert shown == []


def test_the_token_of_up_guards_the_registry_too(restarts):
    refused(restarts["bare"].result()[-1], 401, "Unauthorized — missing Authorization header")


def test_after_a_restart_nobody_turns_stale_before_one_threshold_has_passed(restarts):
    began, ended, entry = restarts["graceful"].result()

    # It came back later than it began, so this much has surely passed, however slow the machine is.
    assert ended > began + GRACE_MS
    assert entry["status"] == "running"

"""Section 3.3 of the vers contract: which VMs a list and a discovery show, and in which order."""

import pytest

from tests.contract.vers import (
    VMS,
    at,
    exactly,
    fresh,
    later_than,
    listed,
    registered,
    standing,
    which,
)

pytest_plugins = ["tests.contract.vers_servers"]

ROLES = ["infra", "lieutenant", "worker", "golden", "custom"]
STATUSES = ["running", "paused", "stopped"]


@pytest.fixture(scope="module")
def fleet(vers):
    """A VM of every role and status: (role, status) -> id."""
    return {(role, status): registered(vers, role=role, status=status)["id"] for role in ROLES for status in STATUSES}


@pytest.fixture
def crew(vers):
    """Four running VMs of one role, oldest first, no two of one millisecond."""
    entries = []
    for _ in range(4):
        entries.append(registered(vers, role="lieutenant"))
        later_than(entries[-1]["registeredAt"])
    return [entry["id"] for entry in entries]


def shown(vers, fleet, path=VMS, **asked):
    """Which of the fleet are shown, as (role, status)."""
    ids = {entry["id"] for entry in listed(vers, path, **asked)}
    return {kind for kind, id in fleet.items() if id in ids}


# --- list -------------------------------------------------------------------------------------------------------------


def test_without_filters_all_are_listed(vers, fleet):
    assert shown(vers, fleet) == set(fleet)


@pytest.mark.parametrize("role", ROLES)
def test_a_role_is_matched_exactly(vers, fleet, role):
    assert shown(vers, fleet, role=role) == {(role, status) for status in STATUSES}


@pytest.mark.parametrize("status", STATUSES)
def test_a_status_is_matched_exactly(vers, fleet, status):
    assert shown(vers, fleet, status=status) == {(role, status) for role in ROLES}


@pytest.mark.parametrize("role", ["golden", "worker"])
@pytest.mark.parametrize("status", STATUSES)
def test_both_filters_together(vers, fleet, role, status):
    assert shown(vers, fleet, role=role, status=status) == {(role, status)}


def test_an_empty_role_is_no_filter(vers, fleet):
    assert shown(vers, fleet, role="") == set(fleet)


def test_an_empty_role_beside_a_status_is_no_filter(vers, fleet):
    assert shown(vers, fleet, role="", status="paused") == {(role, "paused") for role in ROLES}


@pytest.mark.parametrize(
    "asked",
    [
        {"role": "boss"},
        {"role": "Worker"},
        {"role": " worker"},
        {"role": "*"},
        {"role": "worker,infra"},
        {"role": "x" * 500},
        {"role": "a\x00b"},
        {"status": "gone"},
        {"status": "RUNNING"},
        {"status": "all"},
        {"status": "draining"},
        {"role": "worker", "status": "gone"},
        {"role": "boss", "status": "running"},
    ],
    ids=exactly,
)
def test_an_unknown_role_or_status_is_an_empty_list(vers, fleet, asked):
    answer = vers.get(VMS, params=asked)

    assert (answer.status_code, answer.text) == (200, '{"vms":[],"count":0}')
    assert answer.headers["content-type"] == "application/json"


@pytest.mark.parametrize("asked", [{"colour": "blue"}, {"limit": "1"}, {"parentVmId": "x"}, {"include": "none"}])
def test_other_questions_are_ignored(vers, fleet, asked):
    assert shown(vers, fleet, **asked) == set(fleet)


@pytest.mark.parametrize("asked", [{}, {"role": "worker"}, {"status": "paused"}, {"status": "running"}])
def test_count_is_the_number_of_those_listed(vers, fleet, asked):
    said = vers.get(VMS, params=asked).json()

    assert list(said) == ["vms", "count"]
    assert said["count"] == len(said["vms"]) > 0


def test_listed_entries_are_those_that_get_answers(vers, crew):
    assert {exactly(entry) for entry in listed(vers) if entry["id"] in crew} == {
        exactly(standing(vers, id)) for id in crew
    }


@pytest.mark.parametrize("asked", [{}, {"role": "lieutenant"}, {"status": "running"}])
def test_the_newest_registration_is_listed_first(vers, crew, asked):
    assert which(listed(vers, **asked), crew) == crew[::-1]


def test_the_whole_list_is_in_descending_order(vers, fleet, crew):
    instants = [entry["registeredAt"] for entry in listed(vers)]

    assert instants == sorted(instants, reverse=True)


def test_neither_a_heartbeat_nor_a_patch_moves_anybody_in_the_list(vers, crew):
    vers.post(at(crew[0], "heartbeat"))
    vers.patch(at(crew[1]), json={"name": "two"})

    assert which(listed(vers), crew) == crew[::-1]


def test_registered_again_after_deletion_is_listed_first(vers, crew):
    vers.delete(at(crew[1]))
    registered(vers, id=crew[1])

    assert which(listed(vers), crew) == [crew[1], crew[3], crew[2], crew[0]]


def test_a_deleted_vm_is_listed_no_more(vers, crew):
    vers.delete(at(crew[2]))

    assert which(listed(vers), crew) == [crew[3], crew[1], crew[0]]


# --- discover ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ROLES)
def test_the_running_ones_of_a_role_are_discovered(vers, fleet, role):
    assert shown(vers, fleet, f"/registry/discover/{role}") == {(role, "running")}


@pytest.mark.parametrize(
    "role",
    ["boss", "Worker", "*", "%2A", "worker%20", "a%2Fb", "%3E", "w%2E", "%00", "%FF", "x" * 500, "vms", "%E2%98%83"],
)
def test_nobody_of_an_unknown_role_is_discovered(vers, fleet, role):
    answer = vers.get(f"/registry/discover/{role}")

    assert (answer.status_code, answer.text) == (200, '{"vms":[],"count":0}')
    assert answer.headers["content-type"] == "application/json"


def test_a_percent_encoded_role_is_decoded(vers, fleet):
    assert shown(vers, fleet, "/registry/discover/%77orker") == {("worker", "running")}


def test_a_discovery_ignores_questions(vers, fleet):
    assert shown(vers, fleet, "/registry/discover/worker", status="stopped", role="infra") == {("worker", "running")}


def test_count_is_the_number_of_those_discovered(vers, fleet):
    said = vers.get("/registry/discover/worker").json()

    assert list(said) == ["vms", "count"]
    assert said["count"] == len(said["vms"]) > 0


def test_the_oldest_registration_is_discovered_first(vers, crew):
    assert which(listed(vers, "/registry/discover/lieutenant"), crew) == crew


def test_neither_a_heartbeat_nor_a_patch_moves_anybody_in_a_discovery(vers, crew):
    vers.post(at(crew[0], "heartbeat"))
    vers.patch(at(crew[1]), json={"name": "two"})
    vers.patch(at(crew[2]), json={"status": "paused"})
    vers.patch(at(crew[2]), json={"status": "running"})

    assert which(listed(vers, "/registry/discover/lieutenant"), crew) == crew


def test_registered_again_after_deletion_is_discovered_last(vers, crew):
    vers.delete(at(crew[1]))
    registered(vers, id=crew[1], role="lieutenant")

    assert which(listed(vers, "/registry/discover/lieutenant"), crew) == [crew[0], crew[2], crew[3], crew[1]]


@pytest.mark.parametrize("status", ["paused", "stopped"])
def test_whoever_stops_running_is_discovered_no_more_until_it_runs_again(vers, crew, status):
    vers.patch(at(crew[0]), json={"status": status})
    without = which(listed(vers, "/registry/discover/lieutenant"), crew)
    vers.post(at(crew[0], "heartbeat"))
    beaten = which(listed(vers, "/registry/discover/lieutenant"), crew)
    vers.patch(at(crew[0]), json={"status": "running"})

    assert without == beaten == crew[1:]
    assert which(listed(vers, "/registry/discover/lieutenant"), crew) == crew


# --- an answer comes after the write ----------------------------------------------------------------------------------


def test_whoever_was_answered_is_seen_by_every_question(vers):
    for _ in range(25):
        id = registered(vers, role="infra")["id"]

        assert standing(vers, id)["id"] == id
        assert which(listed(vers), [id]) == [id]
        assert which(listed(vers, "/registry/discover/infra"), [id]) == [id]


def test_another_face_on_the_same_bus_sees_every_change_at_once(vers, vers_combined):
    other = vers_combined
    for _ in range(10):
        entry = registered(vers, role="infra")
        assert standing(other, entry["id"]) == entry
        assert which(listed(other, "/registry/discover/infra"), [entry["id"]]) == [entry["id"]]

        changed = other.patch(at(entry["id"]), json={"status": "paused", "metadata": None}).json()
        assert standing(vers, entry["id"]) == changed
        assert which(listed(vers, "/registry/discover/infra"), [entry["id"]]) == []

        beaten = vers.post(at(entry["id"], "heartbeat")).json()["lastSeen"]
        assert standing(other, entry["id"])["lastSeen"] == beaten

        other.delete(at(entry["id"]))
        assert vers.get(at(entry["id"])).status_code == 404
        assert which(listed(vers), [entry["id"]]) == []


def test_a_taken_id_is_taken_on_every_face(vers, vers_combined):
    id = fresh()
    registered(vers, id=id)

    answer = vers_combined.post(
        VMS, json={"id": id, "name": "n", "role": "worker", "address": "a", "registeredBy": "b"}
    )

    assert answer.status_code == 409

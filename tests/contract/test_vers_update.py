"""Sections 3, 3.2 and 3.3 of the vers contract: get, update, delete, beat."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.contract.vers import (
    INSTANT,
    KEYS,
    VMS,
    at,
    exactly,
    fresh,
    later_than,
    refused,
    refused_somehow,
    registered,
    standing,
    vm,
)
from tests.contract.vers_values import BLANKS, FALSY, METADATA, NO_TEXTS, PRINTED, SERVICES

pytest_plugins = ["tests.contract.vers_servers"]


@pytest.fixture
def entry(vers):
    """A VM of the test's own."""
    return registered(vers, name="one", services=[{"name": "ssh", "port": 22}], metadata={"a": 1, "b": {"c": 2}})


@pytest.fixture
def patch(vers, entry):
    """Sends a PATCH of that VM: an object, or a text as it is."""

    def send(body):
        return vers.patch(at(entry["id"]), content=body if isinstance(body, str | bytes) else json.dumps(body))

    return send


# --- get --------------------------------------------------------------------------------------------------------------


def test_get_answers_the_entry(vers, entry):
    answer = vers.get(at(entry["id"]))

    assert (answer.status_code, exactly(answer.json())) == (200, exactly(entry))
    assert answer.headers["content-type"] == "application/json"


def test_an_unknown_id_is_not_found(vers):
    refused(vers.get(at(fresh())), 404, "VM not found")


# --- PATCH: what changes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("member", "value"),
    [("name", "two"), ("address", "10.0.0.1"), ("status", "running"), ("status", "paused"), ("status", "stopped")],
)
def test_a_patch_changes_what_it_names_and_nothing_else(vers, entry, patch, member, value):
    answer = patch({member: value})

    changed = answer.json()
    assert answer.status_code == 200
    assert changed == {**entry, member: value, "lastSeen": changed["lastSeen"]}
    assert list(changed) == KEYS
    assert standing(vers, entry["id"]) == changed


def test_a_patch_of_everything(vers, entry, patch):
    said = {"name": "two", "status": "stopped", "address": "b", "services": [], "metadata": {"z": 1}}

    changed = patch(said).json()

    assert changed == {**entry, **said, "lastSeen": changed["lastSeen"]}
    assert standing(vers, entry["id"]) == changed


@pytest.mark.parametrize("member", ["name", "address"])
def test_a_patched_text_is_trimmed(patch, member):
    assert patch({member: " two words\n"}).json()[member] == "two words"


@pytest.mark.parametrize("member", ["name", "address"])
@pytest.mark.parametrize("size", [257, 5000])
def test_a_long_text_can_be_patched_in(vers, entry, patch, member, size):
    answer = patch({member: "x" * size})

    assert answer.status_code == 200, answer.text
    assert standing(vers, entry["id"])[member] == "x" * size


@pytest.mark.parametrize(
    "said",
    [
        {"role": "infra"},
        {"role": "boss"},
        {"role": None},
        {"id": "another"},
        {"id": ""},
        {"registeredBy": "thief"},
        {"registeredBy": ""},
        {"registeredAt": "2001-01-01T00:00:00.000Z"},
        {"lastSeen": "2001-01-01T00:00:00.000Z"},
        {"lastSeen": None},
        {"colour": "blue"},
        {"parentVmId": "p", "reefConfig": {"services": ["s"]}},
        {"owner": "me", "ttl": 1, "registered_by": "me", "extensions": {"vers": None}, "incarnation": 7},
    ],
    ids=exactly,
)
def test_what_cannot_change_is_ignored(vers, entry, patch, said):
    answer = patch(said)

    changed = answer.json()
    assert answer.status_code == 200
    assert changed == {**entry, "lastSeen": changed["lastSeen"]}
    assert changed["lastSeen"] != "2001-01-01T00:00:00.000Z"
    assert standing(vers, entry["id"]) == changed


@pytest.mark.parametrize("services", SERVICES, ids=lambda value: exactly(value)[:40])
def test_patched_services_are_replaced_whole(vers, entry, patch, services):
    changed = patch({"services": services}).json()

    assert exactly(changed["services"]) == exactly(services)
    assert changed["metadata"] == entry["metadata"]
    assert exactly(standing(vers, entry["id"])) == exactly(changed)


@pytest.mark.parametrize("metadata", METADATA, ids=lambda value: exactly(value)[:40])
def test_patched_metadata_is_replaced_whole(vers, entry, patch, metadata):
    changed = patch({"metadata": metadata}).json()

    assert exactly(changed["metadata"]) == exactly(metadata)
    assert changed["services"] == entry["services"]
    assert exactly(standing(vers, entry["id"])) == exactly(changed)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"a": True}, {"a": 1}),
        ({"a": 1}, {"a": True}),
        ({"a": 0}, {"a": False}),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ({"a": {"x": 1, "y": 2}}, {"a": {"y": 2, "x": 1}}),
        ({"a": [{"x": 1, "y": 2}]}, {"a": [{"y": 2, "x": 1}]}),
        ({"a": {"b": None}}, {"a": {}}),
        ({"a": {}}, {"a": {"b": None}}),
        ({"a": 1, "b": 2, "c": 3}, {"b": 2}),
        ({"a": {"b": {"c": 1}}}, {"a": {"b": 1}}),
        ({"a": 1}, {}),
        ({}, {"a": 1}),
        ([True], [1]),
        (0, False),
        (None, {}),
        ({}, None),
    ],
    ids=exactly,
)
def test_metadata_that_is_nearly_the_same_is_replaced_too(vers, before, after):
    entry = registered(vers, metadata=before)

    changed = vers.patch(at(entry["id"]), json={"metadata": after}).json()

    assert exactly(changed["metadata"]) == exactly(after)
    assert exactly(standing(vers, entry["id"])) == exactly(changed)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([{"name": "a", "port": 1}, {"name": "b", "port": 2}], [{"name": "b", "port": 2}, {"name": "a", "port": 1}]),
        ([{"name": "a", "port": 1}], [{"port": 1, "name": "a"}]),
        ([{"name": "a", "port": 1}], [{"name": "a", "port": True}]),
        ([{"name": "a", "port": 1, "x": 1}], [{"name": "a", "port": 1}]),
        ([{"name": "a", "port": 1}], []),
        ([{"name": "a", "port": 1}], None),
        ([], [{"name": "a", "port": 1}]),
        (None, []),
        ([], None),
        ([None], []),
    ],
    ids=exactly,
)
def test_services_that_are_nearly_the_same_are_replaced_too(vers, before, after):
    entry = registered(vers, services=before)

    changed = vers.patch(at(entry["id"]), json={"services": after}).json()

    assert exactly(changed["services"]) == exactly(after)
    assert exactly(standing(vers, entry["id"])) == exactly(changed)


@pytest.mark.parametrize("foreign", [None, "text", 0, [{"port": "80"}], {"a": None}])
@pytest.mark.parametrize("member", ["services", "metadata"])
def test_another_patch_leaves_foreign_shapes_alone(vers, member, foreign):
    entry = registered(vers, **{member: foreign})

    changed = vers.patch(at(entry["id"]), json={"name": "two", "status": "paused"}).json()

    assert changed == {**entry, "name": "two", "status": "paused", "lastSeen": changed["lastSeen"]}
    assert standing(vers, entry["id"]) == changed


@pytest.mark.parametrize("member", ["services", "metadata"])
def test_a_patch_may_go_from_foreign_to_plain_and_back(vers, member):
    plain = {"services": [{"name": "api", "port": 80}], "metadata": {"a": 1}}[member]
    entry = registered(vers)

    seen = [vers.patch(at(entry["id"]), json={member: value}).json()[member] for value in (None, plain, "x", plain, [])]

    assert seen == [None, plain, "x", plain, []]
    assert standing(vers, entry["id"])[member] == []


def test_a_patch_adds_services_and_metadata_in_their_place(vers):
    entry = registered(vers)

    assert list(vers.patch(at(entry["id"]), json={"metadata": 1, "services": 2}).json()) == KEYS


@pytest.mark.parametrize("body", ["{}", "[]", "[1]", "5", "0", '"text"', '""', "true", "false"])
def test_every_patch_sets_last_seen_even_one_that_says_nothing(vers, entry, patch, body):
    later_than(entry["lastSeen"])

    answer = patch(body)

    changed = answer.json()
    assert answer.status_code == 200
    assert changed["lastSeen"] > entry["lastSeen"]
    assert INSTANT.fullmatch(changed["lastSeen"])
    assert changed == {**entry, "lastSeen": changed["lastSeen"]}
    assert standing(vers, entry["id"]) == changed


def test_a_patch_that_repeats_what_is_there_sets_last_seen(vers, entry, patch):
    later_than(entry["lastSeen"])

    changed = patch({"name": "one", "status": "running"}).json()

    assert changed["lastSeen"] > entry["lastSeen"]
    assert standing(vers, entry["id"]) == changed


def test_a_stopped_vm_can_be_patched_and_last_seen_moves(vers, entry, patch):
    stopped = patch({"status": "stopped"}).json()
    later_than(stopped["lastSeen"])

    changed = patch({"name": "two"}).json()

    assert changed["status"] == "stopped"
    assert changed["lastSeen"] > stopped["lastSeen"]
    assert standing(vers, entry["id"]) == changed


# --- PATCH: what is refused, and in which order -----------------------------------------------------------------------


@pytest.mark.parametrize("body", ["", " ", "{", "nul", "undefined", "NaN", '{"name":NaN}', "{'name':'x'}", '{"a":1,}'])
@pytest.mark.parametrize("known", [True, False])
def test_no_json_is_told_before_an_unknown_id(vers, entry, body, known):
    answer = vers.patch(at(entry["id"] if known else fresh()), content=body)

    refused(answer, 400, "Invalid JSON")


@pytest.mark.parametrize("body", ["null", "{}", "[]", "5", '{"status":"gone"}', '{"name":""}', '{"address":null}'])
def test_an_unknown_id_is_told_before_all_else(vers, body):
    refused(vers.patch(at(fresh()), content=body), 404, "VM not found")


def test_a_patch_never_creates(vers):
    said = vm()

    vers.patch(at(said["id"]), json=said)

    refused(vers.get(at(said["id"])), 404, "VM not found")


def test_null_for_a_known_id_is_invalid_json(patch):
    refused(patch("null"), 400, "Invalid JSON")


@pytest.mark.parametrize(("literal", "printed"), [*PRINTED, *FALSY])
def test_an_invalid_status_is_named_as_javascript_prints_it(patch, literal, printed):
    refused(patch(f'{{"status":{literal}}}'), 400, f"invalid status: {printed}")


@pytest.mark.parametrize("status", ["draining", "retired", "defined"])
def test_statuses_of_other_houses_are_invalid(patch, status):
    refused(patch({"status": status}), 400, f"invalid status: {status}")


@pytest.mark.parametrize("member", ["name", "address"])
@pytest.mark.parametrize("value", [*NO_TEXTS, *BLANKS])
def test_a_text_cannot_become_empty(patch, member, value):
    refused(patch({member: value}), 400, f"{member} cannot be empty")


@pytest.mark.parametrize(
    ("said", "error"),
    [
        ({"address": "", "name": "", "status": "gone"}, "invalid status: gone"),
        ({"address": "", "name": "", "status": "paused"}, "name cannot be empty"),
        ({"address": "", "name": "two", "status": "paused"}, "address cannot be empty"),
    ],
)
def test_of_many_faults_the_first_one_is_told(patch, said, error):
    refused(patch(said), 400, error)


@pytest.mark.parametrize(
    "body",
    [
        {"name": "two", "status": "paused", "address": " ", "metadata": {"z": 1}},
        {"name": "", "status": "paused", "services": []},
        {"status": "gone", "name": "two", "metadata": None},
        "null",
        "{",
    ],
    ids=str,
)
def test_a_refused_patch_changes_nothing(vers, entry, patch, body):
    later_than(entry["lastSeen"])

    assert patch(body).status_code == 400

    assert standing(vers, entry["id"]) == entry


def test_of_a_member_said_twice_the_last_counts(patch):
    assert patch('{"name":"first","name":"last"}').json()["name"] == "last"


@pytest.mark.parametrize("content_type", ["text/plain", "application/merge-patch+json", "", None])
def test_the_content_type_of_a_patch_is_not_checked(vers, entry, content_type):
    headers = {} if content_type is None else {"content-type": content_type}

    assert vers.patch(at(entry["id"]), content=b'{"name":"two"}', headers=headers).json()["name"] == "two"


@pytest.mark.parametrize("size", [70_000, 1_500_000])
def test_a_huge_patch_is_refused_and_changes_nothing(vers, entry, patch, size):
    answer = patch({"name": "two", "metadata": {"text": "x" * size}})

    refused_somehow(answer, 400, 413)
    assert standing(vers, entry["id"]) == entry


@pytest.mark.parametrize("depth", [1_000, 100_000])
def test_a_patch_that_nests_without_end_is_refused_and_changes_nothing(vers, entry, patch, depth):
    answer = patch('{"name":"two","metadata":' + "[" * depth + "]" * depth + "}")

    refused_somehow(answer, 400, 413)
    assert standing(vers, entry["id"]) == entry


@pytest.mark.parametrize("member", ["name", "address", "status", "services", "metadata"])
def test_half_a_character_does_no_harm(vers, entry, patch, member):
    answer = patch(rf'{{"{member}":"a\ud800b"}}')

    assert answer.status_code in (200, 400), answer.text
    if answer.status_code == 400:
        assert standing(vers, entry["id"]) == entry


@pytest.mark.parametrize("number", ["123456789012345678901234567890", "1e400"])
def test_a_huge_number_does_no_harm(vers, entry, patch, number):
    answer = patch(f'{{"metadata":{{"n":{number}}}}}')

    assert answer.status_code in (200, 400), answer.text
    json.loads(answer.text, parse_constant=pytest.fail)
    if answer.status_code == 400:
        assert standing(vers, entry["id"]) == entry


def test_many_patches_at_once_all_happen(vers, entry):
    with ThreadPoolExecutor(16) as pool:
        answers = list(
            pool.map(lambda n: vers.patch(at(entry["id"]), json={"name": f"n{n}", "metadata": n}), range(48))
        )

    assert [answer.status_code for answer in answers] == [200] * 48
    after = standing(vers, entry["id"])
    assert after["name"] == f"n{after['metadata']}"


def test_patches_of_different_members_at_once_do_not_undo_each_other(vers, entry):
    patches = [{"name": "two"}, {"address": "b"}, {"status": "paused"}, {"services": None}, {"metadata": "x"}]
    with ThreadPoolExecutor(len(patches)) as pool:
        list(pool.map(lambda said: vers.patch(at(entry["id"]), json=said), patches))

    after = standing(vers, entry["id"])
    assert {**after, **{name: value for said in patches for name, value in said.items()}} == after


# --- DELETE -----------------------------------------------------------------------------------------------------------


def test_a_deleted_vm_is_gone_at_once_and_the_second_time_not_found(vers, entry):
    answer = vers.delete(at(entry["id"]))

    assert (answer.status_code, answer.text) == (200, '{"deleted":true}')
    assert answer.headers["content-type"] == "application/json"
    refused(vers.get(at(entry["id"])), 404, "VM not found")
    refused(vers.delete(at(entry["id"])), 404, "VM not found")


def test_an_unknown_id_cannot_be_deleted(vers):
    refused(vers.delete(at(fresh())), 404, "VM not found")


@pytest.mark.parametrize("status", ["paused", "stopped"])
def test_a_vm_can_be_deleted_whatever_its_status(vers, status):
    entry = registered(vers, status=status)

    assert vers.delete(at(entry["id"])).status_code == 200


def test_the_body_of_a_delete_is_ignored(vers, entry):
    assert vers.request("DELETE", at(entry["id"]), content=b"{").status_code == 200


@pytest.mark.parametrize("call", ["GET", "PATCH", "DELETE", "heartbeat"])
def test_after_a_delete_every_call_says_not_found(vers, entry, call):
    vers.delete(at(entry["id"]))

    if call == "heartbeat":
        answer = vers.post(at(entry["id"], "heartbeat"))
    else:
        answer = vers.request(call, at(entry["id"]), content=b"{}")

    refused(answer, 404, "VM not found")


def test_of_many_that_delete_one_vm_one_does(vers, entry):
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: vers.delete(at(entry["id"])).status_code, range(32)))

    assert sorted(answers) == [200] + [404] * 31


# --- heartbeat --------------------------------------------------------------------------------------------------------


def test_a_heartbeat_is_answered_with_the_id_and_the_new_last_seen(vers, entry):
    later_than(entry["lastSeen"])

    answer = vers.post(at(entry["id"], "heartbeat"))

    said = answer.json()
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert list(said) == ["id", "lastSeen"]
    assert said["id"] == entry["id"]
    assert INSTANT.fullmatch(said["lastSeen"])
    assert said["lastSeen"] > entry["lastSeen"]


def test_only_last_seen_changes_and_it_is_what_the_heartbeat_said(vers, entry):
    later_than(entry["lastSeen"])

    said = vers.post(at(entry["id"], "heartbeat")).json()

    assert standing(vers, entry["id"]) == {**entry, "lastSeen": said["lastSeen"]}


@pytest.mark.parametrize("status", ["running", "paused", "stopped"])
def test_a_heartbeat_leaves_the_status_and_moves_last_seen(vers, status):
    entry = registered(vers, status=status)
    later_than(entry["lastSeen"])

    said = vers.post(at(entry["id"], "heartbeat")).json()

    assert said["lastSeen"] > entry["lastSeen"]
    assert standing(vers, entry["id"]) == {**entry, "lastSeen": said["lastSeen"]}


@pytest.mark.parametrize("body", [b"", b"{", b"null", b'{"status":"stopped","name":"x"}', b"\xff" * 100])
def test_the_body_of_a_heartbeat_is_ignored(vers, entry, body):
    answer = vers.post(at(entry["id"], "heartbeat"), content=body)

    assert answer.status_code == 200
    assert standing(vers, entry["id"]) == {**entry, "lastSeen": answer.json()["lastSeen"]}


def test_a_heartbeat_never_creates(vers):
    id = fresh()

    refused(vers.post(at(id, "heartbeat")), 404, "VM not found")

    refused(vers.get(at(id)), 404, "VM not found")


def test_heartbeats_follow_each_other(vers, entry):
    seen = [entry["lastSeen"]]
    for _ in range(5):
        later_than(seen[-1])
        seen.append(vers.post(at(entry["id"], "heartbeat")).json()["lastSeen"])

    assert seen == sorted(set(seen))
    assert standing(vers, entry["id"])["lastSeen"] == seen[-1]


def test_many_heartbeats_at_once_all_count(vers, entry):
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: vers.post(at(entry["id"], "heartbeat")), range(48)))

    assert [answer.status_code for answer in answers] == [200] * 48
    assert standing(vers, entry["id"])["lastSeen"] == max(answer.json()["lastSeen"] for answer in answers)


# --- a life -----------------------------------------------------------------------------------------------------------


def test_the_life_of_an_agent_as_the_extension_leads_it(vers):
    id = fresh()
    body = {
        "id": id,
        "name": "agent-7",
        "role": "worker",
        "address": f"{id}.vm.vers.sh",
        "registeredBy": "agent-7",
        "metadata": {"pid": 7, "startedAt": "2026-11-20T14:47:54.817Z"},
    }

    assert vers.post(VMS, json=body).status_code == 201
    assert vers.post(at(id, "heartbeat")).status_code == 200
    assert vers.patch(at(id), json={"status": "stopped"}).json()["status"] == "stopped"
    refused(vers.post(VMS, json=body), 409, "VM already registered")
    assert vers.patch(at(id), json={"name": "agent-7", "status": "running"}).json()["status"] == "running"
    assert vers.delete(at(id)).status_code == 200

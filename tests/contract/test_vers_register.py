"""Section 2 and 3.1 of the vers contract: what an entry is, and what a registration must say."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.contract.vers import (
    ABSENT,
    COMPACT,
    INSTANT,
    KEYS,
    VMS,
    at,
    exactly,
    fresh,
    listed,
    literally,
    refused,
    refused_somehow,
    registered,
    standing,
    vm,
)
from tests.contract.vers_values import BLANKS, FALSY, METADATA, NO_TEXTS, PRINTED, SERVICES

pytest_plugins = ["tests.contract.vers_servers"]

ROLES = ["infra", "lieutenant", "worker", "golden", "custom"]


def test_a_registration_is_answered_with_the_whole_entry(vers):
    said = vm(status="paused", services=[{"name": "ssh", "port": 22}], metadata={"pid": 1})

    answer = vers.post(VMS, json=said)

    entry = answer.json()
    assert answer.status_code == 201
    assert answer.headers["content-type"] == "application/json"
    assert {name: entry[name] for name in said} == said
    assert list(entry) == KEYS


@pytest.mark.parametrize(
    ("said", "keys"),
    [
        ({}, [key for key in KEYS if key not in ("services", "metadata")]),
        ({"services": []}, [key for key in KEYS if key != "metadata"]),
        ({"metadata": {}}, [key for key in KEYS if key != "services"]),
        ({"services": None, "metadata": None}, KEYS),
    ],
)
def test_members_come_in_one_order_and_what_was_not_said_is_absent(vers, said, keys):
    entry = registered(vers, **said)

    assert list(entry) == keys
    assert list(standing(vers, entry["id"])) == keys
    assert [list(one) for one in listed(vers) if one["id"] == entry["id"]] == [keys]


def test_the_order_of_the_answer_is_not_that_of_the_request(vers):
    said = vm(services=[], metadata={}, status="running")

    answer = vers.post(VMS, json=dict(reversed(said.items())))

    assert list(answer.json()) == KEYS


def test_answers_are_written_as_javascript_writes_them(vers):
    answer = vers.post(VMS, json=vm(name="café", metadata={"a": [1, "é😀"]}))

    assert answer.text == json.dumps(answer.json(), **COMPACT)
    assert "café" in answer.text


def test_unknown_members_are_dropped(vers):
    entry = registered(vers, colour="blue", registered_by="x", owner="me", parentVmId="p", reefConfig={}, ttl=5)

    assert set(entry) <= set(KEYS)
    assert set(standing(vers, entry["id"])) <= set(KEYS)


def test_instants_have_milliseconds_and_are_the_same_at_first(vers):
    entry = registered(vers)

    assert INSTANT.fullmatch(entry["registeredAt"])
    assert entry["lastSeen"] == entry["registeredAt"]


def test_the_server_sets_the_instants(vers):
    old = "2001-01-01T00:00:00.000Z"

    entry = registered(vers, registeredAt=old, lastSeen=old)

    assert entry["registeredAt"] != old
    assert entry["lastSeen"] != old


def test_texts_are_trimmed(vers):
    id = fresh()

    entry = registered(vers, id=f" {id}\n", name="\tone two \u00a0", address=" a b ", registeredBy="\r\nme ")

    assert (entry["id"], entry["name"], entry["address"], entry["registeredBy"]) == (id, "one two", "a b", "me")
    assert standing(vers, id) == entry


def test_trimming_is_that_of_javascript(vers):
    # JavaScript trims a byte order mark and does not trim the separators of ASCII; Python does the reverse.
    entry = registered(vers, name="\ufeffone\ufeff", address="\x1caddress\x85")

    assert (entry["name"], entry["address"]) == ("one", "\x1caddress\x85")


@pytest.mark.parametrize("role", ROLES)
def test_five_roles_are_known(vers, role):
    assert registered(vers, role=role)["role"] == role


@pytest.mark.parametrize("status", ["running", "paused", "stopped"])
def test_three_statuses_are_known(vers, status):
    assert registered(vers, status=status)["status"] == status


@pytest.mark.parametrize("literal", [literal for literal, _ in FALSY])
def test_a_falsy_status_means_running(vers, literal):
    answer = vers.post(VMS, content=literally("status", literal))

    assert (answer.status_code, answer.json()["status"]) == (201, "running")


@pytest.mark.parametrize("services", SERVICES, ids=lambda value: exactly(value)[:40])
def test_services_are_kept_as_they_were_said(vers, services):
    entry = registered(vers, services=services)

    assert exactly(entry["services"]) == exactly(services)
    assert standing(vers, entry["id"]) == entry
    assert exactly(standing(vers, entry["id"])["services"]) == exactly(services)


@pytest.mark.parametrize("metadata", METADATA, ids=lambda value: exactly(value)[:40])
def test_metadata_is_kept_as_it_was_said(vers, metadata):
    entry = registered(vers, metadata=metadata)

    assert exactly(entry["metadata"]) == exactly(metadata)
    assert exactly(standing(vers, entry["id"])["metadata"]) == exactly(metadata)


def test_a_list_shows_services_and_metadata_as_they_were_said(vers):
    entry = registered(vers, role="golden", services=[{"port": 1, "name": "b"}], metadata={"z": None, "a": [None]})

    assert [exactly(one) for one in listed(vers, role="golden") if one["id"] == entry["id"]] == [exactly(entry)]


def test_a_discovery_shows_services_and_metadata_as_they_were_said(vers):
    entry = registered(vers, role="golden", services=None, metadata={"z": None, "a": [None]})

    found = listed(vers, "/registry/discover/golden")
    assert [exactly(one) for one in found if one["id"] == entry["id"]] == [exactly(entry)]


@pytest.mark.parametrize("member", ["name", "registeredBy", "address"])
@pytest.mark.parametrize("size", [257, 5000])
def test_long_texts_are_accepted(vers, member, size):
    entry = registered(vers, **{member: "x" * size})

    assert entry[member] == "x" * size
    assert standing(vers, entry["id"]) == entry


@pytest.mark.parametrize("member", ["name", "registeredBy", "address"])
def test_other_texts_than_ids_may_hold_anything(vers, member):
    text = 'a\nb\tc\x00"\\ * > . ünï 😀'

    assert registered(vers, **{member: text})[member] == text


# --- what is refused, and in which order -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"{",
        b"nul",
        b"null",
        b" null ",
        b"undefined",
        b"{'id':'x'}",
        b'{"id":"x",}',
        b"[1",
        b'{"id":"x"} {}',
        b"NaN",
        b"Infinity",
        b"01",
        b"-",
        b'"\x01"',
        b'"\\x"',
        b"// note\n{}",
        b"id=x&name=y",
        b"<vm/>",
        b"\xff\xfe",
        '{"id":"x"}'.encode("utf-16"),
        literally("metadata", '{"a":NaN}'),
        literally("metadata", "[Infinity]"),
        literally("metadata", "-Infinity"),
        literally("services", "[1,]"),
        literally("name", "'one'"),
    ],
)
def test_what_is_no_json_or_null_is_invalid_json(vers, body):
    refused(vers.post(VMS, content=body), 400, "Invalid JSON")


@pytest.mark.parametrize("body", ["[]", "[1]", "5", "0", '"text"', '""', "true", "false", "{}", '["id"]'])
def test_a_body_that_is_no_object_has_no_id(vers, body):
    refused(vers.post(VMS, content=body), 400, "id is required")


@pytest.mark.parametrize("id", [ABSENT, *NO_TEXTS, *BLANKS])
def test_an_id_is_required(vers, id):
    refused(vers.post(VMS, json=vm(id=id)), 400, "id is required")


@pytest.mark.parametrize(
    "id", ["x" * 129, "é" * 65, "a\nb", "a\x00b", "\x7fa", "a\x1fb", "a\x85b"], ids=lambda id: f"{len(id)}-{id[:3]!a}"
)
def test_an_id_that_is_too_long_or_holds_control_characters_is_none(vers, id):
    refused(vers.post(VMS, json=vm(id=id)), 400, "id is required")


@pytest.mark.parametrize("make", [lambda id: id.ljust(128, "x"), lambda id: id.ljust(128, "x").center(140)])
def test_an_id_of_128_bytes_is_accepted(vers, make):
    id = make(fresh())

    assert registered(vers, id=id)["id"] == id.strip()


@pytest.mark.parametrize("name", [ABSENT, *NO_TEXTS, *BLANKS])
def test_a_name_is_required(vers, name):
    refused(vers.post(VMS, json=vm(name=name)), 400, "name is required")


@pytest.mark.parametrize("address", [ABSENT, *NO_TEXTS, *BLANKS])
def test_an_address_is_required(vers, address):
    refused(vers.post(VMS, json=vm(address=address)), 400, "address is required")


@pytest.mark.parametrize("by", [ABSENT, *NO_TEXTS, *BLANKS])
def test_registered_by_is_required(vers, by):
    refused(vers.post(VMS, json=vm(registeredBy=by)), 400, "registeredBy is required")


def test_a_missing_role_is_undefined(vers):
    refused(vers.post(VMS, json=vm(role=ABSENT)), 400, "invalid role: undefined")


@pytest.mark.parametrize(("literal", "printed"), [*PRINTED, *FALSY])
def test_an_invalid_role_is_named_as_javascript_prints_it(vers, literal, printed):
    refused(vers.post(VMS, content=literally("role", literal)), 400, f"invalid role: {printed}")


@pytest.mark.parametrize(("literal", "printed"), PRINTED)
def test_an_invalid_status_is_named_as_javascript_prints_it(vers, literal, printed):
    refused(vers.post(VMS, content=literally("status", literal)), 400, f"invalid status: {printed}")


@pytest.mark.parametrize("status", ["draining", "retired", "defined", "RUNNING", " running"])
def test_statuses_of_other_houses_are_invalid(vers, status):
    refused(vers.post(VMS, json=vm(status=status)), 400, f"invalid status: {status}")


ALL_WRONG = {"id": "", "name": "", "role": "boss", "status": "gone", "address": "", "registeredBy": ""}
IN_ORDER = [
    ("id", "id is required"),
    ("name", "name is required"),
    ("role", "invalid role: boss"),
    ("status", "invalid status: gone"),
    ("address", "address is required"),
    ("registeredBy", "registeredBy is required"),
]


@pytest.mark.parametrize("step", range(6))
def test_of_many_faults_the_first_one_is_told(vers, step):
    good = vm(status="running")
    right = {name: good[name] for name, _ in IN_ORDER[:step]}

    refused(vers.post(VMS, json={**ALL_WRONG, **right}), 400, IN_ORDER[step][1])


def test_an_id_that_is_too_long_is_told_before_a_missing_name(vers):
    refused(vers.post(VMS, json=vm(id="x" * 129, name=ABSENT)), 400, "id is required")


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ({"name": ""}, "name is required"),
        ({"role": "boss"}, "invalid role: boss"),
        ({"status": "gone"}, "invalid status: gone"),
        ({"address": ""}, "address is required"),
        ({"registeredBy": ""}, "registeredBy is required"),
    ],
)
def test_faults_are_told_before_a_taken_id(vers, fault, error):
    entry = registered(vers)

    refused(vers.post(VMS, json=vm(id=entry["id"], **fault)), 400, error)


def test_a_refused_registration_leaves_nothing(vers):
    said = vm(registeredBy="")

    vers.post(VMS, json=said)

    refused(vers.get(at(said["id"])), 404, "VM not found")


@pytest.mark.parametrize("role", ["worker", "infra"])
@pytest.mark.parametrize("status", ["running", "stopped"])
def test_a_taken_id_is_refused_and_its_entry_untouched(vers, role, status):
    entry = registered(vers, status=status, metadata={"a": 1})

    answer = vers.post(VMS, json=vm(id=entry["id"], role=role, name="another", metadata={"b": 2}))

    refused(answer, 409, "VM already registered")
    assert standing(vers, entry["id"]) == entry


def test_even_the_same_registration_again_is_refused(vers):
    said = vm()
    assert vers.post(VMS, json=said).status_code == 201

    refused(vers.post(VMS, json=said), 409, "VM already registered")


def test_a_taken_id_is_found_after_trimming(vers):
    entry = registered(vers)

    refused(vers.post(VMS, json=vm(id=f"  {entry['id']}\n")), 409, "VM already registered")


def test_ids_differ_by_case(vers):
    id = fresh("Case")
    registered(vers, id=id)

    assert registered(vers, id=id.lower())["id"] == id.lower()


def test_of_many_that_want_one_id_one_gets_it(vers):
    id = fresh()

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda n: vers.post(VMS, json=vm(id=id, name=f"n{n}")), range(32)))

    assert sorted(answer.status_code for answer in answers) == [201] + [409] * 31
    assert standing(vers, id) == next(answer.json() for answer in answers if answer.status_code == 201)


def test_a_deleted_id_is_free_and_nothing_of_the_old_entry_stays(vers):
    entry = registered(vers, services=[1], metadata={"a": 1}, status="paused")
    vers.delete(at(entry["id"]))

    again = registered(vers, id=entry["id"], role="infra")

    assert (again["role"], again["status"]) == ("infra", "running")
    assert "services" not in again
    assert "metadata" not in again
    assert again["registeredAt"] >= entry["registeredAt"]
    assert standing(vers, entry["id"]) == again


# --- bodies that nobody means well by ---------------------------------------------------------------------------------


def test_of_a_member_said_twice_the_last_counts(vers):
    id = fresh()
    body = json.dumps(vm(id="first", name="first"))[:-1] + f', "id": "{id}", "name": "last"}}'

    answer = vers.post(VMS, content=body)

    assert answer.status_code == 201
    assert (answer.json()["id"], answer.json()["name"]) == (id, "last")


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "", "nonsense", None]
)
def test_the_content_type_of_a_request_is_not_checked(vers, content_type):
    headers = {} if content_type is None else {"content-type": content_type}

    answer = vers.post(VMS, content=json.dumps(vm()).encode(), headers=headers)

    assert answer.status_code == 201


def test_a_body_in_chunks_is_accepted(vers):
    body = json.dumps(vm()).encode()

    assert vers.post(VMS, content=iter([body[:10], body[10:]])).status_code == 201


@pytest.mark.parametrize("number", ["123456789012345678901234567890", "18446744073709551616", "-9223372036854775809"])
def test_numbers_beyond_64_bits_keep_their_value_as_javascript_would(vers, number):
    answer = vers.post(VMS, content=literally("metadata", f'{{"n":{number}}}'))

    assert answer.status_code == 201
    assert float(answer.json()["metadata"]["n"]) == float(number)
    assert float(standing(vers, answer.json()["id"])["metadata"]["n"]) == float(number)


def test_a_number_beyond_all_floats_does_no_harm(vers):
    answer = vers.post(VMS, content=literally("metadata", '{"n":1e400}'))

    assert answer.status_code in (201, 400)
    json.loads(answer.text, parse_constant=pytest.fail)


@pytest.mark.parametrize("member", ["id", "name", "address", "registeredBy", "role", "status", "services", "metadata"])
def test_half_a_character_does_no_harm(vers, member):
    answer = vers.post(VMS, content=literally(member, r'"a\ud800b"'))

    assert answer.status_code in (201, 400), answer.text
    json.loads(answer.text)


def test_bytes_that_are_no_text_do_no_harm(vers):
    answer = vers.post(VMS, content=literally("name", '"@"').replace(b"@", b"\xff\xc3"))

    assert answer.status_code in (201, 400), answer.text
    json.loads(answer.text)


@pytest.mark.parametrize("depth", [40, 200])
def test_metadata_that_nests_is_kept_or_refused_as_a_whole(vers, depth):
    said = vm()
    value = "[" * depth + "]" * depth

    answer = vers.post(VMS, content=literally("metadata", value, id=said["id"]))

    if answer.status_code == 201:
        assert exactly(answer.json()["metadata"]) == value
        assert exactly(standing(vers, said["id"])["metadata"]) == value
    else:
        refused_somehow(answer, 400, 413)
        assert vers.get(at(said["id"])).status_code == 404


@pytest.mark.parametrize("opening", ["[", '{"a":', '[{"a":'])
@pytest.mark.parametrize("depth", [1_000, 100_000])
def test_a_body_that_nests_without_end_is_refused(vers, opening, depth):
    closing = "".join("}" if one == "{" else "]" for one in reversed(opening) if one in "[{")

    answer = vers.post(VMS, content=literally("metadata", opening * depth + "1" + closing * depth))

    refused_somehow(answer, 400, 413)
    assert vers.get("/health").status_code == 200


def test_a_body_of_only_openings_is_refused(vers):
    refused_somehow(vers.post(VMS, content="[" * 500_000), 400, 413)


@pytest.mark.parametrize("size", [70_000, 1_500_000, 12_000_000])
def test_a_huge_body_is_refused(vers, size):
    said = vm(metadata={"text": "x" * size})

    answer = vers.post(VMS, json=said)

    refused_somehow(answer, 400, 413)
    refused(vers.get(at(said["id"])), 404, "VM not found")


def test_a_large_body_within_the_limit_of_a_record_is_kept(vers):
    entry = registered(vers, metadata={"text": "x" * 50_000})

    assert standing(vers, entry["id"]) == entry

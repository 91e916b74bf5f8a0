"""Section 8 of the vers contract: the original's data/registry.json goes in and comes out again."""

import json
import time

import httpx
import pytest

from rollcall import Invalid
from rollcall.faces.files import vers_json
from tests.contract.vers import (
    KEYS,
    VMS,
    at,
    exactly,
    fresh,
    instant,
    listed,
    refused,
    registered,
    standing,
    started,
    vm,
    which,
)
from tests.processes import rollcall

TIED = "2026-11-20T14:47:54.817Z"


def entry(number, **said):
    """An entry of the original's file."""
    written = {
        "id": f"vm/{number}",
        "name": f"n{number}",
        "role": "worker",
        "status": "running",
        "address": f"{number}.vm.vers.sh",
        "services": [{"name": "ssh", "port": 22}],
        "metadata": {"pid": number},
        "registeredBy": "old",
        "registeredAt": TIED,
        "lastSeen": "2026-11-20T15:00:00.001Z",
    }
    return {name: value for name, value in {**written, **said}.items() if value is not None}


# Of an hour from now: however long the tests before this one take, it is not stale.
FRESH = entry(9, role="custom", lastSeen=instant(time.time() + 3600))
FILE = [
    entry(1),
    entry(2, role="lieutenant", status="paused"),
    {**entry(3, status="stopped"), "services": None, "metadata": None},
    entry(4, services="odd", metadata=[1, {"a": None}]),
    {name: value for name, value in entry(5).items() if name not in ("services", "metadata")},
    entry(6, registeredAt="2026-11-20T14:47:54.816Z", name="older, but later in the file"),
    entry(7, registeredAt="2026-11-20T14:47:55.000Z"),
    entry(
        8,
        id="ünï code *.>",
        name="né 😀",
        services=[{"port": 1, "name": "x", "healthPath": "", "extra": {"z": 1, "a": 2}}],
    ),
    FRESH,
    *(entry(number, role="golden") for number in range(100, 1150)),
]
IDS = [one["id"] for one in FILE]


@pytest.fixture(scope="module")
def up(tmp_path_factory):
    home = tmp_path_factory.mktemp("data")
    # Without the grace of a new registry, what is old is stale at once.
    env = {"ROLLCALL_VERS_RESTART_GRACE": "0"}
    with started("up", "--nats-port", "0", "--http", "127.0.0.1:0", home=home, env=env) as (_, told):
        yield told


@pytest.fixture(scope="module")
def env(up):
    """What lets a command find this registry."""
    return {"ROLLCALL_NATS": up["nats"]}


@pytest.fixture(scope="module")
def loaded(up, env, tmp_path_factory):
    """The file is in; a client of the registry."""
    file = tmp_path_factory.mktemp("loaded") / "registry.json"
    file.write_text(written(FILE))
    done = rollcall("import", str(file), env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    with httpx.Client(base_url=up["http"], timeout=30) as client:
        yield client


def written(entries):
    """As the original writes it."""
    return json.dumps({"vms": entries}, indent=2, ensure_ascii=False)


# --- what came in -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("one", FILE[:9], ids=lambda one: one["id"])
def test_an_entry_of_the_file_is_answered_as_it_was_written(loaded, one):
    answer = loaded.get(at(one["id"]))

    assert answer.status_code == 200
    assert exactly(answer.json()) == exactly(one)


def test_all_of_a_large_file_are_listed(loaded):
    assert sorted(which(listed(loaded), IDS)) == sorted(IDS)


def test_equal_milliseconds_keep_the_order_of_the_file(loaded):
    newest_first = sorted(FILE, key=lambda one: one["registeredAt"], reverse=True)

    assert which(listed(loaded), IDS) == [one["id"] for one in newest_first]


def test_equal_milliseconds_keep_the_order_of_the_file_under_a_filter(loaded):
    golden = [one["id"] for one in FILE if one["role"] == "golden"]

    assert which(listed(loaded, role="golden"), IDS) == golden


def test_imported_entries_occupy_their_ids(loaded):
    refused(loaded.post(VMS, json=vm(id="vm/1")), 409, "VM already registered")


def test_imported_entries_that_are_old_are_stale(loaded):
    old = [one["id"] for one in FILE[:8]]

    assert which(listed(loaded, status="running"), old) == []
    assert which(listed(loaded, "/registry/discover/worker"), old) == []
    assert which(listed(loaded, status="paused"), old) == ["vm/2"]


def test_an_imported_entry_that_is_fresh_is_discovered(loaded):
    assert which(listed(loaded, "/registry/discover/custom"), IDS) == [FRESH["id"]]
    assert which(listed(loaded, status="running", role="custom"), IDS) == [FRESH["id"]]


def test_a_heartbeat_brings_an_imported_entry_to_life(loaded):
    said = loaded.post(at("vm/150", "heartbeat")).json()

    after = standing(loaded, "vm/150")
    assert after["lastSeen"] == said["lastSeen"] > FILE[0]["lastSeen"]
    assert after["registeredAt"] == TIED
    assert which(listed(loaded, "/registry/discover/golden"), ["vm/150"]) == ["vm/150"]


def test_imported_entries_are_discovered_in_the_order_of_the_file(loaded):
    ids = ["vm/163", "vm/161", "vm/162"]
    for id in ids:
        loaded.patch(at(id), json={})

    assert which(listed(loaded, "/registry/discover/golden"), ids) == ["vm/161", "vm/162", "vm/163"]


def test_a_patch_of_an_imported_entry_keeps_its_registration(loaded):
    after = loaded.patch(at("vm/151"), json={"name": "two"}).json()

    assert (after["name"], after["registeredAt"], after["registeredBy"]) == ("two", TIED, "old")
    assert after["lastSeen"] > FILE[0]["lastSeen"]


def test_whoever_registers_after_the_import_is_listed_first_and_discovered_last(loaded):
    new = registered(loaded, role="golden")["id"]
    loaded.patch(at("vm/152"), json={})

    assert listed(loaded)[0]["id"] == new
    assert listed(loaded, "/registry/discover/golden")[-1]["id"] == new
    loaded.delete(at(new))


# --- what comes out ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def exported(loaded, env):
    """An entry that was registered here, and what an export told after that."""
    entry = registered(loaded, services=None, metadata={"b": 1, "a": None})
    done = rollcall("export", "--vers", env=env)
    assert done.returncode == 0, done.stderr
    return entry, done.stdout


def test_an_export_is_written_as_the_original_writes_it(exported):
    _, text = exported

    assert list(json.loads(text)) == ["vms"]
    assert text.rstrip("\n") == written(json.loads(text)["vms"])
    assert all([key for key in KEYS if key in one] == list(one) for one in json.loads(text)["vms"])


def test_an_export_holds_what_was_imported_in_the_order_of_the_file(exported):
    vms = json.loads(exported[1])["vms"]

    assert exactly([one for one in vms if one in FILE[:9]]) == exactly(FILE[:9])
    assert which(vms, IDS) == IDS


def test_an_export_holds_what_was_registered_here(exported):
    entry, text = exported

    assert [exactly(one) for one in json.loads(text)["vms"] if one["id"] == entry["id"]] == [exactly(entry)]


def test_an_export_goes_into_a_file_that_can_be_imported(loaded, env, tmp_path):
    file = tmp_path / "registry.json"

    done = rollcall("export", "--vers", str(file), env=env)

    assert done.returncode == 0, done.stderr
    assert len(vers_json.read(file.read_bytes())) == loaded.get(VMS).json()["count"]


# --- what is refused --------------------------------------------------------------------------------------------------


def broken(**said):
    """A file whose second entry has a fault."""
    return written([entry(1, id=fresh("first")), {**entry(2, id=fresh("second")), **said}, entry(3, id=fresh("third"))])


CORRUPT = {
    "empty": "",
    "cut off": written(FILE[:3])[:-20],
    "no JSON": "vms: []",
    "no text": "\udcff\udcfe",
    "null": "null",
    "a list": "[]",
    "a text": '"vms"',
    "without vms": '{"entries": []}',
    "vms is null": '{"vms": null}',
    "vms is an object": '{"vms": {}}',
    "an entry is a text": '{"vms": ["x"]}',
    "an entry is null": written([entry(1, id=fresh("before-null")), None]),
    "no id": broken(id=""),
    "an id is a number": broken(id=5),
    "an id is too long": broken(id="x" * 129),
    "no name": broken(name=None),
    "an unknown status": broken(status="gone"),
    "registeredBy is a list": broken(registeredBy=[]),
    "registeredAt is no instant": broken(registeredAt="yesterday"),
    "lastSeen is a number": broken(lastSeen=5),
    "lastSeen is null": written([{**entry(1), "lastSeen": None}]),
    "NaN": broken().replace('"pid": 2', '"pid": NaN'),
    "endless nesting": '{"vms":' + "[" * 100_000,
}


@pytest.mark.parametrize("name", CORRUPT)
def test_a_corrupt_file_is_no_registry(name):
    with pytest.raises(Invalid) as told:
        vers_json.read(CORRUPT[name].encode(errors="surrogateescape"))

    assert "nothing was imported" in str(told.value)


def test_a_corrupt_file_is_refused_with_a_reason_and_nothing_changes(loaded, env, tmp_path):
    before = loaded.get(VMS).text
    file = tmp_path / "registry.json"
    file.write_text(CORRUPT[next(iter(CORRUPT))])

    done = rollcall("import", str(file), env=env)

    assert done.returncode != 0
    assert "nothing was imported" in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert loaded.get(VMS).text == before


def test_an_empty_registry_is_fine():
    assert vers_json.read(written([]).encode()) == []

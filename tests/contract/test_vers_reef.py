"""Section 7 of the vers contract: what the successor changed and added."""

import pytest

from tests.contract.vers import (
    ABSENT,
    KEYS,
    VMS,
    Face,
    at,
    exactly,
    faces,
    fresh,
    later_than,
    listed,
    nowhere,
    refused,
    registered,
    standing,
    vm,
    which,
)

pytest_plugins = ["tests.contract.vers_servers"]

TOKEN = "secret-of-reef"
LINEAGE = ["children", "ancestors", "subtree"]


@pytest.fixture(scope="module")
def served(vers_up, tmp_path_factory):
    env = {"ROLLCALL_VERS_FLAVOUR": "reef", "VERS_AUTH_TOKEN": TOKEN}
    with faces(vers_up["nats"], tmp_path_factory.mktemp("reef"), reef=Face(env=env)) as served:
        yield served["reef"]


@pytest.fixture(scope="module")
def reef(served):
    """A client of the successor's dialect, with its token."""
    served.http.headers["authorization"] = f"Bearer {TOKEN}"
    return served.http


@pytest.fixture(scope="module")
def tree(reef):
    """A tree of VMs: name -> id.

    ::

        root ── left ── left1 ── deep
             │       └─ left2
             └─ right ── right1
    """
    parents = {
        "root": None,
        "left": "root",
        "right": "root",
        "left1": "left",
        "left2": "left",
        "right1": "right",
        "deep": "left1",
    }
    ids: dict[str, str] = {}
    for name, parent in parents.items():
        ids[name] = registered(reef, parentVmId=ABSENT if parent is None else ids[parent])["id"]
    return ids


def relatives(reef, id, of):
    """The ids that a call of the lineage answers, in its order."""
    answer = reef.get(at(id, of))
    assert answer.status_code == 200, answer.text
    said = answer.json()
    assert list(said) == [of, "count"]
    assert said["count"] == len(said[of])
    return [entry["id"] for entry in said[of]]


# --- register ---------------------------------------------------------------------------------------------------------


def test_a_new_id_is_registered_with_services_by_default(reef):
    answer = reef.post(VMS, json=vm())

    assert answer.status_code == 201
    assert list(answer.json()) == [key for key in KEYS if key != "metadata"]
    assert answer.json()["services"] == []
    assert standing(reef, answer.json()["id"]) == answer.json()


def test_the_new_members_are_kept_and_the_others_stay_in_their_order(reef):
    config = {"services": ["ssh"], "capabilities": ["build"]}

    entry = registered(reef, metadata={}, parentVmId="p", reefConfig=config)

    assert (entry["parentVmId"], entry["reefConfig"]) == ("p", config)
    assert [key for key in entry if key in KEYS] == KEYS
    assert set(entry) == {*KEYS, "parentVmId", "reefConfig"}
    assert exactly(standing(reef, entry["id"])) == exactly(entry)


def test_without_a_parent_the_member_is_absent(reef):
    assert "parentVmId" not in registered(reef)
    assert "reefConfig" not in registered(reef)


def test_other_unknown_members_are_still_dropped(reef):
    assert "colour" not in registered(reef, colour="blue")


@pytest.mark.parametrize("status", ["running", "paused", "stopped"])
def test_a_known_id_is_registered_anew_and_runs(reef, status):
    entry = registered(reef, status=status)

    answer = reef.post(VMS, json=vm(id=entry["id"], name="two", address="b", registeredBy="another"))

    again = answer.json()
    assert answer.status_code == 201
    assert (again["name"], again["address"], again["registeredBy"]) == ("two", "b", "another")
    assert again["status"] == "running"
    assert again["registeredAt"] == entry["registeredAt"]
    assert standing(reef, entry["id"]) == again


@pytest.mark.parametrize(
    ("services", "metadata"), [([{"name": "api", "port": 80}], {"a": {"b": None}}), ("odd", None), ([], {})]
)
def test_registering_anew_keeps_services_and_metadata_that_are_not_said(reef, services, metadata):
    entry = registered(reef, services=services, metadata=metadata)

    again = registered(reef, id=entry["id"], name="two")

    assert exactly((again["services"], again["metadata"])) == exactly((entry["services"], entry["metadata"]))
    assert standing(reef, entry["id"]) == again


def test_registering_anew_replaces_services_and_metadata_that_are_said(reef):
    entry = registered(reef, services=[{"name": "api", "port": 80}], metadata={"a": 1, "b": 2})

    again = registered(reef, id=entry["id"], services=[], metadata={"c": 3})

    assert (again["services"], again["metadata"]) == ([], {"c": 3})
    assert standing(reef, entry["id"]) == again


def test_registering_anew_sets_last_seen(reef):
    entry = registered(reef)
    later_than(entry["lastSeen"])

    assert registered(reef, id=entry["id"])["lastSeen"] > entry["lastSeen"]


def test_registering_anew_twice_with_the_same_words_is_fine(reef):
    said = vm(metadata={"a": 1})

    answers = [reef.post(VMS, json=said) for _ in range(3)]

    assert [answer.status_code for answer in answers] == [201] * 3
    assert len({answer.json()["registeredAt"] for answer in answers}) == 1


def test_registering_anew_does_not_change_the_place_in_a_discovery(reef):
    ids = [registered(reef, role="custom")["id"] for _ in range(3)]

    registered(reef, id=ids[0], role="custom")

    assert which(listed(reef, "/registry/discover/custom"), ids) == ids


def test_what_a_face_of_the_first_flavour_registered_can_be_registered_anew(reef, vers):
    entry = registered(vers, name="one", metadata={"a": 1})

    again = registered(reef, id=entry["id"], name="two")

    assert (again["name"], again["metadata"], again["registeredAt"]) == ("two", {"a": 1}, entry["registeredAt"])


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ({"id": ""}, "id is required"),
        ({"name": ""}, "name is required"),
        ({"role": "boss"}, "invalid role: boss"),
        ({"status": "gone"}, "invalid status: gone"),
        ({"address": ""}, "address is required"),
        ({"registeredBy": ""}, "registeredBy is required"),
    ],
)
def test_a_registration_is_checked_as_before(reef, fault, error):
    entry = registered(reef)

    refused(reef.post(VMS, json=vm(**{"id": entry["id"], **fault})), 400, error)

    assert standing(reef, entry["id"]) == entry


# --- heartbeat and PATCH ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["running", "paused", "stopped"])
def test_a_heartbeat_also_sets_the_status_to_running(reef, status):
    entry = registered(reef, status=status)
    later_than(entry["lastSeen"])

    answer = reef.post(at(entry["id"], "heartbeat"))

    said = answer.json()
    assert (answer.status_code, list(said)) == (200, ["id", "lastSeen"])
    assert said["lastSeen"] > entry["lastSeen"]
    assert standing(reef, entry["id"]) == {**entry, "status": "running", "lastSeen": said["lastSeen"]}


def test_a_stopped_vm_that_beats_is_discovered(reef):
    id = registered(reef, status="stopped", role="custom")["id"]

    reef.post(at(id, "heartbeat"))

    assert which(listed(reef, "/registry/discover/custom"), [id]) == [id]


def test_a_heartbeat_of_an_unknown_id_is_not_found(reef):
    refused(reef.post(at(fresh(), "heartbeat")), 404, "VM not found")


@pytest.mark.parametrize(
    ("member", "value"),
    [("parentVmId", "another"), ("reefConfig", {"services": ["a"], "capabilities": []}), ("services", [1])],
)
def test_the_new_members_can_be_patched(reef, member, value):
    entry = registered(reef, metadata={"a": None}, parentVmId="p", reefConfig={"services": [], "capabilities": ["c"]})

    answer = reef.patch(at(entry["id"]), json={member: value})

    changed = answer.json()
    assert answer.status_code == 200
    assert changed == {**entry, member: value, "lastSeen": changed["lastSeen"]}
    assert standing(reef, entry["id"]) == changed


def test_a_patch_of_something_else_leaves_the_new_members(reef):
    entry = registered(reef, parentVmId="p", reefConfig={"services": ["a"], "capabilities": ["c"]})

    changed = reef.patch(at(entry["id"]), json={"name": "two", "metadata": {"x": 1}}).json()

    assert (changed["parentVmId"], changed["reefConfig"]) == (entry["parentVmId"], entry["reefConfig"])


def test_a_patched_config_is_replaced_whole(reef):
    entry = registered(reef, reefConfig={"services": ["a"], "capabilities": ["c"]})

    changed = reef.patch(at(entry["id"]), json={"reefConfig": {"services": ["b"]}}).json()

    assert changed["reefConfig"] == {"services": ["b"]}


# --- list -------------------------------------------------------------------------------------------------------------


def test_whoever_was_seen_last_is_listed_first(reef):
    ids = []
    for _ in range(3):
        entry = registered(reef)
        ids.append(entry["id"])
        later_than(entry["lastSeen"])
    later_than(reef.post(at(ids[1], "heartbeat")).json()["lastSeen"])
    reef.patch(at(ids[0]), json={})

    assert which(listed(reef), ids) == [ids[0], ids[1], ids[2]]


def test_the_whole_list_is_in_descending_order(reef, tree):
    instants = [entry["lastSeen"] for entry in listed(reef)]

    assert instants == sorted(instants, reverse=True)


def test_a_list_can_be_asked_for_the_children_of_one(reef, tree):
    assert {entry["id"] for entry in listed(reef, parentVmId=tree["left"])} == {tree["left1"], tree["left2"]}


def test_the_filters_work_together(reef):
    parent = fresh()
    running, paused = (registered(reef, parentVmId=parent, status=status)["id"] for status in ("running", "paused"))

    assert [entry["id"] for entry in listed(reef, parentVmId=parent, status="paused")] == [paused]
    assert [entry["id"] for entry in listed(reef, parentVmId=parent, status="running")] == [running]
    assert listed(reef, parentVmId=parent, role="infra") == []


def test_an_unknown_parent_is_an_empty_list(reef):
    assert reef.get(VMS, params={"parentVmId": fresh()}).text == '{"vms":[],"count":0}'


# --- lineage ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "children"), [("root", ["left", "right"]), ("left", ["left1", "left2"]), ("left1", ["deep"]), ("deep", [])]
)
def test_children_are_the_direct_ones(reef, tree, name, children):
    found = relatives(reef, tree[name], "children")

    assert sorted(found) == sorted(tree[child] for child in children)


@pytest.mark.parametrize(
    ("name", "ancestors"),
    [("root", []), ("left", ["root"]), ("left2", ["root", "left"]), ("deep", ["root", "left", "left1"])],
)
def test_ancestors_come_root_first(reef, tree, name, ancestors):
    assert relatives(reef, tree[name], "ancestors") == [tree[one] for one in ancestors]


def test_a_subtree_comes_breadth_first(reef, tree):
    found = [id for id in relatives(reef, tree["root"], "subtree") if id != tree["root"]]

    levels = [{"left", "right"}, {"left1", "left2", "right1"}, {"deep"}]
    assert len(found) == 6
    for level in levels:
        here, found = found[: len(level)], found[len(level) :]
        assert set(here) == {tree[name] for name in level}


def test_a_subtree_holds_nobody_of_another_branch(reef, tree):
    found = set(relatives(reef, tree["left"], "subtree")) - {tree["left"]}

    assert found == {tree[name] for name in ("left1", "left2", "deep")}


@pytest.mark.parametrize("of", LINEAGE)
def test_relatives_are_whole_entries(reef, tree, of):
    for entry in reef.get(at(tree["left"], of)).json()[of]:
        assert exactly(entry) == exactly(standing(reef, entry["id"]))


def test_a_parent_that_is_not_registered_ends_the_line(reef):
    orphan = registered(reef, parentVmId=fresh("nobody"))["id"]
    child = registered(reef, parentVmId=orphan)["id"]

    assert relatives(reef, orphan, "ancestors") == []
    assert relatives(reef, child, "ancestors") == [orphan]


@pytest.mark.parametrize("of", LINEAGE)
@pytest.mark.parametrize("length", [1, 2, 5])
def test_a_cycle_never_loops(reef, of, length):
    ids = [fresh() for _ in range(length)]
    for number, id in enumerate(ids):
        registered(reef, id=id, parentVmId=ids[number - 1])

    found = relatives(reef, ids[0], of)

    assert len(found) == len(set(found))
    assert set(found) <= set(ids)


def test_a_cycle_above_never_loops(reef):
    first, second = fresh(), fresh()
    registered(reef, id=first, parentVmId=second)
    registered(reef, id=second, parentVmId=first)
    below = registered(reef, parentVmId=first)["id"]

    found = relatives(reef, below, "ancestors")

    assert len(found) == len(set(found))
    assert set(found) == {first, second}


def test_a_long_line_is_followed_to_its_end(reef):
    line = [registered(reef)["id"]]
    for _ in range(40):
        line.append(registered(reef, parentVmId=line[-1])["id"])

    assert relatives(reef, line[-1], "ancestors") == line[:-1]
    assert [id for id in relatives(reef, line[0], "subtree") if id != line[0]] == line[1:]


def test_whoever_leaves_is_nobodys_child(reef):
    parent = registered(reef)["id"]
    child = registered(reef, parentVmId=parent)["id"]
    reef.delete(at(child))

    assert relatives(reef, parent, "children") == []


@pytest.mark.parametrize("of", LINEAGE)
def test_the_relatives_of_an_unknown_id_are_not_found(reef, of):
    refused(reef.get(at(fresh(), of)), 404, "VM not found")


@pytest.mark.parametrize("of", LINEAGE)
def test_ids_with_slashes_have_relatives_too(reef, of):
    id = fresh("a/b c.*")
    registered(reef, id=id, parentVmId=id)

    assert relatives(reef, id, of) in ([], [id])


@pytest.mark.parametrize("of", [*LINEAGE, "diff/x", "diff", "diff/", "children/"])
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_other_methods_are_not_there(reef, tree, of, method):
    nowhere(reef.request(method, at(tree["root"], of)))


@pytest.mark.parametrize("more", ["diff", "diff/", "children/", "subtree/x", "diff/x/y"])
def test_other_paths_are_not_there(reef, tree, more):
    nowhere(reef.get(at(tree["root"], more)))


# --- diff -------------------------------------------------------------------------------------------------------------

NONE = {"services": [], "capabilities": []}


@pytest.mark.parametrize(
    ("a", "b", "added", "removed"),
    [
        (ABSENT, ABSENT, NONE, NONE),
        ({"services": ["s"], "capabilities": ["c"]}, {"services": ["s"], "capabilities": ["c"]}, NONE, NONE),
        (ABSENT, {"services": ["s"], "capabilities": ["c"]}, {"services": ["s"], "capabilities": ["c"]}, NONE),
        ({"services": ["s"], "capabilities": ["c"]}, ABSENT, NONE, {"services": ["s"], "capabilities": ["c"]}),
        (
            {"services": ["s", "t"], "capabilities": ["c"]},
            {"services": ["t", "u"], "capabilities": ["d"]},
            {"services": ["u"], "capabilities": ["d"]},
            {"services": ["s"], "capabilities": ["c"]},
        ),
        (
            {"services": ["s"]},
            {"capabilities": ["c"]},
            {"services": [], "capabilities": ["c"]},
            {**NONE, "services": ["s"]},
        ),
    ],
)
def test_a_diff_says_what_came_and_what_went(reef, a, b, added, removed):
    first, second = registered(reef, reefConfig=a)["id"], registered(reef, reefConfig=b)["id"]

    answer = reef.get(at(first, "diff", second))

    assert answer.status_code == 200
    assert exactly(answer.json()) == exactly({"added": added, "removed": removed})


def test_a_diff_with_itself_is_empty(reef):
    id = registered(reef, reefConfig={"services": ["s"], "capabilities": ["c"]})["id"]

    assert reef.get(at(id, "diff", id)).json() == {"added": NONE, "removed": NONE}


@pytest.mark.parametrize(
    "config", [None, [], "text", 5, {"services": None}, {"services": "abc"}, {"services": [{}, [1]]}]
)
def test_a_diff_of_odd_configs_does_no_harm(reef, config):
    answer = reef.post(VMS, json=vm(reefConfig=config))
    assert answer.status_code in (201, 400)
    if answer.status_code == 201:
        id = answer.json()["id"]
        assert reef.get(at(id, "diff", id)).status_code == 200


@pytest.mark.parametrize("parent", [None, 5, [], {}, "", True])
def test_an_odd_parent_does_no_harm(reef, parent):
    answer = reef.post(VMS, json=vm(parentVmId=parent))

    assert answer.status_code in (201, 400)
    if answer.status_code == 201:
        for of in LINEAGE:
            assert relatives(reef, answer.json()["id"], of) in ([], [answer.json()["id"]])


@pytest.mark.parametrize("unknown", ["a", "b", "both"])
def test_a_diff_with_an_unknown_id_is_not_found(reef, unknown):
    known = registered(reef)["id"]
    a, b = (fresh() if unknown in (side, "both") else known for side in ("a", "b"))

    refused(reef.get(at(a, "diff", b)), 404, "VM not found")


def test_a_diff_takes_ids_with_slashes(reef):
    a, b = fresh("a/b"), fresh("c/d")
    registered(reef, id=a)
    registered(reef, id=b)

    assert reef.get(at(a, "diff", b.replace("/", "%2F"))).json() == {"added": NONE, "removed": NONE}


# --- what stays -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [VMS, f"{VMS}/x/children", f"{VMS}/x/diff/y", "/registry/unknown"])
def test_a_token_is_asked_before_routing(reef, path):
    refused(reef.get(path, headers={"authorization": "Bearer wrong"}), 401, "Unauthorized — invalid token")


def test_what_is_unknown_is_still_not_there(reef):
    nowhere(reef.get("/registry/vms/"))
    nowhere(reef.get("/registry/lineage"))


def test_deletion_is_as_before(reef):
    id = registered(reef)["id"]

    assert reef.delete(at(id)).text == '{"deleted":true}'
    refused(reef.delete(at(id)), 404, "VM not found")


def test_the_first_flavour_shows_none_of_the_new_members(reef, vers):
    entry = registered(reef, parentVmId="p", reefConfig={"services": [], "capabilities": []})

    assert set(standing(vers, entry["id"])) <= set(KEYS)
    assert [set(one) <= set(KEYS) for one in listed(vers) if one["id"] == entry["id"]] == [True]


def test_the_first_flavour_drops_the_new_members(reef, vers):
    id = registered(vers, parentVmId="p", reefConfig={"services": [], "capabilities": []})["id"]
    vers.patch(at(id), json={"parentVmId": "p", "reefConfig": {}})

    assert not {"parentVmId", "reefConfig"} & set(standing(reef, id))


def test_the_first_flavour_has_no_such_filter(reef, vers):
    id = registered(vers)["id"]

    assert which(listed(vers, parentVmId=fresh()), [id]) == [id]

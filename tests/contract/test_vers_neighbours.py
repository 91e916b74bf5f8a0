"""Sections 8 and 9 of the vers contract: a VM is an ordinary agent everywhere else, and the other way round."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote

import pytest

import rollcall
from rollcall import Service
from tests.conftest import eventually
from tests.contract.vers import (
    KEYS,
    VMS,
    Face,
    at,
    exactly,
    faces,
    fresh,
    instant,
    listed,
    milliseconds,
    nowhere,
    refused,
    registered,
    standing,
    vm,
    which,
)

pytest_plugins = ["tests.contract.vers_servers"]


@pytest.fixture
async def registry(vers_up):
    async with rollcall.connect(vers_up["nats"]) as registry:
        yield registry


def native(id):
    """The path of an agent of the native API."""
    return f"/v1/agents/{quote(id, safe='')}"


def cut(at):
    """A timestamp of the core, cut to milliseconds."""
    return instant(milliseconds(f"{at[:23]}Z") / 1000)


# --- a VM, seen from elsewhere ----------------------------------------------------------------------------------------


async def test_a_vm_is_an_agent(vers, registry):
    vm = registered(
        vers,
        status="paused",
        services=[{"name": "api", "port": 80, "protocol": "tcp", "healthPath": "/h"}],
        metadata={"a": {"b": 1}},
    )

    agent = await registry.get(vm["id"])

    assert (agent.id, agent.role, agent.name) == (vm["id"], "worker", "one")
    assert (agent.status, agent.address, agent.registered_by) == ("paused", "one.vm.vers.sh", "tests")
    assert agent.services == (Service(name="api", port=80, protocol="tcp", health_path="/h"),)
    assert agent.metadata == {"a": {"b": 1}}
    assert (agent.owner, agent.ttl) == ("vers:shared", 300)


async def test_instants_are_those_of_the_core(vers, registry):
    vm = registered(vers)

    agent = await registry.get(vm["id"])

    assert vm["registeredAt"] == cut(str(agent.registered_at))


async def test_an_odd_id_is_the_same_id_everywhere(vers, registry):
    vm = registered(vers, id=fresh("a/b *.> ü"))

    assert (await registry.get(vm["id"])).id == vm["id"]


@pytest.mark.parametrize("role", ["infra", "lieutenant", "worker", "golden", "custom"])
async def test_a_vm_is_discovered_by_its_role(vers, registry, role):
    vm = registered(vers, role=role)

    assert vm["id"] in [agent.id for agent in await registry.discover(role, exact=True)]


async def test_a_patched_vm_is_a_changed_agent(vers, registry):
    vm = registered(vers, metadata={"a": 1})
    vers.patch(at(vm["id"]), json={"name": "two", "status": "stopped", "metadata": {"b": 2}, "services": []})

    agent = await registry.get(vm["id"])

    assert (agent.name, agent.status, agent.metadata, agent.services) == ("two", "stopped", {"b": 2}, ())


async def test_a_deleted_vm_is_no_agent(vers, registry):
    vm = registered(vers)
    vers.delete(at(vm["id"]))

    with pytest.raises(rollcall.NotFound):
        await registry.get(vm["id"])


async def test_a_vm_without_metadata_has_none_in_the_core(vers, registry):
    agent = await registry.get(registered(vers)["id"])

    assert (agent.services, agent.metadata) == ((), {})


async def test_each_change_is_told_with_a_growing_revision(vers, registry):
    id = fresh()
    async with registry.watch("worker") as watch:
        registered(vers, id=id)
        vers.patch(at(id), json={"status": "paused"})
        vers.delete(at(id))

        changes = []
        async with asyncio.timeout(20):
            async for change in watch:
                changes += [change] if change.id == id else []
                if len(changes) == 3:
                    break

    assert [change.kind for change in changes] == ["registered", "updated", "deregistered"]
    revisions = [change.revision for change in changes]
    assert revisions == sorted(set(revisions))


async def test_a_refused_request_is_told_to_nobody(vers, registry):
    vm = registered(vers)
    before = await registry.get(vm["id"])

    vers.post(VMS, json={**vm, "name": "two"})
    vers.patch(at(vm["id"]), json={"name": "two", "address": ""})

    assert (await registry.get(vm["id"])).revision == before.revision


# --- an agent, seen through vers --------------------------------------------------------------------------------------


async def test_an_agent_is_a_vm(vers, registry):
    id = fresh("agent")
    agent = await registry.register(
        "worker",
        id,
        name="native",
        address="10.0.0.1",
        services=[{"name": "api", "port": 80, "health_path": "/h", "protocol": "tcp"}],
        metadata={"z": 1, "a": {"b": 2}},
        registered_by="ops",
        ttl=60,
    )

    vm = standing(vers, id)

    assert list(vm) == KEYS
    assert (vm["id"], vm["name"], vm["role"], vm["status"]) == (id, "native", "worker", "running")
    assert (vm["address"], vm["registeredBy"], vm["metadata"]) == ("10.0.0.1", "ops", {"z": 1, "a": {"b": 2}})
    assert len(vm["services"]) == 1
    assert vm["services"][0] == {"name": "api", "port": 80, "healthPath": "/h", "protocol": "tcp"}
    assert vm["registeredAt"] == cut(str(agent.registered_at))


async def test_an_agent_that_says_little_is_still_a_whole_entry(vers, registry):
    id = fresh("agent")
    await registry.register("worker", id)

    vm = standing(vers, id)

    assert {"id", "name", "role", "status", "address", "registeredBy", "registeredAt", "lastSeen"} <= set(vm)
    assert all(isinstance(vm[name], str) for name in ("name", "address", "registeredBy", "registeredAt", "lastSeen"))


async def test_an_agent_is_listed_and_discovered_as_a_vm(vers, registry):
    id = fresh("agent")
    await registry.register("golden", id, ttl=60)

    assert which(listed(vers), [id]) == [id]
    assert which(listed(vers, role="golden", status="running"), [id]) == [id]
    assert which(listed(vers, "/registry/discover/golden"), [id]) == [id]


async def test_an_agent_of_a_role_that_vers_does_not_know_is_found_by_it(vers, registry):
    id = fresh("agent")
    await registry.register("billing clerk/2", id, ttl=60)

    assert standing(vers, id)["role"] == "billing clerk/2"
    assert which(listed(vers, role="billing clerk/2"), [id]) == [id]
    assert which(listed(vers, "/registry/discover/billing%20clerk%2F2"), [id]) == [id]
    assert vers.patch(at(id), json={"status": "paused"}).json()["status"] == "paused"
    assert vers.post(at(id, "heartbeat")).status_code == 200
    assert vers.delete(at(id)).status_code == 200


async def test_the_id_of_an_agent_is_taken(vers, registry):
    id = fresh("agent")
    await registry.register("worker", id)

    refused(vers.post(VMS, json=vm(id=id)), 409, "VM already registered")


async def test_an_agent_can_be_patched_through_vers(vers, registry):
    id = fresh("agent")
    await registry.register("worker", id, address="a", capabilities=["ocr"], labels={"zone": "x"}, metadata={"a": 1})

    vm = vers.patch(at(id), json={"name": "two", "metadata": {"b": None}, "services": None}).json()

    assert (vm["name"], vm["metadata"], vm["services"]) == ("two", {"b": None}, None)
    assert standing(vers, id) == vm
    agent = await registry.get(id)
    assert (agent.name, agent.capabilities, agent.labels) == ("two", ("ocr",), {"zone": "x"})


async def test_an_agent_can_be_deleted_through_vers(vers, registry):
    id = fresh("agent")
    await registry.register("worker", id)

    assert vers.delete(at(id)).status_code == 200

    with pytest.raises(rollcall.NotFound):
        await registry.get(id)


async def test_a_beat_through_the_bus_moves_last_seen(vers, registry):
    vm = registered(vers)

    await registry.heartbeat("worker", vm["id"])

    await eventually(lambda: standing(vers, vm["id"])["lastSeen"] > vm["lastSeen"], what="lastSeen moves")


async def test_a_beat_through_vers_moves_the_lease(vers, registry):
    id = fresh("agent")
    before = await registry.register("worker", id, ttl=60)

    vers.post(at(id, "heartbeat"))

    after = await registry.get(id)
    assert str(after.expires_at) > str(before.expires_at or "")


async def test_a_deregistered_agent_is_not_found(vers, registry):
    vm = registered(vers)
    await registry.deregister("worker", vm["id"])

    refused(vers.get(at(vm["id"])), 404, "VM not found")


async def test_an_agent_without_a_sign_of_life_is_not_discovered_past_its_own_ttl(vers, registry):
    id = fresh("agent")
    await registry.register("custom", id, ttl=0.5)

    await eventually(lambda: which(listed(vers, "/registry/discover/custom"), [id]) == [], what="stale")

    assert which(listed(vers, role="custom", status="running"), [id]) == []
    assert standing(vers, id)["status"] == "running"


# --- the native API beside it -----------------------------------------------------------------------------------------


def test_a_vm_is_an_agent_of_the_native_api(vers, vers_combined):
    vm = registered(vers, id=fresh("a/b"), metadata={"a": 1}, services=[{"name": "api", "port": 80}])

    agent = vers_combined.get(native(vm["id"])).json()

    assert (agent["id"], agent["role"], agent["name"]) == (vm["id"], "worker", "one")
    assert (agent["metadata"], agent["services"]) == ({"a": 1}, [{"name": "api", "port": 80}])
    assert (agent["address"], agent["registered_by"], agent["owner"]) == ("one.vm.vers.sh", "tests", "vers:shared")
    found = vers_combined.get("/v1/discover/worker", params={"exact": "true"}).json()["agents"]
    assert which(found, [vm["id"]]) == [vm["id"]]


def test_an_agent_of_the_native_api_is_a_vm(vers, vers_combined):
    id = fresh("native")
    said = {
        "role": "worker",
        "id": id,
        "name": "n",
        "address": "a",
        "metadata": {"z": 1, "a": 2},
        "registered_by": "ops",
    }
    answer = vers_combined.post("/v1/agents", json=said)
    assert answer.status_code == 201, answer.text

    vm = standing(vers, id)

    assert (vm["name"], vm["address"], vm["registeredBy"], vm["status"]) == ("n", "a", "ops", "running")
    assert exactly(vm["metadata"]) == '{"z": 1, "a": 2}'
    assert which(listed(vers, "/registry/discover/worker"), [id]) == [id]
    refused(vers.post(VMS, json=vm), 409, "VM already registered")


def test_a_change_over_the_native_api_is_seen(vers, vers_combined):
    vm = registered(vers, metadata=None, services="odd")

    answer = vers_combined.patch(native(vm["id"]), json={"status": "paused", "metadata": {"a": 1}})

    assert answer.status_code == 200, answer.text
    after = standing(vers, vm["id"])
    assert (after["status"], after["metadata"], after["services"]) == ("paused", {"a": 1}, "odd")


def test_a_change_over_vers_is_seen(vers, vers_combined):
    vm = registered(vers)
    vers.patch(at(vm["id"]), json={"name": "two", "status": "stopped"})

    agent = vers_combined.get(native(vm["id"])).json()

    assert (agent["name"], agent["status"]) == ("two", "stopped")


def test_whoever_leaves_on_one_side_is_gone_on_the_other(vers, vers_combined):
    here, there = registered(vers)["id"], registered(vers)["id"]
    vers.delete(at(here))
    assert vers_combined.delete(native(there)).status_code == 200

    assert vers_combined.get(native(here)).status_code == 404
    refused(vers.get(at(there)), 404, "VM not found")


# --- the raw form counts only while the core still says the same ------------------------------------------------------


@pytest.mark.parametrize("raw", [None, "odd", [1, None], {"a": None}])
async def test_metadata_changed_through_the_core_is_shown(vers, registry, raw):
    vm = registered(vers, metadata=raw)

    await registry.update("worker", vm["id"], {"metadata": {"new": 1, "a": 2}})

    assert standing(vers, vm["id"])["metadata"] == {"new": 1, "a": 2}


@pytest.mark.parametrize("raw", [None, "odd", [{"port": "80"}], {"a": None}])
async def test_services_changed_through_the_core_are_shown(vers, registry, raw):
    vm = registered(vers, services=raw)

    await registry.update("worker", vm["id"], {"services": [{"name": "api", "port": 80, "health_path": "/h"}]})

    shown = standing(vers, vm["id"])["services"]
    assert shown == [{"name": "api", "port": 80, "healthPath": "/h"}]


@pytest.mark.parametrize("raw", [None, "odd", [1, None], {"a": None}])
async def test_another_change_through_the_core_leaves_the_raw_form(vers, registry, raw):
    vm = registered(vers, services=raw, metadata=raw)

    await registry.update("worker", vm["id"], {"name": "two", "capabilities": ["ocr"]})

    after = standing(vers, vm["id"])
    assert exactly({**after, "lastSeen": vm["lastSeen"]}) == exactly({**vm, "name": "two"})


async def test_after_the_core_changed_it_vers_may_say_null_again(vers, registry):
    vm = registered(vers, metadata=None)
    await registry.update("worker", vm["id"], {"metadata": {"new": 1}})

    assert vers.patch(at(vm["id"]), json={"metadata": None}).json()["metadata"] is None

    assert standing(vers, vm["id"])["metadata"] is None
    assert (await registry.get(vm["id"])).metadata == {}


async def test_what_was_absent_and_given_through_the_core_is_shown(vers, registry):
    vm = registered(vers)

    await registry.update("worker", vm["id"], {"metadata": {"a": 1}, "services": [{"name": "x", "port": 1}]})

    assert standing(vers, vm["id"])["metadata"] == {"a": 1}
    assert standing(vers, vm["id"])["services"] == [{"name": "x", "port": 1}]


# --- when nobody answers ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def served(vers_up, tmp_path_factory):
    """A face of a realm in which no worker is."""
    with faces(
        vers_up["nats"], tmp_path_factory.mktemp("nobody"), nobody=Face(("--realm", "nobody-works-here"))
    ) as served:
        yield served["nobody"]


CALLS = [
    ("POST", VMS),
    ("GET", VMS),
    ("GET", f"{VMS}?status=running"),
    ("GET", f"{VMS}/x"),
    ("PATCH", f"{VMS}/x"),
    ("DELETE", f"{VMS}/x"),
    ("POST", f"{VMS}/x/heartbeat"),
    ("GET", "/registry/discover/worker"),
]


@pytest.fixture(scope="module")
def unanswered(served):
    """Every call, made at the same time: (method, path) -> answer."""

    def ask(call):
        method, path = call
        return served.http.request(method, path, json=None if method in ("GET", "DELETE") else vm())

    with ThreadPoolExecutor(len(CALLS)) as pool:
        return dict(zip(CALLS, pool.map(ask, CALLS), strict=True))


@pytest.mark.parametrize(("method", "path"), CALLS)
def test_without_a_worker_the_registry_is_unavailable(unanswered, method, path):
    refused(unanswered[method, path], 503, "Registry unavailable")


def test_without_a_worker_faults_of_a_request_are_still_told(served):
    refused(served.http.post(VMS, content=b"{"), 400, "Invalid JSON")
    refused(served.http.post(VMS, json=vm(role="boss")), 400, "invalid role: boss")
    nowhere(served.http.get("/registry/vms/"))


def test_without_a_worker_the_face_is_healthy(served):
    assert served.http.get("/health").json()["status"] == "ok"


# --- who holds an id --------------------------------------------------------------------------------------------------


def test_a_conflict_tells_the_log_who_holds_the_id(vers_served):
    holder = fresh("holder")
    entry = registered(vers_served.http, registeredBy=holder)

    refused(vers_served.http.post(VMS, json=vm(id=entry["id"])), 409, "VM already registered")

    told = [line for line in vers_served.process.said().splitlines() if entry["id"] in line and holder in line]
    assert any("vers:shared" in line for line in told)

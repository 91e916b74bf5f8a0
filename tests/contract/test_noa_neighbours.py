"""noa, sections 11 and 12: an agent registered here is an agent everywhere, and the other way round."""

import time
from urllib.parse import quote

import pytest

import rollcall
from rollcall.bus import streams
from rollcall.bus.connection import connected
from rollcall.bus.subjects import Subjects
from tests.conftest import eventually
from tests.contract.noa import AGENT, Now, moment, ordered, unique, until


@pytest.fixture
async def registry(noa):
    async with rollcall.connect(noa.nats) as registry:
        yield registry


# From noa to the others


async def test_an_agent_of_noa_is_an_agent_of_its_role(noa, registry):
    kind = unique()
    id = noa.register(
        name="n",
        type=kind,
        category="c",
        version="1.2",
        capabilities=["ocr"],
        endpoints={"http": "http://h:1", "grpc": "grpc://h:2"},
        metadata={"zone": {"n": 1}},
    )

    [entry] = (await registry.discover(kind)).agents

    assert (entry.id, entry.role, entry.name, entry.category, entry.version) == (id, kind, "n", "c", "1.2")
    assert entry.capabilities == ("ocr",)
    assert entry.endpoints == {"http": "http://h:1", "grpc": "grpc://h:2"}
    assert entry.metadata == {"zone": {"n": 1}}
    assert entry.address == "http://h:1"
    assert entry.status == "running"


async def test_without_type_and_name_they_are_none_and_the_id(noa, registry):
    id = noa.register()

    entry = await registry.get(id)

    assert (entry.role, entry.name) == ("none", id)


@pytest.mark.parametrize(("word", "status"), [("active", "running"), ("busy", "paused"), ("", "paused")])
async def test_active_is_running_and_any_other_word_is_paused(noa, registry, word, status):
    id = noa.register()

    noa.word(id, word)

    assert (await registry.get(id)).status == status


async def test_health_reaches_the_others(noa, registry):
    id = noa.register()

    noa.beat(id, {"health": {"status": "healthy", "cpu_percent": 12.5, "error_count": 2, "metrics": {"q": 1}}})

    health = (await registry.get(id)).health
    assert (health.status, health.cpu_percent, health.error_count) == ("healthy", 12.5, 2)
    assert health.metrics == {"q": 1}


async def test_who_leaves_noa_is_gone_everywhere(noa, registry):
    id = noa.register()

    noa.told("DELETE", f"/agents/{id}")

    with pytest.raises(rollcall.NotFound):
        await registry.get(id)


async def test_each_change_is_broadcast(noa, registry):
    kind = unique()
    async with registry.watch(kind) as watch:
        id = noa.register(type=kind)
        noa.word(id, "busy")
        noa.told("DELETE", f"/agents/{id}")

        changes = [await anext(watch) for _ in range(3)]

    assert [(change.kind, change.id) for change in changes] == [
        ("registered", id),
        ("updated", id),
        ("deregistered", id),
    ]


async def test_a_beat_is_no_change(noa, registry):
    id = noa.register()
    before = (await registry.get(id)).revision

    noa.beat(id, {"health": {"status": "healthy"}})

    assert (await registry.get(id)).revision == before


# From the others to noa


async def test_an_agent_of_the_sdk_is_a_whole_agent_of_noa(noa, registry):
    role, id = unique(), unique("sdk")
    with Now() as now:
        await registry.register(
            role,
            id,
            name="n",
            category="c",
            version="2",
            capabilities=["ocr"],
            endpoints={"http": "http://h:1"},
            metadata={"k": [1]},
            ttl=None,
        )

    agent = noa.agent(id)

    assert ordered(agent, AGENT)
    assert (agent["id"], agent["name"], agent["type"], agent["category"], agent["version"]) == (id, "n", role, "c", "2")
    assert (agent["capabilities"], agent["endpoints"]) == (["ocr"], {"http": "http://h:1"})
    assert (agent["metadata"], agent["status"]) == ({"k": [1]}, "active")
    assert moment(agent["registered_at"]) in now


async def test_agents_of_the_sdk_are_listed_and_discovered(noa, registry):
    role, id = unique(), unique("sdk")
    await registry.register(role, id, capabilities=["a"], ttl=None)

    assert noa.ids(type=role, status="active") == [id]
    assert noa.found(type=role, capabilities=["a"]) == [id]


@pytest.mark.parametrize("id", ["a b", "team/one", "ü.dot", "per%cent", "a+b&c=d?#", "..", "register"])
async def test_any_id_is_found_by_its_path(noa, registry, id):
    id = id if id in ("..", "register") else f"{id} {unique()}"
    await registry.register(unique(), id, ttl=None)
    path = "/agents/" + (quote(id, safe="") if id != ".." else "%2E%2E")

    found = noa.get(path)
    health = noa.get(path + "/health")
    beaten = noa.told("POST", path + "/heartbeat", {})
    left = noa.told("DELETE", path)

    assert [found["id"], health["agent_id"], beaten["id"], left["id"]] == [id] * 4


async def test_an_agent_of_the_sdk_beats_by_noa(noa, registry):
    id = unique("sdk")
    await registry.register("worker", id, ttl=60)
    before = await registry.get(id)
    until(lambda: time.time() > moment(before.last_seen) + 0.05)

    noa.beat(id)

    assert (await registry.get(id)).last_seen > before.last_seen


async def test_health_of_the_sdk_is_health_here(noa, registry):
    id = unique("sdk")
    await registry.register("worker", id, ttl=60)

    await registry.heartbeat("worker", id, health=rollcall.Health(status="degraded", cpu_percent=5))

    await eventually(lambda: noa.agent(id)["health"]["status"] == "degraded")
    assert noa.agent(id)["health"]["cpu_percent"] == 5


async def test_who_leaves_by_the_sdk_is_gone_here(noa, registry):
    id = unique("sdk")
    await registry.register("worker", id)

    await registry.deregister("worker", id)

    assert noa.get(f"/agents/{id}", status=404) == {"error": "Agent not found"}


# Both hold the same agent


async def test_what_the_sdk_changes_is_seen_here(noa, registry):
    kind = unique()
    id = noa.register(type=kind, name="old", metadata={"k": 1})

    await registry.update(kind, id, {"name": "new", "metadata": {"k": 2}, "capabilities": ["a"], "version": "3"})

    agent = noa.agent(id)
    assert (agent["name"], agent["metadata"], agent["version"]) == ("new", {"k": 2}, "3")
    assert agent["capabilities"] == ["a"]


@pytest.mark.parametrize(
    ("patch", "key", "value"),
    [
        ({"capabilities": ["a"]}, "capabilities", ["a"]),
        ({"endpoints": {"http": "h"}}, "endpoints", {"http": "h"}),
        ({"metadata": {"k": 1}}, "metadata", {"k": 1}),
        ({"name": "given"}, "name", "given"),
        ({"category": "c"}, "category", "c"),
    ],
    ids=str,
)
async def test_a_null_counts_only_while_nobody_says_more(noa, registry, patch, key, value):
    id = noa.register()

    await registry.update("none", id, patch)

    assert noa.agent(id)[key] == value


@pytest.mark.parametrize("key", ["capabilities", "endpoints", "metadata"])
async def test_a_null_stays_null_when_something_else_changes(noa, registry, key):
    id = noa.register()

    await registry.update("none", id, {"version": "2"})

    assert noa.agent(id)[key] is None


async def test_a_word_of_noa_counts_until_another_sets_the_status(noa, registry):
    kind = unique()
    id = noa.register(type=kind)
    noa.word(id, "busy")

    await registry.update(kind, id, {"version": "2"})
    kept = noa.agent(id)["status"]
    await registry.update(kind, id, {"status": "running"})

    assert kept == "busy"
    assert noa.agent(id)["status"] == "active"


async def test_a_pause_by_the_sdk_is_not_active(noa, registry):
    kind = unique()
    id = noa.register(type=kind)

    await registry.update(kind, id, {"status": "paused"})

    assert noa.agent(id)["status"] not in ("active", "unhealthy", "")
    assert noa.ids(type=kind, status="active") == []


# On the bus


async def test_messages_lie_in_a_stream_of_100_for_a_day(noa, noa_up):
    noa.told("POST", f"/agents/{noa.register()}/message", {})
    seed = (noa_up["home"] / "worker.nk").read_text().strip()

    async with connected(noa.nats, name="test", nkey_seed=seed) as inside:
        config = (await streams.request(inside, "STREAM.INFO.ROLLCALL_default_MESSAGES"))["config"]

    assert (config["max_msgs_per_subject"], config["max_age"]) == (100, 24 * 3600 * 10**9)
    assert all(subject.startswith(f"rollcall.{Subjects('default').realm}.") for subject in config["subjects"])


# The listener that carries all dialects


def test_beside_the_other_dialects_health_says_its_uptime(noa_combined):
    answer = noa_combined.get("/health")

    assert ordered(answer, ["status", "service", "timestamp", "version", "agents", "dependencies"])
    assert answer["uptime"] >= 0


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/agents"), ("PATCH", "/agents/x"), ("GET", "/analytics/nothing"), ("GET", "/agents/x/y/z")],
)
def test_beside_the_other_dialects_unknown_paths_of_noa_are_a_text(noa_combined, method, path):
    answer = noa_combined.ask(method, path)

    assert (answer.status_code, answer.text) == (404, "404 page not found")
    assert answer.headers["content-type"].split(";")[0] == "text/plain"


def test_beside_the_other_dialects_noa_is_the_same(noa_combined, noa):
    kind = unique()
    id = noa_combined.register(type=kind, name="n")

    assert noa_combined.agent(id) == noa.agent(id)
    assert noa_combined.ids(type=kind) == [id]
    assert noa_combined.get("/agents/nobody", status=404) == {"error": "Agent not found"}
    assert noa_combined.told("POST", "/agents/register", b"{", status=400) == {"error": "Invalid request format"}


@pytest.mark.parametrize("path", ["/analytics/overview", "/analytics/health", "/metrics"])
def test_beside_the_other_dialects_everything_counts(noa_combined, path):
    assert noa_combined.ask("GET", path).status_code == 200

"""Metrics: what is told, that it can be read, and that it stays small."""

import json
from contextlib import AsyncExitStack

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import eventually
from tests.faces.http.opened import face, opened, raw
from tests.faces.http.sse import watching
from tests.processes import Process


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """There are few workers, and they answer at once."""
    monkeypatch.setattr("rollcall.sdk.workers.WAIT", 0.05)


class Scraped:
    """One page of metrics."""

    def __init__(self, text: str) -> None:
        self.families = {family.name: family for family in text_string_to_metric_families(text)}
        self.samples = [sample for family in self.families.values() for sample in family.samples]

    def value(self, name, /, **labels):
        """Of the only sample of that name with those labels."""
        found = [one.value for one in self.samples if one.name == name and labels.items() <= one.labels.items()]
        assert len(found) == 1, (name, labels, found)
        return found[0]

    def labels(self, name):
        return [one.labels for one in self.samples if one.name == name]


async def scraped(http, path="/metrics"):
    answer = await http.get(path)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    names = [line.split()[2] for line in answer.text.splitlines() if line.startswith("# TYPE")]
    assert len(names) == len(set(names)), "a family is there twice"
    return Scraped(answer.text)


OF_NOA = {
    "agent_registrations": "counter",
    "agent_health": "gauge",
    "http_request_duration_seconds": "histogram",
    "active_agents": "gauge",
}
OF_WORKERS = {
    "rollcall_commands": "counter",
    "rollcall_lease_renewals": "counter",
    "rollcall_changes": "counter",
    "rollcall_guard_active": "gauge",
    "rollcall_leader": "gauge",
    "rollcall_revision_lag": "gauge",
    "rollcall_inbox_waiting": "gauge",
    "rollcall_snapshot_batch_seconds": "histogram",
    "rollcall_discover_seconds": "histogram",
}


async def test_every_promised_metric_is_told_by_its_name_and_kind(bus):
    async with opened(bus) as one:
        await one.registry.register("w", "a1")
        await one.client.get("/v1/discover/w")

        page = await scraped(one.client)

        told = {name: family.type for name, family in page.families.items()}
        assert told.items() >= {**OF_NOA, **OF_WORKERS, "rollcall_http_watchers": "gauge"}.items()
        assert all(family.documentation for family in page.families.values())


async def test_registrations_are_counted_whoever_made_them(bus):
    async with opened(bus) as one:
        before = (await scraped(one.client)).value("agent_registrations_total")
        await one.registry.register("w", "a1")
        await one.client.post("/v1/agents", json={"role": "w", "id": "a2", "name": "x"})
        await one.client.post("/v1/agents", json={"role": "w", "id": "a2", "name": "x"})

        async def counted():
            return (await scraped(one.client)).value("agent_registrations_total")

        await eventually(lambda: _equals(counted, before + 2))


async def _equals(ask, wanted):
    return await ask() == wanted


async def test_agents_are_told_by_type_status_and_health(bus):
    async with opened(bus) as one:
        await one.registry.register("w", "a1", name="first")
        await one.registry.register("w", "a2", name="second")
        await one.registry.register("w", "p1", name="paused", status="paused")
        await one.client.post("/v1/agents/a1/heartbeat", json={"status": "healthy"})
        await one.client.post("/v1/agents/a2/heartbeat", json={"status": "sick"})

        page = await scraped(one.client)

        assert page.value("active_agents", type="w", status="active") == 2
        assert page.value("active_agents", type="w", status="paused") == 1
        assert page.value("agent_health", agent_id="a1", name="first") == 1
        assert page.value("agent_health", agent_id="a2", name="second") == 0
        assert page.value("rollcall_agents") == 3
        assert page.value("rollcall_agents_by_liveness", liveness="live") == 3


async def test_commands_beats_losses_and_recoveries_are_counted(bus):
    async with opened(bus) as one:
        await one.client.post("/v1/agents", json={"role": "w", "id": "a1", "ttl": 0.5})
        await one.client.post("/v1/agents", json={"role": "w", "id": "a1"})
        await eventually(lambda: _liveness(one.client, "lost"))
        await one.client.post("/v1/agents/a1/heartbeat")
        await eventually(lambda: _liveness(one.client, "live"))

        page = await scraped(one.client)

        assert page.value("rollcall_commands_total", outcome="registered") == 1
        assert page.value("rollcall_commands_total", outcome="conflict") == 1
        assert page.value("rollcall_changes_total", kind="lost") >= 1
        assert page.value("rollcall_changes_total", kind="recovered") >= 1
        assert page.value("rollcall_lease_renewals_total") >= 1


async def _liveness(http, wanted):
    return (await http.get("/v1/agents/a1")).json()["liveness"] == wanted


async def test_every_worker_is_told_and_one_leads(bus):
    async with opened(bus) as one, bus.worker("w2"):
        await one.registry.register("w", "a1")

        async def both():
            page = await scraped(one.client)
            return page if len(page.labels("rollcall_leader")) == 2 else None

        page = await eventually(both)

        assert sorted(labels["worker"] for labels in page.labels("rollcall_leader")) == ["w1", "w2"]
        assert page.value("rollcall_leader", worker="w1") == 1
        assert page.value("rollcall_leader", worker="w2") == 0
        assert page.value("rollcall_revision_lag", worker="w1") >= 0


async def test_histograms_add_up(bus):
    async with opened(bus) as one:
        for _ in range(5):
            await one.client.get("/v1/discover/w")

        page = await scraped(one.client)

        for name, labels in (
            ("http_request_duration_seconds", {"path": "/v1/discover/{role}", "method": "GET", "status": "200"}),
            ("rollcall_discover_seconds", {"worker": "w1"}),
        ):
            buckets = [
                one for one in page.samples if one.name == f"{name}_bucket" and labels.items() <= one.labels.items()
            ]
            counts = [one.value for one in buckets]
            assert counts == sorted(counts)
            assert buckets[-1].labels["le"] == "+Inf"
            assert counts[-1] >= 5
            assert page.value(f"{name}_sum", **labels) > 0
        assert page.value("http_request_duration_seconds_count", path="/v1/discover/{role}", status="200") == 5


async def test_no_path_and_no_method_that_a_client_invents_makes_a_series(bus):
    async with opened(bus) as one:
        await one.client.get("/metrics")
        for n in range(30):
            await one.client.get(f"/v1/agents/random{n}")
            await one.client.get(f"/v1/discover/random{n}")
            await one.client.get(f"/random{n}/../%2e%2e/{n}?x={n}")
            await one.client.get(f"/registry/vms/random{n}")
            await one.client.get(f"/registry/random{n}")
            await one.client.get(f"/agents/random{n}")
            await one.client.get(f"/analytics/random{n}")
            await one.client.request("PUT", f"/v1/agents/random{n}")
            await one.client.get(f"/v1/agents?limit=x{n}")
        for method in ("TRACE", "LINK", "MKCOL", "PROPFIND", "REPORT", "SUBSCRIBE", "COPY", "LOCK"):
            await raw(one, method, "/v1/agents")

        page = await scraped(one.client)

        series = page.labels("http_request_duration_seconds_count")
        assert not [labels for labels in series if "random" in json.dumps(labels)]
        assert {labels["method"] for labels in series} <= {"GET", "PUT", "OTHER"}
        assert "/v1/agents/{id}" in {labels["path"] for labels in series}
        assert len(series) < 25


async def test_more_agents_than_the_setting_are_left_out_and_that_is_said(bus):
    async with opened(bus, per_agent=3) as one:
        await one.registry.register_many({"role": "w", "id": f"a{n}"} for n in range(3))
        few = await scraped(one.client)
        await one.registry.register_many({"role": f"type{n}", "id": f"b{n}"} for n in range(5))
        many = await scraped(one.client)

        assert len(few.labels("agent_health")) == 3
        assert few.value("rollcall_agent_health_left_out") == 0
        assert many.labels("agent_health") == []
        assert many.value("rollcall_agent_health_left_out") == 1
        assert "3 agents" in many.families["rollcall_agent_health_left_out"].documentation
        assert many.value("rollcall_agents") == 8
        assert len(many.labels("active_agents")) <= 3


async def test_names_that_need_escapes_come_back_as_they_are(bus):
    name, id, role = 'a "b"\nc\\d é{},= 🐟', 'x"y\\z', 'r"\\o{}'
    async with opened(bus) as one:
        await one.registry.register(role, id, name=name)

        page = await scraped(one.client)

        assert page.labels("agent_health") == [{"agent_id": id, "name": name}]
        assert {"type": role, "status": "active"} in page.labels("active_agents")


async def test_watchers_are_counted(bus):
    async with opened(bus) as one, watching(one.client), watching(one.client, role="w") as stream:
        await stream.next()

        assert (await scraped(one.client)).value("rollcall_http_watchers") == 2


async def test_metrics_are_told_while_nobody_serves(bus):
    async with face(bus) as url, httpx.AsyncClient(base_url=url, timeout=20) as http:
        await http.get("/nothing")

        page = await scraped(http)

        assert page.value("rollcall_up") == 0
        assert page.value("http_request_duration_seconds_count", status="404") == 1
        assert page.value("rollcall_http_watchers") == 0


async def test_two_faces_in_one_process_count_for_themselves(bus):
    async with opened(bus) as one, face(bus) as url, httpx.AsyncClient(base_url=url) as other:
        await one.client.get("/v1/info")

        assert not [
            one for one in (await scraped(other)).labels("http_request_duration_seconds_count") if "info" in one["path"]
        ]


async def test_a_worker_process_serves_metrics_of_its_own(bus, tmp_path):
    key = tmp_path / "worker.nk"
    key.write_text(bus.server.worker_seed)
    key.chmod(0o600)
    arguments = ["--nats", bus.url, "--realm", bus.realm, "--key", str(key), "--data-dir", str(tmp_path / "data")]
    ready = tmp_path / "ready.json"
    started = ["worker", *arguments, "--metrics", "127.0.0.1:0", "--ready-file", str(ready)]
    with Process(*started, home=tmp_path) as process:
        told = process.ready(ready)
        assert told["metrics"].startswith("http://127.0.0.1:")
        async with AsyncExitStack() as stack:
            registry = await stack.enter_async_context(bus.registry())
            http = await stack.enter_async_context(httpx.AsyncClient(timeout=20))
            await eventually(lambda: _leader(registry))
            await registry.register("w", "a1")
            await registry.discover("w")

            page = await scraped(http, told["metrics"])
            elsewhere = await http.get(told["metrics"].replace("/metrics", "/v1/agents"))
            posted = await http.post(told["metrics"])

            kinds = {name: family.type for name, family in page.families.items()}
            assert kinds.items() >= OF_WORKERS.items()
            assert page.value("rollcall_leader") == 1
            assert page.value("rollcall_commands_total", outcome="registered") == 1
            assert page.value("rollcall_discover_seconds_count") >= 1
            assert elsewhere.status_code == 404
            assert posted.status_code in (200, 405)


async def _leader(registry):
    try:
        return (await registry.info())["leader"]
    except Exception:
        return None

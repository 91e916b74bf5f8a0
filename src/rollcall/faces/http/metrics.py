"""Metrics for Prometheus: of this face, of the agents, and of every worker of the realm."""

import asyncio
import time
from collections import Counter as Count
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rollcall import Page, Registry, Unavailable
from rollcall.core.instants import Seconds
from rollcall.faces.http.access import Access, Token
from rollcall.faces.http.events import Hub
from rollcall.faces.http.noa.agents import Agent
from rollcall.faces.http.replies import bearer_header
from rollcall.faces.http.settings import FaceSettings
from rollcall.sdk.clock import now_ms

# Without this each counter brings a second metric along that says when it was made.
disable_created_metrics()  # type: ignore[no-untyped-call]

ROUTE = "rollcall.route"
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
ANSWER_WITHIN: Seconds = 3.0
MEDIA = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """What one face measures, and what it can ask."""

    def __init__(self, registry: Registry, hub: Hub, settings: FaceSettings) -> None:
        self._registry = registry
        self._hub = hub
        self._settings = settings
        self._own = CollectorRegistry()
        self._registrations = Counter("agent_registrations", "Total number of agent registrations", registry=self._own)
        self._counted = 0
        self.requests = Histogram(
            "http_request_duration_seconds",
            "Seconds from a request to the end of its answer",
            ("method", "path", "status"),
            registry=self._own,
        )

    async def page(self) -> Response:
        """Everything, in the text format."""
        self._registrations.inc(self._hub.registrations - self._counted)
        self._counted = self._hub.registrations
        agents, workers = await asyncio.gather(self._of_agents(), self._workers())
        families = [*self._of_this_face(), *agents, *worker_families(workers)]
        return page(self._own, families)

    async def _everybody(self) -> Page | None:
        """All agents; None when the registry does not answer soon: whoever scrapes waits some seconds at most."""
        if not self._registry.connected:
            return None
        try:
            return await self._registry.list(exact=True, timeout=ANSWER_WITHIN)
        except Unavailable:
            return None

    async def _workers(self) -> Sequence[dict[str, Any]]:
        try:
            return await self._registry.workers(timeout=ANSWER_WITHIN) if self._registry.connected else ()
        except Unavailable:
            return ()

    def _of_this_face(self) -> Iterator[Metric]:
        yield GaugeMetricFamily("rollcall_http_watchers", "Clients that watch over HTTP", len(self._hub))
        yield CounterMetricFamily(
            "rollcall_http_watchers_dropped", "Clients that were too slow to watch", self._hub.dropped
        )

    async def _of_agents(self) -> list[Metric]:
        started = time.monotonic()
        page = await self._everybody()
        if page is None:
            return [GaugeMetricFamily("rollcall_up", "Whether the registry answers", 0)]
        now = now_ms()
        agents = [Agent(entry, now, self._settings.noa) for entry in page]
        active = GaugeMetricFamily("active_agents", "Agents per type and status", labels=("type", "status"))
        kinds = Count((agent.type, agent.status) for agent in agents)
        for (kind, status), count in kinds.most_common(self._settings.per_agent):
            active.add_metric((kind, status), count)
        health = GaugeMetricFamily(
            "agent_health", "Agent health status (1=healthy, 0=unhealthy)", labels=("agent_id", "name")
        )
        left_out = len(agents) > self._settings.per_agent
        for agent in [] if left_out else agents:
            health.add_metric((agent.entry.id, agent.name), int(agent.well))
        return [
            GaugeMetricFamily("rollcall_up", "Whether the registry answers", 1),
            GaugeMetricFamily("rollcall_agents", "Agents on the roll", len(agents)),
            active,
            health,
            GaugeMetricFamily(
                "rollcall_agent_health_left_out",
                f"1 while agent_health is left out, because there are more than {self._settings.per_agent} agents",
                int(left_out),
            ),
            GaugeMetricFamily(
                "rollcall_list_seconds", "Seconds that listing all agents took", time.monotonic() - started
            ),
        ]


def page(own: CollectorRegistry, families: Iterable[Metric]) -> Response:
    """Metrics in the text format."""
    asked = CollectorRegistry()
    asked.register(_Told(families))
    return Response(generate_latest(own) + generate_latest(asked), headers={"content-type": MEDIA})


class _Told:
    """Families that are at hand, as a collector."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = list(families)

    def collect(self) -> Iterator[Metric]:
        return iter(self._families)


def worker_families(workers: Sequence[dict[str, Any]]) -> Iterator[Metric]:
    """What the workers say of themselves, as `Worker.info` tells it."""
    newest = max((info["revision"] for info in workers), default=0)
    gauges: dict[str, tuple[str, Any]] = {
        "rollcall_revision": ("The newest change that the worker folded", lambda info: info["revision"]),
        "rollcall_revision_lag": (
            "Changes that another worker folded and this one did not",
            lambda info: newest - info["revision"],
        ),
        "rollcall_durable_lag": ("Changes not on disk yet", lambda info: info["revision"] - info["durable"]),
        "rollcall_leader": ("1 for the worker that leads", lambda info: int(info["leads"])),
        "rollcall_guard_active": ("1 while the guard holds agents", lambda info: int(info["guard"] is not None)),
        "rollcall_guard_held": ("Agents that the guard holds", lambda info: (info["guard"] or {}).get("held", 0)),
        "rollcall_inbox_waiting": (
            "Commands taken and not settled",
            lambda info: info["inbox"]["waiting"] if info["inbox"] else 0,
        ),
    }
    for name, (meaning, value) in gauges.items():
        gauge = GaugeMetricFamily(name, meaning, labels=("worker",))
        for info in workers:
            gauge.add_metric((info["worker"],), value(info))
        yield gauge
    yield _liveness(workers)
    beats = CounterMetricFamily("rollcall_lease_renewals", "Beats heard", labels=("worker",))
    for info in workers:
        beats.add_metric((info["worker"],), info["beats"])
    yield beats
    for name, label, meaning in (
        ("commands", "outcome", "Commands that the worker settled while it led"),
        ("changes", "kind", "Changes that the worker folded since it started, such as lost and recovered"),
        ("signatures", "result", "Signatures of commands and signs of life: verified, or why they proved nothing"),
    ):
        counter = CounterMetricFamily(f"rollcall_{name}", meaning, labels=("worker", label))
        for info in workers:
            for what, count in info["counts"][name].items():
                counter.add_metric((info["worker"], what), count)
        yield counter
    for name, meaning in (
        ("snapshot_batch", "Seconds that one batch took to reach the disk"),
        ("discover", "Seconds from a question to its answer, in the worker"),
    ):
        histogram = HistogramMetricFamily(f"rollcall_{name}_seconds", meaning, labels=("worker",))
        for info in workers:
            told = info["counts"][name]
            histogram.add_metric((info["worker"],), [(le, n) for le, n in told["buckets"]], told["sum"])
        yield histogram


def _liveness(workers: Sequence[dict[str, Any]]) -> Metric:
    gauge = GaugeMetricFamily(
        "rollcall_agents_by_liveness", "Agents per liveness, as the worker sees them", labels=("worker", "liveness")
    )
    for info in workers:
        for liveness, count in info["liveness"].items():
            gauge.add_metric((info["worker"], liveness), count)
    return gauge


class WorkerMetrics:
    """The metrics of one worker process, for a listener of its own."""

    def __init__(self, info: Callable[[], dict[str, Any]], tokens: tuple[Token, ...]) -> None:
        self._info = info
        self._tokens = tokens

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request; there is nothing but ``/metrics``."""
        if scope["type"] != "http":
            return
        if self._tokens and not Access(self._tokens).granted(bearer_header(Request(scope))):
            headers = {"WWW-Authenticate": "Bearer"}
            response = Response("send 'Authorization: Bearer TOKEN'\n", 401, headers, "text/plain")
        elif scope["path"] == "/metrics":
            response = page(CollectorRegistry(), worker_families([self._info()]))
        else:
            response = Response("metrics are at /metrics\n", 404, media_type="text/plain")
        await response(scope, receive, send)


def matched(request: Request, path: str) -> None:
    """Says which route answers the request: few paths are known, and many are sent."""
    told: dict[str, str] = request.scope.get(ROUTE, {})
    told["route"] = path


class Measured:
    """Times every request; plain ASGI, around everything else. Paths are told as their routes: few and known."""

    def __init__(self, app: ASGIApp, requests: Histogram) -> None:
        self._app = app
        self._requests = requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        status = 0
        told: dict[str, str] = {}
        scope[ROUTE] = told

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, sent)
        finally:
            method = scope["method"] if scope["method"] in METHODS else "OTHER"
            labels = (method, told.get("route", "unmatched"), str(status))
            self._requests.labels(*labels).observe(time.perf_counter() - started)

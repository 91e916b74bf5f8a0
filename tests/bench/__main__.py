"""What the registry does on this machine, beside what bare NATS does in the same run.

    python -m tests.bench                 # everything, about two minutes
    python -m tests.bench discover beats  # only these

Server and worker run as `rollcall up` in a process of their own; the load comes from this process, or from others
where one is not enough. Everything is on loopback and bounded. Figures of a noisy machine are lower bounds.
"""

import argparse
import asyncio
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import uvloop
from rich.console import Console
from rich.table import Table

import rollcall
from rollcall.bus.connection import barrier
from tests.bench.files import files
from tests.bench.liveness import deaths, frozen
from tests.bench.load import answer_bare, send_beats
from tests.bench.signatures import signatures
from tests.bench.web import http
from tests.conftest import eventually, leads
from tests.processes import Process

Rows = list[tuple[str, str, str]]
console = Console()

PROFILE = {"capabilities": ["ocr", "plan"], "endpoints": {"http": "http://10.0.0.1:8080"}, "labels": {"zone": "a"}}


class Place:
    """A registry of its own for one measurement."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.ready = home / "ready.json"
        self.url = ""
        self.process: Process | None = None

    def start(self) -> None:
        self.ready.unlink(missing_ok=True)
        arguments = ["up", "--data-dir", str(self.home / "data"), "--nats-port", "0", "--ready-file", str(self.ready)]
        self.process = Process(*arguments, "--log-level", "warning", home=self.home)
        self.url = self.process.ready(self.ready)["nats"]

    def stop(self) -> None:
        if self.process is not None:
            self.process.__exit__()

    def memory(self) -> int:
        """Resident bytes of the worker process, in MB."""
        assert self.process is not None
        for line in Path(f"/proc/{self.process.popen.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) // 1024
        return 0


@asynccontextmanager
async def served() -> AsyncIterator[tuple[Place, rollcall.Registry]]:
    with tempfile.TemporaryDirectory(prefix="rollcall-bench-") as home:
        place = Place(Path(home))
        place.start()
        try:
            async with rollcall.connect(place.url) as registry:
                await leads(registry)
                yield place, registry
        finally:
            place.stop()


def percentiles(samples: list[float]) -> tuple[float, float]:
    ordered = sorted(samples)
    return statistics.median(ordered) * 1000, ordered[int(len(ordered) * 0.99) - 1] * 1000


def fleet(count: int, roles: int = 1000, start: int = 0) -> list[dict[str, Any]]:
    return [
        {"role": f"role{number % roles}", "id": f"agent-{number}", "ttl": 3600, **PROFILE}
        for number in range(start, start + count)
    ]


async def registrations() -> Rows:
    rows: Rows = []
    async with served() as (_, registry):
        for callers, goal in ((64, ">= 8,000/s"), (256, "")):
            rate = await _called(registry, callers, 20_480)
            rows.append((f"registrations answered, {callers} callers", f"{rate:,.0f}/s", goal))

        many = fleet(40_000, roles=8, start=1_000_000)
        started = time.perf_counter()
        outcomes = await registry.register_many(many, timeout=60)
        rate = len(many) / (time.perf_counter() - started)
        assert all(isinstance(outcome, rollcall.Entry) for outcome in outcomes)
        rows.append(("registrations answered, bulk call", f"{rate:,.0f}/s", ">= 10,000/s"))
    return rows


async def _called(registry: rollcall.Registry, callers: int, count: int) -> float:
    """Registrations a second by so many callers, each waiting for its answer before the next."""

    async def call(caller: int) -> None:
        for number in range(count // callers):
            await registry.register(f"role{caller % 8}", f"of-{callers}-{caller}-{number}", timeout=30, **PROFILE)

    started = time.perf_counter()
    await asyncio.gather(*(call(caller) for caller in range(callers)))
    return count / (time.perf_counter() - started)


async def latency() -> Rows:
    async with served() as (place, registry), rollcall.connect(place.url) as other, other.watch("one") as watch:
        answered, seen = [], []
        for number in range(1000):
            started = time.perf_counter()
            asked = asyncio.create_task(registry.register("one", f"alone-{number}", **PROFILE))
            await anext(watch)
            seen.append(time.perf_counter() - started)
            await asked
            answered.append(time.perf_counter() - started)
        p50, p99 = percentiles(answered)
        watched, _ = percentiles(seen)
        return [
            ("one registration alone, answered", f"p50 {p50:.2f} ms, p99 {p99:.2f} ms", "p50 <= 2 ms"),
            ("one registration alone, at a watcher", f"p50 {watched:.2f} ms", "p50 <= 0.8 ms"),
        ]


async def beats() -> Rows:
    rows: Rows = []
    async with served() as (_, registry):
        agents = 2000
        await registry.register_many(
            [{"role": "role0", "id": f"agent-{number}", "ttl": 3600, "host": "bench"} for number in range(agents)],
            timeout=60,
        )
        for together, count, goal in (
            (1, 300_000, ">= 60,000/s"),
            (16, 2_000_000, ">= 200,000/s"),
            (256, 4_000_000, ""),
        ):
            before = (await registry.info())["beats"]
            process = multiprocessing.get_context("spawn").Process(
                target=send_beats, args=(registry.url, together, count, agents)
            )
            process.start()
            first = await eventually(lambda b=before: _more_beats(registry, b + 1), within=30)
            started = time.perf_counter()
            await eventually(lambda b=before, c=count: _more_beats(registry, b + c * 0.99), within=120)
            counted = (await registry.info())["beats"] - first
            rate = counted / (time.perf_counter() - started)
            await asyncio.to_thread(process.join)
            rows.append((f"beats folded, {together} per message", f"{rate:,.0f}/s", goal))
    return rows


async def _more_beats(registry: rollcall.Registry, wanted: float) -> int:
    beats = (await registry.info())["beats"]
    return beats if beats >= wanted else 0


async def discover() -> Rows:
    async with served() as (place, registry):
        await registry.register_many(fleet(10_000), timeout=60)
        async with rollcall.connect(place.url) as asker:
            page = await asker.discover("role7")
            assert len(page) == 10
            client, subjects = asker.bus
            body = (await client.request(subjects.discover("role7"), b"")).data
            context = multiprocessing.get_context("spawn")
            ready = context.Event()
            bare = context.Process(target=answer_bare, args=(place.url, body, ready))
            bare.start()
            await asyncio.to_thread(ready.wait)
            await barrier(client)
            ours, theirs, wire = [], [], []
            for _ in range(3000):
                # In turns, so that whatever else this machine does falls on all of them.
                theirs.append(await _timed(lambda: client.request("bench.bare", b"{}")))
                wire.append(await _timed(lambda: client.request(subjects.discover("role7"), b"{}")))
                ours.append(await _timed(lambda: asker.discover("role7")))
            bare.kill()
            bare.join()
    bare_p50, _ = percentiles(theirs)
    wire_p50, _ = percentiles(wire)
    p50, p99 = percentiles(ours)
    return [
        ("bare NATS request-reply, same bytes", f"p50 {bare_p50:.3f} ms", ""),
        ("discover 10 of 10,000, on the wire", f"p50 {wire_p50:.3f} ms = {wire_p50 / bare_p50:.2f}x bare", "<= 1.3x"),
        (
            "discover 10 of 10,000, with the SDK",
            f"p50 {p50:.3f} ms, p99 {p99:.2f} = {p50 / bare_p50:.2f}x bare",
            "<= 1.3x",
        ),
    ]


async def _timed(call: Callable[[], Awaitable[Any]]) -> float:
    started = time.perf_counter()
    await call()
    return time.perf_counter() - started


async def restart() -> Rows:
    with tempfile.TemporaryDirectory(prefix="rollcall-bench-") as home:
        place = Place(Path(home))
        place.start()
        count = 100_000
        async with rollcall.connect(place.url) as registry:
            await leads(registry)
            await registry.register_many(fleet(count), timeout=120)
            before = place.memory()
        place.stop()
        started = time.perf_counter()
        place.start()
        served_after = time.perf_counter() - started
        async with rollcall.connect(place.url) as registry:
            page = await registry.discover("role7")
            took = time.perf_counter() - started
            assert len(page) == count // 1000
            after = place.memory()
        place.stop()
    return [
        ("restart with 100,000 agents, first answer", f"{took:.2f} s (ready file {served_after:.2f} s)", "< 1.5 s"),
        ("memory with 100,000 agents", f"{after} MB after restart, {before} MB after load", "< 300 MB"),
    ]


ALL = {
    "registrations": registrations,
    "latency": latency,
    "beats": beats,
    "discover": discover,
    "restart": restart,
    "deaths": deaths,
    "http": http,
    "signatures": signatures,
    "files": files,
    "frozen": frozen,
}


async def main(wanted: list[str]) -> None:
    table = Table(
        "what",
        "measured",
        "goal",
        title=f"{time.strftime('%Y-%m-%d')}, {os.cpu_count()} cores, {sys.version.split()[0]}",
    )
    for name in wanted or ALL:
        with console.status(f"measuring {name}"):
            for row in await ALL[name]():
                table.add_row(*row)
    console.print(table)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("what", nargs="*", choices=[*ALL, []], help="what to measure; default everything")
    uvloop.run(main(parser.parse_args().what))

"""The HTTP face under many clients, beside a bare FastAPI route that returns the same bytes."""

import asyncio
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import urlsplit

import rollcall
from tests.conftest import leads
from tests.processes import Process

CLIENTS = 200
SECONDS = 30.0
AGENTS = 20

Rows = list[tuple[str, str, str]]


async def http() -> Rows:
    """Discover by 200 clients, each on a connection of its own, for half a minute; then the bare route."""
    with tempfile.TemporaryDirectory(prefix="rollcall-bench-") as place:
        home = Path(place)
        ready = home / "ready.json"
        up = ["up", "--data-dir", str(home / "data"), "--nats-port", "0", "--ready-file", str(ready)]
        with Process(*up, "--log-level", "warning", home=home) as process:
            told = process.ready(ready)
            async with rollcall.connect(told["nats"]) as registry:
                await leads(registry)
                for number in range(AGENTS):
                    await registry.register("worker", f"w{number}", ttl=None, capabilities=["ocr"])
                url = f"{told['http']}/v1/discover/worker"
                body = await _one(url)
                ours = await _load(url)
        (home / "body").write_bytes(body)
        port = home / "port"
        bare = [sys.executable, "-m", "tests.bench.bare", str(home / "body"), str(port)]
        with Process(home=home, command=bare) as process:
            while not port.exists():
                await asyncio.sleep(0.05)
            theirs = await _load(f"http://127.0.0.1:{port.read_text()}/same")
    ratio = ours.rate / theirs.rate
    return [
        (f"discover over HTTP, {CLIENTS} clients, {len(body):,} bytes", f"{ours}", "no error"),
        ("a bare FastAPI route with the same bytes", f"{theirs}", ""),
        ("discover / bare", f"{ratio:.2f}", ">= 0.6"),
    ]


class Load:
    """What many clients measured."""

    def __init__(self, times: list[float], errors: int, seconds: float) -> None:
        self.rate = len(times) / seconds
        self._p99 = sorted(times)[int(len(times) * 0.99)] if times else 0.0
        self._errors = errors

    def __str__(self) -> str:
        return f"{self.rate:,.0f}/s, p99 {self._p99 * 1000:.0f} ms, {self._errors} errors"


async def _load(url: str) -> Load:
    times: list[float] = []
    errors = 0
    until = time.monotonic() + SECONDS

    async def client() -> None:
        nonlocal errors
        reader, writer = await asyncio.open_connection(*_place(url))
        question = _question(url)
        while time.monotonic() < until:
            started = time.monotonic()
            writer.write(question)
            status, _ = await _answer(reader)
            errors += status != 200
            times.append(time.monotonic() - started)
        writer.close()

    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    return Load(times, errors, SECONDS)


async def _one(url: str) -> bytes:
    reader, writer = await asyncio.open_connection(*_place(url))
    writer.write(_question(url))
    status, body = await _answer(reader)
    assert status == 200
    writer.close()
    return body


def _place(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    assert parts.hostname is not None and parts.port is not None
    return parts.hostname, parts.port


def _question(url: str) -> bytes:
    return f"GET {urlsplit(url).path} HTTP/1.1\r\nHost: bench\r\n\r\n".encode()


async def _answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    return int(head[9:12]), await reader.readexactly(length)

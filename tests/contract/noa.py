"""What the tests of the noa dialect share: a face to speak with, a court that says what it is told, a few shapes."""

import json
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx

from tests.processes import Process

AGENT = [
    "id",
    "name",
    "type",
    "category",
    "version",
    "capabilities",
    "endpoints",
    "status",
    "health",
    "metadata",
    "registered_at",
    "last_seen",
    "heartbeat",
]
HEALTH = [
    "status",
    "last_check",
    "uptime_seconds",
    "cpu_percent",
    "memory_percent",
    "active_connections",
    "error_count",
    "metrics",
]
HEARTBEAT = ["interval_seconds", "last_beat", "missed_beats", "enabled"]
MESSAGE = ["to", "type", "content", "data", "timestamp", "id"]

NOT_BODIES = {
    "malformed": b'{"name": ',
    "empty": b"",
    "an array": b"[]",
    "a number": b"5",
    "a text": b'"text"',
    "true": b"true",
}
"""Bodies that no call takes."""

SLACK = 0.01
"""Seconds that two readings of the same clock may differ, as the answer holds whole milliseconds."""

ABSENT = object()


def unique(what: str = "t") -> str:
    return f"{what}-{secrets.token_hex(4)}"


def moment(text: str) -> float:
    """The seconds since 1970 of a time as the contract writes it: RFC 3339, sub-second digits, `Z`."""
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", text), text
    return datetime.fromisoformat(text).timestamp()


def ordered(given: dict[str, Any], keys: list[str]) -> bool:
    """Whether all of `keys` are there, in this order; others may be among them."""
    return [key for key in given if key in keys] == keys


def until(right: Callable[[], Any], *, within: float = 15.0, what: str = "") -> Any:
    """Polls until `right` answers something true, and returns that."""
    deadline = time.monotonic() + within
    while not (value := right()):
        assert time.monotonic() < deadline, f"not within {within} s: {what or right}"
        time.sleep(0.02)
    return value


class Now:
    """A span that a moment must lie in: `with Now() as now: ...`, then `moment(...) in now`."""

    def __enter__(self) -> "Now":
        self.begin = time.time()
        return self

    def __exit__(self, *_: object) -> None:
        self.end = time.time()

    def __contains__(self, seconds: float) -> bool:
        return self.begin - SLACK <= seconds <= self.end + SLACK


class Face:
    """One listener, spoken to over HTTP."""

    def __init__(self, url: str, process: Process, nats: str, media: str = "application/json; charset=utf-8") -> None:
        self.url = url
        self.media = media
        self.process = process
        self.nats = nats
        self.http = httpx.Client(base_url=url, timeout=30)

    def ask(self, method: str, path: str, body: Any = ABSENT, **more: Any) -> httpx.Response:
        """One request. `body` is sent as JSON, None as `null`, bytes as they are."""
        if body is not ABSENT:
            more["content"] = body if isinstance(body, bytes) else json.dumps(body)
            more.setdefault("headers", {"Content-Type": "application/json"})
        return self.http.request(method, path, **more)

    def told(self, method: str, path: str, body: Any = ABSENT, *, status: int = 200) -> Any:
        """What a request is answered, which must be JSON with this status."""
        answer = self.ask(method, path, body)
        assert answer.status_code == status, f"{method} {path}: {answer.status_code} {answer.text}"
        assert answer.headers["content-type"] == self.media
        return answer.json()

    def get(self, path: str, *, status: int = 200) -> Any:
        return self.told("GET", path, status=status)

    def register(self, **said: Any) -> str:
        return self.told("POST", "/agents/register", said)["id"]

    def agent(self, id: str) -> dict[str, Any]:
        return self.get(f"/agents/{id}")

    def beat(self, id: str, body: Any = ABSENT) -> dict[str, Any]:
        return self.told("POST", f"/agents/{id}/heartbeat", {} if body is ABSENT else body)

    def word(self, id: str, word: str) -> dict[str, Any]:
        """Sets the status."""
        return self.told("PUT", f"/agents/{id}/status", {"status": word})

    def ids(self, **filters: str) -> list[str]:
        """Whom the list names."""
        return [agent["id"] for agent in self.ask("GET", "/agents", params=filters).json()["agents"]]

    def found(self, **query: Any) -> list[str]:
        """Whom discover names."""
        return [agent["id"] for agent in self.told("POST", "/agents/discover", query)["agents"] or []]

    def logged(self) -> list[dict[str, Any]]:
        """The log lines that are JSON objects."""
        lines = []
        for line in self.process.said().splitlines():
            try:
                said = json.loads(line)
            except ValueError:
                continue
            if isinstance(said, dict):
                lines.append(said)
        return lines


class Listening:
    """`rollcall http` in a process of its own, for a `with` block. It starts at once; who asks for `faces` waits.

    With `dialects` there is one listener for each on a free port; without, `arguments` say it all.
    """

    def __init__(
        self,
        home: Path,
        nats: str,
        *arguments: str,
        dialects: tuple[str, ...] = ("noa",),
        env: dict[str, str] | None = None,
    ) -> None:
        pairs = [word for dialect in dialects for word in ("--dialect", dialect, "--listen", "127.0.0.1:0")]
        self._ready = home / f"ready-{secrets.token_hex(4)}.json"
        words = ["http", "--nats", nats, *pairs, *arguments, "--ready-file", str(self._ready)]
        self.process = Process(*words, home=home, env=env)
        self._nats = nats
        self._clients = ExitStack()

    def __enter__(self) -> "Listening":
        return self

    def __exit__(self, *_: object) -> None:
        self._clients.close()
        self.process.__exit__()

    @cached_property
    def told(self) -> list[dict[str, str]]:
        """Each listener: its dialect and its url."""
        return self.process.ready(self._ready)["listeners"]

    @cached_property
    def faces(self) -> list[Face]:
        """One for each listener."""
        faces = [Face(one["url"], self.process, self._nats) for one in self.told]
        for face in faces:
            self._clients.enter_context(face.http)
        return faces


class Court:
    """A court of the contract, section 7, on a free port; it answers for each name as it was told."""

    YES = (200, b'{"valid": true}')

    def __init__(self, port: int = 0) -> None:
        self.rulings: dict[str, tuple[int, bytes]] = {}
        self.slow: set[str] = set()
        self.heard: list[tuple[str, Any]] = []
        self._go_on = threading.Event()
        self._port = port
        self._open()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def rules(self, ruling: bytes, *, status: int = 200) -> str:
        """A name that is judged like this."""
        name = unique("judged")
        self.rulings[name] = (status, ruling)
        return name

    def dawdles(self) -> str:
        """A name that is not judged for as long as the court lives."""
        name = unique("slow")
        self.slow.add(name)
        return name

    def asked(self, name: str) -> list[tuple[str, Any]]:
        """What was asked about a name: path and body."""
        return [(path, body) for path, body in self.heard if name in json.dumps(body)]

    @contextmanager
    def away(self) -> Iterator[None]:
        """Nobody listens on the port meanwhile."""
        self._close()
        yield
        self._open()

    def close(self) -> None:
        self._go_on.set()
        self._close()

    def _open(self) -> None:
        self._server = _CourtServer(("127.0.0.1", self._port), _Judge)
        self._server.court = self
        self._port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def _close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def judge(self, path: str, body: Any) -> tuple[int, bytes]:
        self.heard.append((path, body))
        context = body["context"]
        name = context.get("name", context.get("agent_name"))
        if name in self.slow:
            self._go_on.wait(30)
        return self.rulings.get(name, self.YES)


class _CourtServer(ThreadingHTTPServer):
    court: Court
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Whoever asked did not wait for the answer."""


class _Judge(BaseHTTPRequestHandler):
    server: _CourtServer

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        status, ruling = self.server.court.judge(self.path, body)
        self.send_response(status)
        self.send_header("Content-Length", str(len(ruling)))
        self.end_headers()
        self.wfile.write(ruling)

    def log_message(self, *_: object) -> None:
        pass

"""What the tests of the vers dialect share: bodies, paths, and answers as the contract writes them."""

import http.client
import itertools
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from email.message import Message
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import httpx
from msgspec import Struct

from tests.processes import Process

KEYS = ["id", "name", "role", "status", "address", "services", "metadata", "registeredBy", "registeredAt", "lastSeen"]
"""The order of the members of every entry (section 2)."""

INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
VMS = "/registry/vms"
COMPACT: dict[str, Any] = {"separators": (",", ":"), "ensure_ascii": False}
"""How JavaScript writes JSON."""
ABSENT: Any = object()

_numbers = itertools.count(1)


def fresh(prefix: str = "vm") -> str:
    """An id that nobody else uses."""
    return f"{prefix}-{os.getpid()}-{next(_numbers)}"


def vm(**said: Any) -> dict[str, Any]:
    """A good body of a registration, with other members where said; ABSENT takes one away."""
    body = {"id": fresh(), "name": "one", "role": "worker", "address": "one.vm.vers.sh", "registeredBy": "tests"}
    return {name: value for name, value in {**body, **said}.items() if value is not ABSENT}


def literally(name: str, literal: str, **said: Any) -> bytes:
    """A good body in which one member is that JSON text, letter by letter."""
    return json.dumps(vm(**{**said, name: "\x00here"})).replace('"\\u0000here"', literal).encode("utf-8")


def at(id: str, *more: str) -> str:
    """The path of a VM, every doubtful character percent-encoded, and dots too: a client may take them for steps."""
    return "/".join([VMS, quote(id, safe="").replace(".", "%2E"), *more])


def registered(http: httpx.Client, **said: Any) -> dict[str, Any]:
    """Registers a VM that must be accepted; its entry."""
    answer = http.post(VMS, json=vm(**said))
    assert answer.status_code == 201, answer.text
    return answer.json()


def standing(http: httpx.Client, id: str) -> dict[str, Any]:
    """The entry of a VM that must be there."""
    answer = http.get(at(id))
    assert answer.status_code == 200, answer.text
    return answer.json()


def listed(http: httpx.Client, path: str = VMS, /, **asked: str) -> list[dict[str, Any]]:
    """The VMs of a list or a discovery."""
    answer = http.get(path, params=asked or None)
    assert answer.status_code == 200, answer.text
    return answer.json()["vms"]


def which(entries: list[dict[str, Any]], ids: list[str]) -> list[str]:
    """Those of `ids` that the entries name, in the order of the entries."""
    return [entry["id"] for entry in entries if entry["id"] in ids]


def refused(answer: httpx.Response, status: int, error: str) -> None:
    """It is exactly that refusal."""
    _is(answer, status, json.dumps({"error": error}, **COMPACT), "application/json")


def refused_somehow(answer: httpx.Response, *statuses: int) -> None:
    """It is a refusal in the shape of this dialect, whatever its words."""
    said = (answer.status_code, answer.headers["content-type"], answer.text[:300])
    assert answer.status_code in statuses, said
    assert answer.headers["content-type"] == "application/json", said
    assert list(answer.json()) == ["error"], said


def _is(answer: httpx.Response, status: int, text: str, content_type: str) -> None:
    got, right = (answer.status_code, answer.text, answer.headers["content-type"]), (status, text, content_type)
    assert got == right, f"\n{got!r}, but by the contract\n{right!r}"


def nowhere(answer: httpx.Response) -> None:
    """It is the answer of a path or a method that does not exist."""
    _is(answer, 404, "404 Not Found", "text/plain; charset=UTF-8")


def raw(
    client: httpx.Client, method: str, target: str, body: bytes = b"", headers: Sequence[tuple[str, str]] = ()
) -> tuple[int, str, Message]:
    """One request whose target goes over the wire letter by letter."""
    address = urlsplit(str(client.base_url))
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=30)
    try:
        connection.putrequest(method, target, skip_accept_encoding=True)
        for name, value in headers:
            connection.putheader(name, value)
        connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        answer = connection.getresponse()
        return answer.status, answer.read().decode(), answer.headers
    finally:
        connection.close()


def exactly(value: Any) -> str:
    """JSON in which the order of members and the kind of numbers count."""
    return json.dumps(value)


def milliseconds(instant: str) -> int:
    """Milliseconds since 1970."""
    assert INSTANT.fullmatch(instant), instant
    return round(datetime.fromisoformat(instant).timestamp() * 1000)


def instant(at: float) -> str:
    """An instant as the dialect writes it; `at` is in seconds."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def until(right: Callable[[], Any], *, within: float = 15.0, what: str = "") -> Any:
    """Polls until `right` answers something true, and returns that."""
    deadline = time.monotonic() + within
    while not (value := right()):
        assert time.monotonic() < deadline, f"not within {within} s: {what or right}"
        time.sleep(0.01)
    return value


def later_than(instant: str, by: int = 0) -> None:
    """Waits until the clock shows another millisecond than `instant`, or more than `by` of them later."""
    until(lambda: time.time() * 1000 >= milliseconds(instant) + by + 1)


@contextmanager
def started(*arguments: str, home: Path, env: dict[str, str] | None = None) -> Iterator[tuple[Process, dict[str, Any]]]:
    """A serving `rollcall` command, and what its ready file says."""
    home.mkdir(parents=True, exist_ok=True)
    ready = home / f"ready-{time.monotonic_ns()}.json"
    with Process(*arguments, "--ready-file", str(ready), home=home, env=env) as process:
        yield process, process.ready(ready)


class Face(Struct):
    """How to start a `rollcall http`, which speaks vers on a listener of its own unless `speaks` says otherwise."""

    arguments: tuple[str, ...] = ()
    env: dict[str, str] = {}
    listen: tuple[str, ...] = ("--listen", "127.0.0.1:0")
    speaks: tuple[str, ...] = ("--dialect", "vers")


class Served(Struct):
    """A face that serves: its process, what its ready file says, and a client of it."""

    process: Process
    told: dict[str, Any]
    http: httpx.Client


@contextmanager
def faces(nats: str, home: Path, **asked: Face) -> Iterator[dict[str, Served]]:
    """Several faces on one bus, started at the same time."""
    home.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        processes = {}
        for name, face in asked.items():
            arguments = ("http", "--nats", nats, *face.speaks, *face.listen, *face.arguments)
            ready = ("--ready-file", str(home / f"{name}.json"))
            processes[name] = stack.enter_context(Process(*arguments, *ready, home=home, env=face.env))
        served = {}
        for name, process in processes.items():
            told = process.ready(home / f"{name}.json")
            http = stack.enter_context(httpx.Client(base_url=told["http"], timeout=30))
            served[name] = Served(process, told, http)
        try:
            yield served
        finally:
            # All at once, so that none has to wait for the others.
            for process in processes.values():
                process.popen.terminate()

"""Who else is on the bus: a connection by its bytes, an agent in a process of its own, and what is said of them."""

import asyncio
import itertools
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import unquote, urlsplit

from rollcall.bus.connection import barrier
from tests.bus.plain import Plain
from tests.conftest import Bus, eventually

_numbers = itertools.count(1)

PROGRAM = """
import asyncio, sys, rollcall

async def main(url, realm, id, ttl):
    async with rollcall.connect(url, realm=realm) as registry:
        async with registry.agent("worker", id, id=id, ttl=float(ttl)):
            await asyncio.Event().wait()

asyncio.run(main(*sys.argv[1:]))
"""


class Wire:
    """A NATS connection as its bytes are: it says hello as it likes, and ends in more than one way."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, realm: str) -> None:
        self._reader = reader
        self._writer = writer
        self._realm = realm

    async def hello(self, key: str, *, incarnation: int = 0, headers: bytes = b"") -> dict[str, Any]:
        """Says hello for an agent; returns the answer. `headers` are whole lines."""
        number, body = next(_numbers), json.dumps({"incarnation": incarnation}).encode()
        inbox = f"_INBOX.wire{number}"
        head = b"NATS/1.0\r\n" + headers + b"\r\n"
        subject = f"rollcall.{self._realm}.hello.{key}"
        sizes = f"{len(head)} {len(head) + len(body)}"
        self._write(f"SUB {inbox} {number}\r\nHPUB {subject} {inbox} {sizes}\r\n".encode() + head + body + b"\r\n")
        return json.loads(await self._message())

    async def _message(self) -> bytes:
        async with asyncio.timeout(10):
            while True:
                line = await self._reader.readline()
                assert line, "the server closed the connection"
                if line.startswith(b"PING"):
                    self._write(b"PONG\r\n")
                elif line.startswith(b"MSG"):
                    return (await self._reader.readexactly(int(line.split()[-1]) + 2))[:-2]
                elif line.startswith(b"HMSG"):
                    head, whole = (int(size) for size in line.split()[-2:])
                    return (await self._reader.readexactly(whole + 2))[head:-2]

    def _write(self, data: bytes) -> None:
        self._writer.write(data)

    async def close(self) -> None:
        """Ends as a program does that leaves, or that dies."""
        self._writer.close()
        await self._writer.wait_closed()

    async def be_given_up(self) -> None:
        """Ends as one does that the server itself gives up."""
        self._write(b"this is no command of the protocol\r\n")
        while await self._reader.readline():
            pass
        self._writer.close()


@asynccontextmanager
async def wire(bus: Bus, *, name: str = "") -> AsyncIterator[Wire]:
    address = urlsplit(bus.url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    options = {"verbose": False, "pedantic": False, "headers": True, "name": name}
    writer.write(f"CONNECT {json.dumps(options)}\r\nPING\r\n".encode())
    while not (await reader.readline()).startswith(b"PONG"):
        pass
    try:
        yield Wire(reader, writer, bus.realm)
    finally:
        writer.close()


class Living:
    """An SDK agent in a process of its own."""

    def __init__(self, popen: subprocess.Popen[bytes]) -> None:
        self._popen = popen

    def kill(self) -> None:
        """kill -9."""
        self._popen.kill()
        self._popen.wait()

    def freeze(self) -> None:
        """Stands still, with all its connections open."""
        self._popen.send_signal(signal.SIGSTOP)


@asynccontextmanager
async def living(bus: Bus, id: str, *, ttl: float = 30.0) -> AsyncIterator[Living]:
    """An agent that has registered and said hello."""
    async with bus.worker_connection() as inside:
        heard = asyncio.Event()

        async def hear(_: object) -> None:
            heard.set()

        await inside.subscribe(bus.subjects.hello(f"worker.{id}"), cb=hear)
        await barrier(inside)
        popen = subprocess.Popen([sys.executable, "-c", PROGRAM, bus.url, bus.realm, id, str(ttl)])
        try:
            await eventually(lambda: heard.is_set() or popen.poll() is not None, within=30, what="a hello")
            assert popen.poll() is None
            yield Living(popen)
        finally:
            popen.kill()
            popen.wait()


def signs(client: Plain, id: str) -> list[str]:
    """What was told of an agent by signs, oldest first."""
    return [
        json.loads(m.data)["liveness"]
        for m in client.heard
        if m.subject.startswith(f"{client.root}.signs.") and m.subject.endswith(f".{id}")
    ]


def reason(client: Plain, id: str) -> str:
    """Why the agent was lost last."""
    reasons = [
        m.headers.get("Rollcall-Reason", "")
        for m in client.heard
        if ".changes." in m.subject and m.subject.endswith(f".{id}") and m.headers["Rollcall-Change"] == "lost"
    ]
    return unquote(reasons[-1]) if reasons else ""

"""Whoever may judge commands: a court over HTTP, a service on the bus, functions. Each does what a test tells it."""

import asyncio
import json
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from nats.aio.msg import Msg

from rollcall.bus.connection import barrier
from rollcall.core.errors import Denied
from tests.conftest import Bus

Verdict = Callable[[dict[str, Any]], Any]


class Court:
    """Remembers what it was asked; answers what `verdict` makes of it, once its door is open."""

    def __init__(self, verdict: Verdict) -> None:
        self.verdict = verdict
        self.asked: list[dict[str, Any]] = []
        self.url = ""
        self.open = asyncio.Event()
        self.open.set()
        self.inside = 0
        self.most_inside = 0

    async def judge(self, question: dict[str, Any]) -> bytes:
        self.asked.append(question)
        self.inside += 1
        self.most_inside = max(self.most_inside, self.inside)
        try:
            await self.open.wait()
        finally:
            self.inside -= 1
        said = self.verdict(question)
        return said if isinstance(said, bytes) else json.dumps(said).encode()


def names(court: Court) -> list[str]:
    """Who was judged, in order."""
    return [question["context"]["name"] if "context" in question else question["id"] for question in court.asked]


@asynccontextmanager
async def trifecta(verdict: Verdict, *, status: int = 200, host: str = "127.0.0.1") -> AsyncIterator[Court]:
    """A court over HTTP on a free port. A verdict of None ends the connection without an answer."""
    court = Court(verdict)
    talking: set[asyncio.Task[Any]] = set()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        talking.add(task)
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                line, _, rest = head.decode().lower().partition("\r\n")
                length = next(int(one.split(":")[1]) for one in rest.split("\r\n") if one.startswith("content-length"))
                question = json.loads(await reader.readexactly(length))
                assert line == "post /court/trifecta http/1.1"
                body = await court.judge(question)
                writer.write(f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # whoever asked has gone
        finally:
            talking.discard(task)
            writer.close()

    server = await asyncio.start_server(talk, host, 0)
    try:
        court.url = f"http://{host}:{server.sockets[0].getsockname()[1]}"
        yield court
    finally:
        court.open.set()
        server.close()
        for task in list(talking):
            task.cancel()
        await asyncio.gather(*talking, return_exceptions=True)


@asynccontextmanager
async def service(bus: Bus, verdict: Verdict) -> AsyncIterator[Court]:
    """A judge on the bus, with the connection of an ordinary agent."""
    court = Court(verdict)
    tasks: set[asyncio.Task[None]] = set()

    async def answer(message: Msg) -> None:
        await message.respond(await court.judge(json.loads(message.data)))

    async def on_case(message: Msg) -> None:
        tasks.add(asyncio.create_task(answer(message)))

    async with bus.agent_connection() as client:
        await client.subscribe(f"rollcall.{bus.realm}.policy", cb=on_case)
        await barrier(client)
        try:
            yield court
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


cases: list[dict[str, Any]] = []
"""What the functions were asked."""

gate = threading.Event()


def begin() -> None:
    """As in the beginning: nothing asked, the gate closed."""
    cases.clear()
    gate.clear()


def reasoned(case: dict[str, Any]) -> bool | str:
    """Refuses ids that begin with ``bad``, and says why."""
    cases.append(case)
    return f"{case['id']} looks bad" if case["id"].startswith("bad") else True


def silent(case: dict[str, Any]) -> bool:
    """As `reasoned`, without a reason."""
    return not case["id"].startswith("bad")


def nothing(case: dict[str, Any]) -> None:
    """Has nothing against anybody."""
    cases.append(case)


async def unhurried(case: dict[str, Any]) -> bool | str:
    """As `reasoned`, asynchronously."""
    await asyncio.sleep(0)
    return reasoned(case)


def raising(case: dict[str, Any]) -> bool:
    """Breaks."""
    cases.append(case)
    raise ZeroDivisionError("a policy of no sense")


def exiting(case: dict[str, Any]) -> bool:
    """Wants to end everything."""
    sys.exit(3)


def denying(case: dict[str, Any]) -> None:
    """Refuses in the words of the registry."""
    raise Denied("denied by hand")


def gated(case: dict[str, Any]) -> bool:
    """Takes its time: until the gate opens."""
    cases.append(case)
    gate.wait(10)
    return True


async def endless(case: dict[str, Any]) -> bool:
    """Never ends."""
    cases.append(case)
    return await asyncio.Event().wait()


async def picky(case: dict[str, Any]) -> bool | str:
    """As `reasoned`, and never done with ``slow``."""
    said = reasoned(case)
    return await asyncio.Event().wait() if case["id"] == "slow" else said


class Instance:
    """A policy that is an object."""

    async def __call__(self, case: dict[str, Any]) -> bool | str:
        return reasoned(case)


instance = Instance()
not_callable = 5
later: Callable[[dict[str, Any]], Awaitable[Any]] = lambda case: unhurried(case)  # noqa: E731 - a function that only returns what is to be awaited

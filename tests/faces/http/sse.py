"""Server-sent events as a client reads them."""

import json
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any, NamedTuple

import httpx

CHANGES = {"registered", "updated", "lost", "recovered", "deregistered", "expired"}


class Event(NamedTuple):
    """One event; what is none, such as a comment, has the name ``:``."""

    name: str
    id: str
    data: Any

    @property
    def revision(self) -> int:
        """Its place in the roll."""
        return int(self.id.rpartition(":")[2])


class Stream:
    """What one connection brings."""

    def __init__(self, events: AsyncIterator[Event]) -> None:
        self._events = events
        self.last = ""
        """The id that was told last."""

    def __aiter__(self) -> AsyncIterator[Event]:
        return self

    async def __anext__(self) -> Event:
        event = await anext(self._events)
        self.last = event.id or self.last
        return event

    async def next(self, *names: str) -> Event:
        """The next event of these names; of any name that is no comment without."""
        async for event in self:
            if event.name in names or (not names and event.name != ":"):
                return event
        raise EOFError("the stream ended")

    async def changes(self, count: int) -> list[Event]:
        """The next changes."""
        return [await self.next(*CHANGES) for _ in range(count)]

    async def rest(self) -> list[Event]:
        """Everything to the end."""
        return [event async for event in self]


@asynccontextmanager
async def watching(http: httpx.AsyncClient, last: str = "", **asked: str) -> AsyncIterator[Stream]:
    """A watch that has begun: its first event is still to come."""
    headers = {"last-event-id": last} if last else {}
    async with http.stream("GET", "/v1/watch", params=asked, headers=headers) as response:
        assert response.status_code == 200, await response.aread()
        assert response.headers["content-type"].startswith("text/event-stream")
        async with aclosing(_events(response)) as events:
            yield Stream(events)


async def _events(response: httpx.Response) -> AsyncIterator[Event]:
    # Not by lines of text: those end in more places than the lines of this format, such as U+2028.
    rest = b""
    async with aclosing(response.aiter_bytes()) as chunks:
        async for chunk in chunks:
            *blocks, rest = (rest + chunk).split(b"\n\n")
            for block in blocks:
                yield _event(block.decode())


def _event(block: str) -> Event:
    lines = [line for line in block.split("\n") if not line.startswith(":")]
    said = dict(line.split(": ", 1) for line in lines)
    if "data" not in said:
        # An id alone, or a comment: nothing happened, but how far one is counts.
        return Event(":", said.get("id", ""), block)
    return Event(said.get("event", "message"), said.get("id", ""), json.loads(said["data"]))

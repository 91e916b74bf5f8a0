"""Changes as server-sent events: one watch of the registry serves any number of HTTP watchers.

Each event is named by its place in the roll, ``<epoch>:<revision>``, so a client that reconnects with
``Last-Event-ID`` goes on where it was: from what is still kept here, else from the registry's history, and when that
is too old from the agents as they are, which it is told by ``reset``.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable
from contextlib import aclosing
from typing import Any

import msgspec
import structlog
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from rollcall import Change, ChangeKind, Invalid, Position, Registry, RollcallError, Unavailable, View, Watch
from rollcall.core.instants import Seconds, timestamp
from rollcall.sdk.answers import Changes
from rollcall.sdk.watch import NOWHERE

KEPT = 10_000
"""Changes that are kept for clients that come back."""

MOST_WAITING = 2_000
"""Events that may wait for one client; who is further behind is dropped."""

BEAT: Seconds = 10.0
SEND_WITHIN: Seconds = 10.0
TRY_AGAIN: Seconds = 0.2
HEARD_WITHIN: Seconds = 5.0
AT_ONCE = 500
"""Changes in one chunk for a client that comes back."""

ABORT = "rollcall.abort"
"""In the scope of a request: ends its connection at once."""

GONE = "the client is gone"

log = structlog.get_logger(__name__)


class Watcher:
    """One client that watches, from the moment on when everything before was told to it. What waits is bounded."""

    def __init__(self, role: str, after: Position) -> None:
        self._role = role
        self._waiting: deque[bytes] = deque()
        self._woken = asyncio.Event()
        self._after = self._named = after
        self.ended = ""
        """Why it gets nothing more."""

    def tell(self, change: Change) -> None:
        """Takes in a change, unless it knows that already or it is about another role."""
        if change.epoch == self._after.epoch and change.revision <= self._after.revision:
            return
        self._after = Position(change.epoch, change.revision)
        if concerns(change, self._role):
            self.say(told(change))

    def say(self, chunk: bytes) -> None:
        """Takes in an event for this client, or drops the client when it has not taken very many."""
        if self.ended:
            return
        if len(self._waiting) >= MOST_WAITING:
            self.end(f"too slow: {len(self._waiting)} events waited; come back with Last-Event-ID to get them")
            return
        self._waiting.append(chunk)
        self._woken.set()

    def beat(self) -> None:
        """Keeps the connection open, and lets a client of a quiet role know how far it is: an id alone is no event."""
        self.say(b": beat\n\n")
        if self._role and self._after != self._named:
            self._named = self._after
            self.say(f"id: {self._after.epoch}:{self._after.revision}\n\n".encode())

    def end(self, why: str) -> None:
        """Tells it nothing more but why."""
        self.ended = self.ended or why
        self._woken.set()

    async def chunk(self) -> bytes:
        """Everything that waits; empty when nothing ever comes any more."""
        while not self._waiting and not self.ended:
            self._woken.clear()
            await self._woken.wait()
        chunk = b"".join(self._waiting)
        self._waiting.clear()
        return chunk


class Hub:
    """Listens once for everybody who watches over HTTP."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._kept: deque[Change] = deque(maxlen=KEPT)
        self._floor = Position()
        self._position = Position()
        self._watchers: set[Watcher] = set()
        self._listening = asyncio.Event()
        self._watch: Watch | None = None
        self._state = View.UNPOPULATED
        self._anew = ""
        self._closed = ""
        self.dropped = 0
        """Clients that were too slow."""
        self.registrations = 0
        """Registrations that were told since this face started."""

    def __len__(self) -> int:
        return len(self._watchers)

    async def run(self) -> None:
        """Listens until cancelled, whatever happens."""
        beating = asyncio.create_task(self._beat(), name="events: beat")
        try:
            while True:
                try:
                    await self._listen()
                except Unavailable as error:
                    log.debug("the events cannot be heard yet", error=str(error))
                except Exception:
                    log.exception("hearing events failed; it begins again")
                await asyncio.sleep(TRY_AGAIN)
        finally:
            beating.cancel()

    def close(self) -> None:
        """Ends every watcher, so that its connection can be closed."""
        self._closed = "the server is going down; come back with Last-Event-ID"
        self._end_all(self._closed)

    async def heard(self) -> None:
        """Returns once events are heard.

        Raises:
            Unavailable: they are not.
        """
        try:
            async with asyncio.timeout(HEARD_WITHIN):
                await self._listening.wait()
        except TimeoutError as error:
            raise Unavailable("the registry cannot be heard now; try again") from error

    async def events(self, role: str, since: Position | None, end: "Ending") -> AsyncGenerator[bytes, None]:
        """Chunks of events: everything after `since`, or from now on, for as long as `end` says nothing."""
        yield b"retry: 1000\n\n"
        if since is None:
            since = self._position
            yield event("position", {}, since)
        while not self._reaches(since):
            chunk, since = await self._from_registry(role, since)
            yield chunk
        missed = [change for change in self._kept if change.epoch != since.epoch or change.revision > since.revision]
        # From here to the registration of the watcher nothing is awaited: no change falls between.
        # Whoever comes from another face may know more than was heard here.
        ahead = since.epoch == self._position.epoch and since.revision > self._position.revision
        watcher = Watcher(role, since if ahead else self._position)
        self._watchers.add(watcher)
        end.of(watcher, self._closed)
        try:
            for start in range(0, len(missed), AT_ONCE):
                some = missed[start : start + AT_ONCE]
                yield b"".join(told(change) for change in some if concerns(change, role))
            while not watcher.ended:
                yield await watcher.chunk()
        finally:
            self._watchers.discard(watcher)
            self.dropped += watcher.ended.startswith("too slow")

    def _reaches(self, since: Position) -> bool:
        """Whether everything after `since` is still kept here."""
        return since.epoch == self._floor.epoch and since.revision >= self._floor.revision

    async def _from_registry(self, role: str, since: Position) -> tuple[bytes, Position]:
        """One page of what is no longer kept here, and the position after it."""
        answer = await self._registry.since(since, role=role)
        if answer.epoch != self._position.epoch or answer.revision < self._floor.revision:
            # The registry and what is heard here are about to change over to the same roll.
            await asyncio.sleep(TRY_AGAIN)
        if answer.too_old:
            return await self._reset(answer, role, since)
        upto = Position(answer.epoch, max(answer.upto, since.revision))
        return b"".join(told(change) for change in answer.changes), upto

    async def _reset(self, first: Changes, role: str, since: Position) -> tuple[bytes, Position]:
        """The agents as they are. The position is that of the first page: what changed later is told again."""
        upto = Position(first.epoch, first.revision)
        agents, page = list(first.agents), first
        while page.next is not None:
            page = await self._registry.since(NOWHERE, role=role, cursor=page.next, at_least=upto)
            agents += page.agents
        why = f"{since.epoch}:{since.revision} is no longer known; these are the agents as they are"
        return event("reset", {"reason": why, "agents": agents}, upto), upto

    async def _listen(self) -> None:
        since = self._position if self._position.epoch else None
        async with self._registry.watch(since=since) as watch:
            self._watch, self._state = watch, watch.state
            if since is None:
                self._position = self._floor = watch.position
            self._listening.set()
            async for change in watch:
                self._take(watch, change)

    def _take(self, watch: Watch, change: Change) -> None:
        if watch.reason != self._anew:
            # What follows is a comparison, not what happened: whoever watches asks the registry itself.
            self._anew = watch.reason
            self._kept.clear()
            self._floor = self._position = watch.position
            self._end_all(f"the view was made anew ({watch.reason}); come back with Last-Event-ID")
        if self._anew and change.reason == self._anew:
            return
        if len(self._kept) == KEPT:
            self._floor = Position(self._kept[0].epoch, self._kept[0].revision)
        self._kept.append(change)
        self._position = Position(change.epoch, change.revision)
        self.registrations += change.kind is ChangeKind.REGISTERED
        for watcher in list(self._watchers):
            watcher.tell(change)

    def _end_all(self, why: str) -> None:
        for watcher in list(self._watchers):
            watcher.end(why)

    async def _beat(self) -> None:
        """Comments keep connections open; a view that cannot be trusted is told as an event."""
        while True:
            await asyncio.sleep(BEAT)
            state = self._watch.state if self._watch is not None else View.UNPOPULATED
            turned, self._state = state is not self._state, state
            for watcher in list(self._watchers):
                if turned:
                    watcher.say(event("state", {"state": str(state)}, None))
                watcher.beat()


class Ending:
    """Why a stream of events ends; it may be asked to before its watcher is there."""

    def __init__(self) -> None:
        self._watcher: Watcher | None = None
        self.why = ""

    def of(self, watcher: Watcher, closed: str) -> None:
        """The watcher that ends with the stream; `closed` says why the server takes no more."""
        self._watcher = watcher
        if self.why or closed:
            watcher.end(self.why or closed)

    def end(self, why: str) -> None:
        """Ends the stream."""
        self.why = self.why or why
        if self._watcher is not None:
            self._watcher.end(why)

    @property
    def told(self) -> str:
        """Why it ended."""
        return self.why or (self._watcher.ended if self._watcher is not None else "")


class EventStream(Response):
    """The answer to a watcher: events for as long as both sides stay."""

    def __init__(self, hub: Hub, role: str, since: Position | None) -> None:
        super().__init__(media_type="text/event-stream")
        self._hub = hub
        self._role = role
        self._since = since
        self._ending = Ending()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends until the client goes, is too slow, or the server ends."""
        gone = asyncio.create_task(_gone(receive), name="events: client gone")
        gone.add_done_callback(lambda _: self._ending.end(GONE))
        headers = [
            (b"content-type", b"text/event-stream; charset=utf-8"),
            (b"cache-control", b"no-store"),
            (b"x-accel-buffering", b"no"),
        ]
        try:
            await _in_time(send({"type": "http.response.start", "status": 200, "headers": headers}))
            await self._send_all(send)
        except TimeoutError:
            log.info("a watcher was dropped", why=f"it took nothing for {SEND_WITHIN:g} s")
            # A close would wait until it has taken everything.
            scope.get(ABORT, _nothing)()
        finally:
            gone.cancel()

    async def _send_all(self, send: Send) -> None:
        events = self._hub.events(self._role, self._since, self._ending)
        async with aclosing(events):
            try:
                async for chunk in events:
                    if self._ending.why:
                        break
                    if chunk:
                        await _in_time(send({"type": "http.response.body", "body": chunk, "more_body": True}))
            except TimeoutError:
                self._ending.end(f"too slow: it took nothing for {SEND_WITHIN:g} s")
                raise
            except RollcallError as error:
                self._ending.end(f"{error}; come back with Last-Event-ID")
        if self._ending.told != GONE:
            ending = event("dropped", {"reason": self._ending.told}, None)
            await _in_time(send({"type": "http.response.body", "body": ending}))


def _nothing() -> None:
    """Stands for an abort where the server offers none."""


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _in_time(sending: Awaitable[None]) -> None:
    async with asyncio.timeout(SEND_WITHIN):
        await sending


def concerns(change: Change, role: str) -> bool:
    """Whether a watcher of `role` (empty: of all) is told of a change."""
    return not role or change.role == role


def told(change: Change) -> bytes:
    """A change as an event."""
    return event(str(change.kind), shown(change), Position(change.epoch, change.revision))


def event(name: str, data: Any, position: Position | None) -> bytes:
    """One event; `data` is told as JSON, which has no line breaks."""
    named = f"id: {position.epoch}:{position.revision}\n" if position is not None else ""
    return f"{named}event: {name}\ndata: ".encode() + msgspec.json.encode(data) + b"\n\n"


def shown(change: Change) -> dict[str, Any]:
    """A change as it is told over HTTP."""
    return {
        "kind": change.kind,
        "role": change.role,
        "id": change.id,
        "revision": change.revision,
        "epoch": change.epoch,
        "at": timestamp(change.at),
        "reason": change.reason,
        "record": change.record,
    }


def position(text: str) -> Position | None:
    """The place in the roll that an event's id names; None for an empty text.

    Raises:
        Invalid: it names none.
    """
    if not text:
        return None
    epoch, colon, revision = text.rpartition(":")
    if not colon or not epoch or not (revision.isascii() and revision.isdigit() and len(revision) < 19):
        raise Invalid(f"{text!r} is no event id; send the last 'id' that was told, or leave it out")
    return Position(epoch, int(revision))

"""Writing the roll, pipelined: many compare-and-sets on their way at once, each answered by itself.

Every write expects the revision that its decision rests on, over all roles of the id. A refusal proves nothing about
who won: the caller follows the roll and decides again.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from functools import lru_cache
from urllib.parse import quote, unquote

import structlog
from msgspec import DecodeError, Struct
from msgspec.json import Decoder
from nats.aio.client import Client
from nats.aio.msg import Msg

from rollcall.bus import headers as h
from rollcall.bus import streams, swift
from rollcall.bus.connection import subscribe_all
from rollcall.bus.follow import Stored
from rollcall.bus.subjects import ANY, Subjects, key
from rollcall.core import codec
from rollcall.core.errors import Invalid, Unavailable
from rollcall.core.instants import Milliseconds, Seconds, instant
from rollcall.core.records import ENDINGS, Change, ChangeKind

WINDOW = 256
ACK_TIMEOUT: Seconds = 5.0
ASK_AGAIN: Seconds = 0.25

_WRONG_SEQUENCE = (10071, 10164)

log = structlog.get_logger(__name__)


class Written(Struct, frozen=True):
    """The server stored it."""

    revision: int


class Refused(Struct, frozen=True):
    """Something else stands there; `stands` is its revision, None when the server does not name it."""

    stands: int | None


class Unknown(Struct, frozen=True):
    """No answer, or another error: it may be stored or not."""

    why: str


Ack = Written | Refused | Unknown


class _Error(Struct):
    err_code: int = 0
    description: str = ""


class _PubAck(Struct):
    seq: int = 0
    error: _Error | None = None


_puback = Decoder(_PubAck)
_named = re.compile(r"wrong last sequence: (\d+)")


@lru_cache(maxsize=16)
def _change_line(kind: ChangeKind) -> swift.Line:
    return swift.line(h.CHANGE, kind)


@lru_cache(maxsize=16)
def _epoch_line(epoch: str) -> swift.Line:
    return swift.line(h.EPOCH, epoch)


class _Waiting(Struct):
    done: Callable[[Ack], None]
    since: Seconds


class Roll:
    """The roll of one realm, for the leader to write."""

    def __init__(self, client: Client, subjects: Subjects, *, tombstone_ttl: Seconds) -> None:
        self._client = client
        self._subjects = subjects
        self._ttl_line = swift.line(h.TTL, f"{max(1, round(tombstone_ttl))}s")
        self._prefix = client.new_inbox()
        self._waiting: dict[int, _Waiting] = {}
        self._room = asyncio.Event()
        self._room.set()
        self._next = 0
        self._closed = False

    @asynccontextmanager
    async def opened(self) -> AsyncIterator["Roll"]:
        """The roll with its ear for the server's answers open."""
        subscription = await subscribe_all(self._client, f"{self._prefix}.*", self._on_ack)
        sweeper = asyncio.create_task(self._give_up(), name="roll: answers that never came")
        try:
            yield self
        finally:
            # Whoever still waits for room, such as the fold, must not wait for ever.
            self._closed = True
            self._room.set()
            sweeper.cancel()
            if not self._client.is_closed:
                await subscription.unsubscribe()

    async def write(
        self, key_: str, data: bytes, lines: Iterable[swift.Line], *, expected: int, done: Callable[[Ack], None]
    ) -> None:
        """Sends a record under `key_` if the roll still holds `expected` for its id; `done` is called with the answer.

        Waits while as many writes as the window allows are on their way.

        Raises:
            Unavailable: the roll was closed; nothing was sent.
        """
        while len(self._waiting) >= WINDOW and not self._closed:
            self._room.clear()
            await self._room.wait()
        if self._closed:
            raise Unavailable("this worker no longer leads; try again")
        self._next += 1
        self._waiting[self._next] = _Waiting(done, asyncio.get_running_loop().time())
        _, _, id = key_.partition(".")
        expectation = (
            swift.line(h.EXPECTED_SEQUENCE, str(expected)),
            swift.line(h.EXPECTED_SUBJECT, self._subjects.roll(f"{ANY}.{id}")),
        )
        reply = f"{self._prefix}.{self._next}"
        await swift.publish(self._client, self._subjects.roll(key_), reply, (*expectation, *lines), data)

    async def end(self) -> int:
        """The last revision on the server; asked until it answers."""
        while True:
            try:
                return (await streams.state(self._client, self._subjects.roll_stream)).last
            except Unavailable as error:
                log.warning("the roll does not answer", error=str(error))
                await asyncio.sleep(ASK_AGAIN)

    def change_lines(self, kind: ChangeKind, *, epoch: str, reason: str) -> list[swift.Line]:
        """The headers that tell a change; an ending also takes the agent's older revisions away, and ends itself."""
        lines = [_change_line(kind), _epoch_line(epoch)]
        if reason:
            # Header values are one line of ASCII; a reason is any text.
            lines.append(swift.line(h.REASON, quote(reason, safe=" /:,;()'!?+*=@")))
        if kind in ENDINGS:
            lines += [swift.line(h.KV_OPERATION, "PURGE"), swift.line(h.ROLLUP, "sub"), self._ttl_line]
        return lines

    async def _on_ack(self, message: Msg) -> None:
        number = int(message.subject.rpartition(".")[2])
        waiting = self._waiting.pop(number, None)
        if waiting is None:
            return
        self._room.set()
        waiting.done(_read_ack(message))

    async def _give_up(self) -> None:
        while True:
            await asyncio.sleep(1)
            horizon = asyncio.get_running_loop().time() - ACK_TIMEOUT
            for number in [number for number, waiting in self._waiting.items() if waiting.since < horizon]:
                self._room.set()
                self._waiting.pop(number).done(Unknown("the server did not answer"))


def _read_ack(message: Msg) -> Ack:
    if message.headers and h.STATUS in message.headers:
        return Unknown("the roll is not there")
    try:
        ack = _puback.decode(message.data)
    except DecodeError as error:
        return Unknown(str(error))
    if ack.error is None:
        return Written(ack.seq)
    if ack.error.err_code in _WRONG_SEQUENCE:
        named = _named.search(ack.error.description)
        return Refused(int(named[1]) if named else None)
    return Unknown(ack.error.description)


def read_change(stored: Stored, epoch: str) -> Change | None:
    """The change that a message of the roll tells; None for what is no agent's change.

    A value that cannot be read is reported and passed over: nothing may stop the fold.
    """
    if not stored.data or h.MARKER in stored.headers:
        return None
    return _change(stored.headers, stored.data, stored.seq, epoch, stored.at, stored.subject)


def read_broadcast(message: Msg) -> Change | None:
    """The change that the server broadcasts; None for what is no agent's change."""
    headers = message.headers or {}
    if not message.data or h.SEQUENCE not in headers or h.MARKER in headers:
        return None
    at = instant(headers[h.STORED_AT])
    return _change(headers, message.data, int(headers[h.SEQUENCE]), headers.get(h.EPOCH, ""), at, message.subject)


def _change(
    headers: Mapping[str, str], data: bytes, revision: int, epoch: str, at: Milliseconds, subject: str
) -> Change | None:
    try:
        kind = ChangeKind(headers.get(h.CHANGE, ""))
        record = codec.decode_record(data)
        if not subject.endswith(f".{key(record.role, record.id)}"):
            raise Invalid("the value is about another agent than its key")
    except (ValueError, Invalid) as error:
        log.warning("not a change", subject=subject, revision=revision, error=str(error))
        return None
    reason = unquote(headers.get(h.REASON, ""))
    return Change(kind=kind, record=record, revision=revision, epoch=epoch, at=at, reason=reason)

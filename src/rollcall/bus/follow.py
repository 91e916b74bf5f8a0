"""The pull loop that heals: every message of a stream, in order, once, from a sequence on.

An ephemeral consumer without acknowledgements is asked for messages ahead of need. Whatever goes wrong (a gap in the
consumer's sequence, silence, an unexpected status, a server that is gone) ends in the same way: a new consumer from
the last message on. It follows the literal consumer API; the ordered consumer of nats-py replays or stalls in two
cases that matter here.
"""

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

import structlog
from msgspec import Struct
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from rollcall.bus import streams
from rollcall.bus.connection import subscribe_all
from rollcall.bus.streams import StreamState, Unsound
from rollcall.core.errors import Unavailable
from rollcall.core.instants import Milliseconds, Seconds

HEARTBEAT: Seconds = 0.5
MAX_SILENT = 3
"""Waits of a heartbeat's time without any message before the consumer counts as gone."""
BATCH = 1000
RETRY: Seconds = 0.2

_REQUEST_ENDED = ("404", "408")
_RENEWING = ("Exceeded", "Completed", "Batch")

log = structlog.get_logger(__name__)


class Stored(Struct, frozen=True, gc=False):
    """One message of a stream. `pending` is how many more the stream held when this one was delivered."""

    seq: int
    subject: str
    headers: Mapping[str, str]
    data: bytes
    at: Milliseconds
    pending: int


class Follower:
    """Reads a stream from `last` + 1 on. `sound` looks at the stream before each new consumer, and raises if it is
    not the one to be read.

    `upto` is the sequence up to which everything was handed over that the stream still has: its last messages may be
    gone, and then nothing tells of them but silence.
    """

    def __init__(
        self, client: Client, stream: str, last: int, *, sound: Callable[[StreamState], Awaitable[None]] | None = None
    ) -> None:
        self._client = client
        self._stream = stream
        self._last = last
        # What arrived and was not handed over when a consumer ends is read again.
        self._handed = last
        self._sound = sound
        self._gathered: list[Stored] = []
        self._arrived = asyncio.Event()
        self._broken = ""
        self._consumer = ""
        self._consumer_seq = 0
        self._credit = 0
        self._heard = False
        self._silent = 0
        self._generation = 0
        self._end = 0
        self._expected = 0
        self._silences = 0
        self.upto = last
        self.current = asyncio.Event()
        """Set while the stream is heard, and everything was handed over that it held when its consumer was made."""

    def expect(self, end: int) -> None:
        """The stream is known to reach `end`; once it has nothing more to hand over, that is where `upto` is."""
        self._expected = max(self._expected, end)
        self._silences = 0

    def begin_again(self, why: str) -> None:
        """Looks at the stream anew, and goes on from there: after an absence its silence need not be waited for."""
        self._broken = self._broken or why
        self._arrived.set()

    async def batches(self) -> AsyncIterator[list[Stored]]:
        """Whatever has gathered, as soon as something has, or nothing when only `upto` grew; ends by cancellation.

        Raises:
            Unsound: the stream is gone, or another one, or lost what was already read.
        """
        while True:
            try:
                async for batch in self._one_consumer():
                    yield batch
            except Unsound:
                raise
            except (Unavailable, NatsError, TimeoutError) as error:
                log.debug("follower starts again", stream=self._stream, error=str(error))
                await asyncio.sleep(RETRY)

    async def _one_consumer(self) -> AsyncIterator[list[Stored]]:
        self._generation += 1
        generation = self._generation
        inbox = self._client.new_inbox()

        async def receive(message: Msg) -> None:
            if generation == self._generation:
                self._receive(message)

        subscription = await subscribe_all(self._client, inbox, receive)
        try:
            told = self.upto
            await self._create_consumer()
            await self._ask(inbox)
            if self.upto > told:
                told = self.upto
                yield []
            while not self._broken:
                batch = await self._next()
                if self._credit <= BATCH // 2:
                    # Asked before the batch is worked on, so the server never waits for us.
                    await self._ask(inbox)
                if batch or self.upto > told:
                    told = self.upto
                    yield batch
            log.debug("consumer ended", stream=self._stream, why=self._broken)
        finally:
            self._generation += 1
            self.current.clear()
            if not self._client.is_closed:
                await subscription.unsubscribe()

    async def _create_consumer(self) -> None:
        state = await streams.state(self._client, self._stream)
        end, self._last = state.last, self._handed
        if end < self._last:
            raise Unsound(f"stream {self._stream} ends at {end}, {self._last} was read")
        if self._sound is not None:
            await self._sound(state)
        self._consumer = f"rollcall-{secrets.token_hex(8)}"
        self._consumer_seq, self._credit, self._broken, self._gathered = 0, 0, "", []
        self._heard, self._silent = True, 0
        config = {
            "name": self._consumer,
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": self._last + 1,
            "ack_policy": "none",
            "inactive_threshold": 30_000_000_000,
            "mem_storage": True,
            "num_replicas": 1,
        }
        answer = await streams.request(
            self._client,
            f"CONSUMER.CREATE.{self._stream}.{self._consumer}",
            {"stream_name": self._stream, "config": config, "action": "create"},
            timeout=streams.LOOK_TIMEOUT,
        )
        if "error" in answer:
            raise Unavailable(f"consumer on {self._stream}: {answer['error'].get('description')}")
        self._end = end
        if answer.get("num_pending") == 0:
            await self._advance_to_end(end)

    async def _ask(self, inbox: str) -> None:
        wanted = BATCH - self._credit
        self._credit += wanted
        body = {"batch": wanted, "expires": 30_000_000_000, "idle_heartbeat": int(HEARTBEAT * 1e9)}
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{self._consumer}"
        await self._client.publish(subject, json.dumps(body).encode(), reply=inbox)

    async def _next(self) -> list[Stored]:
        """What has gathered; empty after a heartbeat's time without any."""
        if not self._gathered and not self._broken:
            self._arrived.clear()
            try:
                async with asyncio.timeout(HEARTBEAT):
                    await self._arrived.wait()
            except TimeoutError:
                self._silent = 0 if self._heard else self._silent + 1
                self._heard = False
                if self._silent >= MAX_SILENT:
                    self._broken = "silence"
        batch, self._gathered = self._gathered, []
        if batch:
            self._handed = batch[-1].seq
            self._advance(self._handed)
            if not batch[-1].pending:
                await self._advance_to_end(self._end)
        elif self._silences >= 2:
            await self._advance_to_end(self._expected)
        return batch

    async def _advance_to_end(self, end: int) -> None:
        """The consumer has nothing more up to `end`; but it may live on a replica that is behind the stream's leader.

        Raises:
            Unavailable: JetStream did not answer.
        """
        if end <= max(self.upto, self._handed):
            self._advance(end)
            return
        following = await streams.next_after(self._client, self._stream, self._handed)
        if following is None or following > end:
            self._advance(end)

    def _advance(self, seq: int) -> None:
        self.upto = max(self.upto, self._last, seq)
        if self.upto >= self._end:
            self.current.set()

    def _receive(self, message: Msg) -> None:
        self._heard = True
        headers = message.headers or {}
        status = headers.get("Status")
        if status is not None:
            self._on_status(status, headers)
        else:
            self._on_message(message, headers)
        self._arrived.set()

    def _on_message(self, message: Msg, headers: Mapping[str, str]) -> None:
        # $JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<time>.<pending>, or with domain and
        # account before the stream and a random token at the end.
        tokens = message.reply.split(".")
        first = 5 if len(tokens) == 9 else 7
        seq, consumer_seq = int(tokens[first]), int(tokens[first + 1])
        if self._broken:
            return
        if consumer_seq != self._consumer_seq + 1:
            self._broken = f"gap: {consumer_seq} after {self._consumer_seq}"
            return
        self._consumer_seq = consumer_seq
        self._credit -= 1
        self._last = seq
        at = int(tokens[first + 2]) // 1_000_000
        self._gathered.append(Stored(seq, message.subject, headers, message.data, at, int(tokens[first + 3])))

    def _on_status(self, status: str, headers: Mapping[str, str]) -> None:
        if status == "100":
            # One may have been on its way when the end was named; after two, nothing up to it is still to come.
            self._silences += 1
            return
        description = headers.get("Description", "")
        if status in _REQUEST_ENDED or (status == "409" and any(word in description for word in _RENEWING)):
            self._credit = 0
        else:
            self._broken = f"status {status} {description}"

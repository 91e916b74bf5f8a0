"""Sending commands and hearing what became of them.

One subscription hears every outcome of this client; each command is named, so outcomes find their command. The
server's own word that a command is queued is heard too: it tells at once when nobody takes commands in.
"""

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from msgspec import Struct
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from rollcall.bus import headers as h
from rollcall.bus.connection import subscribe_all, translated, why_closed
from rollcall.bus.denials import Denials
from rollcall.bus.subjects import Subjects
from rollcall.core import codec, limits
from rollcall.core.errors import Busy, Denied, RollcallError, TooLarge, Unavailable
from rollcall.core.instants import Seconds
from rollcall.core.records import Entry
from rollcall.identity.signing import SenderSigner
from rollcall.sdk.clock import now_ms
from rollcall.sdk.watch import Position

TIMEOUT: Seconds = 5.0
AMBIGUOUS_FOR: Seconds = 1.0
"""How long a refusal waits that may be of one of several commands."""

WINDOW = 1024
"""Commands of one bulk call that are on their way at once."""

_STORE_FULL = (10047, 10077, 10023)


class Outgoing(Struct, frozen=True):
    """One command, ready to send. `key` is ``<role>.<id>`` in tokens."""

    verb: str
    key: str
    body: bytes
    headers: dict[str, str] = {}
    signer: SenderSigner | None = None


class Flying(Struct, frozen=True, gc=False):
    """A command that was sent and not answered yet."""

    command: Outgoing
    name: str
    subject: str
    future: asyncio.Future[Entry]
    deadline: Seconds


class Commands:
    """The commands of one client of a realm. `signer` signs those that name no other.

    Who signs in to the bus hears outcomes under its own key, and may share that with other processes: so commands
    have names of their own.
    """

    def __init__(
        self,
        client: Client,
        subjects: Subjects,
        denials: Denials,
        *,
        token: str = "",
        signer: SenderSigner | None = None,
    ) -> None:
        self._client = client
        self._subjects = subjects
        self._signer = signer
        self._token = token or secrets.token_hex(12)
        self._series = f"{secrets.token_hex(4)}-" if token else ""
        self._inbox = client.new_inbox()
        self._waiting: dict[str, Flying] = {}
        self._next = 0
        denials.told.append(self._on_denied)
        self._epoch = ""
        self._revision = 0

    def seen(self) -> dict[str, Any]:
        """The newest revision that this client was told of, as members of a question: no answer may be from before."""
        return {"at_least": self._revision, "epoch": self._epoch} if self._revision else {}

    @property
    def newest(self) -> Position:
        """As `seen`, as a position."""
        return Position(self._epoch, self._revision)

    @asynccontextmanager
    async def opened(self) -> AsyncIterator["Commands"]:
        """Listens for outcomes while the block runs."""
        with translated(self._client):
            await subscribe_all(self._client, self._subjects.outcome(self._token, ">"), self._on_outcome)
            await subscribe_all(self._client, f"{self._inbox}.*", self._on_queued)
        try:
            yield self
        finally:
            for flying in self._waiting.values():
                flying.future.cancel()

    async def send(self, command: Outgoing, *, timeout: Seconds = TIMEOUT) -> Entry:
        """Sends one command and waits for its outcome: the entry as the registry has it now.

        Raises:
            RollcallError: the registry refused it.
            Unavailable: nobody answered within `timeout`; the command may still happen.
        """
        flying = await self._publish(command, timeout)
        try:
            async with asyncio.timeout_at(flying.deadline):
                return await flying.future
        except TimeoutError as error:
            raise _silence(command, timeout) from error
        finally:
            self._waiting.pop(flying.name, None)

    async def send_many(
        self, commands: Iterable[Outgoing], *, timeout: Seconds = TIMEOUT
    ) -> Sequence[Entry | RollcallError]:
        """Sends many commands, a window of them at once; each has its own outcome, in the order given."""
        outcomes: list[Entry | RollcallError] = []
        flying: list[Flying] = []
        for command in commands:
            flying.append(await self._publish(command, timeout))
            if len(flying) >= WINDOW:
                # Half of the window lands while the other half stays on its way.
                outcomes += [await self._landed(one, timeout) for one in flying[: WINDOW // 2]]
                del flying[: WINDOW // 2]
        return outcomes + [await self._landed(one, timeout) for one in flying]

    async def _landed(self, one: "Flying", timeout: Seconds) -> Entry | RollcallError:
        try:
            if one.future.done():
                return one.future.result()
            async with asyncio.timeout_at(one.deadline):
                return await one.future
        except TimeoutError:
            return _silence(one.command, timeout)
        except RollcallError as error:
            return error
        finally:
            self._waiting.pop(one.name, None)

    async def _publish(self, command: Outgoing, timeout: Seconds) -> Flying:
        self._next += 1
        name = f"{self._series}{self._next}"
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Entry] = loop.create_future()
        subject = self._subjects.command(command.verb, command.key)
        flying = Flying(command, name, subject, future, loop.time() + timeout)
        if len(command.body) > limits.RECORD_BYTES:
            size, most = len(command.body), limits.RECORD_BYTES
            future.set_exception(TooLarge(f"{command.verb} {command.key}: {size} bytes; a record may have {most}"))
            return flying
        headers = {h.CLIENT: self._token, h.COMMAND: name, **command.headers}
        signer = command.signer or self._signer
        if signer is not None:
            headers[h.SENDER] = signer.sign(subject, command.body, now_ms())
        self._waiting[name] = flying
        try:
            await self._client.publish(subject, command.body, reply=f"{self._inbox}.{name}", headers=headers)
        except NatsError as error:
            del self._waiting[name]
            closed = why_closed(self._client)
            if closed is not None:
                raise closed from error
            raise Unavailable(f"the bus does not take commands now: {error}; try again") from error
        return flying

    def _on_denied(self, subject: str, error: Denied) -> bool:
        """The bus refused something that this connection published."""
        refused = [one for one in self._waiting.values() if one.subject.lower() == subject and not one.future.done()]
        if len({one.subject for one in refused}) > 1:
            # Refusals come in lower case. Which of these it is shows: the others are answered.
            asyncio.get_running_loop().call_later(AMBIGUOUS_FOR, _deny, refused, error)
        else:
            _deny(refused, error)
        return bool(refused)

    async def _on_outcome(self, message: Msg) -> None:
        headers = message.headers or {}
        flying = self._waiting.get(headers.get(h.COMMAND, ""))
        if flying is None or flying.future.done():
            return
        future = flying.future
        try:
            if h.ERROR_CODE in headers:
                future.set_exception(codec.decode_error(codec.decode_object(message.data)))
            else:
                entry = codec.decode(message.data, Entry)
                self.see(headers.get(h.EPOCH, ""), entry.revision)
                future.set_result(entry)
        except RollcallError as error:
            future.set_exception(error)

    def see(self, epoch: str, revision: int) -> None:
        """This client was told of a revision, by an outcome or by a watch."""
        if epoch != self._epoch:
            self._epoch, self._revision = epoch, revision
        self._revision = max(self._revision, revision)

    async def _on_queued(self, message: Msg) -> None:
        """The server's word that a command waits in the inbox; only a refusal matters."""
        error = _refusal(message)
        flying = self._waiting.get(message.subject.rpartition(".")[2])
        if error is not None and flying is not None and not flying.future.done():
            flying.future.set_exception(error)


def _deny(refused: Iterable[Flying], error: Denied) -> None:
    for flying in refused:
        if not flying.future.done():
            flying.future.set_exception(error)


def _refusal(message: Msg) -> RollcallError | None:
    if message.headers and h.STATUS in message.headers:
        return Unavailable("no registry takes commands in this realm; is a worker running, and the realm right?")
    if b'"error"' not in message.data:
        return None
    error: dict[str, Any] = json.loads(message.data).get("error") or {}
    if error.get("err_code") in _STORE_FULL:
        return Busy("the inbox is full; wait until the workers have caught up, then try again")
    return Unavailable(f"the inbox refused the command: {error.get('description')}")


def _silence(command: Outgoing, timeout: Seconds) -> Unavailable:
    return Unavailable(
        f"{command.verb} {command.key} was not answered within {timeout:g} s; it may still happen: "
        "ask before you repeat it"
    )

"""Who is connected: the server's own events, and its list of open connections.

With the accounts of the bundled server a worker sees them in its own account. On another server it needs a connection
that is signed in to the system account.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import nats.errors
from msgspec import Struct
from nats.aio.client import Client
from nats.aio.msg import Msg

from rollcall.bus.connection import request, subscribe_all
from rollcall.core.errors import Unavailable
from rollcall.core.instants import Seconds
from rollcall.core.presence import Connection

REQUEST_INFO = "Nats-Request-Info"
"""Which connection sent a request; the server stamps it where a shared service crosses accounts."""

ANSWER_WITHIN: Seconds = 1.0
OTHERS_WITHIN: Seconds = 0.25
"""How long the other servers of a cluster may take after the first."""

PAGE = 1024

_SERVERS_OWN = ("Server Shutdown", "Cluster Name Conflict", "Maximum Connections Exceeded")
"""Ends of connections that say nothing about the agent."""

_CLOSED = ("Client Closed", "Read Error", "Write Error")
"""The other side ended it; any other end is the server giving up on a silent or slow one."""


class Seen(Struct, frozen=True):
    """A connection, under the name and the user that it gave."""

    connection: Connection
    name: str
    user: str
    account: str


class _Server(Struct):
    name: str
    id: str


class _Client(Struct):
    start: str = ""
    id: int = 0
    acc: str = ""
    user: str = ""
    name: str = ""


class _Event(Struct):
    server: _Server
    client: _Client
    reason: str = ""


class _Info(_Client):
    server: str = ""


class _Listed(Struct):
    cid: int
    start: str
    name: str = ""
    authorized_user: str = ""
    account: str = ""


class _Page(Struct):
    connections: list[_Listed] = []
    total: int = 0
    offset: int = 0


class _List(Struct):
    server: _Server
    data: _Page = msgspec.field(default_factory=_Page)


class OpenNow(Struct, frozen=True):
    """The open connections of the servers that answered; `boots` names each run of a server.

    Not `whole`: some are missing, so whoever is not named may be there.
    """

    seen: list[Seen]
    boots: dict[str, str]
    whole: bool


_event = msgspec.json.Decoder(_Event)
_info = msgspec.json.Decoder(_Info)
_list = msgspec.json.Decoder(_List)


class Connections:
    """The connections of a bus, over `client`; `system` says that it is signed in to the system account."""

    def __init__(self, client: Client, *, system: bool) -> None:
        self._client = client
        self.stamps = not system
        """Whether the server stamps who sends a request: it does where requests come from another account."""
        account = "*" if system else "AGENTS"
        self._up, self._down = f"$SYS.ACCOUNT.{account}.CONNECT", f"$SYS.ACCOUNT.{account}.DISCONNECT"
        self._asked = "$SYS.REQ.SERVER.PING.CONNZ" if system else "$SYS.REQ.ACCOUNT.AGENTS.CONNZ"

    async def listen(
        self, up: Callable[[Seen], Awaitable[None]], down: Callable[[Connection, bool], Awaitable[None]]
    ) -> None:
        """Tells of each connection that opens, and of each that ends: the second argument says that it was closed by
        its own side. Ends that the server itself wanted are not told."""

        async def on_up(message: Msg) -> None:
            event = _event.decode(message.data)
            client = event.client
            await up(Seen(_connection(event), client.name, client.user, client.acc))

        async def on_down(message: Msg) -> None:
            event = _event.decode(message.data)
            if event.reason not in _SERVERS_OWN:
                await down(_connection(event), event.reason in _CLOSED)

        await subscribe_all(self._client, self._up, on_up)
        await subscribe_all(self._client, self._down, on_down)

    async def open_now(self) -> OpenNow | None:
        """Every open connection; None when nobody may tell us.

        Raises:
            Unavailable: no answer came in time.
        """
        seen: list[Seen] = []
        boots: dict[str, str] = {}
        offset, expected = 0, {""}
        while expected:
            pages = await self._pages(offset)
            if pages is None:
                return None
            answered = {page.server.name for page in pages}
            if offset and not expected <= answered:
                return OpenNow(seen, boots, False)
            expected = set()
            for page in pages:
                boots[page.server.name] = page.server.id
                seen += [_seen(page.server.name, one) for one in page.data.connections]
                if page.data.total > offset + len(page.data.connections) > offset:
                    expected.add(page.server.name)
            offset += PAGE
        return OpenNow(seen, boots, True)

    async def _pages(self, offset: int) -> list[_List] | None:
        """One page of each server of the cluster; None when nobody listens there."""
        body = json.dumps({"auth": True, "limit": PAGE, "offset": offset}).encode()
        inbox, arrived = self._client.new_inbox(), asyncio.Event()
        pages: list[_List] = []

        async def hear(message: Msg) -> None:
            if message.data:
                pages.append(_list.decode(message.data))
            arrived.set()

        subscription = await subscribe_all(self._client, inbox, hear)
        try:
            await self._client.publish(self._asked, body, reply=inbox)
            async with asyncio.timeout(ANSWER_WITHIN):
                await arrived.wait()
            if not pages:
                return None
            if self._client._server_info.get("cluster"):
                await asyncio.sleep(OTHERS_WITHIN)
        except (TimeoutError, nats.errors.Error) as error:
            raise Unavailable(f"no server listed its connections within {ANSWER_WITHIN:g} s") from error
        finally:
            if not self._client.is_closed:
                await subscription.unsubscribe()
        return pages


async def own_account(client: Client) -> str:
    """The account that this connection is in.

    Raises:
        Unavailable: the server does not say.
    """
    try:
        reply = await request(client, "$SYS.REQ.USER.INFO", b"", timeout=ANSWER_WITHIN)
        told: dict[str, Any] = json.loads(reply.data)
        return str(told["data"]["account"])
    except (TimeoutError, KeyError, ValueError, nats.errors.Error) as error:
        raise Unavailable(f"the server does not say in which account we are: {error!r}") from error


def sender(message: Msg, account: str) -> Seen | None:
    """Who sent a request, by the server's stamp; None when it may be forged: only from another account it is not."""
    stamp = (message.headers or {}).get(REQUEST_INFO)
    if not stamp:
        return None
    try:
        info = _info.decode(stamp)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    if not info.server or info.acc == account:
        return None
    return Seen(Connection(info.server, info.id, info.start), info.name, info.user, info.acc)


def _connection(event: _Event) -> Connection:
    return Connection(event.server.name, event.client.id, event.client.start)


def _seen(server: str, one: _Listed) -> Seen:
    return Seen(Connection(server, one.cid, one.start), one.name, one.authorized_user, one.account)

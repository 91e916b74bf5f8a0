"""How we connect: options, watchdog, graceful end."""

import asyncio
import contextlib
import random
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import nats.errors
import structlog
from nats.aio.client import Client, Server
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from rollcall.bus import headers as h
from rollcall.bus.denials import Denials
from rollcall.bus.tls import ASKS_FOR_CERTIFICATE, NO_TLS, Private, Tls
from rollcall.core import codec
from rollcall.core.errors import RollcallError, Unauthorized, Unavailable
from rollcall.core.instants import Seconds

FIRST_CONNECT: Seconds = 5.0
"""How long the first connection may take before we say that nobody is there."""

END_WITHIN: Seconds = 0.5
"""How long a server that does not answer may delay an end, at each step of it."""

_WATCH_EVERY: Seconds = 0.25
_BACKOFF_MAX: Seconds = 2.0

log = structlog.get_logger(__name__)


@contextlib.asynccontextmanager
async def connected(
    url: str,
    *,
    name: str,
    nkey_seed: str = "",
    credentials: Path | None = None,
    tls: Tls | None = None,
    inbox: str = "",
    denials: Denials | None = None,
    timeout: Seconds = FIRST_CONNECT,
    on_disconnect: Callable[[], Awaitable[None]] | None = None,
    on_reconnect: Callable[[], Awaitable[None]] | None = None,
    on_leaving: Callable[[], Awaitable[None]] | None = None,
) -> AsyncIterator[Client]:
    """A connection that comes back for ever, with backoff and jitter.

    Several servers of a cluster are written ``nats://a,nats://b``. `on_leaving` hears that the server is about to end.
    `inbox` is the prefix under which answers come; who signs in may have a right to just one. `denials` hears what the
    server lets this user not do.

    Raises:
        Unavailable: no server answered within `timeout`.
        Unauthorized: the server does not let us in.
    """
    client = Private() if tls is not None or "tls://" in url else Client()
    told: list[Exception] = []
    refused = asyncio.Event()

    async def on_error(error: Exception) -> None:
        told[:] = [error]
        if denials is not None:
            denials.hear(str(error))
        if "authorization violation" in str(error).lower() or NO_TLS in str(error):
            refused.set()
        log.debug("the bus says", error=str(error))

    ended_by_us = True

    async def on_closed() -> None:
        if not ended_by_us:
            why = why_closed(client)
            log.error("this connection has ended for good", why=why.message if why else str(client.last_error))

    options: dict[str, Any] = {  # Any: nats-py's own options
        "servers": [part.strip() for part in url.split(",")],
        "name": name,
        "max_reconnect_attempts": -1,
        "reconnect_time_wait": 0.25,
        "connect_timeout": 2,
        "ping_interval": 5,
        "max_outstanding_pings": 2,
        "pending_size": 8 << 20,
        "flush_timeout": 5,
        "error_cb": on_error,
        "disconnected_cb": _disconnected(client, on_disconnect),
        "closed_cb": on_closed,
        "reconnected_cb": on_reconnect,
        "lame_duck_mode_cb": on_leaving,
        "reconnect_to_server_handler": _backoff(),
    }
    if nkey_seed:
        options["nkeys_seed_str"] = nkey_seed
    if credentials is not None:
        options["user_credentials"] = str(credentials)
    if inbox:
        options["inbox_prefix"] = inbox
    if tls is not None:
        options["tls"] = tls.context()
    await _first_connection(client, options, url, timeout, refused, told, tls)
    ended_by_us = False
    watchdog = asyncio.create_task(_watch(client), name=f"watchdog {name}")
    try:
        yield client
    finally:
        ended_by_us = True
        watchdog.cancel()
        await _end(client)


async def _first_connection(
    client: Client,
    options: dict[str, Any],  # Any: nats-py's own options
    url: str,
    timeout: Seconds,
    refused: asyncio.Event,
    told: list[Exception],
    tls: Tls | None,
) -> None:
    """Connects, or says why not: nats-py itself would go on for ever, also with a wrong password."""
    connecting = asyncio.create_task(client.connect(**options), name="first connection")
    refusal = asyncio.create_task(refused.wait(), name="refusal")
    try:
        await asyncio.wait((connecting, refusal), timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        if connecting.done():
            await connecting
            return
    except (OSError, ValueError, nats.errors.Error) as error:
        told[:] = [error]
    finally:
        refusal.cancel()
        if not (connecting.done() and not connecting.cancelled() and connecting.exception() is None):
            connecting.cancel()
            await asyncio.wait((connecting,))
            await _abandon(client)
    where = without_password(url)
    if refused.is_set() and NO_TLS in str(told[0] if told else ""):
        raise Unavailable(f"the NATS server at {where} {NO_TLS}; nothing was sent to it. Is it the right one?")
    if refused.is_set():
        raise Unauthorized(f"the NATS server at {where} does not let us in; check --creds, user, password or key")
    if tls is not None and tls.cert is None and told and ASKS_FOR_CERTIFICATE.search(str(told[0])):
        raise Unauthorized(f"the NATS server at {where} asks for a certificate; give --tls-cert and --tls-key")
    why = (str(told[0]) or type(told[0]).__name__) if told else f"no answer within {timeout:g} s"
    raise Unavailable(f"no NATS server at {where} ({why}); is `rollcall up` running there?")


@contextlib.contextmanager
def translated(client: Client) -> Iterator[None]:
    """What the bus refuses in the block, as one of our errors."""
    try:
        yield
    except nats.errors.Error as error:
        raise why_closed(client) or Unavailable(f"the bus is away: {error}; try again") from error


def why_closed(client: Client) -> Unauthorized | None:
    """Why the server ended a connection for good; None while it did not."""
    said = str(client.last_error).lower()
    if not client.is_closed or "authentication" not in said:
        return None
    what = "were revoked" if "revoked" in said else "have expired" if "expired" in said else "count no more"
    return Unauthorized(f"the credentials {what}; get new ones (rollcall creds), and connect again")


def without_password(url: str) -> str:
    """The address as it may be shown: user and password are left out."""
    return ",".join(re.sub(r"//[^/@]*@", "//", part.strip()) for part in url.split(","))


def _disconnected(client: Client, then: Callable[[], Awaitable[None]] | None) -> Callable[[], Awaitable[None]]:
    """Ends what waits for an answer: it would come to a connection that is no more, and nats-py waits out the time."""

    async def on_disconnect() -> None:
        for waiting in list(client._resp_map.values()):
            if not waiting.done():
                waiting.set_exception(nats.errors.StaleConnectionError())
        if then is not None:
            await then()

    return on_disconnect


def _backoff() -> Callable[[list[Server], dict[str, object]], tuple[Server, float]]:
    def next_server(pool: list[Server], _info: dict[str, object]) -> tuple[Server, float]:
        server = min(pool, key=lambda known: known.reconnects)
        return server, random.uniform(0.01, min(_BACKOFF_MAX, 0.1 * 2 ** min(server.reconnects, 8)))

    return next_server


async def _watch(client: Client) -> None:
    """Aborts a dead transport that still holds unsent bytes: nats-py waits for it without end (nats.py issue 671)."""
    while True:
        await asyncio.sleep(_WATCH_EVERY)
        if not client.is_reconnecting or client._transport is None:
            continue
        writer = getattr(client._transport, "_io_writer", None)
        if writer is not None and writer.transport.get_write_buffer_size() > 0:
            writer.transport.abort()


async def _abandon(client: Client) -> None:
    """Ends a client that never connected; its own tasks may be half made."""
    with contextlib.suppress(Exception):
        await client.close()


async def _end(client: Client) -> None:
    """Sends what is pending and closes; a server that is away delays this by at most a second."""
    try:
        if client.is_connected:
            async with asyncio.timeout(END_WITHIN):
                await barrier(client)
    except (TimeoutError, nats.errors.Error) as error:
        log.debug("flush before close failed", error=str(error))
    # Closing flushes once more; a frozen server must not hold us.
    closing = asyncio.ensure_future(client.close())
    closing.add_done_callback(_retrieved)
    await asyncio.wait((closing,), timeout=END_WITHIN)


async def request(
    client: Client,
    subject: str,
    payload: bytes,
    *,
    timeout: Seconds,
    headers: dict[str, str] | None = None,
    denials: Denials | None = None,
) -> Msg:
    """One question and its answer, as `Client.request`; a cancellation that comes with the answer is not lost.

    nats-py waits with `asyncio.wait_for`, which before Python 3.12 swallows one in that moment (cpython issue 81839):
    an endless task would go on for ever.

    Raises:
        Denied: the server does not let this user ask that, as `denials` has heard.
    """
    known = cancellations()
    waiting = denials.expect(subject) if denials is not None else None
    try:
        reply = await client.request(subject, payload, timeout=timeout, headers=headers)
    except (asyncio.CancelledError, TimeoutError):
        if waiting is None or waiting.denied is None:
            raise
        raise waiting.denied from None
    finally:
        if waiting is not None:
            waiting.close()
        # Also where the answer is an error: a bus that goes away fails all questions, and ends terms, in one moment.
        heed_cancellation(known)
    return reply


def cancellations() -> int:
    """How often this task was asked to end so far; what it does on its way out may still take its time."""
    task = asyncio.current_task()
    return task.cancelling() if task is not None else 0


def heed_cancellation(known: int = 0) -> None:
    """Ends a task that was asked to end more often than `known`, wherever that got lost."""
    if cancellations() > known:
        raise asyncio.CancelledError


def forget_cancellation() -> None:
    """Sets the count back: before Python 3.13 a task group that ends by a failed child may leave one behind."""
    task = asyncio.current_task()
    while task is not None and task.cancelling():
        task.uncancel()


async def barrier(client: Client) -> None:
    """Returns when the server has processed everything sent so far.

    nats-py writes PING before what is pending, so only the second answer proves it.
    """
    known = cancellations()
    for _ in range(2):
        flushing = asyncio.ensure_future(client.flush())
        flushing.add_done_callback(_retrieved)
        # Shielded: nats-py loses count of its pongs when a flush is cancelled, and hears nothing any more.
        await asyncio.shield(flushing)
    heed_cancellation(known)


def _retrieved(flushing: asyncio.Future[None]) -> None:
    if not flushing.cancelled() and flushing.exception() is not None:
        log.debug("flush failed", error=str(flushing.exception()))


async def subscribe_all(client: Client, subject: str, hear: Callable[[Msg], Awaitable[None]]) -> Subscription:
    """Hears every message of a subject: none is dropped here because others wait."""
    return await client.subscribe(subject, cb=hear, pending_msgs_limit=0, pending_bytes_limit=0)


async def release(client: Client, *subscriptions: Subscription) -> None:
    """Stops answering without losing a request: no new ones, then those that wait, then flush.

    A server that does not answer delays this by at most a second.
    """
    try:
        async with asyncio.timeout(END_WITHIN):
            for subscription in subscriptions:
                await client._send_unsubscribe(subscription._id)
            await barrier(client)
            for subscription in subscriptions:
                await subscription._pending_queue.join()
            await barrier(client)
    except (TimeoutError, nats.errors.Error) as error:
        log.debug("released without the server's word", error=str(error))


@contextlib.asynccontextmanager
async def answering(client: Client, subject: str, answer: Callable[[Msg], Awaitable[None]]) -> AsyncIterator[None]:
    """Answers requests on a subject while the block runs; what was asked by its end is still answered."""
    subscription = await client.subscribe(subject, cb=answer)
    try:
        yield
    finally:
        if client.is_connected:
            await release(client, subscription)
            await subscription.unsubscribe()


async def refuse(client: Client, message: Msg, error: RollcallError) -> None:
    """Answers a request with an error, if anybody waits for it."""
    if message.reply:
        headers = {h.ERROR_CODE: str(error.status), h.ERROR: error.code}
        await client.publish(message.reply, codec.encode_error(error), headers=headers)

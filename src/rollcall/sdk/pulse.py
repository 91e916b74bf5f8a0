"""Beats from a thread and a connection of their own, so a busy event loop does not look dead.

The thread also says hello for each agent on every new connection and once a minute, and answers pings. What it
hears is handed back to the loop of the program.
"""

import asyncio
import contextlib
import random
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any

import structlog
from msgspec import Struct, structs
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError

from rollcall.bus import headers as h
from rollcall.bus.connection import connected, request
from rollcall.bus.denials import Denials
from rollcall.bus.subjects import Subjects, token
from rollcall.core import codec
from rollcall.core.errors import Denied, RollcallError, Unavailable
from rollcall.core.instants import Seconds
from rollcall.core.liveness import STUCK_AFTER
from rollcall.core.records import Health
from rollcall.identity.signing import SenderSigner
from rollcall.sdk.clock import now_ms
from rollcall.sdk.login import Login

HELLO_EVERY: Seconds = 60.0
HELLO_AGAIN: Seconds = 1.0
TURN_EVERY: Seconds = 0.25
TOGETHER: Seconds = 0.05
"""Beats due within this time travel in one message."""
MOST_TOGETHER = 256

log = structlog.get_logger(__name__)


class Beating(Struct):
    """One agent that beats. `forgotten`, `superseded` and `denied` are called in the loop of the program."""

    key: str
    id: str
    incarnation: int
    interval: Seconds | None
    forgotten: Callable[[], None]
    superseded: Callable[[], None]
    denied: Callable[[Denied], None]
    signer: SenderSigner | None = None
    health: Health | None = None
    due: Seconds = 0.0
    hello_due: Seconds = 0.0
    ping: Subscription | None = None


class HelloAnswer(Struct, frozen=True):
    """What the leader knows of an agent."""

    known: bool = True
    superseded: bool = False


class Pulse:
    """The beats of all agents of one process. The thread starts with the first agent."""

    def __init__(self, url: str, subjects: Subjects, *, host: str, who: Login) -> None:
        self._url = url
        self._who = who
        self._subjects = subjects
        self._host = host
        self._agents: dict[str, Beating] = {}
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._program: asyncio.AbstractEventLoop | None = None
        self._turning: asyncio.Task[None] | None = None
        self._turned_at: Seconds = 0.0
        self._client: Client | None = None
        self._denials = Denials()
        self._denials.told.append(self._on_denied)
        self._changed: asyncio.Event | None = None
        self._stopping = False

    async def start(self, agent: Beating) -> Beating:
        """Beats for an agent from now on."""
        self._start_thread()
        agent.due = time.monotonic() + (agent.interval or 0.0)
        self._call(self._add(agent))
        return agent

    async def stop(self, agent: Beating) -> None:
        """Beats for it no more."""
        if self._thread is not None:
            await asyncio.wrap_future(self._call(self._remove(agent)))

    def beat_soon(self, agent: Beating) -> None:
        """Beats for it at once; the next beat follows an interval later."""
        agent.due = 0.0
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._wake)

    def hello_soon(self, agent: Beating) -> None:
        """Says hello for it at once: it was registered anew, and its connection speaks for nobody yet."""
        agent.hello_due = 0.0
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._wake)

    async def close(self) -> None:
        """Ends the thread; at most a second or two when the bus is away."""
        thread, loop = self._thread, self._loop
        if thread is None or loop is None:
            return
        if self._turning is not None:
            self._turning.cancel()
        self._stopping = True
        loop.call_soon_threadsafe(self._wake)
        await asyncio.get_running_loop().run_in_executor(None, thread.join, 5.0)
        self._thread = None

    def _start_thread(self) -> None:
        if self._thread is not None:
            return
        self._program = asyncio.get_running_loop()
        self._turned_at = time.monotonic()
        self._turning = asyncio.create_task(self._turn(), name="pulse: the loop turns")
        ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(ready,), name="rollcall pulse", daemon=True)
        self._thread.start()
        ready.wait()

    async def _turn(self) -> None:
        """Runs in the loop of the program: proof that it turns."""
        while True:
            self._turned_at = time.monotonic()
            await asyncio.sleep(TURN_EVERY)

    def _call(self, coroutine: Coroutine[Any, Any, None]) -> "Future[None]":
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def _run(self, ready: threading.Event) -> None:
        """The thread."""

        async def main() -> None:
            self._loop = asyncio.get_running_loop()
            self._changed = asyncio.Event()
            ready.set()
            await self._live()

        asyncio.run(main())

    async def _live(self) -> None:
        while not self._stopping:
            try:
                async with connected(
                    self._url,
                    name=f"rollcall:{self._subjects.realm}:host:{self._host}",
                    nkey_seed=self._who.seed,
                    credentials=self._who.credentials,
                    inbox=self._who.inbox,
                    tls=self._who.tls,
                    denials=self._denials,
                    on_reconnect=self._on_reconnect,
                ) as self._client:
                    for agent in self._agents.values():
                        await self._listen(agent)
                    await self._beat_on()
            except Unavailable as error:
                log.debug("the pulse finds no server; tries again", error=str(error))

    async def _on_reconnect(self) -> None:
        """After an absence one beat for all says at once that they live; hellos are spread, against stampedes."""
        now = time.monotonic()
        for agent in self._agents.values():
            agent.due = now
            agent.hello_due = now + random.uniform(0, 1) if agent.interval else now
        self._wake()

    async def _add(self, agent: Beating) -> None:
        agent.hello_due = time.monotonic()
        self._agents[agent.key] = agent
        if self._client is not None and not self._client.is_closed:
            await self._listen(agent)
        self._wake()

    async def _remove(self, agent: Beating) -> None:
        if self._agents.get(agent.key) is agent:
            del self._agents[agent.key]
        if agent.ping is not None and self._client is not None and not self._client.is_closed:
            with contextlib.suppress(NatsError):
                await agent.ping.unsubscribe()

    def _on_denied(self, subject: str, error: Denied) -> bool:
        """The bus refused a sign of life: the agent is told."""
        refused = [
            agent
            for agent in self._agents.values()
            if subject in (self._subjects.heartbeat(agent.key).lower(), self._subjects.hello(agent.key).lower())
        ]
        for agent in refused:
            if self._program is not None:
                self._program.call_soon_threadsafe(agent.denied, error)
        return bool(refused)

    def _wake(self) -> None:
        if self._changed is not None:
            self._changed.set()

    async def _listen(self, agent: Beating) -> None:
        assert self._client is not None

        async def answer(message: Msg) -> None:
            body = {"incarnation": agent.incarnation, "loop_lag": round(self._lag(), 3)}
            await message.respond(codec.encode(body))

        agent.ping = await self._client.subscribe(self._subjects.ping(token(agent.id)), cb=answer)

    async def _beat_on(self) -> None:
        assert self._changed is not None
        hellos: set[asyncio.Task[None]] = set()
        while not self._stopping:
            now = time.monotonic()
            if self._client is not None and self._client.is_connected:
                await self._beat_all(now)
                for agent in [agent for agent in self._agents.values() if agent.hello_due <= now]:
                    agent.hello_due = now + HELLO_EVERY * random.uniform(0.9, 1.0)
                    task = asyncio.create_task(self._say_hello(agent))
                    hellos.add(task)
                    task.add_done_callback(hellos.discard)
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._pause(now)):
                    await self._changed.wait()
        for task in hellos:
            task.cancel()

    def _pause(self, now: Seconds) -> Seconds:
        nexts = [
            min(agent.due if agent.interval else agent.hello_due, agent.hello_due) for agent in self._agents.values()
        ]
        return max(0.005, min(nexts, default=now + 1.0) - now)

    async def _beat_all(self, now: Seconds) -> None:
        assert self._client is not None
        due = [agent for agent in self._agents.values() if agent.interval and agent.due <= now + TOGETHER]
        for agent in due:
            agent.due = now + (agent.interval or 0.0)
        lag = self._lag()
        alone = [agent for agent in due if agent.health is not None or lag >= STUCK_AFTER or len(due) == 1]
        for agent in alone:
            subject, body = self._subjects.heartbeat(agent.key), _body(agent, lag)
            # What an owned agent says of itself counts only when it is signed; that it lives, hello vouches for.
            says = agent.signer is not None and (agent.health is not None or lag >= STUCK_AFTER)
            await self._client.publish(subject, body, headers=_signed(agent, subject, body) if says else None)
        together = [(agent.key, agent.incarnation) for agent in due if agent not in alone] if len(due) > 1 else []
        for start in range(0, len(together), MOST_TOGETHER):
            body = codec.encode(together[start : start + MOST_TOGETHER])
            await self._client.publish(self._subjects.heartbeats(self._host), body)

    def _lag(self) -> Seconds:
        """How long the loop of the program has not turned."""
        return max(0.0, time.monotonic() - self._turned_at - TURN_EVERY)

    async def _say_hello(self, agent: Beating) -> None:
        assert self._client is not None and self._program is not None
        try:
            said = codec.encode({"incarnation": agent.incarnation})
            subject = self._subjects.hello(agent.key)
            reply = await request(self._client, subject, said, timeout=2, headers=_signed(agent, subject, said))
            answer = codec.decode(reply.data, HelloAnswer)
        except (TimeoutError, NatsError, RollcallError):
            agent.hello_due = time.monotonic() + HELLO_AGAIN
            return
        if self._agents.get(agent.key) is not agent:
            return
        with contextlib.suppress(RuntimeError):  # the program's loop ended meanwhile
            if answer.superseded:
                del self._agents[agent.key]
                self._program.call_soon_threadsafe(agent.superseded)
            elif not answer.known:
                self._program.call_soon_threadsafe(agent.forgotten)


def _signed(agent: Beating, subject: str, body: bytes) -> dict[str, str] | None:
    """The headers of a sign of life that is about to be sent."""
    return {h.SENDER: agent.signer.sign(subject, body, now_ms())} if agent.signer is not None else None


def _body(agent: Beating, lag: Seconds) -> bytes:
    said = structs.asdict(agent.health) if agent.health is not None else {}
    body = {name: value for name, value in said.items() if value not in (None, "", {})}
    body["incarnation"] = agent.incarnation
    if lag >= TURN_EVERY:
        body["loop_lag"] = round(lag, 3)
    return codec.encode(body)

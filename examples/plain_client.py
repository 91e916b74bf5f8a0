"""An agent without the SDK: plain NATS and JSON, as in any language.

It shows the protocol by hand. A command is published with two headers: `Rollcall-Client`, a token of this client,
and `Rollcall-Command`, a name for this command; its outcome comes back under ``outcome.<token>``. A heartbeat is
published and never answered. A question is a NATS request. Every payload is JSON.

Start a registry with ``rollcall up``, then::

    python examples/plain_client.py --role worker --id plain-1

It registers, beats a few times, asks who else has its role, and leaves. All it needs is nats-py.
"""

import argparse
import asyncio
import json
import os
import re
import secrets
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

PATIENCE = 5.0
CONNECT_WITHIN = 2.0
BEATS = 3
BEAT_EVERY = 0.1
"""Seconds; a real agent beats each third of its ttl."""


class Refused(Exception):
    """The registry said no, or nobody answered."""


def token(text: str) -> str:
    """An id or a role as one token of a subject: bytes outside ``A-Za-z0-9_-`` are written ``=XX``."""
    return re.sub(rb"[^A-Za-z0-9_-]", lambda byte: b"=%02X" % byte[0][0], text.encode()).decode()


class PlainClient:
    """A client of one realm. It holds one subscription for the outcomes of all its commands."""

    def __init__(self, bus: Client, realm: str) -> None:
        self._bus = bus
        self._root = f"rollcall.{realm}"
        self._token = secrets.token_hex(16)
        self._waiting: dict[str, asyncio.Future[Msg]] = {}

    async def listen(self) -> None:
        """Hears outcomes from now on. Listening starts before anything is asked, so no outcome is missed."""
        await self._bus.subscribe(f"{self._root}.outcome.{self._token}.>", cb=self._on_outcome)
        await self._bus.flush()

    async def command(self, verb: str, key: str, body: dict[str, Any], **headers: str) -> dict[str, Any]:
        """Publishes register, update or deregister, and waits for its outcome: the agent's entry."""
        name = secrets.token_hex(8)
        outcome = self._waiting[name] = asyncio.get_running_loop().create_future()
        asked_by = {"Rollcall-Client": self._token, "Rollcall-Command": name}
        try:
            await self._bus.publish(
                f"{self._root}.{verb}.{key}", json.dumps(body).encode(), headers={**asked_by, **headers}
            )
            return answered(await asyncio.wait_for(outcome, PATIENCE))
        except TimeoutError as error:
            raise Refused(f"no outcome of {verb} within {PATIENCE:g} s; is a worker running?") from error
        finally:
            del self._waiting[name]

    async def beat(self, key: str, body: dict[str, Any]) -> None:
        """Sends one sign of life, with health."""
        await self._bus.publish(f"{self._root}.heartbeat.{key}", json.dumps(body).encode())

    async def ask(self, question: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """Asks the registry; any worker answers."""
        data = json.dumps(body).encode() if body is not None else b""
        try:
            return answered(await self._bus.request(f"{self._root}.{question}", data, timeout=PATIENCE))
        except (nats.errors.Error, TimeoutError) as error:
            raise Refused(f"nobody answers {question}; is a worker running?") from error

    async def _on_outcome(self, message: Msg) -> None:
        # An outcome may come more than once; what nobody waits for is left alone.
        waiting = self._waiting.get((message.headers or {}).get("Rollcall-Command", ""))
        if waiting is not None and not waiting.done():
            waiting.set_result(message)


def answered(message: Msg) -> dict[str, Any]:
    """The body of an answer. The headers tell whether it is an error."""
    body: dict[str, Any] = json.loads(message.data)
    if message.headers and "Nats-Service-Error-Code" in message.headers:
        raise Refused(f"{body['error']}: {body['message']}")
    return body


async def run(url: str, realm: str, role: str, id: str) -> None:
    """One short life of an agent."""
    async with connected(url, name=f"plain client {id}") as bus:
        client = PlainClient(bus, realm)
        await client.listen()
        await live(client, role, id)


@asynccontextmanager
async def connected(url: str, name: str) -> AsyncIterator[Client]:
    """A connection that comes back by itself; only the first one has a time limit."""
    bus = Client()
    last: list[Exception] = []

    async def keep(error: Exception) -> None:
        last[:] = [error]

    try:
        await asyncio.wait_for(bus.connect(url, name=name, max_reconnect_attempts=-1, error_cb=keep), CONNECT_WITHIN)
    except TimeoutError as error:
        await bus.close()
        raise Refused(f"no NATS server at {url} let us in ({last[0] if last else 'no answer'})") from error
    try:
        yield bus
    finally:
        await bus.close()


async def live(client: PlainClient, role: str, id: str) -> None:
    """Registers, beats, discovers and deregisters."""
    key = f"{token(role)}.{token(id)}"
    # The milliseconds of its start tell one life of an agent from the next.
    incarnation = time.time_ns() // 1_000_000
    record = {"name": id, "capabilities": ["plain"], "ttl": 10, "incarnation": incarnation}
    entry = await client.command("register", key, record)
    print(f"registered {entry['role']} {entry['id']} at revision {entry['revision']}")
    await beat_a_while(client, key, id, incarnation)
    page = await client.ask(f"discover.{token(role)}", {"capabilities": ["plain"]})
    print(f"discovered {', '.join(sorted(agent['id'] for agent in page['agents']))}")
    entry = await client.command(
        "deregister", key, {"reason": "the example ends"}, **{"Rollcall-Incarnation": str(incarnation)}
    )
    print(f"deregistered {entry['id']} at revision {entry['revision']}")


async def beat_a_while(client: PlainClient, key: str, id: str, incarnation: int) -> None:
    """Beats some times; then asks for its own entry until the last beat is in it."""
    for number in range(1, BEATS + 1):
        await client.beat(key, {"incarnation": incarnation, "active_connections": number})
        await asyncio.sleep(BEAT_EVERY)
    entry = await heard(client, id)
    print(f"beat {BEATS} times: {entry['liveness']}, health {json.dumps(entry['health'], sort_keys=True)}")


async def heard(client: PlainClient, id: str) -> dict[str, Any]:
    """The own entry, once the last beat is in it: beats have no answer, so one asks what came of them."""
    for _ in range(int(PATIENCE / BEAT_EVERY)):
        entry = await client.ask(f"get.{token(id)}")
        if entry.get("health", {}).get("active_connections") == BEATS:
            return entry
        await asyncio.sleep(BEAT_EVERY)
    raise Refused(f"the registry did not hear the beats of {id} within {PATIENCE:g} s")


def main() -> None:
    """The command."""
    environment = os.environ
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--nats", metavar="URL", default=environment.get("ROLLCALL_NATS") or "nats://127.0.0.1:4222", help="the bus"
    )
    parser.add_argument("--realm", default=environment.get("ROLLCALL_REALM") or "default", help="the registry on it")
    parser.add_argument("--role", default="worker", help="what kind of agent to be")
    parser.add_argument("--id", default=f"plain-{secrets.token_hex(4)}", help="its id")
    said = parser.parse_args()
    try:
        asyncio.run(run(said.nats, said.realm, said.role, said.id))
    except Refused as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()

"""A plain NATS client that speaks the protocol by hand, as one in any language would."""

import asyncio
import json
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from nats.aio.client import Client
from nats.aio.msg import Msg

from rollcall.bus.connection import barrier
from tests.conftest import Bus, eventually


class Plain:
    """Sends bytes on subjects, and keeps every outcome, rejection and change."""

    def __init__(self, client: Client, realm: str) -> None:
        self.client = client
        self.root = f"rollcall.{realm}"
        self.token = secrets.token_hex(8)
        self.heard: list[Msg] = []
        self._commands = 0

    async def listen(self) -> None:
        for subject in (f"outcome.{self.token}.>", "rejected.*.*", "changes.*.*", "signs.*.*"):
            await self.client.subscribe(f"{self.root}.{subject}", cb=self._hear)
        await barrier(self.client)

    async def _hear(self, message: Msg) -> None:
        self.heard.append(message)

    async def send(self, subject: str, payload: bytes | dict[str, Any] = b"", **headers: str) -> str:
        """Publishes a command; returns the name by which its outcome is found."""
        self._commands += 1
        name = f"c{self._commands}"
        data = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        told = {"Rollcall-Client": self.token, "Rollcall-Command": name}
        told |= {f"Rollcall-{key.replace('_', '-').title()}": value for key, value in headers.items()}
        await self.client.publish(f"{self.root}.{subject}", data, headers=told)
        return name

    async def outcome(self, name: str) -> dict[str, Any]:
        """The body of an outcome."""

        def found() -> Msg | None:
            return next((m for m in self.heard if (m.headers or {}).get("Rollcall-Command") == name), None)

        message = await eventually(found, what=f"outcome of {name}")
        return {**json.loads(message.data), "subject": message.subject}

    async def ask(self, subject: str, payload: bytes | dict[str, Any] = b"", **headers: str) -> dict[str, Any]:
        """Sends a command and waits for its outcome."""
        return await self.outcome(await self.send(subject, payload, **headers))

    async def question(self, subject: str, body: dict[str, Any] | bytes = b"") -> dict[str, Any]:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        reply = await self.client.request(f"{self.root}.{subject}", data, timeout=10)
        return json.loads(reply.data)

    def rejected(self) -> list[dict[str, Any]]:
        return [json.loads(m.data) for m in self.heard if ".rejected." in m.subject]

    def changes(self, id: str = "") -> list[str]:
        return [
            m.headers["Rollcall-Change"]
            for m in self.heard
            if ".changes." in m.subject and m.subject.endswith(f".{id}" if id else "")
        ]


@asynccontextmanager
async def plain(bus: Bus) -> AsyncIterator[Plain]:
    async with bus.agent_connection() as client:
        one = Plain(client, bus.realm)
        await one.listen()
        yield one
        await asyncio.sleep(0)

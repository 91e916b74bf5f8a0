"""A real server that lets in only users it has issued, and ways to come to it: with rights, or with forged ones."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from nats.aio.client import Client

import rollcall
from rollcall.bus.connection import barrier, connected
from rollcall.bus.denials import Denials
from rollcall.embedded import Authority, EmbeddedServer, running
from rollcall.embedded.authority import Issued
from rollcall.identity.keys import load_key
from rollcall.worker import IdentitySettings, Worker
from tests.conftest import Bus


@contextmanager
def guarded_server(home: Path) -> Iterator[tuple[EmbeddedServer, Authority]]:
    """As `rollcall up --auth` starts it."""
    authority = Authority(home)
    authority.prepare("default")
    with asyncio.Runner() as runner:
        manager = running(home, authority=authority)
        server = runner.run(manager.__aenter__())
        yield server, authority
        runner.run(manager.__aexit__(None, None, None))


class Heard(Denials):
    """Keeps whatever the server says went wrong, in lower case, as nats-py hands it over."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def hear(self, text: str) -> None:
        self.texts.append(text.lower())
        super().hear(text)


class Raw:
    """A plain connection: publishes and subscribes whatever it likes, and knows what was refused."""

    def __init__(self, client: Client, heard: Heard) -> None:
        self.client = client
        self._heard = heard

    async def refuses_publish(self, subject: str, data: bytes = b"", headers: dict[str, str] | None = None) -> bool:
        """Whether the server refused it; by then it has said so."""
        await self.client.publish(subject, data, headers=headers)
        return await self._refused("publish", subject)

    async def refuses_subscribe(self, subject: str, queue: str = "") -> bool:
        subscription = await self.client.subscribe(subject, queue=queue)
        refused = await self._refused("subscription", subject)
        await subscription.unsubscribe()
        return refused

    async def _refused(self, what: str, subject: str) -> bool:
        await barrier(self.client)
        wanted = f'permissions violation for {what} to "{subject.lower()}"'
        return any(wanted in text for text in self._heard.texts)


class Guarded(Bus):
    """One realm on such a server."""

    def __init__(self, server: EmbeddedServer, authority: Authority, realm: str, home: Path) -> None:
        super().__init__(server, realm, home)
        self.authority = authority

    def worker(self, name: str = "w1", **settings: Any) -> AbstractAsyncContextManager[Worker]:
        self.authority.prepare(self.realm)
        said = {
            "nkey_seed": "",
            "credentials": self.authority.worker_user,
            "identity": IdentitySettings(operators_file=self.authority.operators_file(self.realm)),
        }
        return super().worker(name, **{**said, **settings})

    def registry(self) -> AbstractAsyncContextManager[rollcall.Registry]:
        """Somebody who only asks and watches."""
        return self.joined(self.observer())

    def worker_connection(self) -> AbstractAsyncContextManager[Client]:
        return connected(self.url, name="test worker", credentials=self.authority.worker_user)

    def file(self, issued: Issued) -> Path:
        """Its credentials, as a person keeps them."""
        path = self.home / f"{issued.public}.creds"
        path.write_text(issued.credentials)
        path.chmod(0o600)
        return path

    def agent(self, id: str, role: str = "worker", **more: Any) -> Path:
        return self.file(self.authority.agent(more.pop("realm", self.realm), role, id, **more))

    def observer(self, **more: Any) -> Path:
        return self.file(self.authority.observer(self.realm, **more))

    def operator(self, **more: Any) -> Path:
        return self.file(self.authority.operator(self.realm, **more))

    def joined(self, credentials: Path | None, **more: Any) -> AbstractAsyncContextManager[rollcall.Registry]:
        return rollcall.connect(self.url, **{"realm": self.realm, "credentials": credentials, **more})

    @asynccontextmanager
    async def raw(self, credentials: Path) -> AsyncIterator[Raw]:
        heard, inbox = Heard(), f"_INBOX.{load_key(credentials).public}"
        async with connected(
            self.url, name="test attacker", credentials=credentials, inbox=inbox, denials=heard
        ) as client:
            yield Raw(client, heard)

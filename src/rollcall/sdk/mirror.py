"""A local replica of a role, kept by list-then-watch: lookups without I/O."""

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import structlog
from msgspec import Struct, structs
from nats.aio.client import Client
from nats.aio.msg import Msg

from rollcall.bus.subjects import Subjects, names, token
from rollcall.core import codec, query
from rollcall.core.errors import Invalid, RollcallError, Unavailable
from rollcall.core.instants import Seconds
from rollcall.core.liveness import as_entry
from rollcall.core.query import Query
from rollcall.core.records import ENDINGS, Change, Entry, Liveness
from rollcall.sdk.watch import View, Watch

log = structlog.get_logger(__name__)


class _Sign(Struct, frozen=True):
    liveness: Liveness
    last_seen: str | None = None


class Mirror:
    """The agents of a role as this process knows them. Used in an ``async with`` block; filled when that begins.

    `state` says what to believe: a mirror that cannot hear the registry keeps what it has and calls it stale.
    """

    def __init__(self, client: Client, subjects: Subjects, watch: Watch, role: str | None) -> None:
        self._client = client
        self._subjects = subjects
        self._watch = watch
        self._role = role
        self._agents: dict[str, Entry] = {}
        self._task: asyncio.Task[None] | None = None
        self._turned = asyncio.Condition()

    @property
    def state(self) -> View:
        """What to believe of it."""
        return self._watch.state

    async def __aenter__(self) -> "Mirror":
        which = f"{token(self._role)}.*" if self._role else "*.*"
        self._signs = await self._client.subscribe(self._subjects.signs(which), cb=self._on_sign)
        self._agents = {entry.id: entry for entry in await self._watch.open()}
        self._task = asyncio.create_task(self._follow(), name=f"mirror {self._role or 'all roles'}")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._watch.close()
        assert self._task is not None
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        if not self._client.is_closed:
            await self._signs.unsubscribe()

    def __len__(self) -> int:
        return len(self._agents)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._agents.values())

    def __contains__(self, id: str) -> bool:
        return id in self._agents

    def get(self, id: str) -> Entry | None:
        """One agent, None when there is none."""
        return self._agents.get(id)

    def find(self, **asked: Any) -> list[Entry]:
        """The agents that fit, by the fields of `Query`; without ``include`` and ``status`` the running live ones.

        Raises:
            Invalid: the question means nothing.
        """
        try:
            wanted = msgspec.convert(asked, Query)
        except msgspec.ValidationError as error:
            raise Invalid(f"the question is wrong: {error}") from error
        query.check(wanted)
        return [entry for entry in self._agents.values() if not query.mismatch(wanted, entry, entry.liveness)]

    async def wait_for(self, right: Callable[["Mirror"], bool], *, timeout: Seconds = 10.0) -> None:
        """Waits until `right` says yes to the mirror.

        Raises:
            Unavailable: it did not within `timeout`.
        """
        try:
            async with asyncio.timeout(timeout), self._turned:
                await self._turned.wait_for(lambda: right(self))
        except TimeoutError as error:
            raise Unavailable(f"the mirror did not become what was waited for within {timeout:g} s") from error

    async def _follow(self) -> None:
        async for change in self._watch:
            self._apply(change)
            await self._tell()

    async def _tell(self) -> None:
        async with self._turned:
            self._turned.notify_all()

    def _apply(self, change: Change) -> None:
        if change.kind in ENDINGS:
            self._agents.pop(change.id, None)
        else:
            self._agents[change.id] = as_entry(change.record, change.revision)

    async def _on_sign(self, message: Msg) -> None:
        try:
            _, id = names(".".join(message.subject.split(".")[3:]))
            sign = codec.decode(message.data, _Sign)
        except RollcallError as error:
            log.warning("a sign cannot be read", subject=message.subject, error=str(error))
            return
        entry = self._agents.get(id)
        if entry is not None and entry.lost_at is None:
            self._agents[id] = structs.replace(
                entry, liveness=sign.liveness, last_seen=sign.last_seen or entry.last_seen
            )
            await self._tell()

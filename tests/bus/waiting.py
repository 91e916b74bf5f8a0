"""What waits for somebody's word, as operators see it."""

from collections.abc import Awaitable, Callable
from typing import Any

import rollcall
from rollcall import Entry, Registry
from rollcall.core.errors import Waits
from tests.conftest import Bus

Asked = Callable[[], Awaitable[bool]]


async def pending(registry: Registry) -> dict[str, dict[str, Any]]:
    """What waits, by id; nothing while nobody leads."""
    try:
        return {one["id"]: one for one in await registry.pending()}
    except rollcall.Unavailable:
        return {}


def waits(registry: Registry, *ids: str, behind: int = 0, why: str = "") -> Asked:
    """Whether these wait now, each with so many commands behind it."""

    async def there() -> bool:
        told = await pending(registry)
        return all(
            id in told and told[id]["behind"] == behind and (not why or told[id]["waits_for"] == why) for id in ids
        )

    return there


def rests(registry: Registry) -> Asked:
    """Whether somebody leads and nothing waits."""

    async def empty() -> bool:
        try:
            return not await registry.pending()
        except rollcall.Unavailable:
            return False

    return empty


def there(registry: Registry, id: str) -> Callable[[], Awaitable[Entry | None]]:
    """The entry of an agent that is on the roll."""

    async def entry() -> Entry | None:
        try:
            return await registry.get(id)
        except rollcall.NotFound:
            return None

    return entry


async def put_off(command: Awaitable[Entry]) -> Waits:
    """Sends a command that is told to wait."""
    try:
        entry = await command
    except Waits as error:
        return error
    raise AssertionError(f"did not wait: {entry}")


def kept(bus: Bus) -> Callable[[], Awaitable[int]]:
    """How many commands the pending bucket holds."""

    async def count() -> int:
        async with bus.worker_connection() as inside:
            name = bus.subjects.pending_stream
            ask = b'{"subjects_filter": "$KV.*.wait.>"}'
            told = await inside.request(f"$JS.API.STREAM.INFO.{name}", ask, timeout=5)
            return len(rollcall.core.codec.decode(told.data, dict)["state"].get("subjects") or {})

    return count


def empty(bus: Bus) -> Asked:
    """Whether the pending bucket holds no command any more."""

    async def nothing() -> bool:
        return await kept(bus)() == 0

    return nothing

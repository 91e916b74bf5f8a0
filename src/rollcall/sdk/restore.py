"""Bringing a backup back into a realm that runs."""

import asyncio
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from rollcall.core import codec
from rollcall.core.errors import Unavailable
from rollcall.core.instants import Seconds
from rollcall.core.records import Place
from rollcall.sdk.registry import Registry

PART_BYTES = 256 * 1024
ASK_WITHIN: Seconds = 10.0
DONE_WITHIN: Seconds = 60.0
LOOK_EVERY: Seconds = 0.1


async def restore(
    registry: Registry,
    places: Sequence[Place],
    *,
    made_at: str,
    dry_run: bool = False,
    advance: Callable[[int], object] = lambda _: None,
) -> dict[str, Any]:
    """Registers again whoever of a backup is not on the roll, under a new epoch; whoever is there stays as it is.

    Says how many are ``restored`` and ``unchanged``, and of whom something else is there (``conflicts``).

    Raises:
        Unauthorized: only operators may, and this connection is none.
        Unavailable: it was not done; ask again.
    """
    upload = secrets.token_hex(8)
    told: dict[str, Any] = {}
    parts = list(_parts(places))
    for number, part in enumerate(parts):
        last = number == len(parts) - 1
        body = {"upload": upload, "number": number, "places": part, "last": last, "dry_run": dry_run}
        told = codec.decode_object(
            await registry.operate("restore", codec.encode({**body, "made_at": made_at}), ASK_WITHIN)
        )
        advance(len(part))
    if told["restored"] and not dry_run:
        told["epoch"] = await _another_epoch(registry, told["epoch"])
    return told


def _parts(places: Sequence[Place]) -> Iterator[list[Place]]:
    """The agents in parts that fit into a message each; at least one part."""
    part: list[Place] = []
    size = 0
    for place in places:
        size += len(codec.encode(place)) + 1
        if size > PART_BYTES and part:
            yield part
            part, size = [], len(codec.encode(place)) + 1
        part.append(place)
    yield part


async def _another_epoch(registry: Registry, before: str) -> str:
    deadline = time.monotonic() + DONE_WITHIN
    while time.monotonic() < deadline:
        try:
            info = await registry.info()
            if info["epoch"] > before and info["leader"]:
                return str(info["epoch"])
        except Unavailable:
            pass  # who answers is busy with it
        await asyncio.sleep(LOOK_EVERY)
    raise Unavailable("the backup was taken in, and the roll was not made anew with it; look at it, and restore again")

"""Who left the roll of late: their records may still stand in a directory, and must not bring them back."""

import asyncio
from collections.abc import Collection
from datetime import UTC, datetime, timedelta

from rollcall import NotFound, Position, Registry
from rollcall.core.instants import timestamp
from rollcall.core.records import ENDINGS
from rollcall.faces.files.houmao.mapping import generation_of

REMEMBERED = timedelta(hours=1)
"""How far back is looked: as long as the roll itself remembers who left, unless its workers are told otherwise."""
FEW = 16
"""Up to so many are asked about one by one."""


class Departed:
    """Answers for one pass over a directory."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._known: dict[str, str] | None = None

    async def generations(self, ids: Collection[str]) -> dict[str, str]:
        """Of these, who are not on the roll, the generation that left it of late.

        Raises:
            Unavailable: nobody answered.
        """
        if not ids:
            return {}
        if self._known is None and not (await self._registry.info(exact=True))["tombstones"]:
            self._known = {}
        if self._known is None and len(ids) <= FEW:
            return dict(await asyncio.gather(*map(self._one, ids)))
        if self._known is None:
            self._known = await self._everybody()
        return self._known

    async def _one(self, id: str) -> tuple[str, str]:
        changes = await self._registry.history(id, limit=1)
        gone = changes and changes[-1].kind in ENDINGS
        return id, generation_of(changes[-1].record) if gone else ""

    async def _everybody(self) -> dict[str, str]:
        left: dict[str, str] = {}
        position, more = await self._beginning(), True
        while more:
            answer = await self._registry.since(position)
            if answer.too_old:
                # It was not all seen, or the roll is another one: whoever is in the directory is taken in.
                return {}
            for change in answer.changes:
                left[change.id] = generation_of(change.record) if change.kind in ENDINGS else ""
            position, more = Position(answer.epoch, answer.upto), answer.more
        return left

    async def _beginning(self) -> Position:
        at = datetime.now(UTC) - REMEMBERED
        try:
            # Nobody is called so: only the revision is of interest.
            then = (await self._registry.as_of(at=timestamp(round(at.timestamp() * 1000)), id="-")).asof
        except NotFound:
            then = None
        if then is not None:
            return Position(then.epoch, then.revision)
        return Position((await self._registry.info())["epoch"], 0)

"""Syncing on and on: whenever the roll or the file changes, collected for a second."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import structlog
import watchfiles

from rollcall import Change, ChangeKind, Registry, RollcallError
from rollcall.core.instants import Seconds
from rollcall.faces.files.mindx.running import running
from rollcall.faces.files.mindx.sync import Event
from rollcall.faces.files.mindx.tool import Answer, RegistrySyncTool
from rollcall.faces.files.waiting import news_or_fall

COLLECT: Seconds = 1.0
LOOK_AGAIN: Seconds = 1.0
"""How soon a directory that went away is looked for again."""

log = structlog.get_logger(__name__)


async def keep_in_sync(
    tool: RegistrySyncTool,
    registry: Registry,
    *,
    validate_signatures: bool = True,
    update_missing_keys: bool = True,
    on_event: Callable[[Event], None] | None = None,
) -> AsyncIterator[Answer]:
    """Syncs at once and after every change, and yields what each sync did; ends only when it is closed."""
    news = asyncio.Event()
    news.set()
    watching = [
        asyncio.create_task(_watch_roll(registry, news, on_event), name="mindx: the roll"),
        asyncio.create_task(_watch_file(tool.agents_registry_path, news), name="mindx: the file"),
    ]
    try:
        while True:
            await news_or_fall(news, *watching)
            news.clear()
            yield await tool.execute(
                "sync_all", validate_signatures=validate_signatures, update_missing_keys=update_missing_keys
            )
            await asyncio.sleep(COLLECT)
    finally:
        for task in watching:
            task.cancel()
        await asyncio.gather(*watching, return_exceptions=True)


async def _watch_roll(registry: Registry, news: asyncio.Event, tell: Callable[[Event], None] | None) -> None:
    async with registry.watch() as changes:
        async for change in changes:
            news.set()
            event = await _event(registry, change) if tell is not None else None
            if event is not None and tell is not None:
                tell(event)


async def _watch_file(path: Path, news: asyncio.Event) -> None:
    """Hears of the file, and of what takes its place; a directory that is not there may come."""
    while True:
        with contextlib.suppress(OSError):
            async for _ in watchfiles.awatch(
                path.parent, recursive=False, watch_filter=lambda _, name: Path(name).name == path.name
            ):
                news.set()
        await asyncio.sleep(LOOK_AGAIN)
        news.set()


async def _event(registry: Registry, change: Change) -> Event | None:
    """What mindX tells of a change."""
    if change.kind not in (ChangeKind.REGISTERED, ChangeKind.DEREGISTERED):
        return None
    try:
        total: Any = (await registry.info(exact=True))["agents"]
    except RollcallError as error:
        log.debug("agents cannot be counted now", error=str(error))
        total = None
    told: Event = {
        "event": f"agent.{change.kind}",
        "agent_id": change.id,
        "agent_type": change.role,
        "timestamp": change.at / 1000,
    }
    if change.kind is ChangeKind.DEREGISTERED:
        by = {"deregistered_by": change.record.registered_by, "had_shutdown_method": False}
        return {**told, "metadata": {**by, "total_agents": total}}
    return {
        **told,
        "description": running(change.record).fields.get("description"),
        "status": "active",
        "registered_at": change.at / 1000,
        "metadata": {"total_agents": total},
    }

"""Waiting for news beside tasks that may fall."""

import asyncio


async def news_or_fall(news: asyncio.Event, *tasks: asyncio.Task[None]) -> None:
    """Waits for news; a task that falls meanwhile takes whoever waits down with it."""
    heard = asyncio.create_task(news.wait())
    try:
        done, _ = await asyncio.wait((heard, *tasks), return_when=asyncio.FIRST_COMPLETED)
    finally:
        heard.cancel()
    if heard not in done:
        for task in done & set(tasks):
            task.result()

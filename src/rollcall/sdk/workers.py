"""Asking every worker of a realm at once, as tools of the bus ask micro services."""

import asyncio
import json
from typing import Any

from nats.aio.client import Client
from nats.aio.msg import Msg

from rollcall.core.instants import Seconds

WAIT: Seconds = 0.3
"""How long answers are waited for: nobody knows how many workers there are."""


async def ask_all(client: Client, realm: str, verb: str) -> list[dict[str, Any]]:
    """What each worker answers to ``$SRV.<verb>``; nothing where this user may not ask so."""
    inbox = client.new_inbox()
    heard: list[dict[str, Any]] = []

    async def hear(message: Msg) -> None:
        if not message.data:
            return
        answer = json.loads(message.data)
        if answer.get("metadata", {}).get("realm") == realm:
            heard.append(answer)

    subscription = await client.subscribe(inbox, cb=hear)
    await client.publish(f"$SRV.{verb}.rollcall", reply=inbox)
    await asyncio.sleep(WAIT)
    await subscription.unsubscribe()
    return heard

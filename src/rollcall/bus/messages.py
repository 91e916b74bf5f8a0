"""Messages to agents: kept in a stream, a hundred of each agent, for a day."""

import asyncio
import json
from collections.abc import Sequence

from nats.aio.client import Client
from nats.aio.msg import Msg

from rollcall.bus import headers as h
from rollcall.bus.connection import subscribe_all
from rollcall.core.errors import Unavailable
from rollcall.core.instants import Seconds

ANSWER_WITHIN: Seconds = 2.0


async def held(client: Client, stream: str, subject: str, limit: int) -> Sequence[bytes]:
    """What a stream holds of one subject, oldest first, by one batched direct get.

    Raises:
        Unavailable: JetStream did not answer.
    """
    found: list[bytes] = []
    ended = asyncio.Event()

    async def hear(message: Msg) -> None:
        if message.headers and h.STATUS in message.headers:
            ended.set()
        else:
            found.append(message.data)

    inbox = client.new_inbox()
    subscription = await subscribe_all(client, inbox, hear)
    try:
        asked = {"batch": limit, "seq": 1, "next_by_subj": subject}
        await client.publish(f"$JS.API.DIRECT.GET.{stream}", json.dumps(asked).encode(), reply=inbox)
        async with asyncio.timeout(ANSWER_WITHIN):
            await ended.wait()
    except TimeoutError as error:
        raise Unavailable(f"stream {stream} did not answer; try again") from error
    finally:
        await subscription.unsubscribe()
    return found

"""What runs in processes of its own while something is measured."""

import asyncio
import json
from typing import Any

import nats
import uvloop


def send_beats(url: str, together: int, count: int, agents: int) -> None:
    """Runs in a process of its own: publishes beats as fast as the server takes them."""

    async def main() -> None:
        client = await nats.connect(url, pending_size=64 << 20)
        keys = [f"role0.agent-{index}" for index in range(agents)]
        if together == 1:
            subjects = [f"rollcall.default.heartbeat.{key}" for key in keys]
            for index in range(count):
                await client.publish(subjects[index % agents], b"")
                if index % 500 == 0:
                    await client.flush()
        else:
            batches = [
                json.dumps([[key, 0] for key in (keys * 2)[start : start + together]]).encode()
                for start in range(0, agents, together)
            ]
            for index in range(count // together):
                await client.publish("rollcall.default.heartbeats.bench", batches[index % len(batches)])
                if index % 200 == 0:
                    await client.flush()
        await client.flush()
        await client.flush()
        await client.close()

    uvloop.run(main())


def answer_bare(url: str, body: bytes, ready: Any) -> None:
    """Runs in a process of its own: answers as a bare NATS responder does."""

    async def main() -> None:
        client = await nats.connect(url)

        async def answer(message: Any) -> None:
            await message.respond(body)

        await client.subscribe("bench.bare", queue="q", cb=answer)
        await client.flush()
        await client.flush()
        ready.set()
        await asyncio.Event().wait()

    uvloop.run(main())

"""A process that holds many agents, each a plain NATS client with a connection of its own; run as a script.

They register once, beat, and say hello on every new connection, as clients in other languages do.
"""

import argparse
import asyncio
import json
import os
import random
from pathlib import Path

import nats.errors
from nats.aio.client import Client

from rollcall.bus.connection import connected
from rollcall.bus.subjects import Subjects

parser = argparse.ArgumentParser()
parser.add_argument("--url")
parser.add_argument("--realm")
parser.add_argument("--role", default="agent")
parser.add_argument("--prefix", default="a")
parser.add_argument("--count", type=int, default=1)
parser.add_argument("--ttl", type=float, default=30.0)
parser.add_argument("--ready", type=Path)


async def one(told: argparse.Namespace, subjects: Subjects, id: str, there: list[str]) -> None:
    client: Client
    key = f"{told.role}.{id}"

    async def hello() -> None:
        try:
            await client.request(subjects.hello(key), b'{"incarnation":1}', timeout=5)
        except (nats.errors.Error, TimeoutError):
            await asyncio.sleep(random.uniform(0.5, 1.5))
            await hello()

    async def back() -> None:
        await client.publish(subjects.heartbeat(key), b'{"incarnation":1}')
        await asyncio.sleep(random.uniform(0, 1))
        await hello()

    name = f"rollcall:{told.realm}:{told.role}:{id}"
    async with connected(told.url, name=name, timeout=20, on_reconnect=back) as client:
        body = json.dumps({"name": id, "ttl": told.ttl, "incarnation": 1}).encode()
        await client.publish(subjects.command("register", key), body)
        while True:
            reply = await client.request(subjects.hello(key), b'{"incarnation":1}', timeout=10)
            if json.loads(reply.data)["known"]:
                break
            await asyncio.sleep(0.1)
        there.append(id)
        await asyncio.sleep(random.uniform(0, told.ttl / 3))
        while True:
            if client.is_connected:
                await client.publish(subjects.heartbeat(key), b'{"incarnation":1}')
            await asyncio.sleep(told.ttl / 3)


async def main(told: argparse.Namespace) -> None:
    there: list[str] = []
    subjects = Subjects(told.realm)
    async with asyncio.TaskGroup() as tasks:
        for number in range(told.count):
            tasks.create_task(one(told, subjects, f"{told.prefix}{number}", there))
            await asyncio.sleep(0.001)
        while len(there) < told.count:
            await asyncio.sleep(0.02)
        scratch = told.ready.with_suffix(".new")
        scratch.write_text(json.dumps({"pid": os.getpid(), "ids": there}))
        scratch.rename(told.ready)


asyncio.run(main(parser.parse_args()))

"""A process that floods the registry; run as a script. It ends by writing what it was answered.

======= ===========================================================
beats   of one agent, or of so many that nobody knows
updates of one agent
joins   registrations of so many agents, each another one
======= ===========================================================
"""

import argparse
import asyncio
import json
import time
from collections import Counter
from pathlib import Path

import uvloop
from nats.aio.msg import Msg

from rollcall.bus.connection import barrier, connected, subscribe_all
from rollcall.bus.subjects import Subjects

TOKEN = "flood-flood-flood-flood"
BURST = 0.01
QUIET = 2.0
"""Seconds without an answer after which none is waited for any more."""

parser = argparse.ArgumentParser()
parser.add_argument("kind", choices=("beats", "updates", "joins"))
parser.add_argument("--url")
parser.add_argument("--realm")
parser.add_argument("--id", default="noisy")
parser.add_argument("--ids", type=int, default=1)
parser.add_argument("--rate", type=int)
parser.add_argument("--count", type=int)
parser.add_argument("--ready", type=Path)


async def main(told: argparse.Namespace) -> None:
    subjects = Subjects(told.realm)
    answers: Counter[str] = Counter()
    heard_at = time.monotonic()

    async def hear(message: Msg) -> None:
        nonlocal heard_at
        heard_at = time.monotonic()
        headers = message.headers or {}
        answers[headers.get("Nats-Service-Error") or headers.get("Rollcall-Change") or "full"] += 1

    async with connected(told.url, name="flood") as client:
        await subscribe_all(client, subjects.outcome(TOKEN, ">"), hear)
        await barrier(client)
        keys = [f"flood.{told.id}{number if told.ids > 1 else ''}" for number in range(told.ids)]
        began, sent = time.monotonic(), 0
        while sent < told.count:
            due = min(told.count, int((time.monotonic() - began + BURST) * told.rate))
            for number in range(sent, due):
                key, headers = keys[number % told.ids], {"Rollcall-Client": TOKEN, "Rollcall-Command": str(number)}
                match told.kind:
                    case "beats":
                        await client.publish(subjects.heartbeat(key))
                    case "updates":
                        body = json.dumps({"labels": {"number": str(number)}}).encode()
                        await client.publish(subjects.command("update", key), body, headers=headers)
                    case _:
                        body = b'{"name":"n","ttl":null}'
                        await client.publish(subjects.command("register", key), body, headers=headers)
            sent = due
            await client.flush()
            await asyncio.sleep(BURST / 2)
        seconds = time.monotonic() - began
        heard_at = time.monotonic()
        while told.kind != "beats" and time.monotonic() - heard_at < QUIET and sum(answers.values()) < told.count:
            await asyncio.sleep(0.05)
    told.ready.write_text(json.dumps({"sent": sent, "seconds": seconds, "answers": answers}))


uvloop.run(main(parser.parse_args()))

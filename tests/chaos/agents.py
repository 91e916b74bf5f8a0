"""A process that holds many agents of the SDK; run as a script.

SIGTERM: all leave, and it ends. SIGUSR1: its loop stands still for `--block` seconds.
"""

import argparse
import asyncio
import contextlib
import json
import logging
import os
import signal
import time
from pathlib import Path

import structlog

import rollcall

parser = argparse.ArgumentParser()
parser.add_argument("--url")
parser.add_argument("--realm")
parser.add_argument("--role", default="agent")
parser.add_argument("--prefix", default="a")
parser.add_argument("--count", type=int, default=1)
parser.add_argument("--ttl", type=float, default=30.0)
parser.add_argument("--block", type=float, default=7.0)
parser.add_argument("--ready", type=Path)


async def one(registry: rollcall.Registry, role: str, id: str, ttl: float, leaving: asyncio.Event, there: list[str]):
    async with registry.agent(role, id, id=id, ttl=ttl, wait=False) as agent:
        await agent.wait_registered()
        there.append(id)
        await leaving.wait()


async def main(told: argparse.Namespace) -> None:
    loop, leaving = asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, leaving.set)
    loop.add_signal_handler(signal.SIGUSR1, lambda: time.sleep(told.block))
    there: list[str] = []
    async with rollcall.connect(told.url, realm=told.realm) as registry, asyncio.TaskGroup() as tasks:
        for number in range(told.count):
            tasks.create_task(one(registry, told.role, f"{told.prefix}{number}", told.ttl, leaving, there))
        while len(there) < told.count and not leaving.is_set():
            await asyncio.sleep(0.02)
        scratch = told.ready.with_suffix(".new")
        scratch.write_text(json.dumps({"pid": os.getpid(), "ids": there}))
        scratch.rename(told.ready)


structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
with contextlib.suppress(KeyboardInterrupt):
    asyncio.run(main(parser.parse_args()))

"""Three nats-servers that are one cluster."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import nats.errors
from nats.aio.client import Client

from tests.chaos.server import Server, free_port

NODES = 3


def cluster(home: Path) -> list[Server]:
    """The nodes, not started yet. Their keys are the same: workers sign in to any of them."""
    ports = [free_port() for _ in range(NODES)]
    routes = [f"nats-route://127.0.0.1:{port}" for port in ports]
    keys = home / "keys"
    keys.mkdir()
    return [
        Server(
            home / f"n{number}",
            name=f"n{number}",
            keys=keys,
            extra={"cluster": {"name": "chaos", "listen": f"127.0.0.1:{port}", "routes": routes}},
        )
        for number, port in enumerate(ports, 1)
    ]


async def stream_leader(client: Client, stream: str) -> str:
    """The name of the node that leads a stream; empty while none does."""
    return str((await _told(client, stream)).get("leader") or "")


async def in_step(client: Client, streams: Iterable[str]) -> bool:
    """Whether every node has what the others have: only then may another one be killed."""
    told = [await _told(client, stream) for stream in streams]
    return all(
        one.get("leader") and len(one.get("replicas") or ()) == NODES - 1 and all(r["current"] for r in one["replicas"])
        for one in told
    )


async def formed(client: Client) -> bool:
    """Whether streams can be made."""
    try:
        answer = json.loads((await client.request("$JS.API.INFO", b"", timeout=1)).data)
    except (nats.errors.Error, TimeoutError):
        return False
    return "error" not in answer


async def _told(client: Client, stream: str) -> dict[str, Any]:
    try:
        answer = json.loads((await client.request(f"$JS.API.STREAM.INFO.{stream}", b"", timeout=1)).data)
    except (nats.errors.Error, TimeoutError):
        return {}  # nobody leads, or nobody answers: the caller asks again
    return answer.get("cluster") or {}

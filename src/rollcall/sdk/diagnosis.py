"""Is the registry well, and what to do if not: every part tried as an agent would use it."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from enum import StrEnum
from typing import Any

import nats.errors
from msgspec import Struct
from nats.aio.client import Client
from nats.aio.msg import Msg

from rollcall.bus.connection import request
from rollcall.bus.subjects import Subjects
from rollcall.core.errors import Denied, NotFound, RollcallError
from rollcall.core.instants import Seconds, instant
from rollcall.sdk.registry import Registry
from rollcall.sdk.workers import ask_all

OLDEST_SERVER = (2, 12)
CLOCK_SKEW: Seconds = 1.0
BEACON_WITHIN: Seconds = 3.0


class Verdict(StrEnum):
    """What a check found."""

    OK = "ok"
    WARNING = "warning"
    BROKEN = "broken"


class Finding(Struct, frozen=True):
    """One check: what was found, and how to mend it."""

    check: str
    verdict: Verdict
    found: str
    mend: str = ""


async def diagnose(registry: Registry) -> AsyncIterator[Finding]:
    """Checks one part after the other, and tells each finding as soon as it is there."""
    client, subjects = registry.bus
    yield _server(client)
    yield await _streams(registry)
    try:
        info = await registry.info()
    except RollcallError as error:
        yield Finding("workers", Verdict.BROKEN, str(error), "start one: rollcall up, or rollcall worker --nats URL")
        return
    # At once: what follows takes seconds.
    yield _clock(info)
    workers = len(await ask_all(client, registry.realm, "PING"))
    yield Finding("workers", Verdict.OK, f"{workers} answer; {info['worker']} at revision {info['revision']}")
    yield _leader(info)
    yield _snapshot(info)
    yield await _commands(registry)
    yield await _broadcast(client, subjects)
    yield _evidence(info)
    yield _guard(info)


def _server(client: Client) -> Finding:
    version = client.connected_server_version
    found = f"nats-server {version.major}.{version.minor}.{version.patch}"
    if (version.major, version.minor) < OLDEST_SERVER:
        return Finding("server", Verdict.BROKEN, found, "rollcall needs nats-server 2.12 or newer: upgrade it")
    return Finding("server", Verdict.OK, found)


async def _streams(registry: Registry) -> Finding:
    """An agent should be unable to touch a stream, whatever it publishes."""
    client, subjects = registry.bus
    try:
        info = f"$JS.API.STREAM.INFO.{subjects.roll_stream}"
        reply = await request(client, info, b"", timeout=1, denials=registry.denials)
    except (TimeoutError, Denied, nats.errors.Error):
        return Finding("streams", Verdict.OK, "out of reach for this user, as they should be for agents")
    if b'"config"' not in reply.data:
        return Finding("streams", Verdict.OK, "out of reach for this user, as they should be for agents")
    return Finding(
        "streams",
        Verdict.WARNING,
        "this user may touch the streams of the registry",
        "right for a worker; give agents an account or permissions of their own (docs/operations.md)",
    )


def _leader(info: dict[str, Any]) -> Finding:
    if info["leader"]:
        return Finding("leader", Verdict.OK, f"{info['leader']} leads")
    return Finding("leader", Verdict.BROKEN, "nobody leads", "wait two seconds; then read the logs of the workers")


def _snapshot(info: dict[str, Any]) -> Finding:
    if info["trouble"]:
        return Finding("snapshot", Verdict.BROKEN, str(info["trouble"]), "give its disk room; the worker tries on")
    if info["healing"]:
        return Finding("snapshot", Verdict.WARNING, f"the roll is made anew: {info['healing']}", "wait some seconds")
    return Finding("snapshot", Verdict.OK, f"on disk up to revision {info['durable']}")


async def _commands(registry: Registry) -> Finding:
    """The whole way of a command, there and back, by one that must be refused."""
    started = time.monotonic()
    try:
        await registry.update("rollcall-doctor", f"nobody-{secrets.token_hex(8)}", {"name": "nobody"})
    except NotFound:
        took = (time.monotonic() - started) * 1000
        return Finding("commands", Verdict.OK, f"taken in, decided and answered in {took:.1f} ms")
    except RollcallError as error:
        return Finding("commands", Verdict.BROKEN, str(error), "check that a worker leads and that the realm is right")
    return Finding("commands", Verdict.BROKEN, "an update of nobody was accepted", "report this as a bug")


async def _broadcast(client: Client, subjects: Subjects) -> Finding:
    heard = asyncio.Event()

    async def hear(_: Msg) -> None:
        heard.set()

    subscription = await client.subscribe(subjects.beacon, cb=hear)
    try:
        async with asyncio.timeout(BEACON_WITHIN):
            await heard.wait()
    except TimeoutError:
        return Finding(
            "broadcast",
            Verdict.BROKEN,
            f"no beacon within {BEACON_WITHIN:.0f} s",
            "check that this user may subscribe to beacon and changes, and that a worker leads",
        )
    finally:
        await subscription.unsubscribe()
    return Finding("broadcast", Verdict.OK, "the beacon is heard")


def _clock(info: dict[str, Any]) -> Finding:
    skew = abs(time.time() * 1000 - instant(info["time"])) / 1000
    if skew > CLOCK_SKEW:
        return Finding(
            "clock",
            Verdict.WARNING,
            f"this machine and worker {info['worker']} differ by {skew:.1f} s",
            "leases do not mind, times that people read do: synchronise both (NTP)",
        )
    return Finding("clock", Verdict.OK, "agrees with the worker's")


def _evidence(info: dict[str, Any]) -> Finding:
    state, _, way = str(info["connection_evidence"]).partition(": ")
    if state == "on":
        return Finding("evidence", Verdict.OK, "connection evidence: on; a death is known at once")
    return Finding("evidence", Verdict.WARNING, "connection evidence: off; a death is known by its ttl", way)


def _guard(info: dict[str, Any]) -> Finding:
    if info["guard"] is None:
        return Finding("guard", Verdict.OK, "rests: nothing is doubted")
    guard = info["guard"]
    return Finding(
        "guard",
        Verdict.WARNING,
        f"{guard.get('held', 0)} held: {guard['why']}",
        "it ends by itself; if they are gone indeed: rollcall guard release",
    )

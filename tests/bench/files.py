"""What the shared registry directory costs: writing it, reading it, and how soon a change is there.

The bare loop makes the same directories and writes the same bytes, each file on disk before the next.
"""

import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import rollcall
from rollcall import Entry
from rollcall.faces.files.houmao import mapping
from rollcall.faces.files.houmao.directory import LOCAL, RECORD, Directory
from rollcall.faces.files.houmao.fields import time_text
from rollcall.faces.files.houmao.forms import local, written
from rollcall.faces.files.houmao.incoming import Incoming
from rollcall.faces.files.houmao.outgoing import Mirroring, export
from rollcall.faces.files.houmao.record import LocalRecord
from tests.conftest import leads
from tests.processes import Process

COUNT = 10_000
CHANGES = 50

Rows = list[tuple[str, str, str]]


async def files() -> Rows:
    """Rows of the table."""
    now = datetime.now(UTC)
    records = [_record(number, now) for number in range(COUNT)]
    with tempfile.TemporaryDirectory(prefix="rollcall-bench-") as place:
        home = Path(place)
        bare = _bare(home / "bare", [(record.agent_id, written(record)) for record in records])
        ready = home / "ready.json"
        up = ["up", "--data-dir", str(home / "data"), "--nats-port", "0", "--http", "off", "--ready-file", str(ready)]
        with Process(*up, "--log-level", "warning", home=home) as process:
            async with rollcall.connect(process.ready(ready)["nats"]) as registry:
                await leads(registry)
                rows = await _of_roll(registry, home, records, now, bare)
    return [("records written by a bare loop, each on disk", f"{COUNT / bare:,.0f}/s", ""), *rows]


async def _of_roll(
    registry: rollcall.Registry, home: Path, records: list[LocalRecord], now: datetime, bare: float
) -> Rows:
    source, target = home / "source", Directory(home / "target")
    for record in records:
        _put(source, record.agent_id, written(record))
    started = time.monotonic()
    told = await Incoming(registry, source).take_in()
    taken_in = time.monotonic() - started
    assert told.registered == COUNT, told
    started = time.monotonic()
    again = await Incoming(registry, source).take_in()
    repeated = time.monotonic() - started
    assert (again.unchanged, again.updated) == (COUNT, 0), again
    entries = list(await registry.list(exact=True))
    started = time.monotonic()
    done = await asyncio.to_thread(export, target, entries, now)
    exported = time.monotonic() - started
    assert done.written == COUNT, done
    waits = sorted(await _mirrored(registry, target.root, entries))
    bulk = [{**mapping.fields_of(record, None, now), "id": f"bulk-{record.agent_id}"} for record in records]
    started = time.monotonic()
    await registry.register_many(bulk, timeout=60)
    registered = time.monotonic() - started
    mirrored = f"p50 {statistics.median(waits) * 1000:.0f} ms, p99 {waits[int(0.99 * len(waits))] * 1000:.0f} ms"
    ratio = f"{exported / bare:.2f}x the bare loop's time"
    return [
        ("agents exported, each on disk", f"{COUNT / exported:,.0f}/s = {ratio}", "<= 3x"),
        ("the same agents, registered by one bulk call", f"{COUNT / registered:,.0f}/s", ""),
        (
            "records taken in",
            f"{COUNT / taken_in:,.0f}/s = {registered / taken_in:.2f}x the bulk call",
            ">= 5,000/s",
        ),
        ("the same again, nothing to do", f"{COUNT / repeated:,.0f}/s", ""),
        (f"a change in its file, among {COUNT:,} agents", mirrored, "200 ms"),
    ]


async def _mirrored(registry: rollcall.Registry, root: Path, entries: list[Entry]) -> list[float]:
    """Seconds from the answer to an update until its file says so."""
    waits = []
    running = Mirroring(registry, root).run()
    await anext(running)
    following = asyncio.create_task(_drain(running))
    try:
        for entry in entries[:CHANGES]:
            path = root / LOCAL / entry.id / RECORD
            await registry.update(entry.role, entry.id, {"pointers": {"session_root": f"/new/{entry.id}"}})
            started = time.monotonic()
            while b"/new/" not in path.read_bytes():
                assert time.monotonic() - started < 10, path
                await asyncio.sleep(0.001)
            waits.append(time.monotonic() - started)
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
    return waits


async def _drain(running: AsyncIterator[Any]) -> None:
    async for _ in running:
        pass


def _record(number: int, now: datetime) -> LocalRecord:
    return local(
        {
            "agent_name": f"agent-{number}",
            "agent_id": f"agent-{number}",
            "generation_id": f"generation-{number}",
            "lifecycle": {"state": "active", "relaunchable": True, "state_updated_at": time_text(now)},
            "identity": {"backend": "codex_headless", "tool": "codex"},
            "runtime": {
                "manifest_path": f"/runtime/sessions/{number}/manifest.json",
                "session_root": f"/runtime/sessions/{number}",
                "agent_def_dir": f"/agents/{number}",
            },
            "terminal": {"current_session_name": f"agent-{number}", "last_session_name": f"agent-{number}"},
            "liveness": {
                "published_at": time_text(now),
                "lease_expires_at": time_text(now + mapping.LEASE + timedelta(hours=1)),
            },
        }
    )


def _bare(root: Path, documents: list[tuple[str, bytes]]) -> float:
    started = time.monotonic()
    for id, data in documents:
        path = root / LOCAL / id
        path.mkdir(parents=True)
        with (path / RECORD).open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    return time.monotonic() - started


def _put(root: Path, id: str, data: bytes) -> None:
    path = root / LOCAL / id
    path.mkdir(parents=True)
    (path / RECORD).write_bytes(data)

"""Stopping agents, taking them out of use, starting them anew: of this registry, by whoever operates it.

Each step is a compare-and-set on what was read, so it never touches a later life of the agent.
"""

import uuid
from datetime import UTC, datetime
from typing import Any

from msgspec import structs

from rollcall import Conflict, Denied, Entry, Mode, Registry, Status
from rollcall.core import codec
from rollcall.core.records import EXTERNAL, profile_of
from rollcall.faces.files.houmao.finding import Known, find
from rollcall.faces.files.houmao.mapping import Inexpressible, express, fields_of, kept, patch_of
from rollcall.faces.files.houmao.ownership import relaunched, retired, stopped
from rollcall.faces.files.houmao.record import LocalRecord
from rollcall.sdk.clock import now_ms

ENDED = (Status.STOPPED, Status.RETIRED)
STILL_ACTIVE = "shared-registry record still claims active lifecycle state; stop the agent first"


async def stop(registry: Registry, ref: str) -> Entry:
    """Stops an agent: it stays on the roll, and can be started anew.

    Raises:
        NotFound, Ambiguous: not one agent is meant.
        Denied: another registry owns it.
        Conflict: it is retired, or somebody was faster.
    """
    entry = await _own(registry, ref)
    if entry.status == Status.STOPPED:
        return entry
    if entry.status == Status.RETIRED:
        raise Conflict(f"{entry.role} {entry.id!r} is retired, and stays so; purge it, or register it anew")
    record, now = _record(entry), datetime.now(UTC)
    patch = patch_of(stopped(record, now), entry, now) if record is not None else {"status": "stopped"}
    return await _update(registry, entry, patch)


async def retire(registry: Registry, ref: str) -> Entry:
    """Takes a stopped agent out of use for good; its record stays.

    Raises:
        NotFound, Ambiguous: not one agent is meant.
        Denied: another registry owns it.
        Conflict: it is not stopped, or somebody was faster.
    """
    entry = await _own(registry, ref)
    if entry.status == Status.RETIRED:
        return entry
    _check_ended(entry)
    record, now = _record(entry), datetime.now(UTC)
    patch = patch_of(retired(record, now), entry, now) if record is not None else {"status": "retired"}
    return await _update(registry, entry, patch)


async def purge(registry: Registry, ref: str) -> Entry:
    """Takes an agent that is stopped, retired or lost off the roll; returns its last entry.

    Raises:
        NotFound, Ambiguous: not one agent is meant.
        Denied: another registry owns it.
        Conflict: it is active, or a later life of it took the place.
    """
    entry = await _own(registry, ref)
    _check_ended(entry)
    return await registry.deregister(entry.role, entry.id, incarnation=entry.incarnation, reason="purged")


async def relaunch(registry: Registry, ref: str, *, session: str = "") -> Entry:
    """Says that a stopped agent is started anew, as another generation; whoever starts its process says where it runs.

    Raises:
        NotFound, Ambiguous: not one agent is meant.
        Denied: another registry owns it.
        Conflict: it is not stopped, cannot be started anew, or somebody was faster.
    """
    entry = await _own(registry, ref)
    if entry.status != Status.STOPPED and entry.lost_at is None:
        raise Conflict(f"{entry.role} {entry.id!r} is {entry.status}; only a stopped agent is started anew")
    if kept(entry) is not None and not Known(entry).relaunchable:
        raise Conflict(f"{entry.role} {entry.id!r} is not relaunchable: its record says so; register it anew")
    record, now = _record(entry), datetime.now(UTC)
    if record is not None:
        profile = codec.as_profile(fields_of(relaunched(record, now, str(uuid.uuid4()), session or None), entry, now))
    else:
        later = max(now_ms(), entry.incarnation + 1)
        profile = structs.replace(profile_of(entry), status=Status.RUNNING, incarnation=later)
    return await registry.announce(profile, Mode.TAKEOVER, expected=entry.revision)


async def _own(registry: Registry, ref: str) -> Entry:
    """The one agent that is meant, if its lifecycle is ours."""
    entry = await find(registry, ref)
    if entry.origin == EXTERNAL:
        where = f"{entry.pointers.get('api', 'elsewhere')} (agent {entry.pointers.get('agent_ref', '?')})"
        raise Denied(f"{entry.name!r} is owned by the registry at {where}; its lifecycle is operated there")
    return entry


def _check_ended(entry: Entry) -> None:
    if entry.status not in ENDED and entry.lost_at is None:
        raise Conflict(f"{entry.role} {entry.id!r}: {STILL_ACTIVE}")


def _record(entry: Entry) -> LocalRecord | None:
    """The record of an agent that came from the directory, as the roll has it now."""
    record = kept(entry)
    if record is None:
        return None
    try:
        return express(entry, datetime.now(UTC))
    except Inexpressible:
        return record


async def _update(registry: Registry, entry: Entry, patch: dict[str, Any]) -> Entry:
    incarnation = entry.incarnation
    return await registry.update(entry.role, entry.id, patch, expected=entry.revision, incarnation=incarnation)

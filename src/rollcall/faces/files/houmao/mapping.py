"""What an agent of the roll is in the shared registry directory, and the other way round. Pure.

The whole document stands in ``extensions.houmao`` of the record, so nothing is lost on the way. What the roll says
besides, such as a status or a pointer that was changed there, counts where it differs. An agent that was never in the
directory is expressed by its pointers: ``manifest_path``, ``tmux_session_name``, ``session_root``, ``agent_def_dir``
and ``backend``.
"""

import uuid
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import ValidationError

from rollcall import Entry, Invalid, Status
from rollcall.core import limits
from rollcall.core.instants import instant
from rollcall.core.records import EXTERNAL, Record
from rollcall.faces.files.houmao.fields import time_of, time_text
from rollcall.faces.files.houmao.forms import local
from rollcall.faces.files.houmao.names import wrong_with
from rollcall.faces.files.houmao.ownership import LEASE, LOST
from rollcall.faces.files.houmao.record import LIVE_STATES, AnyRecord, ExternalRecord, LocalRecord

DIALECT = "houmao"
OWNER = "houmao:"
_RECORD = "record"

STATUSES = {
    "active": Status.RUNNING,
    "relaunching": Status.PAUSED,
    "stopped": Status.STOPPED,
    "retired": Status.RETIRED,
}
_STATES = {status: state for state, status in STATUSES.items()} | {Status.DRAINING: "active"}
_RUNTIME = ("manifest_path", "session_root", "agent_def_dir")
SESSION = "tmux_session_name"
BACKEND = "backend"
_OLD_BACKENDS = ("cao_rest", "houmao_server_rest")
SLACK = timedelta(seconds=2)
"""What two leases may differ and be the same one: whole seconds are written, and a ttl is taken before it runs."""


class Inexpressible(Invalid):
    """An agent that the directory has no words for; what stands there is left alone."""


class Ended(Inexpressible):
    """An agent that is lost and cannot be started anew: it has no record any more."""


def kept(entry: Record) -> LocalRecord | None:
    """The document that came from the directory; None for an agent that never was there."""
    held = entry.extensions.get(DIALECT, {}).get(_RECORD)
    if not isinstance(held, list) or len(held) != 1 or entry.origin == EXTERNAL:
        return None
    try:
        return LocalRecord.model_validate(held[0])
    except ValidationError:
        return None


def generation_of(entry: Record) -> str:
    """Which generation an agent is: as the directory says, or made of what tells one of its lives from the next."""
    if entry.owner.startswith(OWNER):
        return entry.owner.removeprefix(OWNER)
    record = kept(entry)
    if record is not None:
        return record.generation_id
    return str(uuid.uuid5(uuid.NAMESPACE_OID, f"{entry.role}/{entry.id}/{entry.incarnation}/{entry.registered_at}"))


def fields_of(record: LocalRecord, held: Entry | None, now: datetime) -> dict[str, Any]:
    """The fields with which an agent of the directory is registered.

    A generation keeps its incarnation; a later one has a greater one.
    """
    return {
        "role": record.identity.tool,
        "id": record.agent_id,
        "name": record.agent_name[: limits.LABEL_CHARS],
        "status": str(STATUSES[record.lifecycle.state]),
        "owner": OWNER + record.generation_id,
        "origin": DIALECT,
        "incarnation": _incarnation(record, held),
        "ttl": ttl(record, now),
        "pointers": _pointers(record),
        "extensions": {DIALECT: section(record)},
    }


def ttl(record: LocalRecord, now: datetime) -> float | None:
    """Seconds that the lease has left; None for none, and for one that is longer than any lease here."""
    if record.liveness is None:
        return None
    left = (time_of(record.liveness.lease_expires_at) - now).total_seconds()
    return None if left > limits.TTL_MAX else max(limits.TTL_MIN, round(left, 3))


def section(record: AnyRecord) -> dict[str, Any]:
    """The document as the roll keeps it: in a list, for a merge patch takes away members that are null."""
    return {_RECORD: [record.model_dump()]}


def patch_of(record: LocalRecord, held: Entry, now: datetime) -> dict[str, Any]:
    """The merge patch that makes an agent on the roll what a record of the same generation says."""
    fields = fields_of(record, held, now)
    gone: dict[str, Any] = dict.fromkeys(name for name in (*_RUNTIME, SESSION, BACKEND) if name in held.pointers)
    names = ("name", "status", "ttl", "extensions")
    return {**{name: fields[name] for name in names}, "pointers": {**gone, **fields["pointers"]}}


def express(entry: Entry, now: datetime) -> LocalRecord:
    """An agent of the roll as a record.

    Raises:
        Inexpressible: it cannot be one; the message says why.
    """
    if entry.origin == EXTERNAL:
        raise Inexpressible("another registry owns it; it has an external record")
    wrong = wrong_with(entry.id, "agent_id") or wrong_with(entry.name, "agent_name")
    if wrong:
        raise Inexpressible(wrong)
    if entry.status not in _STATES:
        raise Inexpressible(f"it is {entry.status}, and has never run")
    try:
        return _expressed(entry, now)
    except Inexpressible:
        raise
    except Invalid as error:
        raise Inexpressible(error.message) from error


def _expressed(entry: Entry, now: datetime) -> LocalRecord:
    record = kept(entry)
    runtime, backend = _runtime(entry, record), _backend(entry, record)
    state = _STATES[entry.status]
    relaunchable = _relaunchable(record, runtime, backend) and state != "retired"
    lost = entry.lost_at is not None and entry.beating
    if lost and not relaunchable:
        raise Ended(f"it is lost since {entry.lost_at}, and cannot be started anew")
    live = state in LIVE_STATES and not lost
    return local(
        {
            "agent_name": _name(entry, record),
            "agent_id": entry.id,
            "generation_id": generation_of(entry),
            "lifecycle": _lost(entry) if lost else _lifecycle(entry, record, state, relaunchable=relaunchable),
            "identity": {"backend": backend, "tool": entry.role},
            "runtime": runtime,
            "terminal": _terminal(entry, record, live=live),
            "liveness": _liveness(entry, record, now) if live else None,
            "gateway": record.gateway.model_dump() if record is not None and record.gateway and live else None,
            "mailbox": record.mailbox.model_dump() if record is not None and record.mailbox else None,
        }
    )


def _name(entry: Entry, record: LocalRecord | None) -> str:
    """Its name on the roll, where that was changed there; a long one was cut when it was taken in."""
    if record is not None and record.agent_name[: limits.LABEL_CHARS] == entry.name:
        return record.agent_name
    return entry.name


def _runtime(entry: Entry, record: LocalRecord | None) -> dict[str, Any]:
    runtime = record.runtime.model_dump() if record is not None else dict.fromkeys(_RUNTIME)
    taken_in = _pointers(record) if record is not None else {}
    said = {name: entry.pointers[name] for name in _RUNTIME if name in entry.pointers}
    runtime |= {name: value for name, value in said.items() if value != taken_in.get(name)}
    if not runtime["manifest_path"]:
        raise Inexpressible("it has no pointer 'manifest_path'")
    return runtime


def _backend(entry: Entry, record: LocalRecord | None) -> str:
    return entry.pointers.get(BACKEND) or (record.identity.backend if record is not None else "local_interactive")


def _relaunchable(record: LocalRecord | None, runtime: Mapping[str, Any], backend: str) -> bool:
    if record is not None:
        return record.lifecycle.relaunchable
    return bool(runtime.get("session_root") and runtime.get("agent_def_dir")) and backend not in _OLD_BACKENDS


def may_be_relaunched(entry: Entry) -> bool:
    """Whether a record of the agent says that it can be started anew."""
    record = kept(entry)
    return _relaunchable(record, entry.pointers, _backend(entry, record))


def _lifecycle(entry: Entry, record: LocalRecord | None, state: str, *, relaunchable: bool) -> dict[str, Any]:
    """As the directory said, while the roll says the same; what was changed on the roll counts since then."""
    if record is not None and record.lifecycle.state == state:
        return record.lifecycle.model_dump()
    changed = time_text(time_in(entry.updated_at))
    ended = {} if state in LIVE_STATES else {"stopped_at": changed, "stop_reason": None}
    return {"state": state, "relaunchable": relaunchable, "state_updated_at": changed, **ended}


def _lost(entry: Entry) -> dict[str, Any]:
    at = time_text(time_in(str(entry.lost_at)))
    return {
        "state": "stopped",
        "relaunchable": True,
        "state_updated_at": at,
        "stopped_at": at,
        "stop_reason": LOST,
    }


def _terminal(entry: Entry, record: LocalRecord | None, *, live: bool) -> dict[str, Any]:
    known = record.session if record is not None else ""
    said = entry.pointers.get(SESSION)
    session = known if not said or said == known[: limits.TEXT_CHARS] else said
    if not session:
        raise Inexpressible(f"it has no pointer {SESSION!r}")
    if record is not None and session == known and live == (record.terminal.current_session_name is not None):
        return record.terminal.model_dump()
    return {"kind": "tmux", "current_session_name": session if live else None, "last_session_name": session}


def _liveness(entry: Entry, record: LocalRecord | None, now: datetime) -> dict[str, str]:
    """The lease that the directory knows, or the later one that beats have made of it."""
    told = record.liveness if record is not None else None
    until = time_in(entry.expires_at) if entry.expires_at is not None else None
    if told is not None and (until is None or until <= time_of(told.lease_expires_at) + SLACK):
        if time_of(told.lease_expires_at) >= now:
            return told.model_dump()
        if until is None:
            raise Inexpressible("its lease is over, and nobody has said yet that it is lost")
    if until is None:
        return {"published_at": time_text(now), "lease_expires_at": time_text(now + LEASE)}
    if until < now:
        raise Inexpressible("its lease is over, and nobody has said yet that it is lost")
    seen = time_in(entry.last_seen or entry.updated_at)
    # Whole seconds are written, and a lease ends after it began.
    published = min(seen, until - timedelta(seconds=1))
    return {"published_at": time_text(published), "lease_expires_at": time_text(until)}


def time_in(text: str) -> datetime:
    """The instant that a field of an entry names."""
    return datetime.fromtimestamp(instant(text) / 1000, UTC)


def _pointers(record: LocalRecord) -> dict[str, str]:
    said = {**record.runtime.model_dump(), SESSION: record.session, BACKEND: record.identity.backend}
    return {name: value[: limits.TEXT_CHARS] for name, value in said.items() if value}


def _incarnation(record: LocalRecord, held: Entry | None) -> int:
    if held is not None and generation_of(held) == record.generation_id:
        return held.incarnation
    began = record.liveness.published_at if record.liveness is not None else record.lifecycle.state_updated_at
    first = max(1, round(time_of(began).timestamp() * 1000))
    return first if held is None else max(first, held.incarnation + 1)


def kept_external(entry: Record) -> ExternalRecord | None:
    """The external record of an agent; None for one that is no agent of another registry."""
    held = entry.extensions.get(DIALECT, {}).get(_RECORD)
    if entry.origin != EXTERNAL or not isinstance(held, list) or len(held) != 1:
        return None
    try:
        return ExternalRecord.model_validate(held[0])
    except ValidationError:
        return None


def express_external(entry: Entry) -> ExternalRecord:
    """An agent of another registry as a record.

    Raises:
        Inexpressible: it has none.
    """
    record = kept_external(entry)
    if record is None:
        raise Inexpressible("it is no agent of another registry, or its record cannot be read")
    return record


def external_fields(record: ExternalRecord) -> dict[str, Any]:
    """The fields with which an agent of another registry is registered: it has no lease, and never lives by itself."""
    return {
        "role": record.cached_identity.tool,
        "id": record.external_agent_id,
        "name": record.local_name[: limits.LABEL_CHARS],
        "status": str(Status.RUNNING),
        "owner": OWNER + record.generation_id,
        "origin": EXTERNAL,
        "incarnation": max(1, round(time_of(record.updated_at_utc).timestamp() * 1000)),
        "ttl": None,
        "keep": True,
        "pointers": {"api": record.pair_api_base_url, "agent_ref": record.remote_agent_ref[: limits.TEXT_CHARS]},
        "extensions": {DIALECT: section(record)},
    }

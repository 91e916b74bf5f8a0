"""What is told of agents over Houmao's routes. Pure."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from rollcall import Entry
from rollcall.core.records import EXTERNAL
from rollcall.faces.files.houmao.finding import Known
from rollcall.faces.files.houmao.mapping import BACKEND, Inexpressible, express, generation_of, kept_external
from rollcall.faces.files.houmao.ownership import active
from rollcall.faces.files.houmao.record import LocalRecord


def shown(entry: Entry, now: datetime) -> LocalRecord | None:
    """The record of an agent that is active now; None for any other."""
    try:
        record = express(entry, now)
    except Inexpressible:
        return None
    return record if active(record, now) else None


def summary(record: LocalRecord) -> dict[str, Any]:
    """One active agent."""
    assert record.liveness is not None
    return {
        "agent_id": record.agent_id,
        "agent_name": record.agent_name,
        "generation_id": record.generation_id,
        "tool": record.identity.tool,
        "backend": record.identity.backend,
        "tmux_session_name": record.session,
        "manifest_path": record.runtime.manifest_path,
        "session_root": record.runtime.session_root or "",
        "has_gateway": record.gateway is not None,
        "has_mailbox": record.mailbox is not None,
        "published_at": record.liveness.published_at,
        "lease_expires_at": record.liveness.lease_expires_at,
    }


def summaries(entries: Iterable[Entry], now: datetime) -> list[dict[str, Any]]:
    """Every active agent, by name."""
    records = [record for record in (shown(entry, now) for entry in entries) if record is not None]
    return [summary(record) for record in sorted(records, key=lambda one: (one.agent_name, one.agent_id))]


def resolved(ref: str, found: Sequence[Known], now: datetime) -> dict[str, Any]:
    """Which agent is meant by an id or a name, and whether it is to be reached."""
    if not found:
        return _answer(ref, "unknown", f"Agent not found: {ref}")
    if len(found) > 1:
        detail = f"Ambiguous agent name: {len(found)} agents share this name. Disambiguate by agent_id."
        return _answer(ref, "ambiguous", detail) | {"candidates": [one.candidate() for one in found]}
    entry = found[0].entry
    record = shown(entry, now)
    gateway = record.gateway if record is not None else None
    if entry.origin == EXTERNAL:
        said = kept_external(entry)
        status, detail = "offline", f"Another registry owns this agent: {said.pair_api_base_url if said else '?'}"
    elif record is None:
        status, detail = "offline", f"Agent is {found[0].state}; nothing is sent to it."
    else:
        status = "live_with_gateway" if gateway is not None else "live_without_gateway"
        detail = "Agent is active."
    candidate = found[0].candidate()
    names = {"manifest_path", "session_root"}
    return {
        **_answer(ref, status, detail),
        **{name: value or None if name in names else value for name, value in candidate.items()},
        "generation_id": generation_of(entry),
        "backend": record.identity.backend if record is not None else entry.pointers.get(BACKEND),
        "gateway": gateway.model_dump(include={"host", "port", "protocol_version"}) if gateway is not None else None,
    }


_NEXT = {
    "stopped": "Start it anew with `rollcall relaunch`, or take it away with `rollcall retire` or `rollcall purge`.",
    "retired": "It is retired: nothing is sent to it any more; `rollcall purge` takes it away.",
    "relaunching": "It is being started anew; try again later.",
}


def inactive(ref: str, one: Known) -> str:
    """What is said of an agent that is meant and cannot be reached, with the way on."""
    if one.entry.origin == EXTERNAL:
        return "Another registry owns it; `rollcall external verify` asks there."
    line = " ".join(f"{name}={value}" for name, value in one.told().items())
    way = _NEXT.get(one.state, "Nothing has been heard of it for longer than its lease.")
    return (
        f"Local managed-agent resolution for --agent-name `{ref}` matched an inactive registry record.\n{line}\n{way}"
    )


def _answer(ref: str, status: str, detail: str) -> dict[str, Any]:
    unknown = dict.fromkeys(
        (
            "agent_id",
            "agent_name",
            "generation_id",
            "lifecycle_state",
            "relaunchable",
            "tool",
            "backend",
            "manifest_path",
            "session_root",
            "gateway",
        )
    )
    return {"status": status, "detail": detail, "agent_ref": ref, **unknown, "candidates": []}

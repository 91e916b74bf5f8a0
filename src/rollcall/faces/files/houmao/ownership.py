"""Whose a logical agent is, and what each step of its life makes of its record. Pure."""

from datetime import datetime, timedelta

from rollcall.core.errors import Invalid
from rollcall.faces.files.houmao.fields import time_of, time_text
from rollcall.faces.files.houmao.forms import local
from rollcall.faces.files.houmao.record import LIVE_STATES, LocalRecord

LEASE = timedelta(hours=24)
"""How long a record is believed that does not say."""

OPERATOR_STOP = "operator_stop"
CLEANUP_SESSION = "cleanup_session"
LOST = "lost"
"""Why an agent is stopped that the registry believes lost."""


def fresh(record: LocalRecord, now: datetime) -> bool:
    """Whether the lease still runs; one that has none is not fresh."""
    return record.liveness is not None and time_of(record.liveness.lease_expires_at) >= now


def active(record: LocalRecord, now: datetime) -> bool:
    """Whether the agent is to be reached now."""
    return record.lifecycle.state == "active" and fresh(record, now)


def check_lease(record: LocalRecord, now: datetime) -> None:
    """Says no to a record that claims a life whose lease is over.

    Raises:
        Invalid: it is one.
    """
    if record.lifecycle.state in LIVE_STATES and not fresh(record, now):
        raise Invalid("Refusing to publish an active record with an expired lease.")


def conflict(stored: LocalRecord | None, record: LocalRecord, now: datetime, when: str = "before publish") -> str:
    """Why `record` must stand down before what is stored; empty when it may take the place."""
    if stored is None or stored.generation_id == record.generation_id or not active(stored, now):
        return ""
    return (
        f"Shared-registry ownership conflict for agent_id `{record.agent_id}` {when}: active generation "
        f"`{stored.generation_id}` already owns that logical identity, so generation `{record.generation_id}` must "
        "stand down."
    )


def stopped(record: LocalRecord, now: datetime, reason: str = OPERATOR_STOP) -> LocalRecord:
    """The record of an agent that was stopped: durable, of the same generation."""
    return _ended(record, now, "stopped", reason, relaunchable=record.lifecycle.relaunchable)


def retired(record: LocalRecord, now: datetime) -> LocalRecord:
    """The record of an agent that is never started again."""
    return _ended(record, now, "retired", record.lifecycle.stop_reason or CLEANUP_SESSION, relaunchable=False)


def relaunched(
    record: LocalRecord, now: datetime, generation: str, session: str | None = None, lease: timedelta = LEASE
) -> LocalRecord:
    """The record of a new generation of an agent, active from `now` on.

    Raises:
        Invalid: the session cannot be named.
    """
    document = record.model_dump()
    document["generation_id"] = generation
    document["lifecycle"] = {
        "state": "active",
        "relaunchable": record.lifecycle.relaunchable,
        "state_updated_at": time_text(now),
    }
    name = session or record.session
    document["terminal"] = {"kind": "tmux", "current_session_name": name, "last_session_name": name}
    document["liveness"] = _lease(now, now + lease)
    return local(document)


def renewed(record: LocalRecord, now: datetime, until: datetime) -> LocalRecord:
    """The record with a lease to `until`, published now; one that lasts longer stays."""
    if record.liveness is None or time_of(record.liveness.lease_expires_at) >= until:
        return record
    return local({**record.model_dump(), "liveness": _lease(now, until)})


def _lease(now: datetime, until: datetime) -> dict[str, str]:
    # Whole seconds are written, and a lease must end after it began.
    return {
        "published_at": time_text(now),
        "lease_expires_at": time_text(max(until, now + timedelta(seconds=1))),
    }


def _ended(record: LocalRecord, now: datetime, state: str, reason: str, *, relaunchable: bool) -> LocalRecord:
    document = record.model_dump()
    document["lifecycle"] = {
        "state": state,
        "relaunchable": relaunchable,
        "state_updated_at": time_text(now),
        "stopped_at": record.lifecycle.stopped_at or time_text(now),
        "stop_reason": reason,
    }
    document["liveness"] = document["gateway"] = None
    document["terminal"] = {"kind": "tmux", "current_session_name": None, "last_session_name": record.session}
    return local(document)

"""Which records of the directory are of no use any more, and taking them away. Only ``live_agents``; never what is
outside of the root, and never what another registry owns."""

import re
import subprocess
from collections.abc import Collection, Iterable, Iterator
from datetime import datetime, timedelta
from typing import Any

from msgspec import Struct

from rollcall import Invalid, RollcallError
from rollcall.faces.files.houmao.directory import LOCAL, RECORD, Directory, Look
from rollcall.faces.files.houmao.fields import time_of
from rollcall.faces.files.houmao.forms import read_local
from rollcall.faces.files.houmao.record import LIVE_STATES

TOP_IS_LINK = "shared-registry live_agents root is a symlink"
ENTRY_IS_LINK = "shared-registry entry is a symlink"
RECORD_IS_LINK = "shared-registry record.json is a symlink"
MISSING = "shared-registry record.json is missing"
MALFORMED = "shared-registry record.json is malformed"
EXPIRED = "registry lease expired beyond the cleanup grace period"
NO_SESSION = "local tmux liveness probe found no owning session"
HAS_SESSION = "local tmux liveness probe confirmed the owning session"
FRESH = "lease remains fresh and local tmux checking was disabled"
VALID = "registry record remains valid"
_LOOKS = {"entry link": ENTRY_IS_LINK, "record link": RECORD_IS_LINK, "missing": MISSING, "too large": MALFORMED}
ASK_WITHIN = 5.0
_NO_SERVER = re.compile(r"no server running|error connecting to .*\((?:No such file or directory|Connection refused)\)")
"""How tmux says that nothing runs; anything else it says is about itself."""


class Judged(Struct, frozen=True):
    """What is to become of one entry, and why."""

    id: str
    keep: bool
    reason: str
    generation: str = ""


class Probe(Struct, frozen=True):
    """What is known of terminal sessions: `sessions` that run here, None where nobody could be asked.

    `heard` are agents whose own signs of life reach the registry, from wherever they run: no probe is needed for them.
    """

    wanted: bool
    sessions: frozenset[str] | None = None
    heard: Collection[str] = ()


def tmux_sessions() -> frozenset[str] | None:
    """The terminal sessions of this user on this machine; None where tmux cannot be asked."""
    try:
        told = subprocess.run(
            ["tmux", "list-sessions", "-F", "#{session_name}"],
            capture_output=True,
            text=True,
            timeout=ASK_WITHIN,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    if told.returncode == 0:
        return frozenset(told.stdout.splitlines())
    return frozenset() if _NO_SERVER.search(told.stderr) else None


def judged(directory: Directory, now: datetime, grace: timedelta, probe: Probe) -> Iterator[Judged]:
    """Every entry of ``live_agents``, in order; the first rule that fits counts."""
    if directory.is_link(LOCAL):
        yield Judged(LOCAL, False, TOP_IS_LINK)
        return
    for id, look in directory.looks(LOCAL):
        if isinstance(look, OSError):
            yield Judged(id, True, f"record.json cannot be read: {look.strerror}")
        else:
            yield _judge(id, look, now, grace, probe)


def _judge(id: str, look: Look, now: datetime, grace: timedelta, probe: Probe) -> Judged:
    if look.found in _LOOKS:
        return Judged(id, False, _LOOKS[look.found])
    try:
        record = read_local(look.data, f"{id}/{RECORD}")
        if record.agent_id != id:
            raise Invalid("it is of another id than its directory")
    except Invalid:
        return Judged(id, False, MALFORMED)
    state = record.lifecycle.state
    if state not in LIVE_STATES:
        return Judged(id, True, f"lifecycle state `{state}` is durable")
    assert record.liveness is not None
    if time_of(record.liveness.lease_expires_at) + grace < now:
        return Judged(id, False, EXPIRED, record.generation_id)
    if not probe.wanted:
        return Judged(id, True, FRESH)
    if id in probe.heard or probe.sessions is None:
        return Judged(id, True, VALID)
    here = record.terminal.current_session_name in probe.sessions
    return Judged(id, here, HAS_SESSION if here else NO_SESSION, record.generation_id)


def clean(
    directory: Directory, found: Iterable[Judged], grace: timedelta, probe: Probe, *, dry_run: bool
) -> dict[str, Any]:
    """Removes what was found to be of no use, unless it is a `dry_run`; tells it in the form of Houmao's tools."""
    outcomes = [(one, *_done(directory, one, dry_run)) for one in found]

    def actions(outcome: str) -> list[dict[str, Any]]:
        return [_action(directory, one, reason) for one, what, reason in outcomes if what == outcome]

    def ids(outcome: str) -> list[str]:
        return [one.id for one, what, _ in outcomes if what == outcome]

    root, seconds = str(directory.root), int(grace.total_seconds())
    planned, removed, preserved, failed = (ids(name) for name in ("planned", "removed", "preserved", "failed"))
    return {
        "dry_run": dry_run,
        "scope": {"kind": "registry_cleanup", "registry_root": root, "grace_seconds": seconds},
        "resolution": {"authority": "registry_root", "probe_local_tmux": probe.wanted},
        "planned_actions": actions("planned"),
        "applied_actions": actions("removed"),
        "blocked_actions": actions("failed"),
        "preserved_actions": actions("preserved"),
        "summary": {
            "planned_count": len(planned),
            "applied_count": len(removed),
            "blocked_count": len(failed),
            "preserved_count": len(preserved),
            "removed_count": len(removed),
            "failed_count": len(failed),
        },
        "registry_root": root,
        "removed_agent_ids": removed,
        "planned_agent_ids": planned,
        "preserved_agent_ids": preserved,
        "failed_agent_ids": failed,
        "grace_seconds": seconds,
        "probe_local_tmux": probe.wanted,
    }


def _done(directory: Directory, one: Judged, dry_run: bool) -> tuple[str, str]:
    """What became of an entry, and why."""
    if one.keep:
        return "preserved", one.reason
    if dry_run:
        return "planned", one.reason
    try:
        if one.id == LOCAL and directory.is_link(LOCAL):
            directory.remove_link(LOCAL)
        else:
            directory.remove(LOCAL, one.id)
    except (OSError, RollcallError) as error:
        return "failed", f"{one.reason}; removal failed: {error}"
    return "removed", one.reason


def _action(directory: Directory, one: Judged, reason: str) -> dict[str, Any]:
    top = directory.root / LOCAL
    return {
        "artifact_kind": "registry_live_agent_record",
        "path": str(top if one.reason == TOP_IS_LINK else top / one.id),
        "proposed_action": "preserve" if one.keep else "remove",
        "reason": reason,
        "details": {"agent_id": one.id},
    }

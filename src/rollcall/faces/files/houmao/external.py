"""Agents that another registry owns: where they are, and what that registry said of them when it was last asked.

The remote registry is asked first, and never told anything; nothing here ends, starts or cleans up its agents.
"""

import uuid
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import httpx
import msgspec

from rollcall import Conflict, Denied, Entry, Invalid, Mode, NotFound, Registry, Unavailable
from rollcall.core import codec
from rollcall.core.instants import Seconds
from rollcall.core.records import EXTERNAL
from rollcall.faces.files.houmao.fields import time_text
from rollcall.faces.files.houmao.finding import Known, named, only
from rollcall.faces.files.houmao.forms import external
from rollcall.faces.files.houmao.mapping import external_fields, kept_external
from rollcall.faces.files.houmao.names import checked_user_name
from rollcall.faces.files.houmao.publish import check_secrets
from rollcall.faces.files.houmao.record import ExternalRecord

ASK_WITHIN: Seconds = 5.0
_HEADLESS = ("claude_headless", "codex_headless", "kimi_headless")
_LARGEST = 1 << 20


class Changed(Conflict):
    """The record is not the one any more that was read."""


def transport(backend: str) -> str:
    """How an agent is talked to, by how it is run."""
    return "headless" if backend in _HEADLESS else "tui"


async def register(
    registry: Registry, *, name: str, api_base_url: str, agent_ref: str, gateway: bool = False, replace: bool = False
) -> dict[str, Any]:
    """Registers an agent of another registry under a local name, once that registry has said that it is there.

    Raises:
        Conflict: the name is held.
        NotFound: the other registry does not know the agent.
        Unavailable: it does not answer.
        Invalid: the name or the address cannot be used.
    """
    name = checked_user_name(name)
    holders = [one.entry for one in await named(registry, name) if one.agent_name == name]
    own = [entry.id for entry in holders if entry.origin != EXTERNAL]
    if own:
        raise Conflict(
            f"External managed-agent local name `{name}` conflicts with local lifecycle registry record(s): "
            f"{', '.join(own)}. Local lifecycle records take precedence; choose a different external `--name`."
        )
    held = holders[0] if holders else None
    if held is not None and not replace:
        raise Conflict(
            f"External managed-agent `{name}` is already registered as `{held.id}`. Use `--replace` to update that "
            "external import."
        )
    before = kept_external(held) if held is not None else None
    now = time_text(datetime.now(UTC))
    id = held.id if held is not None else f"external-{uuid.uuid4().hex}"
    document = {
        "local_name": name,
        "external_agent_id": id,
        "generation_id": str(uuid.uuid4()),
        "pair_api_base_url": api_base_url,
        "remote_agent_ref": agent_ref,
        "gateway_expected": gateway,
        "created_at_utc": before.created_at_utc if before is not None else now,
        "updated_at_utc": now,
        "verified_at_utc": now,
        # Said by the other registry, once its address is known to be one.
        "cached_identity": {"tracked_agent_id": id, "transport": "tui", "tool": "unknown"},
    }
    record = await _verified(external(document))
    await _keep(registry, record, held)
    done = {"action": "replaced" if held is not None else "registered", "external_agent": told(record)}
    return {**done, **await gateway_of(record)}


async def list_all(registry: Registry) -> list[ExternalRecord]:
    """Every agent of another registry, by local name; nobody but our own registry is asked."""
    found = [kept_external(entry) for entry in await registry.list(exact=True)]
    return sorted(
        (record for record in found if record is not None), key=lambda one: (one.local_name, one.external_agent_id)
    )


async def get(registry: Registry, *, id: str = "", name: str = "") -> tuple[Entry, ExternalRecord]:
    """One agent of another registry, by its id here or its local name.

    Raises:
        NotFound: there is none.
        Invalid: neither is given, or both.
    """
    if bool(id) == bool(name):
        raise Invalid("give exactly one of --agent-id and --agent-name")
    entry = await _by_id(registry, id) if id else await _by_name(registry, name)
    record = kept_external(entry) if entry is not None else None
    if entry is None or record is None:
        option, value = ("--agent-id", id) if id else ("--agent-name", name)
        raise NotFound(f"No external communication-only managed agent matches {option} `{value}`.")
    return entry, record


async def verify(registry: Registry, *, id: str = "", name: str = "") -> dict[str, Any]:
    """Asks the other registry again, and keeps what it says.

    Raises:
        NotFound: there is no such agent, here or there.
        Unavailable: the other registry does not answer.
        Conflict: the record changed meanwhile.
    """
    entry, record = await get(registry, id=id, name=name)
    now = time_text(datetime.now(UTC))
    renewed = {"generation_id": str(uuid.uuid4()), "updated_at_utc": now, "verified_at_utc": now}
    fresh = await _verified(external({**record.model_dump(), **renewed}))
    await _keep(registry, fresh, entry)
    return {"action": "verified", "external_agent": told(fresh), **await gateway_of(fresh)}


async def remove(registry: Registry, *, id: str = "", name: str = "") -> dict[str, Any]:
    """Forgets an agent of another registry; that registry is told nothing.

    Raises:
        NotFound: there is no such agent.
        Changed: its record changed meanwhile.
    """
    entry, record = await get(registry, id=id, name=name)
    try:
        await registry.deregister(entry.role, entry.id, incarnation=entry.incarnation, reason="removed")
    except (Conflict, NotFound) as error:
        raise Changed(
            f"External managed-agent `{record.local_name}` changed before removal. Reload and retry."
        ) from error
    return {
        "action": "removed",
        "removed": True,
        "remote_lifecycle_untouched": True,
        "external_agent": told(record),
    }


def told(record: ExternalRecord) -> dict[str, Any]:
    """An agent of another registry, as programs are told of it."""
    said = record.model_dump(exclude={"schema_version", "generation_id"})
    said["cached_identity"] |= {
        "tracked_agent_id": record.external_agent_id,
        "agent_id": record.external_agent_id,
        "external_agent_id": record.external_agent_id,
        "agent_name": record.local_name,
        "remote_pair_api_base_url": record.pair_api_base_url,
        "remote_agent_ref": record.remote_agent_ref,
        **dict.fromkeys(("session_name", "tmux_session_name", "tmux_window_name", "manifest_path", "session_root")),
        "management_kind": "external_communication_only",
        "lifecycle_owner": "remote",
    }
    return said


async def gateway_of(record: ExternalRecord) -> dict[str, Any]:
    """Where the agent is talked to, as the other registry says now; nothing for one that needs no gateway."""
    if not record.gateway_expected:
        return {}
    try:
        status, said = await _fetched(record, "/resolve")
    except Unavailable:
        status, said = 0, None
    gateway = said.get("gateway") if status == 200 and isinstance(said, dict) else None
    return {"gateway_available": True, "gateway": gateway} if gateway else {"gateway_available": False}


async def _by_id(registry: Registry, id: str) -> Entry | None:
    try:
        return await registry.get(id)
    except NotFound:
        return None


async def _by_name(registry: Registry, name: str) -> Entry | None:
    found = [one for one in await named(registry, name) if one.entry.origin == EXTERNAL]
    one: Known | None = only(found, name)
    return one.entry if one is not None else None


async def _keep(registry: Registry, record: ExternalRecord, held: Entry | None) -> None:
    check_secrets(record)
    fields = external_fields(record)
    if held is None:
        await registry.announce(codec.as_profile(fields), Mode.CREATE)
        return
    if held.role != fields["role"]:
        reason = f"its tool is {fields['role']} now"
        await registry.deregister(held.role, held.id, incarnation=held.incarnation, reason=reason)
        await registry.announce(codec.as_profile(fields), Mode.CREATE)
        return
    fields["incarnation"] = max(fields["incarnation"], held.incarnation + 1)
    await registry.announce(codec.as_profile(fields), Mode.TAKEOVER, expected=held.revision)


async def _verified(record: ExternalRecord) -> ExternalRecord:
    """The record with what the other registry says of the agent now."""
    said = await _asked(record)
    text = {name: value for name, value in said.items() if isinstance(value, str) and value}
    identity = {
        "tracked_agent_id": record.external_agent_id,
        "transport": transport(text.get("backend", "")),
        "tool": text.get("tool") or "unknown",
        "agent_id": text.get("agent_id"),
        "agent_name": text.get("agent_name"),
        "tmux_session_name": text.get("tmux_session_name"),
        "manifest_path": text.get("manifest_path"),
        "session_root": text.get("session_root"),
        "external_agent_id": record.external_agent_id,
        "remote_pair_api_base_url": record.pair_api_base_url,
        "remote_agent_ref": record.remote_agent_ref,
        "lifecycle_state": "active",
        "management_kind": "external_communication_only",
        "lifecycle_owner": "remote",
    }
    return external({**record.model_dump(), "cached_identity": identity})


async def _asked(record: ExternalRecord) -> dict[str, Any]:
    status, said = await _fetched(record)
    detail = said.get("detail") if isinstance(said, dict) else None
    match status:
        case 200 if isinstance(said, dict):
            return said
        case 404:
            raise NotFound(f"the registry at {record.pair_api_base_url} knows no agent {record.remote_agent_ref!r}")
        case 409:
            raise Conflict(f"{record.remote_agent_ref!r} is not one agent at {record.pair_api_base_url}: {detail}")
        case 401 | 403:
            raise Denied(f"the registry at {record.pair_api_base_url} lets nobody ask who is not known to it")
        case _:
            raise Unavailable(
                f"{record.pair_api_base_url} answered {status}, and no agent; is it a registry of agents?"
            )


async def _fetched(record: ExternalRecord, what: str = "") -> tuple[int, Any]:  # Any: whatever JSON can hold
    """What the other registry says of the agent, and the HTTP status; None for what is no JSON."""
    url = f"{record.pair_api_base_url}/houmao/agents/{quote(record.remote_agent_ref, safe='')}{what}"
    try:
        # Where a machine sends its own requests through a proxy says nothing about registries.
        async with (
            httpx.AsyncClient(timeout=ASK_WITHIN, trust_env=False, follow_redirects=False) as client,
            client.stream("GET", url) as answer,
        ):
            data = b""
            async for part in answer.aiter_bytes():
                data += part
                if len(data) > _LARGEST:
                    raise Unavailable(f"{url} answers more than any agent has to say")
    except httpx.HTTPError as error:
        raise Unavailable(f"the registry at {record.pair_api_base_url} does not answer: {error!r}") from error
    try:
        return answer.status_code, msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return answer.status_code, None

"""Entries of this dialect, made of the registry's and back. Pure.

What the core has no field for, or cannot hold as it was sent, stands in ``extensions.vers``, each in an array of one:
a merge patch replaces arrays whole, and they can hold null. A raw form counts only while the core still equals what
is made of it; whoever changes the core by other means is believed.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from msgspec import Struct

from rollcall import Entry, Invalid, Service, Status
from rollcall.core import codec, limits
from rollcall.core.instants import Milliseconds, instant
from rollcall.core.names import checked_name
from rollcall.core.patch import merge, patch_between
from rollcall.core.records import FreeForm
from rollcall.faces.http.vers.words import UNDEFINED, printed, trimmed, truthy

DIALECT = "vers"
OWNER = "vers:shared"
"""The original checks nobody, so all its callers own their entries together."""

ROLES = ("infra", "lieutenant", "worker", "golden", "custom")
STATUSES = ("running", "paused", "stopped")

_SHOWN = {
    Status.RUNNING: "running",
    Status.PAUSED: "paused",
    Status.DRAINING: "paused",
}
"""Everything else is stopped to a client of this dialect."""

_free_form = msgspec.json.Decoder(FreeForm)


class Refused(Exception):
    """The request is wrong; `args[0]` says how, in the dialect's own words."""


class Free(Struct, frozen=True):
    """One free member: what the core holds of it, and how it was sent where the core does not tell that."""

    core: Any
    kept: list[Any] | None


def registration(body: Any, *, ttl: float, reef: bool) -> tuple[str, str, dict[str, Any]]:
    """Role, id and the fields of a new agent.

    Raises:
        Refused: a member is missing or wrong; the first one in the order of the contract is named.
    """
    sent = body if isinstance(body, dict) else {}
    id, name = trimmed(sent.get("id")), trimmed(sent.get("name"))
    if not _may_be_id(id):
        raise Refused("id is required")
    if not name:
        raise Refused("name is required")
    role = sent.get("role", UNDEFINED)
    if role not in ROLES:
        raise Refused(f"invalid role: {printed(role)}")
    status = sent.get("status", UNDEFINED)
    if truthy(status) and status not in STATUSES:
        raise Refused(f"invalid status: {printed(status)}")
    address, by = trimmed(sent.get("address")), trimmed(sent.get("registeredBy"))
    if not address:
        raise Refused("address is required")
    if not by:
        raise Refused("registeredBy is required")
    texts = {"name": name, "address": address, "registered_by": by}
    said = str(status) if truthy(status) else "running"
    return str(role), id, fields_of(sent, texts, status=said, ttl=ttl, reef=reef)


def fields_of(sent: Mapping[str, Any], texts: dict[str, str], *, status: str, ttl: float, reef: bool) -> dict[str, Any]:
    """The fields of an entry whose members are known to be right; `sent` has the free ones."""
    fields = {"status": status, "owner": OWNER, "origin": DIALECT, "keep": True, "ttl": ttl}
    section = _free_members(fields, sent, reef=reef) | _long_texts(fields, texts)
    return {**fields, "extensions": {DIALECT: section} if section else {}}


def _may_be_id(id: str) -> bool:
    try:
        return bool(checked_name("id", id))
    except Invalid:
        return False


def _long_texts(fields: dict[str, Any], texts: dict[str, str]) -> dict[str, Any]:
    """Puts texts into the fields, cut to what the core holds; returns those that were cut, for the section."""
    fields |= {name: text[: _CHARS[name]] for name, text in texts.items()}
    return {name: [text] for name, text in texts.items() if len(text) > _CHARS[name]}


_CHARS = {"name": limits.LABEL_CHARS, "address": limits.TEXT_CHARS, "registered_by": limits.LABEL_CHARS}


def _whole_text(entry: Entry, name: str) -> str:
    held: str = getattr(entry, name)
    kept = _kept(entry.extensions.get(DIALECT, {}), name)
    return kept if isinstance(kept, str) and kept[: _CHARS[name]] == held else held


def _free_members(fields: dict[str, Any], sent: Mapping[str, Any], *, reef: bool) -> dict[str, Any]:
    """Puts services and metadata into the fields; returns what the section has to keep."""
    services = services_of(sent.get("services", UNDEFINED))
    metadata = metadata_of(sent.get("metadata", UNDEFINED))
    fields |= {"services": services.core, "metadata": metadata.core}
    kept = {"services": services.kept, "metadata": metadata.kept}
    if reef:
        kept |= {name: [sent[name]] for name in ("parentVmId", "reefConfig") if name in sent}
    return {name: value for name, value in kept.items() if value is not None}


def services_of(sent: Any) -> Free:
    """Services as they were sent and as the core holds them; foreign shapes are nothing to it."""
    found = [_service(one) for one in sent] if isinstance(sent, list) else []
    core = [one for one in found if one is not None] if len(found) <= 256 else []
    core = core if len(core) == len(found) else []
    told = [_shown_service(one) for one in core]
    return Free(core, None if sent is UNDEFINED or (core and _bytes(told) == _bytes(sent)) else [sent])


def _service(sent: Any) -> dict[str, Any] | None:
    if not isinstance(sent, dict):
        return None
    wanted = {"name": sent.get("name"), "port": sent.get("port")}
    wanted |= {"protocol": sent.get("protocol", ""), "health_path": sent.get("healthPath", "")}
    try:
        built: dict[str, Any] = msgspec.to_builtins(msgspec.convert(wanted, Service))
    except msgspec.ValidationError:
        return None
    return built


def metadata_of(sent: Any) -> Free:
    """Metadata as it was sent and as the core holds it: an object, without members that are null."""
    core = _without_null(sent) if isinstance(sent, dict) else {}
    try:
        _free_form.decode(msgspec.json.encode(core))
    except msgspec.ValidationError:
        core = {}
    return Free(core, None if sent is UNDEFINED or (core and _bytes(core) == _bytes(sent)) else [sent])


def _bytes(value: Any) -> bytes:
    """As JSON: equal bytes are the same to a client, where Python takes 1 and true for equal."""
    return codec.encode(value)


def _without_null(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_null(member) for name, member in value.items() if member is not None}
    return value


def update(body: Any, held: Entry, *, reef: bool) -> dict[str, Any]:
    """The merge patch that a PATCH asks for, on top of `held`.

    Raises:
        Refused: a member is wrong.
    """
    sent = body if isinstance(body, dict) else {}
    patch: dict[str, Any] = {}
    if "status" in sent:
        if sent["status"] not in STATUSES:
            raise Refused(f"invalid status: {printed(sent['status'])}")
        if sent["status"] != shown_status(held):
            patch["status"] = sent["status"]
    section: dict[str, Any] = {}
    for name in ("name", "address"):
        if name in sent:
            text = trimmed(sent[name])
            if not text:
                raise Refused(f"{name} cannot be empty")
            section |= {name: None, **_long_texts(patch, {name: text})}
    if "services" in sent:
        services = services_of(sent["services"])
        patch["services"], section["services"] = services.core, services.kept
    if "metadata" in sent:
        metadata = metadata_of(sent["metadata"])
        difference = patch_between(held.metadata, metadata.core)
        patch |= {"metadata": difference} if difference else {}
        # What was there keeps its place, so the order may become another one.
        same = _bytes(merge(held.metadata, difference)) == _bytes(sent["metadata"])
        section["metadata"] = None if same and metadata.core else [sent["metadata"]]
    if reef:
        section |= {name: [sent[name]] for name in ("parentVmId", "reefConfig") if name in sent}
    if section:
        patch["extensions"] = {DIALECT: section}
    return patch


def again(body: Mapping[str, Any], fields: dict[str, Any], held: Entry) -> dict[str, Any]:
    """The fields with which the successor registers an id that is held: what was left out stays as it is."""
    left_out = [name for name in _LEFT_AS_IT_IS if name not in body]
    stays = (*left_out, "registeredAt")
    section = {name: kept for name, kept in held.extensions.get(DIALECT, {}).items() if name in stays}
    section |= fields["extensions"].get(DIALECT, {})
    return {
        **fields,
        **{name: msgspec.to_builtins(getattr(held, name)) for name in left_out if name in ("services", "metadata")},
        "extensions": {**held.extensions, DIALECT: section},
        "status": "running",
        "incarnation": held.incarnation,
    }


_LEFT_AS_IT_IS = ("services", "metadata", "parentVmId", "reefConfig")


def shown(entry: Entry, *, reef: bool) -> dict[str, Any]:
    """The entry as this dialect tells it, its members in their order."""
    section = entry.extensions.get(DIALECT, {})
    told: dict[str, Any] = {
        "id": entry.id,
        "name": _whole_text(entry, "name"),
        "role": entry.role,
        "status": shown_status(entry),
        "address": _whole_text(entry, "address"),
    }
    services = _shown_services(entry, section)
    if services is not UNDEFINED or reef:
        told["services"] = [] if services is UNDEFINED else services
    metadata = _shown_metadata(entry, section)
    if metadata is not UNDEFINED:
        told["metadata"] = metadata
    told["registeredBy"] = _whole_text(entry, "registered_by") or entry.owner
    told["registeredAt"] = registered_at(entry)
    told["lastSeen"] = last_seen(entry)
    return told | lineage(entry) if reef else told


def lineage(entry: Entry) -> dict[str, Any]:
    """What only the successor tells: who made a VM, and how it is set up."""
    section = entry.extensions.get(DIALECT, {})
    kept = {name: _kept(section, name) for name in ("parentVmId", "reefConfig")}
    return {name: value for name, value in kept.items() if value is not UNDEFINED}


def registered_at(entry: Entry) -> str:
    """When it was registered, in the registry that it was imported from if it was."""
    kept = _kept(entry.extensions.get(DIALECT, {}), "registeredAt")
    return kept if isinstance(kept, str) else entry.registered_at


def last_seen(entry: Entry) -> str:
    """When it was seen last; by the registry that it was imported from, as long as this one has not heard it."""
    seen = entry.last_seen or entry.registered_at
    kept = _kept(entry.extensions.get(DIALECT, {}), "lastSeen")
    return kept if isinstance(kept, str) and seen == entry.registered_at else seen


def shown_status(entry: Entry) -> str:
    """The intent in this dialect's three words."""
    return _SHOWN.get(entry.status, "stopped")


def _kept(section: Mapping[str, Any], name: str) -> Any:
    """What the section keeps under a name."""
    kept = section.get(name)
    return kept[0] if isinstance(kept, list) and len(kept) == 1 else UNDEFINED


def _shown_services(entry: Entry, section: Mapping[str, Any]) -> Any:
    held = list(msgspec.to_builtins(entry.services))
    kept = _kept(section, "services")
    if kept is not UNDEFINED and services_of(kept).core == held:
        return kept
    if not held:
        return UNDEFINED
    return [_shown_service(one) for one in held]


def _shown_service(service: dict[str, Any]) -> dict[str, Any]:
    names = {"name": "name", "port": "port", "protocol": "protocol", "health_path": "healthPath"}
    return {shown: service[name] for name, shown in names.items() if name in service}


def _shown_metadata(entry: Entry, section: Mapping[str, Any]) -> Any:
    kept = _kept(section, "metadata")
    if kept is not UNDEFINED and metadata_of(kept).core == entry.metadata:
        return kept
    return entry.metadata or UNDEFINED


class Staleness(Struct, frozen=True):
    """When an entry counts as stale. With `grace`, nobody is before the registry has listened for one ttl itself."""

    grace: bool = True

    def stale(self, entry: Entry, now: Milliseconds) -> bool:
        """Whether nothing was heard for longer than the entry's ttl."""
        if entry.ttl is None:
            return False
        if self.grace and entry.expires_at is not None and entry.lost_at is None:
            return now > instant(entry.expires_at)
        return now > instant(last_seen(entry)) + entry.ttl * 1000


def in_list_order(entries: Iterable[Entry], *, reef: bool) -> list[Entry]:
    """Newest first; of equals the first registered comes first."""
    by_registration = sorted(entries, key=lambda entry: entry.registered_seq)
    if reef:
        return sorted(by_registration, key=last_seen, reverse=True)
    return sorted(by_registration, key=registered_at, reverse=True)


def parent(entry: Entry) -> str | None:
    """The id of the VM that made this one."""
    kept = _kept(entry.extensions.get(DIALECT, {}), "parentVmId")
    return kept if isinstance(kept, str) else None


def config(entry: Entry) -> dict[str, list[Any]]:
    """What an entry is set up with: the two lists of its ``reefConfig``."""
    kept = _kept(entry.extensions.get(DIALECT, {}), "reefConfig")
    return {name: _list(kept.get(name) if isinstance(kept, dict) else None) for name in ("services", "capabilities")}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []

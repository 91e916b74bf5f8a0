"""Agents of this dialect, made of the registry's and back. Pure.

What the core has no field for stands in ``extensions.noa``: the agent's own status word, whether it beats, and values
that the core cannot hold as they were sent. Such a value counts only while the core still equals what is made of it.
"""

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct

from rollcall import Denied, Entry, Health, NotFound, RollcallError, Status, Unavailable
from rollcall.core import limits
from rollcall.core.instants import Milliseconds, instant, timestamp
from rollcall.faces.http.settings import NoaSettings

DIALECT = "noa"
MISSED_LIMIT = 3
"""More missed beats than these make an agent unhealthy."""

NO_TYPE = "none"
ACTIVE = "active"
UNHEALTHY = "unhealthy"
EXPIRES_AFTER: Milliseconds = 24 * 3600 * 1000


class Beating(Struct, frozen=True):
    """What a registration says about heartbeats."""

    enabled: bool | None = False
    interval_seconds: int | None = 0


class Registering(Struct, frozen=True):
    """The body of a registration; nothing in it is required."""

    name: str | None = ""
    type: str | None = ""
    category: str | None = ""
    version: str | None = ""
    capabilities: list[str] | None = None
    endpoints: dict[str, str] | None = None
    metadata: dict[str, Any] | None = None
    heartbeat: Beating | None = None


class Discovering(Struct, frozen=True):
    """The body of a search: everything that is given must fit."""

    type: str | None = ""
    category: str | None = ""
    capabilities: list[str] | None = None
    status: str | None = ""

    @property
    def given(self) -> dict[str, Any]:
        """What was asked for, without what is empty."""
        return {name: getattr(self, name) for name in self.__struct_fields__ if getattr(self, name)}


class Feeling(Struct, frozen=True):
    """The health in a heartbeat; what is not sent is zero."""

    status: str | None = None
    uptime_seconds: int | None = 0
    cpu_percent: float | None = 0
    memory_percent: float | None = 0
    active_connections: int | None = 0
    error_count: int | None = 0
    metrics: dict[str, Any] | None = None


class Heartbeat(Struct, frozen=True):
    """The body of a heartbeat."""

    health: Feeling | None = None


class StatusChange(Struct, frozen=True):
    """The body of a status change; a missing word is the empty one."""

    status: str | None = ""


class Message(Struct, frozen=True):
    """The body of a message to an agent."""

    type: str | None = ""
    content: str | None = ""
    data: dict[str, Any] | None = None


def registration(body: Registering, id: str, settings: NoaSettings) -> tuple[str, dict[str, Any]]:
    """Role and fields of a new agent."""
    section: dict[str, Any] = {"status": ACTIVE}
    role, name = _as_role(body.type or ""), (body.name or id)[: limits.LABEL_CHARS]
    texts = {"name": body.name or "", "category": body.category or "", "version": body.version or ""}
    held = {"name": name, "category": texts["category"][: limits.LABEL_CHARS]}
    held["version"] = texts["version"][: limits.LABEL_CHARS]
    section |= {field: text for field, text in texts.items() if text != held[field]}
    section |= {"type": body.type or ""} if role != body.type else {}
    for name in ("capabilities", "endpoints", "metadata"):
        if getattr(body, name) is None:
            section[name] = None
    beats = body.heartbeat if body.heartbeat is not None and body.heartbeat.enabled else None
    if beats is not None:
        section["heartbeat"] = {"interval_seconds": beats.interval_seconds or 0}
    fields = {
        **held,
        "capabilities": body.capabilities or [],
        "endpoints": body.endpoints or {},
        "address": next(iter((body.endpoints or {}).values()), ""),
        "metadata": body.metadata or {},
        "origin": DIALECT,
        "keep": True,
        "ttl": max(0.5, settings.timeout + MISSED_LIMIT * settings.tick) if beats is not None else None,
        "extensions": {DIALECT: section},
    }
    return role, fields


def _as_role(type: str) -> str:
    """A type as the core can hold it."""
    cut = "".join(" " if ord(one) < 32 or 127 <= ord(one) < 160 else one for one in type)
    return cut.encode(errors="replace")[: limits.NAME_BYTES].decode(errors="ignore") or NO_TYPE


def status_change(word: str) -> dict[str, Any]:
    """The merge patch that gives an agent another status word."""
    return {"status": str(_intent(word)), "extensions": {DIALECT: {"status": word}}}


def felt(body: Feeling, before: Health | None, *, go: bool) -> Health:
    """The health that a heartbeat reports; one without a status keeps the last that the agent itself reported."""
    status = body.status
    if not status:
        status = "" if go else (before.status if before is not None else "") or "healthy"
    return Health(
        status=status,
        uptime_seconds=body.uptime_seconds or 0,
        cpu_percent=body.cpu_percent or 0,
        memory_percent=body.memory_percent or 0,
        active_connections=body.active_connections or 0,
        error_count=body.error_count or 0,
        metrics=body.metrics or {},
    )


class Agent:
    """An agent as this dialect sees it at one moment; everything is derived, nothing stored."""

    def __init__(self, entry: Entry, now: Milliseconds, settings: NoaSettings) -> None:
        self.entry = entry
        self._now = now
        self._settings = settings
        self._section: Mapping[str, Any] = entry.extensions.get(DIALECT, {})

    @property
    def name(self) -> str:
        """Its name as it was sent."""
        sent = self._section.get("name")
        held = self.entry.name
        return sent if isinstance(sent, str) and (sent or self.entry.id)[: limits.LABEL_CHARS] == held else held

    @property
    def type(self) -> str:
        """Its type as it was sent."""
        sent = self._section.get("type")
        return sent if isinstance(sent, str) and _as_role(sent) == self.entry.role else self.entry.role

    @property
    def category(self) -> str:
        """Its category as it was sent."""
        return self._text("category", self.entry.category)

    def _text(self, name: str, held: str) -> str:
        sent = self._section.get(name)
        return sent if isinstance(sent, str) and sent[: limits.LABEL_CHARS] == held else held

    @property
    def defined(self) -> bool:
        """Whether it only stands in a directory and was never started."""
        return self.entry.status is Status.DEFINED

    @property
    def stored_status(self) -> str:
        """Its own status word, while that means what the registry holds."""
        word = self._section.get("status")
        if isinstance(word, str) and _intent(word) is self.entry.status:
            return word
        return ACTIVE if self.entry.status is Status.RUNNING else str(self.entry.status)

    @property
    def status(self) -> str:
        """Its status word, or that it is overdue."""
        return UNHEALTHY if self._overdue else self.stored_status

    @property
    def missed_beats(self) -> int:
        """How many beats it missed."""
        if not self._beats:
            return 0
        if "heartbeat" not in self._section:
            return self.entry.missed_beats
        late = self._age - self._settings.timeout
        return 0 if late <= 0 else 1 + int(late // self._settings.tick)

    @property
    def last_seen(self) -> str:
        """When it last beat, or its record last changed."""
        return max(self._last_beat, self.entry.updated_at)

    @property
    def health(self) -> dict[str, Any]:
        """How it feels, or that this was said too long ago."""
        said = self.entry.health
        checked_at = (said.checked_at if said is not None else None) or self.entry.registered_at
        status = self._health_status(said)
        if self._now - instant(checked_at) > self._settings.stale * 1000 and not self.defined:
            status = "stale"
        said = said or Health()
        return {
            "status": status,
            "last_check": checked_at,
            "uptime_seconds": int(said.uptime_seconds or 0),
            "cpu_percent": _number(said.cpu_percent),
            "memory_percent": _number(said.memory_percent),
            "active_connections": said.active_connections or 0,
            "error_count": said.error_count or 0,
            "metrics": said.metrics or None,
        }

    @property
    def healthy(self) -> bool:
        """Whether it feels healthy, as far as is known."""
        return bool(self.health["status"] == "healthy")

    @property
    def well(self) -> bool:
        """Whether it is active and feels healthy."""
        return self.status == ACTIVE and self.healthy

    def shown(self, status: str | None = None) -> dict[str, Any]:
        """The agent as an answer tells it, with its own status or the one given."""
        entry = self.entry
        return {
            "id": entry.id,
            "name": self.name,
            "type": self.type,
            "category": self.category,
            "version": self._text("version", entry.version),
            "capabilities": self._unless_null("capabilities", list(entry.capabilities)),
            "endpoints": self._unless_null("endpoints", entry.endpoints),
            "status": self.status if status is None else status,
            "health": self.health,
            "metadata": self._unless_null("metadata", entry.metadata),
            "registered_at": entry.registered_at,
            "last_seen": self.last_seen,
            "heartbeat": self._heartbeat(),
        }

    def fits(self, wanted: Discovering) -> bool:
        """Whether it is what was searched for."""
        return (
            (not wanted.type or self.type == wanted.type)
            and (not wanted.category or self.category == wanted.category)
            and (not wanted.status or self.status == wanted.status)
            and all(name in self.entry.capabilities for name in wanted.capabilities or ())
        )

    @property
    def _beats(self) -> bool:
        return "heartbeat" in self._section or (DIALECT not in self.entry.extensions and self.entry.ttl is not None)

    @property
    def _last_beat(self) -> str:
        return self.entry.last_seen or self.entry.registered_at

    @property
    def _age(self) -> float:
        """Seconds since its last beat; while the registry itself was away they do not count."""
        heard = instant(self._last_beat)
        if self.entry.lost_at is None and self.entry.expires_at is not None and self.entry.ttl is not None:
            heard = max(heard, instant(self.entry.expires_at) - round(self.entry.ttl * 1000))
        return (self._now - heard) / 1000

    @property
    def _overdue(self) -> bool:
        if not self._beats:
            return False
        if "heartbeat" in self._section:
            return self.missed_beats > MISSED_LIMIT
        return self.entry.ttl is not None and self._age > self.entry.ttl

    def _heartbeat(self) -> dict[str, Any] | None:
        if not self._beats:
            return None
        said = self._section.get("heartbeat", {"interval_seconds": int(self.entry.beat_interval or 0)})
        return {
            "interval_seconds": said.get("interval_seconds", 0),
            "last_beat": self._last_beat,
            "missed_beats": self.missed_beats,
            "enabled": True,
        }

    def _health_status(self, said: Health | None) -> str:
        if said is None:
            return _IN_DIRECTORIES.get(str(self._section.get("health_status", "")), "unknown")
        return said.status or ("" if self._settings.go else "healthy")

    def _unless_null(self, name: str, held: Any) -> Any:
        return None if not held and name in self._section and self._section[name] is None else held


def registered(agent: Agent, body: Registering) -> dict[str, Any]:
    """What a registration is answered."""
    entry = agent.entry
    return {
        "success": True,
        "agent_id": entry.id,
        "id": entry.id,
        "name": agent.name,
        "status": agent.stored_status,
        "registered_at": entry.registered_at,
        "message": "Agent registered successfully",
        "endpoints": list(body.endpoints.values()) if body.endpoints else None,
        "expires_at": timestamp(instant(entry.registered_at) + EXPIRES_AFTER),
    }


_IN_DIRECTORIES = {"Healthy": "healthy", "Degraded": "degraded", "NeedsRepair": "needs_repair", "Error": "error"}


def _intent(word: str) -> Status:
    return Status.RUNNING if word == ACTIVE else Status.PAUSED


def _number(value: float | None) -> float | int:
    """Whole numbers without a fraction, as Go prints them."""
    number = value or 0
    return int(number) if float(number).is_integer() else number


def counted(names: list[str]) -> dict[str, int]:
    """How often each name comes, in the order of first appearance."""
    found: dict[str, int] = {}
    for name in names:
        found[name] = found.get(name, 0) + 1
    return found


def decoded(data: bytes, kind: type[Any]) -> Any:
    """A body of this dialect: null is an empty one, unknown members are ignored.

    Raises:
        msgspec.DecodeError: it is no JSON object, or a known member has a wrong type.
    """
    return msgspec.json.decode(data, type=kind | None) or kind()


def refused(error: RollcallError) -> dict[str, str] | None:
    """What both variants say of an error; None where each has its own words."""
    match error:
        case NotFound():
            return {"error": "Agent not found"}
        case Denied():
            return {"error": "Constitutional validation failed", "reason": error.message}
        case Unavailable() if "judged_by" in error.details:
            return {"error": "Validation service unavailable"}
        case Unavailable():
            return {"error": "Registry unavailable"}
    return None

"""The running side of a sync: the agents of a realm, or a coordinator's map in this process."""

from collections.abc import MutableMapping
from typing import Any, Protocol

from rollcall import Entry, Mode, Registry, Status
from rollcall.core.instants import instant
from rollcall.core.records import Record
from rollcall.faces.files.mindx.identities import public_key
from rollcall.faces.files.mindx.merge import Entry as FileEntry
from rollcall.faces.files.mindx.merge import Running, compared

DIALECT = "mindx"
_ENTRY = "entry"
OWNER = "eip191:"


class Side(Protocol):
    """Whoever runs the agents. One that `keeps` them takes in agents of the file, and what it does not know of them."""

    @property
    def keeps(self) -> bool: ...

    async def name(self) -> str:
        """Whom one syncs with: what another had says nothing about this one."""
        ...

    async def agents(self) -> dict[str, Running]:
        """Every agent, by id."""
        ...

    async def register(self, id: str, entry: FileEntry) -> None:
        """Takes in an agent that only the file has, as defined."""
        ...

    async def change(self, id: str, fields: FileEntry, gone: list[str]) -> None:
        """Changes what an agent says of itself."""
        ...

    async def deregister(self, id: str) -> None:
        """Takes an agent out."""
        ...


class Coordinator:
    """A coordinator and its map, ``{id: {agent_type, description, instance, ...}}``. ``instance`` never leaves it.

    It starts its agents itself, so it takes none in.
    """

    keeps = False

    async def name(self) -> str:
        """Whom one syncs with."""
        return "coordinator"

    def __init__(self, coordinator: Any) -> None:  # Any: whoever has an agent_registry
        self._coordinator = coordinator

    @property
    def _agents(self) -> MutableMapping[str, Any]:
        agents: MutableMapping[str, Any] = self._coordinator.agent_registry
        return agents

    async def agents(self) -> dict[str, Running]:
        """Every agent, by id."""
        return {id: _of_map(entry) for id, entry in self._agents.items()}

    async def register(self, id: str, entry: FileEntry) -> None:
        """Brings back an agent that a sync took out of the map."""
        self._agents[id] = {"agent_id": id, "agent_type": role_of(entry), "description": entry.get("description")}

    async def change(self, id: str, fields: FileEntry, gone: list[str]) -> None:
        """Takes over what a coordinator knows of an agent: its type and its description."""
        held = self._agents.get(id)
        if not isinstance(held, MutableMapping):
            return
        if "type" in fields:
            held["agent_type"] = fields["type"]
        if "description" in fields:
            held["description"] = fields["description"]

    async def deregister(self, id: str) -> None:
        """Takes an agent out of the map."""
        self._agents.pop(id, None)


def _of_map(entry: Any) -> Running:  # Any: whatever a coordinator keeps
    known = {"type": "agent_type", "description": "description"}
    told = {name: entry.get(key) for name, key in known.items()} if isinstance(entry, MutableMapping) else {}
    return Running({name: value for name, value in told.items() if value is not None})


class Realm:
    """The agents of a realm. What the record has no field for stands in ``extensions.mindx``, as it is in the file."""

    keeps = True

    async def name(self) -> str:
        """Whom one syncs with: a roll that was lost and begun anew is another one."""
        return f"{self._registry.realm} {(await self._registry.info())['epoch']}"

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    async def agents(self) -> dict[str, Running]:
        """Every agent, by id."""
        return {entry.id: running(entry) for entry in await self._registry.list(exact=True)}

    async def register(self, id: str, entry: FileEntry) -> None:
        """Takes in an agent that only the file has, as defined: it has no lease, and is never counted dead."""
        fields = record_fields(id, entry)
        status = Status.DEFINED if entry.get("enabled", True) else Status.PAUSED
        await self._registry.register(
            role_of(entry),
            id,
            mode=Mode.CREATE,
            status=status,
            ttl=None,
            incarnation=0,
            origin=DIALECT,
            owner=owner_of(entry),
            keep=True,
            **fields,
        )

    async def change(self, id: str, fields: FileEntry, gone: list[str]) -> None:
        """Merges changed members into the record; another type is another role, which needs another registration."""
        held = await self._registry.get(id)
        whole = {name: value for name, value in {**running(held).fields, **fields}.items() if name not in gone}
        patch: dict[str, Any] = record_fields(id, whole)
        if "enabled" in fields and held.status in (Status.RUNNING, Status.PAUSED, Status.DEFINED):
            patch["status"] = _status(held, bool(fields["enabled"]))
        if fields.get("type", held.role) != held.role:
            await self._move(held, str(fields["type"]), patch)
            return
        await self._registry.update(held.role, id, patch, expected=held.revision)

    async def deregister(self, id: str) -> None:
        """Takes an agent off the roll."""
        held = await self._registry.get(id)
        await self._registry.deregister(held.role, id, reason="deleted from the registry file")

    async def _move(self, held: Entry, role: str, patch: dict[str, Any]) -> None:
        profile = {
            name: value
            for name, value in _said(held).items()
            if name not in ("id", "role", "name", "description", "capabilities", "extensions", "status")
        }
        await self._registry.deregister(held.role, held.id, reason=f"its type is {role} now")
        await self._registry.register(role, held.id, **{**profile, "status": held.status, **patch})


def running(entry: Record) -> Running:
    """What an agent on the roll says, as an entry of the file says it.

    What the file said counts as long as the record still says the same.
    """
    section = _section(entry)
    says: FileEntry = {
        "type": entry.role,
        "name": entry.name,
        "description": entry.description,
        "capabilities": list(entry.capabilities),
    }
    if section is None:
        fields = {name: value for name, value in says.items() if value}
    else:
        same = _projected(entry.id, section)
        fields = {**section, **{name: value for name, value in says.items() if value != same[name]}}
        if section.get("enabled") is False and entry.status is Status.RUNNING:
            fields["enabled"] = True
    return Running(
        fields,
        complete=section is not None,
        changed_at=instant(entry.updated_at) / 1000,
        defined=entry.status is not Status.RUNNING,
    )


def record_fields(id: str, entry: FileEntry) -> dict[str, Any]:
    """The fields of a record, and the section with all that the file says."""
    fields = _projected(id, entry)
    del fields["type"]
    # A merge patch would drop null and merge objects: in a list the entry is replaced whole.
    return {**fields, "extensions": {DIALECT: {_ENTRY: [compared(entry)]}}}


def _projected(id: str, entry: FileEntry) -> dict[str, Any]:
    """What the fields of a record say of an entry."""
    description, capabilities, name = entry.get("description"), entry.get("capabilities"), entry.get("name")
    plain = isinstance(capabilities, list) and all(isinstance(one, str) for one in capabilities)
    return {
        "type": role_of(entry),
        "name": name if isinstance(name, str) and name else id,
        "description": description if isinstance(description, str) else "",
        "capabilities": capabilities if plain else [],
    }


def role_of(entry: FileEntry) -> str:
    """The role of an entry's type."""
    type_ = entry.get("type")
    return type_ if isinstance(type_, str) and type_ else "unknown"


def owner_of(entry: FileEntry) -> str:
    """Whose an agent is: of the wallet that its identity names."""
    key = public_key(entry.get("identity"))
    return f"{OWNER}{key}" if key else ""


def _section(entry: Record) -> FileEntry | None:
    kept = entry.extensions.get(DIALECT, {}).get(_ENTRY)
    return dict(kept[0]) if isinstance(kept, list) and kept and isinstance(kept[0], dict) else None


def _status(held: Entry, enabled: bool) -> Status:
    if not enabled:
        return Status.PAUSED
    if held.status is not Status.PAUSED:
        return held.status
    return Status.DEFINED if held.origin == DIALECT else Status.RUNNING


def _said(held: Entry) -> dict[str, Any]:
    from_profile = (
        "address",
        "category",
        "version",
        "services",
        "endpoints",
        "metadata",
        "labels",
        "depends_on",
        "ttl",
        "heartbeat_interval",
        "incarnation",
        "registered_by",
        "owner",
        "host",
        "origin",
        "keep",
        "pointers",
    )
    return {name: getattr(held, name) for name in from_profile}

"""Which agent of the realm is meant by an id or a name. The roll is asked, never the directory."""

from collections.abc import Iterable, Sequence
from typing import Any

from msgspec import Struct

from rollcall import Entry, NotFound, Registry
from rollcall.core.records import EXTERNAL
from rollcall.faces.files.houmao.lookup import ambiguous, by_name
from rollcall.faces.files.houmao.mapping import BACKEND, SESSION, STATUSES, may_be_relaunched
from rollcall.faces.files.houmao.names import spellings

_STATES = {status: state for state, status in STATUSES.items()}


class Known(Struct, frozen=True):
    """An agent of the realm, as lookups see it."""

    entry: Entry

    @property
    def agent_id(self) -> str:
        """Its id."""
        return self.entry.id

    @property
    def agent_name(self) -> str:
        """Its name."""
        return self.entry.name

    @property
    def state(self) -> str:
        """Its state, in the words of the directory; what has none there is called as the roll calls it."""
        if self.entry.lost_at is not None and self.entry.beating:
            return "stopped"
        return _STATES.get(self.entry.status, str(self.entry.status))

    @property
    def relaunchable(self) -> bool:
        """Whether it may be started anew: what came from the directory says so itself."""
        return self.entry.status != "retired" and may_be_relaunched(self.entry)

    def told(self) -> dict[str, Any]:
        """What is told of a candidate."""
        pointers = self.entry.pointers
        return {
            "agent_id": self.agent_id,
            "agent_name": self.agent_name,
            "lifecycle_state": self.state,
            "tmux_session_name": pointers.get(SESSION, ""),
            "manifest_path": pointers.get("manifest_path", ""),
            "session_root": pointers.get("session_root", ""),
        }

    def candidate(self) -> dict[str, Any]:
        """As a candidate of an answer to programs."""
        said = {name: value for name, value in self.told().items() if name != "tmux_session_name"}
        return {
            **said,
            "relaunchable": self.relaunchable,
            "tool": self.entry.role,
            "backend": self.entry.pointers.get(BACKEND, "local_interactive"),
        }


def chosen(entries: Iterable[Entry], name: str) -> list[Known]:
    """Who has a name: agents of this registry first, those of others only if there is none."""
    found = [Known(entry) for entry in entries]
    own = by_name([one for one in found if one.entry.origin != EXTERNAL], name)
    return own or by_name([one for one in found if one.entry.origin == EXTERNAL], name)


async def named(registry: Registry, name: str) -> list[Known]:
    """Who in the realm has a name, in one of its spellings.

    Raises:
        Unavailable: nobody answered.
    """
    return chosen(await registry.list(names=[name, *spellings(name)], exact=True), name)


async def found(registry: Registry, ref: str) -> list[Known]:
    """The agent of an id; if there is none, all of that name."""
    try:
        return [Known(await registry.get(ref))]
    except NotFound:
        return await named(registry, ref)


async def in_session(registry: Registry, session: str) -> list[Known]:
    """The active agents that run in a terminal session; the last session of a stopped one is none."""
    return [
        Known(entry)
        for entry in await registry.list(pointers={SESSION: session}, status=["running"], include=[], exact=True)
    ]


async def find(registry: Registry, ref: str) -> Entry:
    """The one agent of an id, or of a name.

    Raises:
        NotFound: there is none.
        Ambiguous: the name has several; the message lists them.
    """
    one = only(await found(registry, ref), ref)
    if one is None:
        raise NotFound(f"no agent has the id or the name {ref!r}; `rollcall ls` shows who is there")
    return one.entry


def only(candidates: Sequence[Known], name: str) -> Known | None:
    """The one candidate, None for none.

    Raises:
        Ambiguous: there are several.
    """
    if len(candidates) > 1:
        raise ambiguous(name, [one.told() for one in candidates])
    return candidates[0] if candidates else None

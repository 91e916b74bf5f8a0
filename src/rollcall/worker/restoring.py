"""Taking in a backup, part by part; the roll is made anew with it once it is whole.

Whoever is on the roll stays as it is; a backup only brings back who is not. The roll gets another epoch, so everybody
who watches compares anew.
"""

from typing import Any

from msgspec import Struct, structs

from rollcall.core.errors import Busy, Invalid
from rollcall.core.instants import Timestamp
from rollcall.core.names import checked_name
from rollcall.core.records import ChangeKind, Place, Record
from rollcall.worker.roster import Roster


class Part(Struct, frozen=True, kw_only=True):
    """Some agents of a backup. With the `last` part the backup is whole; `made_at` says of when it is."""

    upload: str
    number: int
    places: list[Place] = []
    last: bool = False
    made_at: Timestamp = ""
    dry_run: bool = False


class Restoring:
    """One backup at a time: a second one takes the place of one that was broken off."""

    def __init__(self, roster: Roster, *, max_agents: int, max_roles: int) -> None:
        self._roster = roster
        self._max_agents = max_agents
        self._max_roles = max_roles
        self._upload = ""
        self._next = 0
        self._places: list[Place] = []
        self._due: list[Place] = []
        self.why = ""

    @property
    def due(self) -> bool:
        """Whether a backup waits to become a part of the roll."""
        return bool(self._due)

    def take(self, part: Part) -> dict[str, Any]:
        """Takes a part; with the last one it is said what will become of each agent.

        Raises:
            Invalid: a part is missing, or holds what is no agent.
            Busy: another one is being restored; or so many agents, or roles, are beyond what a realm may have.
        """
        if self._due:
            raise Busy("another backup is being restored; try again in a moment")
        if part.number == 0:
            self._upload, self._next, self._places = part.upload, 0, []
        if part.upload != self._upload or part.number != self._next:
            raise Invalid("another backup came between, or a part was lost; restore again from the beginning")
        self._next += 1
        for place in part.places:
            checked_name("role", place.record.role), checked_name("id", place.record.id)
        self._places += part.places
        if len(self._places) > self._max_agents:
            raise Busy(f"a realm may have {self._max_agents} agents; the backup has more")
        return self._finish(part) if part.last else {"taken": len(self._places)}

    def take_due(self) -> list[Place]:
        """The agents that are to be brought back now; who came back by itself meanwhile is not among them."""
        due, self._due = self._due, []
        return [place for place in due if self._roster.standing(place.record.id) is None]

    def _finish(self, part: Part) -> dict[str, Any]:
        places, self._places, self._upload = self._places, [], ""
        told: dict[str, Any] = {"dry_run": part.dry_run, "unchanged": 0, "conflicts": []}
        absent: dict[str, Place] = {}
        for place in places:
            held = self._roster.standing(place.record.id)
            if held is None:
                absent[place.record.id] = _brought_back(place)
            elif _same(held.record, place.record):
                told["unchanged"] += 1
            else:
                told["conflicts"].append(_conflict(held, place))
        self._check_room(absent)
        if not part.dry_run:
            self._due, self.why = list(absent.values()), f"a backup of {part.made_at} is restored"
        return {**told, "restored": len(absent), "epoch": self._roster.epoch}

    def _check_room(self, absent: dict[str, Place]) -> None:
        roles = {place.record.role for place in absent.values()} | self._roster.roles.keys()
        if len(self._roster) + len(absent) > self._max_agents or len(roles) > self._max_roles:
            raise Busy(
                f"with this backup the realm would have {len(self._roster) + len(absent)} agents of {len(roles)} roles;"
                f" it may have {self._max_agents} of {self._max_roles}"
            )


def _brought_back(place: Place) -> Place:
    """An agent as it comes back: what it said then, by nobody's command of now."""
    record = structs.replace(place.record, cause=None)
    return Place(record, 0, ChangeKind.REGISTERED, place.at)


def _same(held: Record, told: Record) -> bool:
    return structs.replace(held, cause=None, updated_at="", lost_at=None) == structs.replace(
        told, cause=None, updated_at="", lost_at=None
    )


def _conflict(held: Place, place: Place) -> dict[str, Any]:
    record, other = held.record, place.record
    differ = [name for name in Record.__struct_fields__ if getattr(record, name) != getattr(other, name)]
    return {
        "id": record.id,
        "role": record.role,
        "revision": held.revision,
        "backed_up_at": place.revision,
        "differs": [name for name in differ if name not in ("cause", "updated_at", "lost_at")],
    }

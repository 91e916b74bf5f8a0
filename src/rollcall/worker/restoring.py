"""Taking in a backup, part by part; the roll is made anew with it once it is whole.

Whoever is on the roll stays as it is; a backup only brings back who is not. The roll gets another epoch, so everybody
who watches compares anew.
"""

from typing import Any

from msgspec import Struct, structs

from rollcall.core import codec, limits
from rollcall.core.commands import NKEY
from rollcall.core.errors import Busy, Invalid
from rollcall.core.instants import Timestamp, instant
from rollcall.core.names import checked_name
from rollcall.core.records import ChangeKind, Place, Profile, Record
from rollcall.identity.proofs import Validity, as_it_stands
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

    def take(self, part: Part, *, by_operator: bool) -> dict[str, Any]:
        """Takes a part; with the last one it is said what will become of each agent.

        Who belongs to a key comes back by its signature, or by an operator's word.

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
            _check(place.record)
        self._places += part.places
        if len(self._places) > self._max_agents:
            raise Busy(f"a realm may have {self._max_agents} agents; the backup has more")
        return self._finish(part, by_operator) if part.last else {"taken": len(self._places)}

    def take_due(self) -> list[Place]:
        """The agents that are to be brought back now; who came back by itself meanwhile is not among them."""
        due, self._due = self._due, []
        return [place for place in due if self._roster.standing(place.record.id) is None]

    def _finish(self, part: Part, by_operator: bool) -> dict[str, Any]:
        places, self._places, self._upload = self._places, [], ""
        told: dict[str, Any] = {"dry_run": part.dry_run, "unchanged": 0, "conflicts": [], "refused": []}
        absent: dict[str, Place] = {}
        for place in places:
            held = self._roster.standing(place.record.id)
            unproved = "" if by_operator else _unproved(place)
            if unproved:
                told["refused"].append({"id": place.record.id, "role": place.record.role, "why": unproved})
            elif held is None:
                absent[place.record.id] = _brought_back(place)
            elif _same(held.record, place.record):
                told["unchanged"] += 1
            else:
                told["conflicts"].append(_conflict(held, place))
        self._check_room(absent)
        if not part.dry_run:
            self._due, self.why = list(absent.values()), f"a backup of {part.made_at} is restored ({part.upload})"
        return {**told, "restored": len(absent), "epoch": self._roster.epoch}

    def _check_room(self, absent: dict[str, Place]) -> None:
        roles = {place.record.role for place in absent.values()} | self._roster.roles.keys()
        if len(self._roster) + len(absent) > self._max_agents or len(roles) > self._max_roles:
            raise Busy(
                f"with this backup the realm would have {len(self._roster) + len(absent)} agents of {len(roles)} roles;"
                f" it may have {self._max_agents} of {self._max_roles}"
            )


def _check(record: Record) -> None:
    """Says no to what is no record: everybody who follows the roll would have to read it.

    Raises:
        Invalid: it is none.
    """
    checked_name("role", record.role), checked_name("id", record.id)
    for time in (record.registered_at, record.updated_at, record.lost_at):
        if time is not None:
            instant(time)
    codec.as_profile({name: getattr(record, name) for name in Profile.__struct_fields__})
    if len(codec.encode_record(record)) > limits.RECORD_BYTES:
        raise Invalid(f"{record.role} {record.id!r} is larger than a record may be")


def _unproved(place: Place) -> str:
    """Why an agent that belongs to a key is not brought back; empty for any other."""
    if not place.record.owner.startswith(NKEY):
        return ""
    proof = as_it_stands(place.record, place.revision)
    if proof.validity is Validity.VALID:
        return ""
    return f"it belongs to {place.record.owner!r}, and its record alone does not prove that; an operator may restore it"


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

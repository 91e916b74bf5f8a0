"""The one place where a command is allowed or refused.

A registration with mode claim, by what is held:

===========================================  ==========================  =====================================
held                                         who comes                   outcome
===========================================  ==========================  =====================================
nothing, or a tombstone                      anybody                     registered
the same owner, the same incarnation         same content / other        unchanged / updated
the same non-empty owner                     greater / smaller           registered / conflict, naming the held
another's non-empty owner                    anybody                     denied
unowned, believed alive                      another incarnation         conflict, naming holder and way
unowned; lost, disconnected or not running   a greater incarnation       registered
===========================================  ==========================  =====================================

``create`` refuses any id that is held; ``takeover`` wins over any unowned one, and, where it names the revision that is
held, over any owner that is no key. A held id keeps its role.

Whoever registers signed owns the agent by that key from then on: only what the same key signed, or an operator,
changes it. One key's commands happen in the order in which they were signed.
"""

from typing import Any, TypeAlias

from msgspec import Struct
from msgspec.structs import asdict, replace

from rollcall.core import codec
from rollcall.core.commands import (
    NKEY,
    Asked,
    Command,
    Deregister,
    Expire,
    Lose,
    Mode,
    Recover,
    Register,
    Signer,
    Update,
)
from rollcall.core.errors import Conflict, Denied, Invalid, NotFound, RollcallError
from rollcall.core.instants import Milliseconds, timestamp
from rollcall.core.owners import entitled, in_order, overrules, owner_of, signature_of
from rollcall.core.patch import patched
from rollcall.core.records import ChangeKind, Place, Profile, Record, Status


class Accepted(Struct, frozen=True):
    """The command happens: `record` is what the roll shall hold next."""

    kind: ChangeKind
    record: Record
    reason: str = ""


class Unchanged(Struct, frozen=True):
    """The command is right and the roll says so already."""

    place: Place


class Rejected(Struct, frozen=True):
    """The command does not happen."""

    error: RollcallError


Outcome: TypeAlias = Accepted | Unchanged | Rejected

_VACANT = frozenset({Status.STOPPED, Status.RETIRED, Status.DEFINED})
"""Intents under which an unowned place may be taken over by a newer life."""


def decide(place: Place | None, command: Command, *, now: Milliseconds, disconnected: bool = False) -> Outcome:
    """What becomes of `command` when the roll holds `place` for its id.

    `disconnected` says that the agent's last connection is known to be closed.
    """
    held = None if place is None or place.gone else place
    try:
        if isinstance(command, Asked) and command.signer is not None:
            in_order(place, command.signer)
        match command:
            case Register():
                return _register(held, command, now, disconnected)
            case Update():
                return _update(_standing(held, command), command, now)
            case Deregister():
                return _deregister(_standing(held, command), command, now)
            case Lose():
                return _lose(_standing(held, command), command, now)
            case Recover():
                return _recover(_standing(held, command), command)
            case Expire():
                return _expire(_standing(held, command), command)
    except RollcallError as error:
        return Rejected(error)


def _standing(held: Place | None, command: Command) -> Place:
    if held is None or held.record.role != command.role:
        raise NotFound(f"no {command.role} {command.id!r} is on the roll; register it first")
    return held


def _register(held: Place | None, command: Register, now: Milliseconds, disconnected: bool) -> Outcome:
    profile = _named(command)
    _at_revision(command.expected, held, command)
    if held is None:
        return Accepted(ChangeKind.REGISTERED, _new_record(profile, command, now))
    record = held.record
    if command.mode is Mode.CREATE:
        raise _conflict(held, "choose another id, or register with mode claim or takeover")
    if record.owner and record.owner != profile.owner and not overrules(command, held):
        raise Denied(
            f"{record.role} {record.id!r} belongs to {record.owner!r}; only that owner may register it",
            owner=record.owner,
        )
    if record.role != profile.role:
        raise _conflict(held, f"deregister it first to register it as {profile.role}")
    if record.owner == profile.owner and record.incarnation == profile.incarnation:
        return _said_again(held, profile, command, now)
    if not overrules(command, held) and not _may_take(record, profile, command.mode, disconnected):
        raise _conflict(held, _way_in(record, disconnected))
    return Accepted(ChangeKind.REGISTERED, _next_record(record, profile, command, now))


def _named(command: Register) -> Profile:
    """The profile under the subject's id and role; a body that names others is refused."""
    profile = command.profile
    if profile.id not in ("", command.id) or profile.role not in ("", command.role):
        raise Invalid(
            f"the body says {profile.role or command.role} {profile.id or command.id!r} and the subject "
            f"{command.role} {command.id!r}; make them agree or leave both out of the body"
        )
    owner = owner_of(profile, command.signer)
    if profile.id and profile.role and profile.owner == owner:
        return profile
    return replace(profile, id=command.id, role=command.role, owner=owner)


def _may_take(record: Record, profile: Profile, mode: Mode, disconnected: bool) -> bool:
    if record.owner:
        return profile.incarnation > record.incarnation
    if mode is Mode.TAKEOVER:
        return True
    vacant = disconnected or record.lost_at is not None or record.status in _VACANT
    return vacant and profile.incarnation > record.incarnation


def _way_in(record: Record, disconnected: bool) -> str:
    if record.owner:
        return f"its owner may register with an incarnation above {record.incarnation}"
    if record.lost_at is not None or disconnected:
        return f"register with an incarnation above {record.incarnation}, or with mode takeover"
    return "wait until it is gone, or register with mode takeover"


def _conflict(held: Place, way: str) -> Conflict:
    record = held.record
    by = f", registered by {record.registered_by!r}" if record.registered_by else ""
    state = f"lost since {record.lost_at}" if record.lost_at else f"{record.status} since {record.updated_at}"
    return Conflict(
        f"{record.role} {record.id!r} is {state}{by}; {way}",
        holder={
            "role": record.role,
            "id": record.id,
            "name": record.name,
            "owner": record.owner,
            "registered_by": record.registered_by,
            "incarnation": record.incarnation,
        },
        revision=held.revision,
    )


def _said_again(held: Place, profile: Profile, command: Register, now: Milliseconds) -> Outcome:
    record = _next_record(held.record, profile, command, now)
    if held.record.lost_at is not None:
        return Accepted(ChangeKind.REGISTERED, record)
    if _same_content(held.record, record):
        return Unchanged(held)
    return Accepted(ChangeKind.UPDATED, record)


def _same_content(old: Record, new: Record) -> bool:
    return _equal(old, replace(new, updated_at=old.updated_at, cause=old.cause, signature=old.signature))


def _equal(one: Record, other: Record) -> bool:
    """Whether a reader sees no difference: Python takes 1 and true for equal, JSON does not."""
    return one == other and codec.encode(one) == codec.encode(other)


def _new_record(profile: Profile, command: Register, now: Milliseconds) -> Record:
    at = timestamp(now)
    return Record(
        **_fields(profile),
        registered_at=at,
        updated_at=at,
        cause=command.cause,
        signature=signature_of(command),
        registered_seq=command.after + command.cause.seq,
    )


def _next_record(held: Record, profile: Profile, command: Register, now: Milliseconds) -> Record:
    return Record(
        **_fields(profile),
        registered_at=held.registered_at,
        updated_at=timestamp(now),
        cause=command.cause,
        signature=signature_of(command),
        registered_seq=held.registered_seq,
    )


def _fields(profile: Profile) -> dict[str, Any]:
    return asdict(profile)


def _same_life(held: Place, incarnation: int) -> None:
    if incarnation and incarnation != held.record.incarnation:
        record = held.record
        raise Conflict(
            f"{record.role} {record.id!r} is incarnation {record.incarnation} now, not {incarnation}; "
            "a newer life took the place, leave it alone",
            holder={"role": record.role, "id": record.id, "incarnation": record.incarnation},
            revision=held.revision,
        )


def _at_revision(expected: int | None, held: Place | None, command: Register | Update) -> None:
    revision = held.revision if held is not None else 0
    if expected is not None and expected != revision:
        raise Conflict(
            f"{command.role} {command.id!r} is at revision {revision}, not {expected}; read it and try again",
            revision=revision,
        )


def _update(held: Place, command: Update, now: Milliseconds) -> Outcome:
    record = held.record
    entitled(held, command.signer)
    _same_life(held, command.incarnation)
    _at_revision(command.expected, held, command)
    if command.signer is not None and command.signer.successor:
        return _hand_over(held, command, command.signer, now)
    updated = codec.from_members(patched(codec.members(record), command.patch))
    if command.beat and record.lost_at is not None:
        updated = replace(updated, lost_at=None)
    if _equal(updated, record):
        return Unchanged(held)
    said = replace(updated, updated_at=timestamp(now), cause=command.cause, signature=signature_of(command))
    return Accepted(ChangeKind.UPDATED, said)


def _hand_over(held: Place, command: Update, signer: Signer, now: Milliseconds) -> Outcome:
    """The agent gets another key: both have signed the same words, which say that and nothing else."""
    owner = NKEY + signer.successor
    if command.patch != {"owner": owner}:
        raise Invalid(f'a hand-over to {signer.successor} says just {{"owner": "{owner}"}}; send other changes apart')
    record = replace(
        held.record, owner=owner, updated_at=timestamp(now), cause=command.cause, signature=signer.signature
    )
    return Accepted(ChangeKind.UPDATED, record, f"handed over to {signer.successor}")


def _deregister(held: Place, command: Deregister, now: Milliseconds) -> Outcome:
    entitled(held, command.signer)
    _same_life(held, command.incarnation)
    record = replace(held.record, updated_at=timestamp(now), cause=command.cause, signature=signature_of(command))
    return Accepted(ChangeKind.DEREGISTERED, record, command.reason)


def _lose(held: Place, command: Lose, now: Milliseconds) -> Outcome:
    if held.record.lost_at is not None:
        return Unchanged(held)
    return Accepted(ChangeKind.LOST, replace(held.record, lost_at=timestamp(now)), command.reason)


def _recover(held: Place, command: Recover) -> Outcome:
    if held.record.lost_at is None:
        return Unchanged(held)
    return Accepted(ChangeKind.RECOVERED, replace(held.record, lost_at=None), command.reason)


def _expire(held: Place, command: Expire) -> Outcome:
    if held.record.lost_at is None:
        return Unchanged(held)
    return Accepted(ChangeKind.EXPIRED, held.record, command.reason)

"""What a record proves: that its owner's key signed what it says. Checked offline, from the roll or from a dump.

A registration says the whole record. An update says what it changed; the rest has to be as in the record before, so
a history is followed change by change, as far back as it goes.
"""

import contextlib
from collections.abc import Iterable
from enum import StrEnum

from msgspec import Struct
from msgspec.structs import replace

from rollcall.bus.subjects import names
from rollcall.core import codec
from rollcall.core.commands import NKEY
from rollcall.core.errors import RollcallError
from rollcall.core.instants import instant
from rollcall.core.patch import patched
from rollcall.core.records import ENDINGS, Change, ChangeKind, Profile, Record, Signature
from rollcall.core.senders import Sender, read_sender
from rollcall.identity.signing import check_signature

_OBSERVED = frozenset({ChangeKind.LOST, ChangeKind.RECOVERED, ChangeKind.EXPIRED})
"""The kinds that the registry makes by itself: they keep the record and its signature."""

_VERBS: dict[ChangeKind, tuple[str, ...]] = {
    ChangeKind.REGISTERED: ("register",),
    ChangeKind.UPDATED: ("register", "update"),
    ChangeKind.DEREGISTERED: ("deregister",),
    **dict.fromkeys(_OBSERVED, ("register", "update")),
}
"""What may have been signed to make a change of each kind."""


class Validity(StrEnum):
    """What is known of a record."""

    VALID = "valid"
    UNSIGNED = "unsigned"
    INVALID = "invalid"


class Proof(Struct, frozen=True, kw_only=True):
    """What a change proves. `signer` is the key that signed it, `why` the reason when it is not valid."""

    id: str
    role: str
    revision: int
    kind: ChangeKind
    validity: Validity
    owner: str = ""
    signer: str = ""
    signed_at: str = ""
    why: str = ""


class _False(Exception):
    """A record says something that its signature does not."""


def statement(profile: Profile) -> bytes:
    """The words by which an agent registers itself as the SDK says them: the whole profile but its owner."""
    return codec.encode(replace(profile, owner=""))


def proofs(changes: Iterable[Change], operators: frozenset[str] = frozenset()) -> list[Proof]:
    """What each change of one agent proves, oldest first. `operators` are keys that may act for every owner."""
    found: list[Proof] = []
    before: Record | None = None
    for change in changes:
        found.append(proof(change, before, operators))
        before = None if change.kind in ENDINGS else change.record
    return found


def as_it_stands(record: Record, revision: int, operators: frozenset[str] = frozenset()) -> Proof:
    """What a record proves by itself, whatever was before it."""
    kind = ChangeKind.REGISTERED
    if record.signature is not None:
        with contextlib.suppress(RollcallError):
            sender = read_sender(record.signature.sender)
            kind = ChangeKind.UPDATED if sender is not None and ".update." in sender.sub else kind
    at = instant(record.updated_at)
    return proof(Change(kind=kind, record=_record(record), revision=revision, epoch="", at=at), None, operators)


def _record(record: Record) -> Record:
    """Without what an entry adds."""
    return Record(**{name: getattr(record, name) for name in Record.__struct_fields__})


def proof(change: Change, before: Record | None, operators: frozenset[str] = frozenset()) -> Proof:
    """What one change proves; `before` is the record that it changed, None where that is not known."""
    record = change.record
    sender: Sender | None = None
    why = ""
    try:
        if record.signature is not None:
            sender = _checked(change, record.signature, before, operators)
        elif record.owner.startswith(NKEY):
            raise _False(f"it belongs to {record.owner!r}, and nobody signed it")
    except (_False, RollcallError) as error:
        why = str(error)
    validity = Validity.INVALID if why else Validity.UNSIGNED if record.signature is None else Validity.VALID
    return Proof(
        id=record.id,
        role=record.role,
        revision=change.revision,
        kind=change.kind,
        validity=validity,
        owner=record.owner,
        signer=sender.user if sender is not None else "",
        signed_at=sender.ts if sender is not None else "",
        why=why,
    )


def _checked(change: Change, signature: Signature, before: Record | None, operators: frozenset[str]) -> Sender:
    record = change.record
    sender = read_sender(signature.sender)
    if sender is None or not sender.sig:
        raise _False("its signature is none")
    verb = _verb(sender, record)
    payload = signature.payload.encode() if signature.payload is not None else statement(_profile(record))
    check_signature(sender, sender.sub, payload)
    if change.kind in _OBSERVED and before is not None:
        # The registry's own word changes nothing that was signed.
        _same(record, before)
        if signature != before.signature:
            raise _False("its signature is another one than before")
        return sender
    if verb not in _VERBS.get(change.kind, ()):
        raise _False(f"it was signed to {verb}, and is told as {change.kind}")
    match verb:
        case "register":
            _said_whole(record, payload, sender, operators)
        case "update":
            _said_in_part(record, before, payload, sender, signature, operators)
        case "deregister":
            _by(sender, record, operators)
            _same(record, before)
    return sender


def _verb(sender: Sender, record: Record) -> str:
    """What was signed to do; the subject says it, and to whom."""
    parts = sender.sub.split(".")
    if len(parts) != 5:
        raise _False(f"subject {sender.sub!r} is none of a command")
    role, id = names(f"{parts[3]}.{parts[4]}")
    if (role, id) != (record.role, record.id):
        raise _False(f"it was signed for {role} {id!r}")
    return parts[2]


def _said_whole(record: Record, payload: bytes, sender: Sender, operators: frozenset[str]) -> None:
    said = codec.decode_profile(payload)
    if sender.user not in operators and record.owner != NKEY + sender.user:
        raise _False(f"{sender.user}, no known operator, signed it, and it belongs to {record.owner!r}")
    owner = record.owner if sender.user not in operators or not said.owner else said.owner
    wanted = replace(said, id=record.id, role=record.role, owner=owner)
    if codec.encode(wanted) != codec.encode(_profile(record)):
        raise _False("it says something else than what was signed")


def _said_in_part(
    record: Record,
    before: Record | None,
    payload: bytes,
    sender: Sender,
    signature: Signature,
    operators: frozenset[str],
) -> None:
    patch = codec.decode_object(payload)
    if signature.successor:
        successor = read_sender(signature.successor)
        if successor is None or record.owner != NKEY + successor.user:
            raise _False("it was handed over to another key than the one that agreed")
        check_signature(successor, sender.sub, payload)
        if patch != {"owner": record.owner}:
            raise _False("the hand-over that was signed is another one")
        if before is not None:
            _by(sender, before, operators)
            _same(record, replace(before, owner=record.owner))
        return
    _by(sender, record, operators)
    base = before or record
    said = codec.from_members(patched(codec.members(base), patch))
    _same(record, said)


def _by(sender: Sender, record: Record, operators: frozenset[str]) -> None:
    if record.owner.startswith(NKEY) and sender.user not in operators and record.owner != NKEY + sender.user:
        raise _False(f"{sender.user} signed it, and it belongs to {record.owner!r}")


def _same(record: Record, other: Record | None) -> None:
    if other is not None and codec.encode(_profile(record)) != codec.encode(_profile(other)):
        raise _False("it differs from the record before in what nobody signed")


def _profile(record: Record) -> Profile:
    return Profile(**{name: getattr(record, name) for name in Profile.__struct_fields__})

"""What a record proves: that its owner's key signed what it says. Checked offline, from the roll or from a dump.

A registration says the whole record. An update says what it changed; the rest has to be as in the record before, so
a history is followed change by change, as far back as it goes. Where the record before is not at hand, an update
proves a part.
"""

from collections.abc import Iterable
from enum import StrEnum

from msgspec import Struct
from msgspec.structs import replace

from rollcall.bus.subjects import names
from rollcall.core import codec, limits
from rollcall.core.commands import NKEY
from rollcall.core.errors import RollcallError
from rollcall.core.instants import Milliseconds, instant
from rollcall.core.patch import patched
from rollcall.core.records import ENDINGS, Change, ChangeKind, Profile, Record, Signature, profile_of
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
    """What is known of a record. `PARTIAL`: what was signed is right, what it left alone rests on a record before."""

    VALID = "valid"
    PARTIAL = "partial"
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


class Against(Struct, frozen=True, kw_only=True):
    """What is checked against: keys that may act for every owner, and the realm; empty for any."""

    operators: frozenset[str] = frozenset()
    realm: str = ""


ANYBODY = Against()
"""No operators are known, and any realm will do."""


class _False(Exception):
    """A record says something that its signature does not."""


def statement(profile: Profile) -> bytes:
    """The words by which an agent registers itself as the SDK says them: the whole profile but its owner."""
    return codec.encode(replace(profile, owner=""))


def proofs(changes: Iterable[Change], against: Against = ANYBODY) -> list[Proof]:
    """What each change of one agent proves, oldest first."""
    trail = _Trail(against)
    return [trail.follow(change) for change in changes]


def as_it_stands(record: Record, revision: int, against: Against = ANYBODY) -> Proof:
    """What a record proves by itself, whatever was before it."""
    kind = ChangeKind.REGISTERED
    if record.signature is not None and ".update." in record.signature.sender:
        kind = ChangeKind.UPDATED
    own = Record(**{name: getattr(record, name) for name in Record.__struct_fields__})
    change = Change(kind=kind, record=own, revision=revision, epoch="", at=instant(record.updated_at))
    return proofs([change], against)[0]


class _Trail:
    """The history of one agent, followed: the record before, and what its keys have signed so far."""

    def __init__(self, against: Against) -> None:
        self._against = against
        self._before: Record | None = None
        self._nonces: set[tuple[str, str]] = set()
        self._latest: dict[str, Milliseconds] = {}

    def follow(self, change: Change) -> Proof:
        """What the next change proves."""
        record, sender, why = change.record, None, ""
        try:
            sender = self._sender(change)
        except (_False, RollcallError) as error:
            why = str(error)
        proof = Proof(
            id=record.id,
            role=record.role,
            revision=change.revision,
            kind=change.kind,
            validity=Validity.INVALID if why else self._validity(sender),
            owner=record.owner,
            signer=sender.user if sender is not None else "",
            signed_at=sender.ts if sender is not None else "",
            why=why,
        )
        self._before = None if change.kind in ENDINGS else record
        return proof

    def _validity(self, sender: Sender | None) -> Validity:
        if sender is None:
            return Validity.UNSIGNED
        return Validity.PARTIAL if self._before is None and ".update." in sender.sub else Validity.VALID

    def _sender(self, change: Change) -> Sender | None:
        """Who signed a change; None when nobody did and nobody had to."""
        record, before = change.record, self._before
        if record.signature is None:
            owner = record.owner if before is None else before.owner or record.owner
            if owner.startswith(NKEY):
                raise _False(f"it belongs to {owner!r}, and nobody signed it")
            return None
        sender = read_sender(record.signature.sender)
        if sender is None or not sender.sig:
            raise _False("its signature is none")
        verb = _verb(sender, record, self._against.realm)
        payload = record.signature.payload
        said = payload.encode() if payload is not None else statement(profile_of(record))
        check_signature(sender, sender.sub, said)
        if change.kind in _OBSERVED and before is not None:
            # The registry's own word changes nothing that was signed.
            _same(record, before)
            if record.signature != before.signature:
                raise _False("its signature is another one than before")
            return sender
        if verb not in _VERBS.get(change.kind, ()):
            raise _False(f"it was signed to {verb}, and is told as {change.kind}")
        self._in_order(sender)
        match verb:
            case "register":
                self._registered(record, said, sender)
            case "update":
                self._updated(record, said, sender, record.signature)
            case _:
                self._deregistered(change, said, sender)
        return sender

    def _in_order(self, sender: Sender) -> None:
        """Each nonce once, and what one key signed in the order in which it did."""
        if (sender.user, sender.nonce) in self._nonces:
            raise _False("it was told before: one command makes one change")
        if sender.at < self._latest.get(sender.user, 0):
            raise _False("it was signed before what came earlier")
        self._nonces.add((sender.user, sender.nonce))
        self._latest[sender.user] = sender.at

    def _registered(self, record: Record, payload: bytes, sender: Sender) -> None:
        said = codec.decode_profile(payload)
        if self._before is not None:
            self._may(sender, self._before)
        self._may(sender, record, owned=True)
        owner = record.owner if not self._operates(sender) or not said.owner else said.owner
        wanted = replace(said, id=record.id, role=record.role, owner=owner)
        if codec.encode(wanted) != codec.encode(profile_of(record)):
            raise _False("it says something else than what was signed")

    def _updated(self, record: Record, payload: bytes, sender: Sender, signature: Signature) -> None:
        patch = codec.decode_object(payload)
        if signature.successor:
            self._handed_over(record, payload, patch, sender, signature)
            return
        self._may(sender, record)
        base = self._before or record
        _same(record, codec.from_members(patched(codec.members(base), patch)))

    def _handed_over(self, record: Record, payload: bytes, patch: object, sender: Sender, signature: Signature) -> None:
        successor = read_sender(signature.successor)
        if successor is None or record.owner != NKEY + successor.user:
            raise _False("it was handed over to another key than the one that agreed")
        check_signature(successor, sender.sub, payload)
        if patch != {"owner": record.owner}:
            raise _False("the hand-over that was signed is another one")
        if self._before is not None:
            self._may(sender, self._before)
            _same(record, replace(self._before, owner=record.owner))

    def _deregistered(self, change: Change, payload: bytes, sender: Sender) -> None:
        self._may(sender, change.record)
        _same(change.record, self._before)
        reason = codec.decode_object(payload).get("reason", "")
        if reason[: limits.REASON_CHARS] != change.reason:
            raise _False("it is told with another reason than the one that was signed")

    def _may(self, sender: Sender, record: Record, *, owned: bool = False) -> None:
        """A key acts on its own agents, and on what nobody owns unless that has to be `owned`; an operator on all."""
        mine = record.owner == NKEY + sender.user
        free = not owned and not record.owner.startswith(NKEY)
        if not (mine or free or self._operates(sender)):
            raise _False(f"{sender.user}, no known operator, signed it, and it belongs to {record.owner!r}")

    def _operates(self, sender: Sender) -> bool:
        return sender.user in self._against.operators


def _verb(sender: Sender, record: Record, realm: str) -> str:
    """What was signed to do; the subject says it, and to whom."""
    parts = sender.sub.split(".")
    if len(parts) != 5:
        raise _False(f"subject {sender.sub!r} is none of a command")
    if realm not in ("", parts[1]):
        raise _False(f"it was signed for realm {parts[1]!r}")
    role, id = names(f"{parts[3]}.{parts[4]}")
    if (role, id) != (record.role, record.id):
        raise _False(f"it was signed for {role} {id!r}")
    return parts[2]


def _same(record: Record, other: Record | None) -> None:
    if other is not None and codec.encode(profile_of(record)) != codec.encode(profile_of(other)):
        raise _False("it differs from the record before in what nobody signed")

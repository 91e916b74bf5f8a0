"""Whose an agent is, and who may act on it: what is proved by signatures.

Whoever registers signed owns the agent by that key from then on. One key's commands happen in the order in which they
were signed.
"""

from rollcall.core.commands import NKEY, Asked, Mode, Register, Signer
from rollcall.core.errors import Invalid, Unauthorized
from rollcall.core.instants import timestamp
from rollcall.core.records import Place, Profile, Signature
from rollcall.core.senders import read_sender


def owner_of(profile: Profile, signer: Signer | None) -> str:
    """Whose the agent is: of the key that signed. An operator, such as a gateway, registers agents of others."""
    if signer is None and profile.owner.startswith(NKEY):
        raise Unauthorized(
            f"owner {profile.owner!r} is proved only by a signature; sign the command or leave owner out"
        )
    if signer is None or signer.operator:
        return profile.owner
    if profile.owner not in ("", signer.owner):
        raise Invalid(
            f"the body says owner {profile.owner!r} and {signer.owner!r} signed it; leave owner out of the body"
        )
    return signer.owner


def in_order(place: Place | None, signer: Signer) -> None:
    """A command that one key signed before the last one that happened comes too late: it may be a replay."""
    if place is None or place.record.signature is None:
        return
    last = read_sender(place.record.signature.sender)
    if last is not None and last.user == signer.key and signer.at < last.at:
        raise Unauthorized(
            f"{signer.key} signed this at {timestamp(signer.at)}, and a later command of {last.ts} has happened; "
            "sign it anew, and set the clocks if they differ"
        )


def entitled(held: Place, signer: Signer | None) -> None:
    """Only its own key, or an operator, changes an agent that is owned by a key."""
    record = held.record
    if not record.owner.startswith(NKEY) or (signer is not None and signer.operator):
        return
    if signer is None or signer.owner != record.owner:
        by = f"it is signed by {signer.key}" if signer is not None else "this command is not signed"
        raise Unauthorized(
            f"{record.role} {record.id!r} belongs to {record.owner!r}, and {by}; sign with the owner's key",
            owner=record.owner,
        )


def overrules(command: Register, held: Place) -> bool:
    """Whether an agent is taken over from whoever has it.

    An operator may; and whoever names the revision that is held may, where the owner proves nothing by a key: a word
    is no proof, and with the revision nobody is taken by surprise.
    """
    if command.mode is not Mode.TAKEOVER:
        return False
    by_operator = command.signer is not None and command.signer.operator
    return by_operator or (command.expected is not None and not held.record.owner.startswith(NKEY))


def signature_of(command: Asked) -> Signature | None:
    return command.signer.signature if command.signer is not None else None

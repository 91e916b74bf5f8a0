"""The inbox: commands that wait for the leader, read from what agents sent."""

from msgspec import Struct

from rollcall.bus import headers as h
from rollcall.bus.follow import Stored
from rollcall.bus.subjects import NOBODY, is_client, text
from rollcall.core import codec, limits
from rollcall.core.commands import Asked, Deregister, Mode, Register, Update
from rollcall.core.errors import Invalid, RollcallError
from rollcall.core.records import Cause


class Asking(Struct, frozen=True):
    """Who asked, and how the outcome finds them. `key` is ``<role>.<id>`` in tokens."""

    seq: int
    subject: str
    verb: str
    key: str
    client: str = ""
    command: str = ""


def asking(stored: Stored) -> Asking:
    """Who sent a message of the inbox. It never fails: whatever came, somebody may be told what was wrong with it."""
    _, _, verb, role, id = stored.subject.split(".")
    client = stored.headers.get(h.CLIENT, "")
    return Asking(
        stored.seq,
        stored.subject,
        verb,
        f"{role}.{id}" if _spelled(role) and _spelled(id) else f"{NOBODY}.{NOBODY}",
        client if is_client(client) else "",
        stored.headers.get(h.COMMAND, "")[: limits.LABEL_CHARS],
    )


def read_command(stored: Stored, inbox_epoch: str, after: int) -> Asked:
    """The command that a message of the inbox holds. `after` is how many commands earlier inboxes had.

    Raises:
        RollcallError: it holds none; the message says why.
    """
    _, _, verb, role_token, id_token = stored.subject.split(".")
    role, id = text(role_token), text(id_token)
    cause = Cause(inbox_epoch, stored.seq)
    match verb:
        case "register":
            profile = codec.decode_profile(stored.data)
            expected = _number(stored, h.EXPECTED_REVISION)
            return Register(
                role=role, id=id, profile=profile, mode=_mode(stored), cause=cause, after=after, expected=expected
            )
        case "update":
            return Update(
                role=role,
                id=id,
                patch=codec.decode_object(stored.data),
                expected=_number(stored, h.EXPECTED_REVISION),
                incarnation=_number(stored, h.INCARNATION) or 0,
                beat=stored.headers.get(h.BEAT) == "1",
                cause=cause,
            )
        case _:
            reason = codec.decode_object(stored.data).get("reason", "")
            if not isinstance(reason, str):
                raise Invalid('\'reason\' is not a text; send {"reason": "..."} or nothing')
            return Deregister(
                role=role,
                id=id,
                reason=reason[: limits.REASON_CHARS],
                incarnation=_number(stored, h.INCARNATION) or 0,
                cause=cause,
            )


def _spelled(token: str) -> bool:
    try:
        text(token)
    except RollcallError:
        return False
    return True


def _mode(stored: Stored) -> Mode:
    word = stored.headers.get(h.MODE, Mode.CLAIM)
    try:
        return Mode(word)
    except ValueError as error:
        raise Invalid(f"{h.MODE} {word!r} is unknown; use claim, create or takeover") from error


def _number(stored: Stored, header: str) -> int | None:
    word = stored.headers.get(header)
    if word is None:
        return None
    if not (word.isascii() and word.isdigit() and len(word) < 20):
        raise Invalid(f"{header} {word!r} is not a whole number")
    return int(word)

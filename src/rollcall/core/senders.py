"""The ``Agent-Sender`` header: who says that he sent a message, and the words that his signature is over.

The form is that of the Synadia Agent Protocol for NATS, sections 13.5 and 13.6: compact JSON on one line, and

    AGENT-SENDER-V1\\n{account}\\n{user}\\n{subject}\\n{ts}\\n{nonce}\\n{SHA-256 of the payload, hex}\\n

signed with the seed of ``user``. A header without a signature is a claim and proves nothing.
"""

import hashlib
import re
from functools import lru_cache

import msgspec
from msgspec import Struct

from rollcall.core.errors import Invalid
from rollcall.core.instants import Milliseconds, instant

VERSION = 1

_NONCE = re.compile(r"[A-Za-z0-9_-]{1,64}")
_TS = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?Z")


class Sender(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A header as it was read. `sub` is the subject that was signed, `ts` RFC 3339 UTC, `sig` base64url."""

    v: int
    account: str
    user: str
    name: str = ""
    sub: str = ""
    ts: str = ""
    nonce: str = ""
    sig: str = ""

    @property
    def at(self) -> Milliseconds:
        """When it was signed, by the signer's clock."""
        return _moment(self.ts)

    def signed(self, payload: bytes) -> bytes:
        """The words that the signature of a message with this payload is over."""
        digest = hashlib.sha256(payload).hexdigest()
        return (
            f"AGENT-SENDER-V1\n{self.account}\n{self.user}\n{self.sub}\n{self.ts}\n{self.nonce}\n{digest}\n"
        ).encode()


class _Version(Struct):
    v: int


# Whoever signs says whole seconds, so many say the same.
_moment = lru_cache(maxsize=1024)(instant)
_sender = msgspec.json.Decoder(Sender)
_version = msgspec.json.Decoder(_Version)


def read_sender(header: str) -> Sender | None:
    """The header of a message; None when there is none, or one of a version that we do not know.

    Raises:
        Invalid: it is malformed.
    """
    if not header:
        return None
    try:
        sender = _decoded(header)
        if sender is None:
            return None
        # JSON spells any text with escapes, and a line break would move the words that are signed.
        well = "\n" not in sender.account and "\n" not in sender.user and "\n" not in sender.sub
        if sender.sig:
            well = well and _NONCE.fullmatch(sender.nonce) is not None and _TS.fullmatch(sender.ts) is not None
            well = well and sender.sub != "" and sender.at > 0
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise Invalid(f"the Agent-Sender header cannot be read: {error}") from error
    if not well:
        raise Invalid("the Agent-Sender header is malformed: sub, ts, nonce and sig belong together")
    return sender


def _decoded(header: str) -> Sender | None:
    """What a header says; of another version, and so maybe another shape, None."""
    try:
        sender = _sender.decode(header)
    except msgspec.ValidationError:
        if _version.decode(header).v == VERSION:
            raise
        return None
    return sender if sender.v == VERSION else None

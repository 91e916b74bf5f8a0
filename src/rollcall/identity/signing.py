"""Signing messages, and checking that a message was signed by the key it names."""

import base64
import binascii
import re
import secrets

from nacl.bindings import crypto_sign, crypto_sign_open
from nacl.exceptions import BadSignatureError

from rollcall.core import codec
from rollcall.core.commands import NKEY
from rollcall.core.errors import Invalid, Unauthorized
from rollcall.core.instants import Milliseconds, timestamp
from rollcall.core.senders import VERSION, Sender
from rollcall.identity.keys import Key, public_bytes

_SIG = re.compile(r"[A-Za-z0-9_-]{86}")


class SenderSigner:
    """Signs messages of one user of the bus. `account` is the one that the user is in, as the bus calls it."""

    def __init__(self, key: Key, account: str) -> None:
        self.public = key.public
        self._account = account
        _, self._secret = key.pair

    def __repr__(self) -> str:
        return f"SenderSigner({self.public})"

    @property
    def owner(self) -> str:
        """How records name whom this signs for."""
        return NKEY + self.public

    def sign(self, subject: str, payload: bytes, now: Milliseconds) -> str:
        """The ``Agent-Sender`` header of a message that is about to be sent."""
        said = Sender(
            v=VERSION,
            account=self._account,
            user=self.public,
            sub=subject,
            # Whole seconds, as the protocol asks of signers.
            ts=f"{timestamp(now)[:19]}Z",
            nonce=secrets.token_urlsafe(16),
        )
        words = said.signed(payload)
        sig = base64.urlsafe_b64encode(crypto_sign(words, self._secret)[:64]).rstrip(b"=").decode()
        signed = Sender(
            v=said.v,
            account=said.account,
            user=said.user,
            sub=subject,
            ts=said.ts,
            nonce=said.nonce,
            sig=sig,
        )
        return codec.encode(signed).decode()


def check_signature(sender: Sender, subject: str, payload: bytes) -> None:
    """Returns when the key that a header names signed this payload for this subject; when it did so is not looked at.

    Raises:
        Unauthorized: it did not.
    """
    if sender.sub != subject:
        raise Unauthorized(f"the signature is over subject {sender.sub[:200]!r}, this is {subject!r}; sign it anew")
    try:
        if not _SIG.fullmatch(sender.sig):
            raise Unauthorized("the signature is not 64 bytes of base64url without padding; sign it anew")
        signature = base64.urlsafe_b64decode(sender.sig + "==")
        crypto_sign_open(signature + sender.signed(payload), public_bytes(sender.user))
    except (BadSignatureError, binascii.Error, ValueError, Invalid) as error:
        raise Unauthorized(
            f"the signature is not of {sender.user[:64]!r}, or the message was changed; sign it anew"
        ) from error

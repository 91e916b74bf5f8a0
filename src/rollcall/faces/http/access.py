"""Who may do what: bearer tokens with scopes."""

import hmac
import re
from enum import IntEnum
from typing import ClassVar

from rollcall.core.discreet import Discreet

_BEARER = re.compile(r"(?i:bearer) +(\S+) *")


class Scope(IntEnum):
    """What a token allows; each includes those below it."""

    READ = 1
    WRITE = 2
    ADMIN = 3


class Token(Discreet, frozen=True):
    """A secret and what it allows."""

    shown: ClassVar[tuple[str, ...]] = ("scope",)
    secret: str
    scope: Scope = Scope.ADMIN


class Access:
    """Judges the ``Authorization`` header of requests.

    Without tokens everything is allowed. With tokens whatever changes something needs one; reading needs one as soon
    as a token exists that allows nothing else.
    """

    def __init__(self, tokens: tuple[Token, ...]) -> None:
        self._tokens = tokens
        self._reads = any(token.scope is Scope.READ for token in tokens)

    def allows(self, header: str, wanted: Scope) -> bool:
        """Whether a request with this header may do what needs `wanted`."""
        return not self.needs(wanted) or self.granted(header) >= wanted

    def needs(self, wanted: Scope) -> bool:
        """Whether a token is needed at all."""
        return bool(self._tokens) and (wanted > Scope.READ or self._reads)

    def granted(self, header: str) -> int:
        """What the header's token allows; 0 for none of ours. Takes as long for a wrong one as for a right one."""
        secret = bearer(header)
        granted = 0
        for token in self._tokens:
            if same(secret, token.secret):
                granted = max(granted, token.scope)
        return granted


def bearer(header: str) -> str:
    """The token in an ``Authorization`` header; empty when there is none."""
    found = _BEARER.fullmatch(header)
    return found[1] if found else ""


def same(one: str, other: str) -> bool:
    """Whether two secrets are equal, in constant time."""
    return hmac.compare_digest(one.encode("utf-8", "surrogateescape"), other.encode("utf-8", "surrogateescape"))

"""What may ask for a change: agents, through the inbox, and the registry itself."""

from enum import StrEnum
from typing import Any

from msgspec import Struct

from rollcall.core.instants import Milliseconds
from rollcall.core.records import Cause, Profile, Signature

NKEY = "nkey:"
"""Before the public key of an owner that proves itself by signatures."""


class Mode(StrEnum):
    """How much a registration may take: `CLAIM` what is free, `CREATE` a new id, `TAKEOVER` also a live unowned one."""

    CLAIM = "claim"
    CREATE = "create"
    TAKEOVER = "takeover"


class Signer(Struct, frozen=True, kw_only=True):
    """Who signed a command, proved; `at` is when, by the signer's clock.

    An `operator` may act on agents of other owners. `successor` is a key that agreed, by a signature of its own, to
    take the agent over.
    """

    key: str
    at: Milliseconds
    signature: Signature
    operator: bool = False
    successor: str = ""

    @property
    def owner(self) -> str:
        """How records name this signer."""
        return NKEY + self.key


class Register(Struct, frozen=True, kw_only=True):
    """An agent takes its place. `after` counts the commands of earlier inboxes: registrations are in one order.

    `expected` makes it a compare-and-set on the revision that is held; 0 means nothing.
    """

    role: str
    id: str
    profile: Profile
    mode: Mode
    cause: Cause
    after: int = 0
    expected: int | None = None
    signer: Signer | None = None


class Update(Struct, frozen=True, kw_only=True):
    """A JSON merge patch (RFC 7396) on a record.

    `expected` makes it a compare-and-set on the revision; `incarnation` 0 means any life; `beat` renews the lease too.
    """

    role: str
    id: str
    patch: dict[str, Any]  # the members of a patch are whatever JSON can hold
    expected: int | None = None
    incarnation: int = 0
    beat: bool = False
    cause: Cause
    signer: Signer | None = None


class Deregister(Struct, frozen=True, kw_only=True):
    """An agent gives its place back."""

    role: str
    id: str
    reason: str = ""
    incarnation: int = 0
    cause: Cause
    signer: Signer | None = None


class Lose(Struct, frozen=True, kw_only=True):
    """The registry no longer believes that the agent lives."""

    role: str
    id: str
    reason: str


class Recover(Struct, frozen=True, kw_only=True):
    """The registry heard a lost agent again."""

    role: str
    id: str
    reason: str = "it beats again"


class Expire(Struct, frozen=True, kw_only=True):
    """The registry forgets an agent that was lost for long."""

    role: str
    id: str
    reason: str


Asked = Register | Update | Deregister
"""Commands from the inbox."""

Observed = Lose | Recover | Expire
"""Commands of the registry itself."""

Command = Asked | Observed

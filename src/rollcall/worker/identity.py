"""Who sent a command, a question or a sign of life, as far as a signature proves it."""

import asyncio
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import structlog
from msgspec import Struct
from msgspec.structs import replace

from rollcall.bus import headers as h
from rollcall.bus.follow import Stored
from rollcall.core.commands import NKEY, Asked, Register, Signer
from rollcall.core.errors import Invalid, Unauthorized
from rollcall.core.instants import Milliseconds
from rollcall.core.records import Cause, Change, Record, Signature
from rollcall.core.senders import VERSION, Sender, read_sender
from rollcall.identity.nonces import Nonces
from rollcall.identity.proofs import statement
from rollcall.identity.signing import check_signature
from rollcall.worker.clock import Clock

Signatures = Literal["off", "optional", "required"]

log = structlog.get_logger(__name__)


class Rule(Struct, frozen=True):
    """Who may see the agents of a role: users by their keys, and the owners of agents of other roles.

    `role` may end in ``*``. The first rule that fits a role counts; a role without one is open to everybody.
    """

    role: str
    keys: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()

    def fits(self, role: str) -> bool:
        """Whether it is about this role."""
        return role.startswith(self.role[:-1]) if self.role.endswith("*") else role == self.role


class IdentitySettings(Struct, frozen=True, kw_only=True):
    """What signatures count for. `off`: they are not looked at; `required`: no command happens without one.

    `operators` are the public keys of those who may act on agents of other owners; once there are any, only they may
    ask for what operators do. More of them may stand in `operators_file`, one on a line, which is read again and again.
    """

    signatures: Signatures = "optional"
    operators: frozenset[str] = frozenset()
    operators_file: Path | None = None
    visibility: tuple[Rule, ...] = ()


class Used(Struct, frozen=True, array_like=True):
    """A nonce that a command had, or a question, which has no `cause`."""

    user: str
    nonce: str
    ts: str
    cause: Cause | None

    @property
    def sender(self) -> Sender:
        """As the header of the command had it."""
        return Sender(v=VERSION, account="", user=self.user, nonce=self.nonce, ts=self.ts)


class Identity:
    """Checks signatures, each once. `revoked` are the keys whose signatures count no more."""

    def __init__(self, settings: IdentitySettings, clock: Clock, counts: Counter[str]) -> None:
        self._settings = settings
        self._clock = clock
        self._counts = counts
        # Commands are of the time at which they were stored, which may be long ago; questions are of now.
        self._nonces, self._asked = Nonces(), Nonces()
        self._spent: list[Used] = []
        self._used: list[Used] = []
        self.news = asyncio.Event()
        """Set when there is something in `used`."""
        self.revoked: frozenset[str] = frozenset()
        self._operators = settings.operators
        self.look()

    def signed(self, command: Asked, stored: Stored) -> Asked:
        """The command, with who signed it.

        Raises:
            Unauthorized: a signature is missing that has to be there, or one proves nothing.
            Invalid: its header is malformed.
            Busy: too many signed commands came of late.
        """
        header = stored.headers.get(h.SENDER)
        if self._settings.signatures == "off" or (not header and self._settings.signatures == "optional"):
            return command
        sender = self._read(header)
        if sender is None or not sender.sig:
            if self._settings.signatures == "optional":
                return command
            self._counts["missing"] += 1
            raise Unauthorized("this realm takes only signed commands; sign it with a key (rollcall keys new NAME)")
        now = stored.at
        self._check(sender, stored.subject, stored.data, now)
        if not self._nonces.take(sender, command.cause, now):
            self._counts["replayed"] += 1
            raise Unauthorized(f"nonce {sender.nonce!r} of {sender.user} was used before; sign the command anew")
        self._tell(sender, command.cause)
        successor = self._successor(stored)
        self._counts["verified"] += 1
        signature = Signature(
            sender=header or "",
            payload=None if _says_itself(command, stored.data) else stored.data.decode(),
            successor=stored.headers.get(h.SUCCESSOR, "") if successor else "",
        )
        signer = Signer(
            key=sender.user,
            at=sender.at,
            signature=signature,
            operator=self.operates(sender.user),
            successor=successor,
        )
        return replace(command, signer=signer)

    def check_standing(self, command: Asked) -> None:
        """Says no to a command whose key was revoked since it was taken.

        Raises:
            Unauthorized: it was.
        """
        if command.signer is not None and command.signer.key in self.revoked:
            self._counts["revoked"] += 1
            raise Unauthorized(f"the key {command.signer.key} was revoked; ask an operator for what to do")

    def sender(self, subject: str, headers: Mapping[str, str] | None, payload: bytes, *, tell: bool = True) -> str:
        """The key that signed a question or a sign of life; empty when it is unsigned.

        What only one worker hears, it has to `tell` the others.

        Raises:
            Unauthorized: the signature proves nothing.
            Invalid: its header is malformed.
            Busy: too many signed messages came of late.
        """
        header = (headers or {}).get(h.SENDER, "")
        if not header or self._settings.signatures == "off":
            return ""
        sender = self._read(header)
        if sender is None or not sender.sig:
            return ""
        now = self._clock.wall()
        self._check(sender, subject, payload, now)
        if not self._asked.take(sender, None, now):
            self._counts["replayed"] += 1
            raise Unauthorized(f"nonce {sender.nonce!r} of {sender.user} was used before; sign it anew")
        if tell:
            self._tell(sender, None)
        return sender.user

    def proves(self, record: Record, subject: str, headers: Mapping[str, str] | None, payload: bytes) -> bool:
        """Whether a sign of life comes from the owner of an agent that is owned by a key.

        Raises:
            RollcallError: the signature proves nothing.
        """
        return self.sender(subject, headers, payload, tell=False) == record.owner.removeprefix(NKEY)

    def look(self) -> None:
        """Reads again who the operators are; a file that cannot be read leaves those who were known."""
        if self._settings.operators_file is None:
            return
        try:
            named = self._settings.operators_file.read_text().split()
        except OSError as error:
            log.warning("the file of operators cannot be read; those who were known stay", error=str(error))
            return
        self._operators = self._settings.operators | frozenset(named)

    @property
    def operators(self) -> list[str]:
        """The public keys of the operators."""
        return sorted(self._operators)

    @property
    def must_sign(self) -> bool:
        """Whether nothing that is unsigned happens."""
        return self._settings.signatures == "required"

    def may_operate(self, key: str) -> bool:
        """Whether a key may ask for what operators do: any may, signed or not, while there are no operators."""
        return not self._operators or self.operates(key)

    def operates(self, key: str) -> bool:
        """Whether a key is an operator's."""
        return key in self._operators

    def on_fold(self, change: Change) -> None:
        """The roll tells what was signed, too: a worker that leads later knows those nonces."""
        if change.record.signature is not None:
            sender = read_sender(change.record.signature.sender)
            if sender is not None:
                self._nonces.learn(sender, change.record.cause, self._clock.wall())

    def used(self) -> list[Used]:
        """The nonces that were taken since this was asked last."""
        used, self._used = self._used, []
        self.news.clear()
        return used

    def _tell(self, sender: Sender, cause: Cause | None) -> None:
        self._used.append(Used(sender.user, sender.nonce, sender.ts, cause))
        self.news.set()

    def learn(self, used: Used) -> None:
        """Another worker took a nonce."""
        nonces = self._asked if used.cause is None else self._nonces
        nonces.learn(used.sender, used.cause, self._clock.wall())

    def recall(self, change: Change) -> None:
        """A command made this change some time before this worker leads."""
        if change.record.signature is not None:
            sender = read_sender(change.record.signature.sender)
            if sender is not None:
                self._nonces.recall(sender, change.record.cause)

    def recall_spent(self, used: Used) -> None:
        """A command came to nothing some time before this worker leads."""
        self._nonces.recall(used.sender, used.cause)

    def spend(self, command: object) -> None:
        """A command came to nothing, so the roll will not tell of its nonce."""
        signer = getattr(command, "signer", None)
        if isinstance(signer, Signer):
            sender = read_sender(signer.signature.sender)
            if sender is not None:
                assert isinstance(command, Asked)
                self._spent.append(Used(sender.user, sender.nonce, sender.ts, command.cause))

    def spent(self) -> list[Used]:
        """The nonces of commands that came to nothing since this was asked last."""
        spent, self._spent = self._spent, []
        return spent

    def rule(self, role: str) -> Rule | None:
        """Who may see the agents of a role; None when everybody may."""
        return next((rule for rule in self._settings.visibility if rule.fits(role)), None)

    @property
    def open(self) -> bool:
        """Whether everybody may see everybody."""
        return not self._settings.visibility

    def _read(self, header: str | None) -> Sender | None:
        try:
            return read_sender(header or "")
        except Invalid:
            self._counts["malformed"] += 1
            raise

    def _check(self, sender: Sender, subject: str, payload: bytes, now: Milliseconds) -> None:
        late = self._nonces.late(sender, now)
        if late:
            self._counts["late"] += 1
            raise Unauthorized(f"the signature of {sender.user[:64]!r} is not of now: {late}")
        if sender.user in self.revoked:
            self._counts["revoked"] += 1
            raise Unauthorized(f"the key {sender.user} was revoked; ask an operator for what to do")
        try:
            check_signature(sender, subject, payload)
        except Unauthorized:
            self._counts["forged"] += 1
            raise

    def _successor(self, stored: Stored) -> str:
        """The key that agreed to take an agent over, if the command hands it over."""
        header = stored.headers.get(h.SUCCESSOR, "")
        if not header:
            return ""
        sender = self._read(header)
        if sender is None or not sender.sig:
            raise Unauthorized(f"{h.SUCCESSOR} is not signed; the new key has to sign the hand-over, too")
        self._check(sender, stored.subject, stored.data, stored.at)
        return sender.user


def _says_itself(command: Asked, payload: bytes) -> bool:
    """Whether the record will say the words that were signed, so that they need not be kept twice."""
    if not isinstance(command, Register):
        return False
    profile = command.profile
    return statement(replace(profile, id=command.id, role=command.role)) == payload

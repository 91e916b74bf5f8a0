"""Identities of a registry file: missing ones are made, those of held wallets signed again, foreign ones left alone."""

from collections.abc import Mapping

import structlog
from msgspec import Struct, field

from rollcall.faces.files.mindx.identities import IdentityManager, is_signed, public_key
from rollcall.faces.files.mindx.merge import Entry

log = structlog.get_logger(__name__)

MISMATCH = "public_key_mismatch"
MISSING = "missing_identity_data"


class Repaired(Struct):
    """What was done: wallets that were `created`, entries whose identity was `rewritten` with one that was there."""

    created: list[str] = field(default_factory=list)
    rewritten: list[str] = field(default_factory=list)
    issues: dict[str, str] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)

    @property
    def touched(self) -> list[str]:
        """Everybody whose identity changed."""
        return [*self.created, *self.rewritten]


class Repair:
    """Repairs the identities of entries in place. Without `create` nobody gets a wallet; without `write` it only says
    what it would do. Without `thorough` just who has no public key at all gets one, as in the original.
    """

    def __init__(
        self, manager: IdentityManager, *, create: bool = True, write: bool = True, thorough: bool = True
    ) -> None:
        self._manager = manager
        self._create = create
        self._thorough = thorough
        self._write = write
        self._made: dict[str, str | Exception] = {}
        self.done = Repaired()

    def prepare(self, entries: Mapping[str, Entry]) -> None:
        """Makes the wallets that these entries need, all at once: a store may have to write itself whole for each."""
        if not (self._create and self._write):
            return
        try:
            wanted = [id for id, entry in entries.items() if self._lacks(id, entry)]
            self._made = self._manager.create_all(wanted) if wanted else {}
        except Exception as error:  # a store is somebody else's code; each agent hears of it by itself
            log.debug("wallets could not be made together", error=str(error))

    def _lacks(self, id: str, entry: Entry) -> bool:
        stored = entry.get("identity")
        named = isinstance(stored, dict) and stored.get("public_key") if not self._thorough else public_key(stored)
        return not named and self._manager.address(id) is None

    def entry(self, shown: str, entity: str, entry: Entry, message: str) -> None:
        """The identity of one entry; `entity` is whose wallet signs, `shown` the id in reports."""
        try:
            self._entry(shown, entity, entry, message)
        except Exception as error:  # a store is somebody else's code, and one agent's trouble stops no other
            self.done.errors.append(f"Failed to sync agent {shown}: {error}")

    def _entry(self, shown: str, entity: str, entry: Entry, message: str) -> None:
        stored = entry.get("identity")
        if not self._thorough and isinstance(stored, dict) and stored.get("public_key"):
            return
        held = self._manager.address(entity)
        key = public_key(stored)
        if not key:
            if not self._create:
                return
            new = held is None or entity in self._made
            if self._write:
                self._sign(entry, entity, self._new(entity) if held is None else held, message)
            (self.done.created if new else self.done.rewritten).append(shown)
        elif held is None:
            if not is_signed(stored, message):
                self.done.issues[shown] = MISSING
        elif held.lower() != key.lower():
            self.done.issues[shown] = MISMATCH
        elif not is_signed(stored, message):
            self.done.rewritten.append(shown)
            if self._write:
                self._sign(entry, entity, held, message)

    def _new(self, entity: str) -> str:
        made = self._made.get(entity) or self._manager.create(entity)
        if isinstance(made, Exception):
            raise made
        return made

    def _sign(self, entry: Entry, entity: str, address: str, message: str) -> None:
        stored = entry.get("identity")
        known = stored if isinstance(stored, dict) else {}
        signed = {"public_key": address, "signature": self._manager.sign(entity, message)}
        entry["identity"] = {**known, **signed}

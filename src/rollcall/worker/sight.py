"""Who may see whom: the agents of a role are shown to everybody, or to those whom a rule names."""

from collections.abc import Mapping
from typing import Protocol

from rollcall.core.commands import NKEY
from rollcall.core.errors import Denied
from rollcall.core.records import Record
from rollcall.worker.identity import Identity
from rollcall.worker.roster import Roster


class Question(Protocol):
    """What is known of somebody who asks."""

    @property
    def subject(self) -> str: ...

    @property
    def headers(self) -> Mapping[str, str] | None: ...

    @property
    def data(self) -> bytes: ...


class View:
    """What one asker sees; `key` is empty for one that is not proved."""

    def __init__(self, identity: Identity, roster: Roster, key: str) -> None:
        self._identity = identity
        self._roster = roster
        self.key = key

    def sees(self, role: str) -> bool:
        """Whether the agents of a role are shown."""
        if self._identity.open:
            return True
        rule = self._identity.rule(role)
        if rule is None or self.key in rule.keys or self._identity.operates(self.key):
            return True
        return self.key != "" and any(self._plays(role) for role in rule.roles)

    def sees_agent(self, record: Record) -> bool:
        """Whether an agent is shown: whose it is sees it, whatever hides its role."""
        return self.sees(record.role) or (self.key != "" and record.owner == NKEY + self.key)

    def check(self, role: str) -> None:
        """Refuses a question about a role that is not shown.

        Raises:
            Denied: it is not.
        """
        if not self.sees(role):
            who = f"{self.key} may not see them" if self.key else "this question is not signed"
            raise Denied(
                f"the agents of role {role!r} are not shown to everybody, and {who}; sign it with a key that may"
            )

    def _plays(self, role: str) -> bool:
        """Whether an agent of the role belongs to this asker."""
        owner = NKEY + self.key
        return any(place.record.owner == owner for place in self._roster.members(role))


class Sight:
    """Finds out what an asker sees. Signatures of questions are looked at only where there are rules."""

    def __init__(self, identity: Identity, roster: Roster) -> None:
        self._identity = identity
        self._roster = roster
        self._everything = View(identity, roster, "")

    def of(self, question: Question) -> View:
        """What whoever asks this sees.

        Raises:
            Unauthorized: it is signed, and the signature proves nothing.
        """
        if self._identity.open:
            return self._everything
        key = self._identity.sender(question.subject, question.headers, question.data)
        return View(self._identity, self._roster, key)

"""What the registry answers, as programs hold it."""

from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import Struct

from rollcall.core.healing import Healed
from rollcall.core.instants import Seconds, instant
from rollcall.core.records import Change, ChangeKind, Entry, Message, Record


class Moment(Struct, frozen=True):
    """A state of a roll, and when it came about (RFC 3339)."""

    epoch: str
    revision: int
    at: str


class Page(Struct, frozen=True, kw_only=True):
    """Agents, and who said so: which worker, having folded which revision of which roll.

    It can be used as the sequence of its agents. `next` is the cursor of the next page, None on the last one. In an
    answer about the past `asof` is which state it tells, and `begins` how far back that worker knows everything.
    """

    agents: tuple[Entry, ...] = ()
    count: int = 0
    next: str | None = None
    epoch: str = ""
    revision: int = 0
    worker: str = ""
    guard: Any = None  # what the guard says of itself, in words and numbers
    explained: tuple[dict[str, Any], ...] = ()
    not_modified: bool = False
    asof: Moment | None = None
    begins: Moment | None = None

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.agents)

    def __len__(self) -> int:
        return len(self.agents)

    def __getitem__(self, index: int) -> Entry:
        return self.agents[index]


class RollCall(Struct, frozen=True):
    """A call to announce oneself again within `window` seconds."""

    # Required: whatever else may arrive on that subject is no roll call.
    window: Seconds


class _Told(Struct, frozen=True):
    kind: ChangeKind
    revision: int
    epoch: str
    at: str
    record: Record
    reason: str = ""

    def change(self) -> Change:
        return Change(
            kind=self.kind,
            record=self.record,
            revision=self.revision,
            epoch=self.epoch,
            at=instant(self.at),
            reason=self.reason,
        )


class Messages(Struct, frozen=True, kw_only=True):
    """The messages to an agent, newest first."""

    messages: tuple[Message, ...] = ()


class Waiting(Struct, frozen=True):
    """Commands that wait for somebody's word."""

    pending: list[dict[str, Any]] = []


class Story(Struct, frozen=True, kw_only=True):
    """What became of an agent: its changes, and the commands about it that somebody's word refused.

    What was before `begins` the worker that answered may not know.
    """

    told: tuple[_Told, ...] = msgspec.field(default=(), name="changes")
    refusals: tuple[dict[str, Any], ...] = ()
    begins: Moment | None = None

    @property
    def changes(self) -> list[Change]:
        """The changes, oldest first."""
        return [told.change() for told in self.told]


class Changes(Struct, frozen=True, kw_only=True):
    """Changes after a revision, or, when that is `too_old`, the agents as they are; `healed` is how the roll began."""

    told: tuple[_Told, ...] = msgspec.field(default=(), name="changes")
    agents: tuple[Entry, ...] = ()
    next: str | None = None
    too_old: bool = False
    upto: int = 0
    more: bool = False
    healed: Healed | None = None
    epoch: str = ""
    revision: int = 0

    @property
    def changes(self) -> list[Change]:
        """The changes, in the order of the roll."""
        return [told.change() for told in self.told]

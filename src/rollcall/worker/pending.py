"""One command on its way through the leader."""

from typing import Any

from msgspec import Struct

from rollcall.bus.follow import Stored
from rollcall.bus.inbox import Asking
from rollcall.core.instants import Milliseconds, Seconds
from rollcall.core.records import Cause, ChangeKind


class Pending(Struct, gc=False, eq=False):
    """A command on its way. Commands of the registry itself have no `asking`.

    `origin` says of which inbox it is, and how many commands came before that. One that is `shelved` waits, or waited,
    for a verdict outside of the inbox; one that is `allowed` has it. One that is `doubted` may have been settled by
    somebody else who led.
    """

    command: Any  # a Command; None for what could not be read as one
    asking: Asking | None = None
    cause: Cause | None = None
    stored: Stored | None = None
    origin: tuple[str, int] = ("", 0)
    kind: ChangeKind | None = None
    expected: int | None = None
    on_nothing: bool = False
    folded: bool = False
    observed_at: Seconds = 0.0
    allowed: bool = False
    shelved: bool = False
    settled: bool = False
    doubted: bool = False

    @property
    def stored_at(self) -> Milliseconds:
        """When it was sent, by the server's clock; 0 for a command of the registry itself."""
        return self.stored.at if self.stored is not None else 0

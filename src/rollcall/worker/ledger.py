"""Which commands are not settled yet, and up to where all are."""

from collections import OrderedDict

from msgspec import Struct

from rollcall.core.instants import Milliseconds


class Past(Struct, frozen=True):
    """Commands stored until then belong to the inbox as it was before the server lost some of it."""

    inbox_epoch: str
    after: int
    until: Milliseconds


class Settled(Struct, frozen=True):
    """Every command of the inbox up to `seq` is settled, in the roll of epoch `roll`.

    Inboxes before this one held `after` commands.
    """

    inbox_epoch: str
    seq: int
    after: int = 0
    roll: str = ""
    past: Past | None = None

    def origin(self, stored_at: Milliseconds) -> tuple[str, int]:
        """Of which inbox a command is that was stored then, and how many commands came before that inbox."""
        if self.past is not None and stored_at <= self.past.until:
            return self.past.inbox_epoch, self.past.after
        return self.inbox_epoch, self.after


class Ledger:
    """Sequences of the inbox, taken in order and settled in any."""

    def __init__(self, settled: int) -> None:
        self._open: OrderedDict[int, None] = OrderedDict()
        self._last = settled

    def __len__(self) -> int:
        return len(self._open)

    def take(self, seq: int) -> None:
        """A command was read."""
        self._open[seq] = None
        self._last = seq

    def settle(self, seq: int) -> None:
        """A command was answered, or refused."""
        self._open.pop(seq, None)

    @property
    def settled(self) -> int:
        """Every command up to this one is settled."""
        return next(iter(self._open)) - 1 if self._open else self._last

"""Which commands are not settled yet, and up to where all are."""

from collections import OrderedDict


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

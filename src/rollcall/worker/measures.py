"""What a worker counts and times of its own work, for whoever measures it."""

from bisect import bisect_left
from collections import Counter
from typing import Any

from rollcall.core.instants import Seconds

BOUNDS: tuple[Seconds, ...] = (
    0.0001,
    0.00025,
    0.0005,
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
)


class Times:
    """How often something took how long, in a few classes."""

    def __init__(self) -> None:
        self._counts = [0] * (len(BOUNDS) + 1)
        self._sum: Seconds = 0.0

    def add(self, took: Seconds) -> None:
        """It took so long once more."""
        self._counts[bisect_left(BOUNDS, took)] += 1
        self._sum += took

    def told(self) -> dict[str, Any]:
        """The sum, and how many took at most each bound."""
        total, buckets = 0, []
        for bound, count in zip([*map(str, BOUNDS), "+Inf"], self._counts, strict=True):
            total += count
            buckets.append((bound, total))
        return {"sum": self._sum, "buckets": buckets}


class Measures:
    """What one worker measures."""

    def __init__(self) -> None:
        self.commands: Counter[str] = Counter()
        """Commands that were settled, by outcome: the kind of change, or the code of the error."""
        self.changes: Counter[str] = Counter()
        """Changes that were folded, by kind."""
        self.signatures: Counter[str] = Counter()
        """Signatures that were checked: verified, or why they proved nothing."""
        self.snapshot_batch = Times()
        self.discover = Times()

    def told(self) -> dict[str, Any]:
        """Everything, as JSON has it."""
        return {
            "commands": dict(self.commands),
            "changes": dict(self.changes),
            "signatures": dict(self.signatures),
            "snapshot_batch": self.snapshot_batch.told(),
            "discover": self.discover.told(),
        }

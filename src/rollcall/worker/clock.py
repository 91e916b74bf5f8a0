"""The two clocks of a worker: monotonic time decides, wall-clock time is told."""

import time

from rollcall.core.instants import Milliseconds, Seconds


class Clock:
    """The clocks of this machine; a test gives its own."""

    def now(self) -> Seconds:
        """Monotonic."""
        return time.monotonic()

    def wall(self) -> Milliseconds:
        """Since 1970."""
        return time.time_ns() // 1_000_000

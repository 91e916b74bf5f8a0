"""The worker of the command line with a wall clock that jumps; run as a script.

SIGUSR1: an hour ahead. SIGUSR2: an hour back.
"""

import signal
from functools import partial

from rollcall.core.instants import Milliseconds
from rollcall.faces.cli import serve
from rollcall.faces.cli.app import main
from rollcall.worker.clock import Clock

HOUR = 3_600_000


class JumpingClock(Clock):
    """Its monotonic time is right: that is what the system promises."""

    def __init__(self) -> None:
        self._off = 0

    def wall(self) -> Milliseconds:
        return super().wall() + self._off

    def jump(self, by: Milliseconds) -> None:
        self._off += by


clock = JumpingClock()
signal.signal(signal.SIGUSR1, lambda *_: clock.jump(HOUR))
signal.signal(signal.SIGUSR2, lambda *_: clock.jump(-HOUR))
serve.serving = partial(serve.serving, clock=clock)
main()

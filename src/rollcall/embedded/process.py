"""Children that do not outlive us."""

import ctypes
import os
import sys
from collections.abc import Callable
from signal import Signals

_PR_SET_PDEATHSIG = 1


def die_with_parent(signal: Signals) -> Callable[[], None] | None:
    """A ``preexec_fn`` by which the kernel sends `signal` to the child when this thread ends; None where it cannot.

    Call and spawn from the main thread: the kernel watches the creating *thread*.
    """
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None, use_errno=True)
    parent = os.getpid()

    def ask_for_death_signal() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal)
        if os.getppid() != parent:
            os._exit(1)

    return ask_for_death_signal

"""The wall clock, as a program of an agent reads it."""

import time

from rollcall.core.instants import Milliseconds


def now_ms() -> Milliseconds:
    """Milliseconds since 1970: when something is signed, and the incarnation of whatever starts now."""
    return time.time_ns() // 1_000_000

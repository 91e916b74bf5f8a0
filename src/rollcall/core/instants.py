"""Points in time as the wire writes them: RFC 3339 in UTC with milliseconds.

Inside, an instant is an ``int`` of milliseconds since 1970. On the wire it is text, and texts compare as instants do.
"""

from datetime import UTC, datetime
from functools import lru_cache
from typing import TypeAlias

from rollcall.core.errors import Invalid

Milliseconds: TypeAlias = int
Seconds: TypeAlias = float
Timestamp: TypeAlias = str


def timestamp(instant: Milliseconds) -> Timestamp:
    """``1_763_649_600_123`` -> ``"2025-11-20T14:40:00.123Z"``."""
    seconds, milliseconds = divmod(instant, 1000)
    return f"{_second(seconds)}.{milliseconds:03d}Z"


@lru_cache(maxsize=1024)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def instant(text: Timestamp) -> Milliseconds:
    """The inverse of `timestamp`; takes any RFC 3339 time with an offset.

    Raises:
        Invalid: not such a time.
    """
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise Invalid(f"{text!r} is not an RFC 3339 time; write it like 2026-11-20T14:40:00.123Z") from error
    if moment.tzinfo is None:
        raise Invalid(f"{text!r} names no time zone; end it with Z or an offset")
    # Whole milliseconds, as the server counts them: never rounded up.
    return int(moment.replace(microsecond=0).timestamp()) * 1000 + moment.microsecond // 1000

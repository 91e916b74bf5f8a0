"""What each row of the fault table did and how it went, as lines of JSON for docs/reliability.md."""

import json
import os
import time
from pathlib import Path
from typing import Any


def record(row: str, did: str, *, times: int = 1, lost: int = 0, right_after: float = 0.0, **more: Any) -> None:
    """Adds a line to the file that ``ROLLCALL_CHAOS_FIGURES`` names, if it names one.

    `lost` counts what was acknowledged and is missing; `right_after` is seconds until everything was right again.
    """
    told = os.environ.get("ROLLCALL_CHAOS_FIGURES")
    if not told:
        return
    line = {"row": row, "did": did, "times": times, "lost": lost, "right_after": round(right_after, 2), **more}
    with Path(told).open("a") as file:
        file.write(json.dumps(line) + "\n")


class Stopwatch:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self._since = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._since

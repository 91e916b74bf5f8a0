"""What a worker stands on: whether the roll that it follows is there, and is the one that it folded."""

import asyncio

from rollcall.core.instants import Seconds


class Ground:
    """Told by whoever follows the roll; waited for by whoever must not go on without."""

    def __init__(self) -> None:
        self.why = ""
        """Why the roll cannot be followed now; empty while it is."""
        self.firm = asyncio.Event()
        """The roll is folded to the end that it had, and followed."""
        self.shaken = asyncio.Event()
        """The opposite."""
        self.mended = asyncio.Event()
        """Somebody here made a roll; it is worth looking at once."""

    async def news(self, *, within: Seconds) -> None:
        """Returns when the ground becomes firm or is shaken for the first time, at the latest after `within`."""
        if self.firm.is_set() or self.shaken.is_set():
            await asyncio.sleep(within)
            return
        waiting = [asyncio.ensure_future(event.wait()) for event in (self.firm, self.shaken)]
        try:
            await asyncio.wait(waiting, timeout=within, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in waiting:
                one.cancel()

    def shake(self, why: str) -> None:
        """The roll is not what it was."""
        self.why = why
        self.firm.clear()
        self.shaken.set()

    def settle(self) -> None:
        """It can be followed again."""
        self.why = ""
        self.shaken.clear()
        self.firm.set()

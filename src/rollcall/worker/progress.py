"""A number that only grows, and whoever waits for it."""

import asyncio
import heapq
from itertools import count


class Progress:
    """How far something has come."""

    def __init__(self) -> None:
        self.at = 0
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._ticket = count()

    def start(self, at: int) -> None:
        """Sets where it begins."""
        self.at = at

    def advance(self, at: int) -> None:
        """It has come to `at`; going back is not possible."""
        self.at = max(self.at, at)
        while self._waiting and self._waiting[0][0] <= self.at:
            _, _, future = heapq.heappop(self._waiting)
            if not future.done():
                future.set_result(None)

    async def reached(self, wanted: int) -> None:
        """Returns once it has come to `wanted`."""
        if self.at >= wanted:
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (wanted, next(self._ticket), future))
        await future

"""When to doubt one's own eyes: everybody silent at once says more about the listener than about them.

The guard freezes decisions that rest on silence alone. It always ends: when the beats are back, when proof arrives
(closed connections, nobody listening), when an operator ends it, or after one more ttl; and whatever it does, an
agent is held at most one ttl beyond the end of its own lease.
"""

from collections import deque

from msgspec import Struct

from rollcall.core.instants import Milliseconds, Seconds, timestamp
from rollcall.core.lease import Lease

SHARE = 0.15
"""Of those believed alive, silent within one ttl: more than this at once is not believed."""

FEWEST = 5
"""Fewer than this are believed whatever share they are: small fleets do lose two of three."""


CALM: Seconds = 1.0
"""When the beats are back, the last ones to return get this long."""


class Guarding(Struct, frozen=True, omit_defaults=True):
    """What the guard says of itself. `held` are agents whose lease is over and that are not called lost."""

    why: str
    since: str
    until: str
    silent: int = 0
    believed: int = 0
    held: int = 0


class Guard:
    """The guard of one leader. All times are monotonic seconds."""

    def __init__(self) -> None:
        self._losses: deque[Seconds] = deque()
        self._window: Seconds = 0.0
        self._since: Seconds | None = None
        self._until: Seconds = 0.0
        self._blind_until: Seconds = 0.0
        self._spent_until: Seconds = 0.0
        self._calm_since: Seconds | None = None
        self._why = ""
        self._doubts = False
        """It holds because of a silence, not only because nothing could be heard."""
        self._silent = self._believed = 0
        self._shown: tuple[Seconds, str, str] | None = None
        self.held = 0
        """How many agents the last sweep held."""

    @property
    def active(self) -> bool:
        """Whether it holds anybody."""
        return self._since is not None

    def blind(self, now: Seconds, lasts: Seconds, why: str) -> None:
        """The registry itself could not hear; for `lasts` seconds silence proves nothing."""
        self._blind_until = max(self._blind_until, now + lasts)
        if self._since is None:
            self._enter(now, self._blind_until, why)
        else:
            self._until = max(self._until, self._blind_until)

    def is_blind(self, now: Seconds) -> bool:
        """Whether the registry could not hear of late; not even that nobody listens proves anything then."""
        return now < self._blind_until

    def weigh(self, now: Seconds, *, silent: int, believed: int, ttl: Seconds) -> None:
        """Enters or ends by what is known: `silent` of `believed` have missed beats with nothing that proves more.

        `ttl` is the longest of those whose lease is over; 0 when nobody's is.
        """
        self._window = ttl or self._window
        while self._losses and self._losses[0] < now - self._window:
            self._losses.popleft()
        count = silent + len(self._losses)
        of = max(count, believed + len(self._losses))
        too_many = count >= FEWEST and count > SHARE * of
        self._silent, self._believed = count, of
        if self._since is None:
            self._consider(now, too_many)
        elif now >= self._until:
            # What nothing could be heard of is doubted for itself; what was doubted already is not, for a while.
            doubted = self._doubts
            self._end(spent_until=now + self._window if too_many and doubted else 0.0)
            if not doubted:
                self._consider(now, too_many)
        elif too_many or now < self._blind_until:
            self._calm_since = None
        elif self._calm_since is None:
            self._calm_since = now
        elif now - self._calm_since >= CALM:
            self._end(spent_until=0.0)

    def holds(self, now: Seconds, lease: Lease) -> bool:
        """Whether a decision that this agent is lost has to wait."""
        if self._since is None or (lease.doubt is not None and lease.doubt.closed):
            return False
        if self.is_blind(now):
            return True
        if lease.doubt is not None and lease.doubt.proves:
            return False
        return lease.ends_at is None or now < lease.ends_at + (lease.ttl or 0.0)

    def lost(self, now: Seconds) -> None:
        """Somebody was called lost for silence alone; what follows from a silence that was doubted is no news."""
        if now >= self._spent_until:
            self._losses.append(now)

    def release(self, now: Seconds) -> None:
        """An operator says that they are gone indeed."""
        if self._since is not None:
            self._blind_until = now
            self._end(spent_until=now + self._window)

    def says(self, now: Seconds, wall: Milliseconds) -> Guarding | None:
        """What it does and why; None while it rests. `wall` is the wall-clock time of `now`."""
        if self._since is None:
            return None
        if self._shown is None or self._shown[0] != self._until:
            # Reckoned once: two clocks read anew each time would differ by a millisecond.
            since = timestamp(wall - round((now - self._since) * 1000))
            self._shown = (self._until, since, timestamp(wall + round((self._until - now) * 1000)))
        _, since, until = self._shown
        way = "they are asked, and whoever stays silent is lost a ttl after its lease, or"
        return Guarding(
            why=f"{self._why}; {way if self._doubts else 'silence makes nobody lost before it ends'} at {until}",
            since=since,
            until=until,
            silent=self._silent,
            believed=self._believed,
            held=self.held,
        )

    def _consider(self, now: Seconds, too_many: bool) -> None:
        if not too_many:
            self._spent_until = 0.0
        elif now < self._spent_until:
            # The same silence goes on.
            self._spent_until = now + self._window
        else:
            share = f"{self._silent} of {self._believed} agents ({100 * self._silent / self._believed:.0f} %)"
            why = f"{share} fell silent within {self._window:g} s and no connection was seen to close"
            self._enter(now, now + self._window, why)
            self._doubts = True

    def _enter(self, now: Seconds, until: Seconds, why: str) -> None:
        self._since, self._until, self._why = now, until, why

    def _end(self, *, spent_until: Seconds) -> None:
        """`spent_until`: the same silence is not doubted again before."""
        self._since, self._shown, self._until, self._spent_until = None, None, 0.0, spent_until
        self._calm_since, self._doubts, self.held = None, False, 0
        if spent_until:
            self._losses.clear()

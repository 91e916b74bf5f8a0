"""What the server lets this user not do. It says so apart from any question, which would wait in vain for an answer."""

import asyncio
import re
from collections.abc import Callable

import structlog

from rollcall.core.errors import Denied

_VIOLATION = re.compile(r'permissions violation for (publish|subscription) (?:with reply of|to) "([^"]*)"')

log = structlog.get_logger(__name__)


class Waiting:
    """A question on its way. `denied` is set when the server refused it."""

    def __init__(self, subject: str, among: dict[str, list["Waiting"]]) -> None:
        self._subject = subject
        self._among = among
        self._task = asyncio.current_task()
        self._cancelled = False
        self.denied: Denied | None = None
        among.setdefault(subject, []).append(self)

    def deny(self, error: Denied) -> None:
        """Ends the wait: no answer will come."""
        self.denied = error
        if self._task is not None:
            self._cancelled = self._task.cancel()

    def close(self) -> None:
        """Nobody waits any more; the cancellation by which the wait was ended is taken back."""
        if self._task is not None and self._cancelled:
            self._task.uncancel()
        waiting = self._among[self._subject]
        waiting.remove(self)
        if not waiting:
            del self._among[self._subject]


class Denials:
    """Hears refusals of one connection. `told` are those who want to know which publishes were refused; each says
    whether it concerned them, and what concerns nobody is logged, once.

    nats-py hands over what the server says in lower case, so subjects are compared so.
    """

    def __init__(self) -> None:
        self._waiting: dict[str, list[Waiting]] = {}
        self._known: set[str] = set()
        self.told: list[Callable[[str, Denied], bool]] = []

    def expect(self, subject: str) -> Waiting:
        """A question that is about to be asked by this task; to be closed after it."""
        return Waiting(subject.lower(), self._waiting)

    def hear(self, text: str) -> None:
        """What the server said went wrong."""
        found = _VIOLATION.search(text.lower())
        if found is None:
            return
        verb, subject = found.groups()
        what = "publish on" if verb == "publish" else "subscribe to"
        error = Denied(
            f"the bus does not let this user {what} {subject}; its credentials are for another role, agent or realm: "
            "ask for others (rollcall creds)"
        )
        waiting = list(self._waiting.get(subject, ())) if verb == "publish" else []
        for one in waiting:
            one.deny(error)
        heard = [tell(subject, error) for tell in self.told] if verb == "publish" else []
        if not waiting and not any(heard) and subject not in self._known:
            self._known.add(subject)
            log.warning("the bus refuses this user", what=what, subject=subject)

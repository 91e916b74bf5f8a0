"""Commands that need somebody's word before they happen: a judge's, an operator's, or both."""

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any

import structlog
from msgspec import Struct

from rollcall.core import codec
from rollcall.core.commands import Asked, Deregister, Register, Update
from rollcall.core.errors import Denied, NotFound, RollcallError, Unavailable
from rollcall.core.instants import Milliseconds, Seconds
from rollcall.core.records import Record
from rollcall.policy.judges import Judge, case
from rollcall.worker.clock import Clock

PATIENCE: Seconds = 0.25
"""How long a command is waited for in the inbox; then it waits in the pending bucket."""

CACHED = 10_000

_VERBS = ("register", "update", "deregister")

log = structlog.get_logger(__name__)


class GoverningSettings(Struct, frozen=True, kw_only=True):
    """Who is asked. `approve` names roles whose commands wait for an operator, each ``role`` or ``role:verb``.

    While nobody can judge, commands happen unless `fail_closed`. A decision is kept for `cache` seconds, and
    `concurrency` cases are judged at once. A command waits `age` seconds at most; `most` may wait.
    """

    policy: str = ""
    timeout: Seconds = 10.0
    fail_closed: bool = False
    cache: Seconds = 10.0
    concurrency: int = 16
    approve: tuple[str, ...] = ()
    age: Seconds = 24 * 3600.0
    most: int = 1000


class Governing:
    """Finds out whether a command may happen."""

    def __init__(self, settings: GoverningSettings, judge: Judge | None, clock: Clock) -> None:
        self._settings = settings
        self._judge = judge
        self._clock = clock
        self._approve = frozenset(_expanded(settings.approve))
        self._at_once = asyncio.Semaphore(settings.concurrency)
        self._decided: OrderedDict[bytes, tuple[Seconds, Denied | None]] = OrderedDict()
        self._waiting: dict[str, asyncio.Future[None]] = {}

    @property
    def governs(self) -> bool:
        """Whether anybody is ever asked."""
        return self._judge is not None or bool(self._approve)

    def concerns(self, command: Asked) -> bool:
        """Whether somebody has to be asked about such a command."""
        return (self._judge is not None and self._judge.concerns(command)) or self._needs_approval(command)

    async def allowed(
        self, command: Asked, held: Record | None, stored_at: Milliseconds, wait: Callable[[str], Awaitable[None]]
    ) -> None:
        """Returns when the command may happen; `wait` is called when that will take long, with the reason why.

        Raises:
            Denied: it may not.
            Unavailable: nobody judged it, and that means no.
        """
        if self._judge is not None and self._judge.concerns(command):
            asking = asyncio.ensure_future(self._judged(command, held))
            try:
                done, _ = await asyncio.wait((asking,), timeout=PATIENCE)
                if not done:
                    await wait("policy")
                await asking
            finally:
                asking.cancel()
        if self._needs_approval(command):
            await self._approved(command, stored_at, wait)

    def decide(self, id: str, *, denied: str | None) -> None:
        """An operator's word about the command of an agent that waits longest.

        Raises:
            NotFound: nothing waits for an approval there.
        """
        waiting = self._waiting.get(id)
        if waiting is None or waiting.done():
            raise NotFound(f"no command of {id!r} waits for an approval; `rollcall pending` shows which do")
        if denied is None:
            waiting.set_result(None)
        else:
            waiting.set_exception(Denied(denied, judged_by="operator"))

    @property
    def most(self) -> int:
        """How many agents may have commands that wait."""
        return self._settings.most

    def awaits_approval(self, id: str) -> bool:
        """Whether an operator's word is waited for."""
        return id in self._waiting

    async def _approved(self, command: Asked, stored_at: Milliseconds, wait: Callable[[str], Awaitable[None]]) -> None:
        left = self._settings.age - (self._clock.wall() - stored_at) / 1000
        decided: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[command.id] = decided
        try:
            await wait("approval")
            async with asyncio.timeout(max(0.0, left)):
                await decided
        except TimeoutError:
            why = f"nobody approved it within {self._settings.age:g} s"
            raise Denied(why, judged_by="operator") from None
        finally:
            del self._waiting[command.id]

    async def _judged(self, command: Asked, held: Record | None) -> None:
        assert self._judge is not None
        told = case(command, held)
        content = hashlib.sha256(codec.encode(self._judge.content(told))).digest()
        known = self._decided.get(content)
        if known is not None and self._clock.now() - known[0] < self._settings.cache:
            if known[1] is not None:
                raise Denied(known[1].message, **known[1].details)
            return
        try:
            async with self._at_once:
                await _judged_safely(self._judge, told)
        except Denied as error:
            self._remember(content, error)
            raise
        except Unavailable as error:
            if self._settings.fail_closed:
                raise
            log.warning("nobody judged; it is allowed", role=command.role, agent_id=command.id, error=str(error))
        else:
            self._remember(content, None)

    def _remember(self, content: bytes, refused: Denied | None) -> None:
        self._decided[content] = (self._clock.now(), refused)
        if len(self._decided) > CACHED:
            self._decided.popitem(last=False)

    def _needs_approval(self, command: Asked) -> bool:
        return (command.role, _verb(command)) in self._approve


async def _judged_safely(judge: Judge, told: dict[str, Any]) -> None:
    """Whatever a judge does beside judging means that nobody judged."""
    try:
        await judge.judge(told)
    except RollcallError:
        raise
    except Exception as error:
        log.exception("a policy failed")
        raise Unavailable(f"the policy failed: {error!r}; try again", judged_by="policy") from error


def _verb(command: Asked) -> str:
    match command:
        case Register():
            return "register"
        case Update():
            return "update"
        case Deregister():
            return "deregister"


def _expanded(approve: tuple[str, ...]) -> list[tuple[str, str]]:
    found = []
    for one in approve:
        role, colon, verb = one.rpartition(":")
        if colon and verb in _VERBS:
            found.append((role, verb))
        elif one:
            found += [(one, verb) for verb in _VERBS]
    return found


def refusal(command: Asked, error: RollcallError, at: str) -> dict[str, Any]:
    """A refusal, as the history of an agent tells it."""
    by = error.details.get("judged_by", "")
    return {
        "at": at,
        "verb": _verb(command),
        "role": command.role,
        "code": error.code,
        "by": by,
        "reason": error.message,
    }

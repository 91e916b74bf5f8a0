"""One agent of this process: on the roll while its block runs."""

import asyncio
import contextlib
import random
from typing import Any, Protocol

import structlog
from msgspec import structs

from rollcall.bus.subjects import key
from rollcall.core.commands import Mode
from rollcall.core.errors import Conflict, Denied, NotFound, RollcallError, Unavailable, Waits
from rollcall.core.instants import Seconds
from rollcall.core.records import Entry, Health, Profile
from rollcall.identity.signing import SenderSigner
from rollcall.sdk.pulse import Beating, Pulse

GOODBYE_WITHIN: Seconds = 1.0
APPROVED_LOOK: Seconds = 2.0
"""How often an agent asks whether it is approved by now."""

RETRY_FROM: Seconds = 0.2
RETRY_TO: Seconds = 10.0

log = structlog.get_logger(__name__)


class Registrar(Protocol):
    """What an agent needs of the registry."""

    host: str

    async def announce(
        self, profile: Profile, mode: Mode, *, timeout: Seconds = ..., signer: SenderSigner | None = ...
    ) -> Entry: ...

    async def update(
        self, role: str, id: str, patch: dict[str, Any], *, incarnation: int = ..., signer: SenderSigner | None = ...
    ) -> Entry: ...

    async def deregister(
        self,
        role: str,
        id: str,
        *,
        reason: str = ...,
        incarnation: int = ...,
        timeout: Seconds = ...,
        signer: SenderSigner | None = ...,
    ) -> Entry: ...

    def join(self, agent: "Agent") -> None: ...

    def part(self, agent: "Agent") -> None: ...


class Agent:
    """An agent, registered while its ``async with`` block runs.

    It beats from a thread of its own, registers again when the registry does not know it or calls the roll, and
    deregisters at the end. `superseded` is set when a newer life of the same id took its place: then it falls silent.
    """

    def __init__(
        self,
        registrar: Registrar,
        pulse: Pulse,
        profile: Profile,
        *,
        mode: Mode,
        wait: bool,
        signer: SenderSigner | None = None,
    ) -> None:
        self._registrar = registrar
        self._signer = signer
        self._pulse = pulse
        self._profile = structs.replace(profile, host=profile.host or registrar.host)
        self._mode = mode
        self._wait = wait
        self._task: asyncio.Task[None] | None = None
        self._registered = asyncio.Event()
        self._announcing = asyncio.Lock()
        self._asked = False
        self._closed = False
        self.entry: Entry | None = None
        """The entry as the registry answered last; None before the first answer."""
        self.superseded = asyncio.Event()
        self.beating: Beating | None = None
        self.denied: Denied | None = None
        """Why the bus refuses this agent's signs of life, if it does."""

    @property
    def id(self) -> str:
        """Its id."""
        return self._profile.id

    @property
    def role(self) -> str:
        """Its role."""
        return self._profile.role

    @property
    def incarnation(self) -> int:
        """Which life of the id this is."""
        return self._profile.incarnation

    @property
    def registered(self) -> bool:
        """Whether the registry has accepted it."""
        return self._registered.is_set()

    async def __aenter__(self) -> "Agent":
        if self._wait:
            try:
                await self._announce_patiently()
            except asyncio.CancelledError:
                # What was asked for may have happened; nobody would beat for it.
                await self._say_goodbye()
                raise
        else:
            self._task = asyncio.create_task(self._announce_until_heard(), name=f"register {self.role} {self.id}")
        self._registrar.join(self)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._closed = True
        self._registrar.part(self)
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        if self.beating is not None:
            await self._pulse.stop(self.beating)
        if self._asked and not self.superseded.is_set():
            await self._say_goodbye()

    async def wait_registered(self) -> Entry:
        """Waits until the registry has accepted the agent; returns its entry."""
        await self._registered.wait()
        assert self.entry is not None
        return self.entry

    async def update(self, **changed: Any) -> Entry:
        """Changes fields of the own record, such as ``status="draining"`` or ``labels={...}``; mappings are merged.

        Raises:
            Invalid: a field is fixed, has a wrong type, or is beyond a limit.
            Conflict: a newer life took the place.
        """
        self.entry = await self._registrar.update(
            self.role, self.id, changed, incarnation=self.incarnation, signer=self._signer
        )
        kept = {name: getattr(self.entry, name) for name in Profile.__struct_fields__ if name != "owner"}
        self._profile = structs.replace(self._profile, **kept)
        self._keep_pace(self.entry)
        return self.entry

    def feel(self, **health: Any) -> None:
        """Says how the agent feels, in the fields of `Health`: with a beat at once, and with every one from now on."""
        if self.beating is not None:
            self.beating.health = Health(**health)
            self._pulse.beat_soon(self.beating)

    async def announce(self) -> Entry:
        """Registers, or registers again, and beats from then on.

        Raises:
            Conflict: another life holds the id.
            Unavailable: the registry did not answer.
        """
        async with self._announcing:
            self._asked = True
            try:
                entry = await self._registrar.announce(self._profile, self._mode, signer=self._signer)
            except Conflict as conflict:
                entry = await self._again_as_newer(conflict)
            self.entry = entry
            self._registered.set()
            if self.beating is None:
                self.beating = await self._pulse.start(self._beating(entry))
            else:
                self._pulse.hello_soon(self.beating)
            self._keep_pace(entry)
            return entry

    async def _announce_patiently(self) -> None:
        """As `announce`, and as often as it takes until an approval is there."""
        while True:
            try:
                await self.announce()
                return
            except Waits as error:
                log.info("waits for an approval", role=self.role, id=self.id, why=error.message)
                await asyncio.sleep(APPROVED_LOOK)

    def answer_roll_call(self, window: Seconds) -> None:
        """Registers again at some moment of the window."""
        self._again(random.uniform(0, window))

    def _keep_pace(self, entry: Entry) -> None:
        """Another ttl asks for another pace, from now on."""
        if self.beating is not None and self.beating.interval != entry.beat_interval:
            self.beating.interval = entry.beat_interval
            self._pulse.beat_soon(self.beating)

    def _beating(self, entry: Entry) -> Beating:
        return Beating(
            key=key(self.role, self.id),
            id=self.id,
            incarnation=self.incarnation,
            interval=entry.beat_interval,
            forgotten=lambda: self._again(0.0),
            superseded=self._fall_silent,
            denied=self._on_denied,
            signer=self._signer,
        )

    async def _again_as_newer(self, conflict: Conflict) -> Entry:
        """The own owner's older life may carry a later time: clocks differ. Then this one is the life after it."""
        holder = conflict.details.get("holder") or {}
        owner = self._signer.owner if self._signer is not None else self._profile.owner
        own = owner != "" and holder.get("owner") == owner
        if not own or holder.get("incarnation", 0) < self.incarnation:
            raise conflict
        self._profile = structs.replace(self._profile, incarnation=holder["incarnation"] + 1)
        return await self._registrar.announce(self._profile, self._mode, signer=self._signer)

    async def _announce_until_heard(self, delay: Seconds = 0.0) -> None:
        await asyncio.sleep(delay)
        pause = RETRY_FROM
        while True:
            try:
                await self.announce()
                return
            except Waits:
                pause = APPROVED_LOOK
            except Unavailable:
                pass  # the registry is away; the agent's own work goes on meanwhile
            except RollcallError as error:
                log.warning(
                    "the registry refuses this agent; tries again", role=self.role, id=self.id, error=str(error)
                )
            await asyncio.sleep(random.uniform(pause / 2, pause))
            pause = min(pause * 2, RETRY_TO)

    def _again(self, delay: Seconds) -> None:
        if self._closed or self.superseded.is_set() or (self._task is not None and not self._task.done()):
            return
        self._task = asyncio.create_task(
            self._announce_until_heard(delay), name=f"register {self.role} {self.id} again"
        )

    def _on_denied(self, error: Denied) -> None:
        if self.denied is None:
            log.warning("the bus refuses the beats of this agent", role=self.role, id=self.id, why=error.message)
        self.denied = error

    def _fall_silent(self) -> None:
        if not self.superseded.is_set():
            log.warning("a newer life took the place of this agent; it beats no more", role=self.role, id=self.id)
            self.superseded.set()

    async def _say_goodbye(self) -> None:
        try:
            await self._registrar.deregister(
                self.role, self.id, incarnation=self.incarnation, timeout=GOODBYE_WITHIN, signer=self._signer
            )
        except NotFound:
            pass  # gone already, which is what was wanted
        except RollcallError as error:
            log.warning(
                "left without an answer; the lease ends by itself", role=self.role, id=self.id, error=str(error)
            )

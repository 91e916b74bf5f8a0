"""The three forms of a judge, behind one: each is given a case and refuses by raising."""

import asyncio
import contextlib
import importlib
import inspect
import threading
from collections.abc import Callable
from typing import Any, Protocol

import msgspec
import nats.errors
from msgspec.structs import replace
from nats.aio.client import Client

from rollcall.bus import connection
from rollcall.core import codec, limits
from rollcall.core.commands import Asked, Deregister, Register, Update
from rollcall.core.errors import Denied, Misconfigured, RollcallError, Unavailable
from rollcall.core.instants import Seconds
from rollcall.core.records import Profile, Record

HANGING = 64
"""Calls of a function that may hang, beside those that run; more than that, and nobody is judged by it any more."""


class Judge(Protocol):
    """Somebody who may refuse commands."""

    def concerns(self, command: Asked) -> bool:
        """Whether such commands are judged."""
        ...

    def content(self, case: dict[str, Any]) -> dict[str, Any]:
        """What the judgement rests on: the same content is judged once for a while."""
        ...

    async def judge(self, case: dict[str, Any]) -> None:
        """Returns when the command may happen.

        Raises:
            Denied: it may not.
            Unavailable: nobody judged it.
        """
        ...

    async def close(self) -> None:
        """Ends what it holds open."""
        ...


def case(command: Asked, held: Record | None) -> dict[str, Any]:
    """What a judge is told: the verb, who it is about, what is asked, and the record that is `held`.

    `signer` is the public key that signed it, if one did; whoever registers signed is the owner.
    """
    told: dict[str, Any] = {"role": command.role, "id": command.id}
    if command.signer is not None:
        told["signer"] = command.signer.key
    match command:
        case Register():
            told |= {"verb": "register", "profile": msgspec.to_builtins(_owned(command))}
        case Update():
            told |= {"verb": "update", "patch": command.patch}
        case Deregister():
            told |= {"verb": "deregister", "reason": command.reason}
    return {**told, "held": msgspec.to_builtins(held) if held is not None else None}


def _owned(command: Register) -> Profile:
    signer = command.signer
    if signer is None or signer.operator or command.profile.owner:
        return command.profile
    return replace(command.profile, owner=signer.owner)


class ByCourt:
    """The court over HTTP, which judges registrations."""

    def __init__(self, url: str, *, timeout: Seconds) -> None:
        from rollcall.policy.court import Court  # noqa: PLC0415  its HTTP client is slow to load, and few need it

        self._court = Court(url, timeout=timeout, fail_closed=True)

    def concerns(self, command: Asked) -> bool:
        """Only registrations."""
        return isinstance(command, Register)

    def content(self, case: dict[str, Any]) -> dict[str, Any]:
        """The four members that the court knows."""
        profile = case["profile"]
        told = {"name": profile.get("name", ""), "type": case["role"], "category": profile.get("category", "")}
        return {**told, "capabilities": profile.get("capabilities", [])}

    async def judge(self, case: dict[str, Any]) -> None:
        """Asks the court."""
        await self._court.judge("register_agent", self.content(case))

    async def close(self) -> None:
        """Ends its connections."""
        await self._court.close()


class ByBus:
    """A service on the bus: it answers ``{"allow": true}``, or false and a ``reason``."""

    def __init__(self, client: Client, subject: str, *, timeout: Seconds) -> None:
        self._client = client
        self._subject = subject
        self._timeout = timeout

    def concerns(self, command: Asked) -> bool:
        """Every command."""
        return True

    def content(self, case: dict[str, Any]) -> dict[str, Any]:
        """The whole case."""
        return _without_life(case)

    async def judge(self, case: dict[str, Any]) -> None:
        """One request."""
        try:
            reply = await connection.request(self._client, self._subject, codec.encode(case), timeout=self._timeout)
            verdict = codec.decode_object(reply.data)
        except (TimeoutError, nats.errors.Error, RollcallError) as error:
            raise Unavailable(f"nobody judged on {self._subject}: {error!r}; try again", judged_by="policy") from error
        _heed(verdict.get("allow"), verdict.get("reason"))

    async def close(self) -> None:
        """Nothing is held open."""


class ByFunction:
    """A Python function: it is given the case and returns whether it allows it, or raises, or returns why not."""

    def __init__(self, name: str, *, timeout: Seconds, concurrency: int) -> None:
        self._most = concurrency + HANGING
        self._name = name
        self._function = _found(name)
        self._timeout = timeout
        self._running = 0

    def concerns(self, command: Asked) -> bool:
        """Every command."""
        return True

    def content(self, case: dict[str, Any]) -> dict[str, Any]:
        """The whole case."""
        return _without_life(case)

    async def judge(self, case: dict[str, Any]) -> None:
        """One call; a plain function runs in a thread, so that it may take its time."""
        try:
            async with asyncio.timeout(self._timeout):
                if inspect.iscoroutinefunction(self._function):
                    said = await self._function(case)
                else:
                    said = await self._in_thread(case)
                if inspect.isawaitable(said):
                    said = await said
        except Denied as error:
            _heed(False, error.message)
        except Exception as error:
            raise Unavailable(f"policy {self._name} failed: {error!r}; try again", judged_by="policy") from error
        _heed(said is True or said is None, said)

    async def close(self) -> None:
        """Nothing is held open."""

    async def _in_thread(self, case: dict[str, Any]) -> Any:
        """Calls it in a thread of its own. One that hangs is left alone: no pool waits for it, and no process."""
        if self._running >= self._most:
            raise Unavailable(f"{self._running} calls of policy {self._name} have not returned", judged_by="policy")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()

        def returned(said: Any, error: BaseException | None) -> None:
            self._running -= 1
            if not future.done():
                future.set_exception(error) if error is not None else future.set_result(said)

        def work() -> None:
            try:
                said, error = self._function(case), None
            except Exception as raised:
                said, error = None, raised
            except BaseException as raised:
                # Such as SystemExit: what ends a program does not end this one.
                said, error = None, RuntimeError(repr(raised))
            with contextlib.suppress(RuntimeError):  # the loop is gone, and with it whoever asked
                loop.call_soon_threadsafe(returned, said, error)

        self._running += 1
        threading.Thread(target=work, name="policy", daemon=True).start()
        return await future


def _without_life(case: dict[str, Any]) -> dict[str, Any]:
    """The case of an agent that is started again is the same: only the number of its life is another one."""
    profile = {name: value for name, value in case.get("profile", {}).items() if name != "incarnation"}
    return {**case, "profile": profile}


def _heed(allowed: object, reason: object) -> None:
    if allowed is not True:
        why = reason[: limits.REASON_CHARS] if isinstance(reason, str) else ""
        raise Denied(why or "the policy refused", judged_by="policy")


def _found(name: str) -> Callable[[dict[str, Any]], Any]:
    module, _, function = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), function)
    except Exception as error:
        raise Misconfigured(f"policy {name!r} cannot be loaded: {error!r}; name it module:function") from error
    if not callable(found):
        raise Misconfigured(f"policy {name!r} is no function")
    return found  # type: ignore[no-any-return]


def judge_of(policy: str, client: Client, subject: str, *, timeout: Seconds, concurrency: int) -> Judge | None:
    """The judge that a setting names: a URL, ``bus``, or ``module:function``; None for an empty one.

    Raises:
        Misconfigured: it names none.
    """
    if not policy:
        return None
    if policy.startswith(("http://", "https://")):
        return ByCourt(policy, timeout=timeout)
    if policy == "bus":
        return ByBus(client, subject, timeout=timeout)
    return ByFunction(policy, timeout=timeout, concurrency=concurrency)

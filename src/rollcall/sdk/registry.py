"""The registry, as a program sees it."""

import asyncio
import logging
import os
import secrets
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import nats.errors
import structlog
from msgspec import structs
from nats.aio.client import Client
from nats.aio.msg import Msg

from rollcall.bus import headers as h
from rollcall.bus.connection import FIRST_CONNECT, barrier, connected, request, translated, why_closed, without_password
from rollcall.bus.denials import Denials
from rollcall.bus.presence import own_account
from rollcall.bus.subjects import Subjects, key, token
from rollcall.bus.tls import Tls
from rollcall.core import codec, limits
from rollcall.core.commands import NKEY, Mode
from rollcall.core.errors import Denied, RollcallError, TooLarge, Unavailable
from rollcall.core.instants import Seconds, timestamp
from rollcall.core.names import checked_name
from rollcall.core.query import By
from rollcall.core.records import Change, Entry, Health, Message, Profile
from rollcall.identity.keys import checked_public
from rollcall.identity.signing import SenderSigner
from rollcall.sdk.agent import Agent
from rollcall.sdk.answers import Changes, Messages, Page, RollCall, Story, Waiting
from rollcall.sdk.clock import now_ms
from rollcall.sdk.commands import TIMEOUT, Commands, Outgoing
from rollcall.sdk.login import KeyLike, Login, as_key, login
from rollcall.sdk.mirror import Mirror
from rollcall.sdk.pulse import Pulse
from rollcall.sdk.watch import ANYWHERE, Position, Watch
from rollcall.sdk.workers import ask_all

log = structlog.get_logger(__name__)

DEFAULT_URL = "nats://127.0.0.1:4222"

T = TypeVar("T")


_page = msgspec.json.Decoder(Page)


ANOTHER_LOOK: Seconds = 0.1

ANOTHER_AFTER: Seconds = 1.5
"""After this a question is asked again."""


LEADER_WITHIN: Seconds = 3.0
"""How long an operator waits for somebody to lead: after a leader ended, another one has to be found."""


class _Silence(Unavailable):
    """Nobody answered in time."""


class _Nobody(Unavailable):
    """Nobody is there to answer."""


def connect(
    url: str | None = None,
    *,
    realm: str | None = None,
    timeout: Seconds = FIRST_CONNECT,
    name: str = "",
    key: KeyLike | None = None,
    credentials: Path | str | None = None,
    tls: Tls | None = None,
) -> AbstractAsyncContextManager["Registry"]:
    """The registry of `realm` on the bus at `url`, for an ``async with`` block.

    Without `url` it is ``ROLLCALL_NATS`` or the local ``rollcall up``; without `realm`, ``ROLLCALL_REALM`` or
    ``default``. The connection comes back by itself for ever; only the first one has a `timeout`.

    Whatever is asked or told is signed with `key`: a file, its name among the keys of this user, or ``ROLLCALL_KEY``.
    `credentials` is the file of a bus user (``ROLLCALL_CREDS``); its key signs where no other is given. `tls` says whom
    to trust (``ROLLCALL_TLS_CA``, ``_CERT``, ``_KEY``).

    Raises on entry:
        Unavailable: no server let us in within `timeout`.
        Unauthorized: the server does not take the credentials.
        Misconfigured: a file cannot be read, or others may read a key.
        Invalid: the realm has no valid name.
    """
    return _connected(
        url or os.environ.get("ROLLCALL_NATS") or DEFAULT_URL,
        realm or os.environ.get("ROLLCALL_REALM") or "default",
        timeout,
        name,
        lambda: login(key, credentials, tls),
    )


@asynccontextmanager
async def _connected(
    url: str, realm: str, timeout: Seconds, name: str, signing_in: Callable[[], Login]
) -> AsyncIterator["Registry"]:
    subjects, who, denials = Subjects(realm), signing_in(), Denials()
    if not structlog.is_configured():
        # By default structlog prints everything on stdout, which belongs to the program.
        structlog.configure(
            wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
            logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        )
    async with connected(
        url,
        name=name or f"rollcall-client:{realm}:{socket.gethostname()}",
        timeout=timeout,
        nkey_seed=who.seed,
        credentials=who.credentials,
        inbox=who.inbox,
        tls=who.tls,
        denials=denials,
    ) as client:
        account = who.account or await _account(client, who)
        signer = SenderSigner(who.key, account) if who.key is not None else None
        # Who has credentials of its own may hear outcomes under its own key only.
        token = who.inbox.rpartition(".")[2]
        commands = Commands(client, subjects, denials, token=token, signer=signer)
        async with commands.opened():
            registry = Registry(
                client, subjects, commands, url=url, who=who, account=account, signer=signer, denials=denials
            )
            with translated(client):
                await registry.listen()
                await barrier(client)
            try:
                yield registry
            finally:
                await registry.close()


async def _account(client: Client, who: Login) -> str:
    """The account that we are in, for signatures; a server that does not say leaves it empty."""
    if who.key is None:
        return ""
    try:
        return await own_account(client)
    except Unavailable as error:
        log.debug("signs without an account", error=str(error))
        return ""


class Registry:
    """What a program can ask and tell. Made by `connect`; one per process is enough.

    Every method that asks raises `Unavailable` when nobody answers: that is never the same as an empty answer.
    """

    def __init__(
        self,
        client: Client,
        subjects: Subjects,
        commands: Commands,
        *,
        url: str,
        who: Login,
        account: str,
        signer: SenderSigner | None,
        denials: Denials,
    ) -> None:
        self._client = client
        self._account = account
        self._signer = signer
        self.denials = denials
        """What the bus refused to this connection."""
        self._subjects = subjects
        self._commands = commands
        self.host = token(f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(2)}"[:64])
        """By this token one beat of this process counts for all its agents."""
        self._pulse = Pulse(url, subjects, host=self.host, who=who)
        self._refused: dict[str, Denied] = {}
        denials.told.append(self._on_denied)
        self._open: set[Watch] = set()
        self._agents: set[Agent] = set()

    @property
    def realm(self) -> str:
        """The realm that is asked."""
        return self._subjects.realm

    @property
    def bus(self) -> tuple[Client, Subjects]:
        """The connection and the subject names, for the parts of the SDK."""
        return self._client, self._subjects

    @property
    def url(self) -> str:
        """Where the bus is."""
        connected_url = self._client.connected_url
        return without_password(connected_url.geturl()) if connected_url is not None else ""

    @property
    def connected(self) -> bool:
        """Whether the bus is there at this moment."""
        return bool(self._client.is_connected)

    def agent(
        self,
        role: str,
        name: str,
        *,
        id: str | None = None,
        mode: Mode = Mode.CLAIM,
        wait: bool = True,
        key: KeyLike | None = None,
        **said: Any,
    ) -> Agent:
        """An agent of this process, for an ``async with`` block: it registers, beats, and deregisters at the end.

        Without `id` it gets a fresh one made of its name. `said` are further fields of a record, such as
        ``capabilities``, ``endpoints``, ``labels``, ``ttl``. With `wait` false, entering never waits for the
        registry: the agent registers as soon as that is there. With `key`, or that of the connection, it signs,
        and belongs to that key.

        Raises:
            Invalid: a field has a wrong type or is beyond a limit.
            Misconfigured: the key cannot be read, or others may read it.
        """
        fresh = f"{name[:100]}-{secrets.token_hex(4)}"
        profile = self._profile(role, fresh if id is None else id, {"name": name, "incarnation": now_ms(), **said})
        signer = SenderSigner(as_key(key), self._account) if key is not None else self._signer
        return Agent(self, self._pulse, profile, mode=mode, wait=wait, signer=signer)

    async def register(
        self, role: str, id: str, *, mode: Mode = Mode.CLAIM, timeout: Seconds = TIMEOUT, **said: Any
    ) -> Entry:
        """Registers an agent that beats by other means, or never; returns its entry.

        Raises:
            Conflict: somebody else holds the id; ``details["holder"]`` says who.
            Denied: it belongs to another owner.
            Invalid: a field has a wrong type or is beyond a limit.
        """
        profile = self._profile(role, id, {"name": id, "incarnation": now_ms(), **said})
        return await self.announce(profile, mode, timeout=timeout)

    async def announce(
        self,
        profile: Profile,
        mode: Mode,
        *,
        expected: int | None = None,
        timeout: Seconds = TIMEOUT,
        signer: SenderSigner | None = None,
    ) -> Entry:
        """Registers a whole profile; returns its entry. With `expected` it happens only at that revision.

        With mode takeover and `expected`, the agent is taken over also from an owner that is no key.
        """
        return await self._commands.send(registration(profile, mode, signer, expected=expected), timeout=timeout)

    async def register_many(
        self, agents: Iterable[Mapping[str, Any]], *, mode: Mode = Mode.CLAIM, timeout: Seconds = TIMEOUT
    ) -> Sequence[Entry | RollcallError]:
        """Registers many agents at once; each mapping holds the fields of a record, ``role`` and ``id`` among them.

        The outcomes come in the order given: an entry, or the error that refused this one.
        """
        started = now_ms()
        outgoing = (
            registration(
                self._profile(agent["role"], agent["id"], {"name": agent["id"], "incarnation": started, **agent}), mode
            )
            for agent in agents
        )
        return await self._commands.send_many(outgoing, timeout=timeout)

    async def update(
        self,
        role: str,
        id: str,
        patch: Mapping[str, Any],
        *,
        expected: int | None = None,
        incarnation: int = 0,
        beat: bool = False,
        timeout: Seconds = TIMEOUT,
        signer: SenderSigner | None = None,
    ) -> Entry:
        """Merges `patch` into a record (RFC 7396: a member that is null is taken away); returns the new entry.

        With `expected` it happens only at that revision; with `incarnation` only in that life of the agent; `beat`
        renews the lease too.

        Raises:
            NotFound: no such agent.
            Conflict: another revision or another life stands there.
            Invalid: a member is fixed, has a wrong type, or is beyond a limit.
        """
        headers = {}
        if expected is not None:
            headers[h.EXPECTED_REVISION] = str(expected)
        if incarnation:
            headers[h.INCARNATION] = str(incarnation)
        if beat:
            headers[h.BEAT] = "1"
        command = Outgoing("update", checked_key(role, id), codec.encode(dict(patch)), headers, signer)
        return await self._commands.send(command, timeout=timeout)

    async def deregister(
        self,
        role: str,
        id: str,
        *,
        reason: str = "",
        incarnation: int = 0,
        timeout: Seconds = TIMEOUT,
        signer: SenderSigner | None = None,
    ) -> Entry:
        """Takes an agent off the roll; returns its last entry.

        Raises:
            NotFound: no such agent.
            Conflict: another life stands there than `incarnation`.
        """
        headers = {h.INCARNATION: str(incarnation)} if incarnation else {}
        body = codec.encode({"reason": reason}) if reason else b""
        command = Outgoing("deregister", checked_key(role, id), body, headers, signer)
        return await self._commands.send(command, timeout=timeout)

    async def hand_over(self, role: str, id: str, to: KeyLike, *, timeout: Seconds = TIMEOUT) -> Entry:
        """Gives an agent that belongs to the key of this connection to another key; both sign it. Returns its entry.

        Whoever beats for the agent needs the new key from then on.

        Raises:
            Unauthorized: the agent belongs to another key.
            NotFound: no such agent.
        """
        successor = SenderSigner(as_key(to), self._account)
        body = codec.encode({"owner": NKEY + successor.public})
        agent = checked_key(role, id)
        agreed = successor.sign(self._subjects.command("update", agent), body, now_ms())
        return await self._commands.send(Outgoing("update", agent, body, {h.SUCCESSOR: agreed}), timeout=timeout)

    async def revoke(self, key: str, *, timeout: Seconds = TIMEOUT) -> dict[str, str]:
        """From now on nothing that a public key signs counts; returns all revoked keys, with when they were.

        Raises:
            Unauthorized: this is neither an operator's connection nor that key's.
        """
        body = codec.encode({"key": checked_public(key)})
        told = codec.decode_object(await self.operate("revoke", body, timeout))
        return dict(told["revoked"])

    @property
    def key(self) -> str:
        """The public key that signs; empty for none."""
        return self._signer.public if self._signer is not None else ""

    async def heartbeat(self, role: str, id: str, *, incarnation: int = 0, health: Health | None = None) -> None:
        """One sign of life for an agent. There is no answer; an unknown agent's beat changes nothing.

        Raises:
            Denied: the bus refused the one before: its user may not beat for this agent.
        """
        said = structs.asdict(health) if health is not None else {}
        body = {name: value for name, value in said.items() if value not in (None, "", {})}
        if incarnation:
            body["incarnation"] = incarnation
        subject, payload = self._subjects.heartbeat(checked_key(role, id)), codec.encode(body) if body else b""
        refused = self._refused.pop(subject.lower(), None)
        if refused is not None:
            raise refused
        await self._client.publish(subject, payload, headers=self._signed(subject, payload))

    async def discover(self, role: str, *, timeout: Seconds = TIMEOUT, **asked: Any) -> Page:
        """The agents of a role that fit, all of them unless a ``limit`` is asked; see `Query` for what can be asked.

        Without ``include`` and ``status`` these are the running ones that are live.

        Raises:
            Unavailable: nobody answered.
            Invalid: the question means nothing.
        """
        return await self._pages(self._subjects.discover(token(checked_name("role", role))), asked, timeout)

    async def discover_bytes(self, role: str, *, timeout: Seconds = TIMEOUT, **asked: Any) -> bytes:
        """One page as `discover` gives it, as the JSON that the worker sent: for whoever only passes it on."""
        question = codec.encode({**self._commands.seen(), **asked})
        return await self._ask(self._subjects.discover(token(checked_name("role", role))), question, timeout)

    async def pick(
        self, role: str, count: int = 1, *, by: By | str = By.RANDOM, timeout: Seconds = TIMEOUT, **asked: Any
    ) -> Page:
        """At most `count` agents that fit: ``random``, ``round_robin`` or ``least_loaded``."""
        return await self.discover(role, timeout=timeout, pick=count, by=by, **asked)

    async def list(self, *, timeout: Seconds = TIMEOUT, **asked: Any) -> Page:
        """The agents of all roles that fit, whatever their liveness and status unless asked otherwise."""
        return await self._pages(self._subjects.list, {"include": ["all"], "status": ["all"], **asked}, timeout)

    async def get(self, id: str, *, timeout: Seconds = TIMEOUT) -> Entry:
        """One agent, to the moment.

        Raises:
            NotFound: no such agent.
        """
        subject = self._subjects.get(token(checked_name("id", id)))
        return codec.decode(await self._ask(subject, codec.encode(self._commands.seen()), timeout), Entry)

    async def history(self, id: str, *, limit: int = 100, timeout: Seconds = TIMEOUT) -> Sequence[Change]:
        """The newest changes of one agent, oldest first; those of agents that are gone, too."""
        return (await self.story(id, limit=limit, timeout=timeout)).changes

    async def story(self, id: str, *, limit: int = 100, timeout: Seconds = TIMEOUT) -> Story:
        """As `history`, with the commands that a policy or an operator refused."""
        subject = self._subjects.history(token(checked_name("id", id)))
        return codec.decode(await self._ask(subject, codec.encode({"limit": limit}), timeout), Story)

    async def since(
        self,
        position: Position,
        *,
        role: str = "",
        limit: int = 1000,
        cursor: str = "",
        at_least: Position = ANYWHERE,
        timeout: Seconds = TIMEOUT,
    ) -> Changes:
        """What changed after a position; when that is too old to say, the agents as they are instead.

        Whoever answers has folded `at_least`, if that is a position of its roll.
        """
        body = {
            "epoch": position.epoch,
            "revision": position.revision,
            "role": role,
            "limit": limit,
            "cursor": cursor,
            "at_least": at_least.revision,
            "at_least_epoch": at_least.epoch,
        }
        return codec.decode(await self._ask(self._subjects.since, codec.encode(body), timeout), Changes)

    async def as_of(
        self,
        *,
        at: str = "",
        revision: int | None = None,
        epoch: str = "",
        role: str = "",
        id: str = "",
        timeout: Seconds = TIMEOUT,
    ) -> Page:
        """Who was on the roll `at` a time (RFC 3339), or after a `revision` of `epoch` (the present one).

        Whether somebody was suspect then, nobody knows any more: who was not lost counts as live.

        Raises:
            NotFound: the worker that answered does not know the roll of then; the message says from when on it does.
            Invalid: the moment is none, or has not come yet.
        """
        known = self._commands.newest
        asked = {"at": at, "revision": revision, "epoch": epoch, "role": role, "id": id}
        # What this client was told of, the answer knows; which roll is asked about is another matter.
        asked |= {"at_least": known.revision, "at_least_epoch": known.epoch} if known.revision else {}
        page = _decode_page(await self._ask(self._subjects.asof, codec.encode(asked), timeout))
        agents = list(page.agents)
        while page.next is not None and page.asof is not None:
            # The present goes on; every page is of the state of the first one.
            then = {"at": "", "revision": page.asof.revision, "epoch": page.asof.epoch, "cursor": page.next}
            page = _decode_page(await self._ask(self._subjects.asof, codec.encode({**asked, **then}), timeout))
            agents += page.agents
        return structs.replace(page, agents=tuple(agents), count=len(agents))

    async def info(self, *, exact: bool = False, timeout: Seconds = TIMEOUT) -> dict[str, Any]:
        """The state of the registry, as one worker sees it; when `exact`, one that knows all that this client knows."""
        body = codec.encode(self._commands.seen()) if exact else b""
        return codec.decode_object(await self._ask(self._subjects.info, body, timeout))

    async def send_message(
        self, id: str, *, type: str = "", content: str = "", data: Any = None, timeout: Seconds = TIMEOUT
    ) -> Message:
        """Leaves a message for an agent, known or not: the newest hundred are kept for a day, or until it leaves.

        Raises:
            TooLarge: more than a record may have.
        """
        now = timestamp(now_ms())
        said = {"to": checked_name("id", id), "type": type, "content": content, "data": data}
        message = codec.convert({**said, "timestamp": now, "id": secrets.token_hex(6)}, Message)
        codec.check_depth(data)
        body = codec.encode(message)
        if len(body) > limits.RECORD_BYTES:
            raise TooLarge(f"the message has {len(body)} bytes; it may have {limits.RECORD_BYTES}")
        stored = await self._ask_once(self._subjects.message(token(id)), body, timeout)
        if b'"error"' in stored:
            raise Unavailable(f"the message was not kept: {stored.decode(errors='replace')}")
        return message

    async def messages(self, id: str, *, limit: int = 100, timeout: Seconds = TIMEOUT) -> Sequence[Message]:
        """The newest messages to an agent, newest first; reading takes none away."""
        subject = self._subjects.messages(token(checked_name("id", id)))
        return codec.decode(await self._ask(subject, b"", timeout), Messages).messages[:limit]

    async def pending(self, *, timeout: Seconds = TIMEOUT) -> Sequence[dict[str, Any]]:
        """Commands that wait for a judge's or an operator's word, one of each agent."""
        return codec.decode(await self.operate("pending", b"", timeout), Waiting).pending

    async def approve(self, id: str, *, by: str = "", timeout: Seconds = TIMEOUT) -> dict[str, Any]:
        """Lets the command of an agent happen that waits longest; returns what it was.

        Raises:
            NotFound: nothing of that agent waits for an approval.
        """
        body = codec.encode({"id": id, "by": by})
        return codec.decode_object(await self.operate("approve", body, timeout))

    async def deny(self, id: str, *, reason: str = "", by: str = "", timeout: Seconds = TIMEOUT) -> dict[str, Any]:
        """Refuses the command of an agent that waits longest; returns what it was.

        Raises:
            NotFound: nothing of that agent waits for an approval.
        """
        body = codec.encode({"id": id, "reason": reason, "by": by})
        return codec.decode_object(await self.operate("deny", body, timeout))

    async def workers(self, *, timeout: Seconds = TIMEOUT) -> Sequence[dict[str, Any]]:
        """The state of the registry as each worker sees it; just one of them where this user may not ask them all."""
        told = await ask_all(self._client, self.realm, "STATS")
        found = [endpoint["data"] for one in told for endpoint in one["endpoints"] if endpoint["name"] == "info"]
        return sorted(found, key=lambda info: info["worker"]) or [await self.info(timeout=timeout)]

    async def call_roll(self, *, timeout: Seconds = TIMEOUT) -> dict[str, Any]:
        """Asks every agent to announce itself again; says how many ``agents`` within how many seconds (``window``).

        Raises:
            Busy: the answers to the last call are still coming in.
        """
        return codec.decode_object(await self.operate("call", b"", timeout))

    async def release_guard(self, *, timeout: Seconds = TIMEOUT) -> dict[str, Any]:
        """Ends the guard: whom it holds is lost, unless it beats. Says whether it was ``released``, and from what."""
        return codec.decode_object(await self.operate("release", b"", timeout))

    def watch(self, role: str | None = None, *, since: Position | None = None) -> Watch:
        """Every change of a role (None: of all roles) from now on, or after `since`; see `Watch`."""
        return Watch(self._client, self._subjects, self, role, since=since, registered=self._open)

    def mirror(self, role: str | None = None) -> Mirror:
        """A local replica of a role (None: of all roles), for an ``async with`` block; see `Mirror`."""
        return Mirror(self._client, self._subjects, self.watch(role), role)

    @property
    def seen(self) -> Position:
        """The newest revision that this client was told of: no answer to it is from before."""
        return self._commands.newest

    def saw(self, position: Position) -> None:
        """A watch told of a change: answers from now on know it, whichever worker gives them."""
        self._commands.see(position.epoch, position.revision)

    def join(self, agent: Agent) -> None:
        """An agent of this process that answers roll calls from now on."""
        self._agents.add(agent)

    def part(self, agent: Agent) -> None:
        """An agent that answers no more."""
        self._agents.discard(agent)

    async def listen(self) -> None:
        """Hears roll calls; called at the start of the ``async with`` block."""
        await self._client.subscribe(self._subjects.roll_call, cb=self._on_roll_call)

    async def close(self) -> None:
        """Ends the watches and the beats of this process; called at the end of the ``async with`` block."""
        for watch in list(self._open):
            await watch.close()
        await self._pulse.close()

    async def _on_roll_call(self, message: Msg) -> None:
        try:
            call = codec.decode(message.data, RollCall)
        except RollcallError as error:
            log.debug("not a roll call", error=str(error))
            return
        for agent in self._agents:
            agent.answer_roll_call(call.window)

    def _profile(self, role: str, id: str, said: dict[str, Any]) -> Profile:
        checked_key(role, id)
        return codec.as_profile({**said, "role": role, "id": id})

    async def _pages(self, subject: str, asked: dict[str, Any], timeout: Seconds) -> Page:
        # Whoever was told that something happened sees it in the next answer, whichever worker gives that.
        question: dict[str, Any] = {**self._commands.seen(), **asked}
        page = _decode_page(await self._ask(subject, codec.encode(question), timeout))
        if page.next is None or "limit" in asked:
            return page
        agents = list(page.agents)
        while page.next is not None:
            page = _decode_page(await self._ask(subject, codec.encode({**question, "cursor": page.next}), timeout))
            agents += page.agents
        return structs.replace(page, agents=tuple(agents), count=len(agents))

    async def _ask(self, subject: str, body: bytes, timeout: Seconds) -> bytes:
        try:
            return await self._ask_once(subject, body, min(timeout, ANOTHER_AFTER))
        except _Silence:
            if timeout <= ANOTHER_AFTER:
                raise
        # One worker may stand still; the next question probably reaches another.
        return await self._ask_once(subject, body, timeout - ANOTHER_AFTER)

    async def operate(self, verb: str, body: bytes, timeout: Seconds) -> bytes:
        """Asks the leader for something, once there is one."""
        deadline = asyncio.get_running_loop().time() + min(timeout, LEADER_WITHIN)
        while True:
            try:
                return await self._ask_once(self._subjects.operate(verb), body, timeout)
            except _Nobody:
                if asyncio.get_running_loop().time() > deadline:
                    raise
                await asyncio.sleep(ANOTHER_LOOK)

    def _on_denied(self, subject: str, error: Denied) -> bool:
        """The bus refused a beat: whoever sends the next one is told."""
        beat = subject.startswith(self._subjects.heartbeat("").lower())
        if beat:
            self._refused[subject] = error
        return beat

    def _signed(self, subject: str, payload: bytes) -> dict[str, str] | None:
        """The headers of a message that is about to be sent."""
        return {h.SENDER: self._signer.sign(subject, payload, now_ms())} if self._signer is not None else None

    async def _ask_once(self, subject: str, body: bytes, timeout: Seconds) -> bytes:
        headers = self._signed(subject, body)
        try:
            reply = await request(self._client, subject, body, timeout=timeout, headers=headers, denials=self.denials)
        except nats.errors.NoRespondersError as error:
            raise _Nobody(
                f"no worker answers in realm {self.realm!r}; start one with `rollcall up` or check the realm"
            ) from error
        except (TimeoutError, nats.errors.Error) as error:
            closed = why_closed(self._client)
            if closed is not None:
                raise closed from error
            raise _Silence(
                f"nobody answered {subject} within {timeout:g} s ({type(error).__name__}); "
                "that says nothing about the agents"
            ) from error
        if reply.headers and h.ERROR_CODE in reply.headers:
            raise codec.decode_error(codec.decode_object(reply.data))
        return bytes(reply.data)


def registration(
    profile: Profile, mode: Mode, signer: SenderSigner | None = None, *, expected: int | None = None
) -> Outgoing:
    """The command that registers `profile`; with `expected`, only at that revision."""
    headers = {h.MODE: str(mode)} if mode is not Mode.CLAIM else {}
    if expected is not None:
        headers[h.EXPECTED_REVISION] = str(expected)
    return Outgoing("register", key(profile.role, profile.id), codec.encode(profile), headers, signer)


def checked_key(role: str, id: str) -> str:
    """The key of an agent whose role and id are checked.

    Raises:
        Invalid: one of them cannot name anything.
    """
    return key(checked_name("role", role), checked_name("id", id))


def _decode_page(data: bytes) -> Page:
    return _page.decode(data)

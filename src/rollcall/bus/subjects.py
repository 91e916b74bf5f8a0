"""Every subject name and token, as functions.

An id or a role is one token on the bus: bytes outside ``A-Za-z0-9_-`` are written ``=XX`` in upper-case hex, so
``a/b.c`` travels as ``a=2Fb=2Ec``. There is exactly one spelling of each text; any other is invalid.
"""

import re
from functools import lru_cache

from rollcall.core.errors import Invalid
from rollcall.core.names import checked_name, checked_realm

ROOT = "rollcall"
ANY = "*"
NOBODY = "="
"""Stands where a token belongs and the one that came is no valid spelling; no text is ever spelled so."""

_PLAIN = re.compile(r"[A-Za-z0-9_-]+")
_SPELLED = re.compile(r"(?:[A-Za-z0-9_-]|=[0-9A-F]{2})+")
_ESCAPE = re.compile(rb"=([0-9A-F]{2})")
_CLIENT = re.compile(r"[A-Za-z0-9_-]{16,64}")


@lru_cache(maxsize=16_384)
def token(text: str) -> str:
    """The one spelling of `text` on the bus."""
    if _PLAIN.fullmatch(text):
        return text
    return "".join(chr(byte) if _PLAIN.fullmatch(chr(byte)) else f"={byte:02X}" for byte in text.encode())


@lru_cache(maxsize=16_384)
def text(token_: str) -> str:
    """The id or role that a token spells.

    Raises:
        Invalid: it is not the one spelling of an id or a role.
    """
    if _PLAIN.fullmatch(token_):
        return checked_name("the token", token_)
    if not _SPELLED.fullmatch(token_):
        raise Invalid(f"token {token_!r} is no spelling of a name: write bytes outside A-Za-z0-9_- as =XX")
    raw = _ESCAPE.sub(lambda match: bytes([int(match[1], 16)]), token_.encode())
    try:
        spelled = raw.decode()
    except UnicodeDecodeError as error:
        raise Invalid(f"token {token_!r} does not spell UTF-8") from error
    if token(spelled) != token_:
        raise Invalid(f"token {token_!r} is not the one spelling of {spelled!r}; write {token(spelled)!r}")
    return checked_name("the token", spelled)


@lru_cache(maxsize=16_384)
def key(role: str, id: str) -> str:
    """Where the roll keeps an agent, and how beats name it: ``<role>.<id>`` in tokens."""
    return f"{token(role)}.{token(id)}"


def names(key_: str) -> tuple[str, str]:
    """Role and id of a key.

    Raises:
        Invalid: it is not two tokens.
    """
    role, dot, id = key_.partition(".")
    if not dot:
        raise Invalid(f"{key_!r} is not <role>.<id>")
    return text(role), text(id)


def is_client(token_: str) -> bool:
    """Whether a client may be answered under this token: 16 to 64 of ``A-Za-z0-9_-``."""
    return _CLIENT.fullmatch(token_) is not None


class Subjects:
    """The subjects, streams and buckets of one realm."""

    def __init__(self, realm: str) -> None:
        self.realm = checked_realm(realm)
        self._root = f"{ROOT}.{realm}"
        self.inbox_stream = f"ROLLCALL_{realm}_INBOX"
        self.roll_bucket = f"rollcall_{realm}"
        self.roll_stream = f"KV_{self.roll_bucket}"
        self.leases_bucket = f"rollcall-leases_{realm}"
        self.leases_stream = f"KV_{self.leases_bucket}"
        self.pending_bucket = f"rollcall-pending_{realm}"
        self.pending_stream = f"KV_{self.pending_bucket}"
        self.messages_stream = f"ROLLCALL_{realm}_MESSAGES"
        self.policy = f"{self._root}.policy"
        self.beacon = f"{self._root}.beacon"
        self.roll_call = f"{self._root}.rollcall"
        self.peers = f"{self._root}.peers"
        self.nonces = f"{self._root}.nonces"
        self.list = f"{self._root}.list"
        self.since = f"{self._root}.since"
        self.asof = f"{self._root}.asof"
        self.info = f"{self._root}.info"

    def command(self, verb: str, key: str) -> str:
        """Where an agent asks: `verb` is register, update or deregister."""
        return f"{self._root}.{verb}.{key}"

    def commands(self) -> list[str]:
        """What the inbox takes in."""
        return [f"{self._root}.{verb}.*.*" for verb in ("register", "update", "deregister")]

    def heartbeat(self, key: str) -> str:
        """Where one agent beats."""
        return f"{self._root}.heartbeat.{key}"

    def heartbeats(self, host: str) -> str:
        """Where a host beats for many of its agents."""
        return f"{self._root}.heartbeats.{host}"

    def hello(self, key: str) -> str:
        """Where an agent binds its connection to itself."""
        return f"{self._root}.hello.{key}"

    def discover(self, role: str) -> str:
        """Where the agents of a role are asked for; `role` is a token."""
        return f"{self._root}.discover.{role}"

    def get(self, id: str) -> str:
        """Where one agent is asked for; `id` is a token."""
        return f"{self._root}.get.{id}"

    def history(self, id: str) -> str:
        """Where the changes of one agent are asked for; `id` is a token."""
        return f"{self._root}.history.{id}"

    def changes(self, key: str) -> str:
        """Where the server tells a change of one agent."""
        return f"{self._root}.changes.{key}"

    def outcome(self, client: str, key: str) -> str:
        """Where the outcome of a command goes."""
        return f"{self._root}.outcome.{client}.{key}"

    def rejected(self, key: str) -> str:
        """Where the leader tells everybody that a command was refused."""
        return f"{self._root}.rejected.{key}"

    def operate(self, verb: str) -> str:
        """Where operators ask the leader to do something."""
        return f"{self._root}.operate.{verb}"

    def signs(self, key: str) -> str:
        """Where the leader tells that an agent begins or ends to be suspect, stuck or flapping."""
        return f"{self._root}.signs.{key}"

    def ping(self, id: str) -> str:
        """Where an agent is asked whether it lives; `id` is a token."""
        return f"{self._root}.ping.{id}"

    def message(self, id: str) -> str:
        """Where messages to an agent go; `id` is a token."""
        return f"{self._root}.message.{id}"

    def messages(self, id: str) -> str:
        """Where the messages to an agent are asked for; `id` is a token."""
        return f"{self._root}.messages.{id}"

    def pending(self, name: str) -> str:
        """A key of the pending bucket."""
        return f"$KV.{self.pending_bucket}.{name}"

    def roll(self, key: str) -> str:
        """Where the roll keeps an agent."""
        return f"$KV.{self.roll_bucket}.{key}"

    def lease(self, name: str) -> str:
        """A key of the leases bucket: ``leader`` or ``position``."""
        return f"$KV.{self.leases_bucket}.{name}"

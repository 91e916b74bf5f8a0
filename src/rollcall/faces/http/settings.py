"""What the HTTP face is told, once, at the door."""

import ipaddress
from enum import StrEnum
from pathlib import Path

from msgspec import Struct

from rollcall.core.errors import Misconfigured
from rollcall.core.instants import Seconds
from rollcall.faces.http.access import Token


class Dialect(StrEnum):
    """What one listener speaks; `ALL` is everything that goes together on one port."""

    ALL = "all"
    VERS = "vers"
    NOA = "noa"
    NOA_RUST = "noa-rust"
    MINDX = "mindx"
    HOUMAO = "houmao"


class Listener(Struct, frozen=True):
    """A port to listen on; port 0 takes a free one. `dialect` is what is spoken there."""

    host: str
    port: int
    dialect: Dialect = Dialect.ALL

    @property
    def url(self) -> str:
        """Where clients find it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"


class VersSettings(Struct, frozen=True, kw_only=True):
    """The Vers dialect. `reef` is its successor's flavour; `stale` seconds without a sign of life make an entry stale.

    Without `grace` an entry may be stale as soon as the registry is back.
    """

    token: str = ""
    reef: bool = False
    stale: Seconds = 300.0
    grace: bool = True


class NoaSettings(Struct, frozen=True, kw_only=True):
    """The NOA dialect. `go` narrows it to what the Go code answers.

    An agent that is enabled for heartbeats misses one `timeout` seconds after its last beat, and one more each
    `tick`; health is stale `stale` seconds after it was said. `court` is asked before a registration when it is set;
    `fail_closed` refuses while it cannot be reached.
    """

    go: bool = False
    timeout: Seconds = 30.0
    tick: Seconds = 30.0
    stale: Seconds = 300.0
    court: str = ""
    rust_court: str = ""
    court_timeout: Seconds = 10.0
    fail_closed: bool = False


class FaceSettings(Struct, frozen=True, kw_only=True):
    """One HTTP face. `rate` is requests a second of one client, 0 for any number; `origins` may call from browsers.

    `per_agent` is up to how many agents a metric of each one is told. `mindx_root` is the mindX installation whose
    wallets that dialect signs with.
    """

    tokens: tuple[Token, ...] = ()
    vers: VersSettings = VersSettings()
    noa: NoaSettings = NoaSettings()
    origins: tuple[str, ...] = ()
    rate: float = 0.0
    body_bytes: int = 256 * 1024
    body_timeout: Seconds = 10.0
    drain: Seconds = 10.0
    per_agent: int = 1000
    mindx_root: Path = Path()


def check_address(listener: Listener, settings: FaceSettings) -> None:
    """Says no to an address beyond this machine that nobody guards.

    Raises:
        Misconfigured: it is one.
    """
    of_vers = listener.dialect is Dialect.VERS and settings.vers.token
    if settings.tokens or of_vers or is_loopback(listener.host):
        return
    raise Misconfigured(
        f"{listener.host} can be reached from elsewhere, and nobody would have to prove anything: give --token or "
        "ROLLCALL_HTTP_TOKENS, or listen on 127.0.0.1"
    )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"

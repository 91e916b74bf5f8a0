"""The HTTP face as a command, and what `up` needs of it."""

import os
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Literal

import structlog
import typer
from pydantic import AliasChoices, Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from rollcall.core.errors import Misconfigured
from rollcall.faces.cli.access import bus, connects, signing_in
from rollcall.faces.cli.common import LOG_LEVELS, Nats, Realm, announced, err, forever, run, set_up_logs
from rollcall.faces.cli.settings import from_environment
from rollcall.faces.http.access import Scope, Token
from rollcall.faces.http.settings import Dialect, FaceSettings, Listener, NoaSettings, VersSettings
from rollcall.sdk.login import SigningIn
from rollcall.store.files import make_private, write_whole

app = typer.Typer()

DEFAULT_LISTEN = "127.0.0.1:8080"
GO_COURT = "http://localhost:8000"

log = structlog.get_logger(__name__)

Tokens = Annotated[
    list[str],
    typer.Option(
        "--token",
        metavar="[SCOPE:]TOKEN",
        help="Accept this token; SCOPE is read, write or admin (default). @FILE reads it from a file. Repeatable.",
    ),
]
Cors = Annotated[list[str], typer.Option("--cors", metavar="ORIGIN", help="Let pages of this origin call. Repeatable.")]
Rate = Annotated[float, typer.Option("--rate", min=0, help="Requests a second of one client; 0 for any number.")]
DialectOption = Annotated[
    list[Dialect], typer.Option("--dialect", help="What a listener speaks. Repeatable, with one --listen for each.")
]


class Environment(BaseSettings):
    """What the environment says about the dialects; names of other registries are theirs."""

    model_config = SettingsConfigDict(extra="ignore")

    vers_auth_token: str = ""
    vers_flavour: Annotated[Literal["vers", "reef"], Field(alias="ROLLCALL_VERS_FLAVOUR")] = "vers"
    vers_stale_ms: Annotated[float, Field(gt=0, alias="ROLLCALL_VERS_STALE_MS")] = 300_000
    vers_restart_grace: Annotated[bool, Field(alias="ROLLCALL_VERS_RESTART_GRACE")] = True
    noa_compat: Annotated[Literal["superset", "go"], Field(alias="ROLLCALL_NOA_COMPAT")] = "superset"
    noa_tick: Annotated[float, Field(gt=0, alias="ROLLCALL_NOA_TICK")] = 30.0
    noa_stale: Annotated[float, Field(gt=0, alias="ROLLCALL_NOA_STALE")] = 300.0
    heartbeat_timeout_seconds: Annotated[float | None, Field(gt=0)] = None
    trifecta_court_url: str | None = None
    court_timeout: Annotated[float, Field(gt=0, alias="ROLLCALL_COURT_TIMEOUT")] = 10.0
    court_unreachable: Annotated[Literal["open", "closed"], Field(alias="ROLLCALL_COURT_UNREACHABLE")] = "open"
    server_port: Annotated[int | None, Field(ge=0, le=65535)] = None
    port: Annotated[int | None, Field(ge=0, le=65535)] = None
    http_tokens: Annotated[str, Field(alias="ROLLCALL_HTTP_TOKENS")] = ""
    http_cors: Annotated[str, Field(alias="ROLLCALL_HTTP_CORS")] = ""
    http_rate: Annotated[float, Field(ge=0, alias="ROLLCALL_HTTP_RATE")] = 0.0
    per_agent: Annotated[int, Field(ge=0, alias="ROLLCALL_METRICS_AGENTS")] = 1000
    mindx_root: Path = Path()
    database_url: str = ""
    redis_url: str = ""
    log_level: Annotated[str, Field(validation_alias=AliasChoices("ROLLCALL_LOG_LEVEL", "LOG_LEVEL"))] = "info"

    @property
    def go(self) -> bool:
        """Whether the NOA dialect is narrowed to what its Go code answers."""
        return self.noa_compat == "go"


def face_settings(said: Environment, tokens: list[str], origins: list[str], rate: float) -> FaceSettings:
    """What the face is told.

    Raises:
        Misconfigured: a token cannot be read.
    """
    court = said.trifecta_court_url
    if court is None:
        court = GO_COURT if said.go else ""
    timeout = said.heartbeat_timeout_seconds or (60.0 if said.go else 30.0)
    return FaceSettings(
        tokens=tuple(token(one) for one in [*tokens, *said.http_tokens.split()]),
        vers=VersSettings(
            token=said.vers_auth_token,
            reef=said.vers_flavour == "reef",
            stale=said.vers_stale_ms / 1000,
            grace=said.vers_restart_grace,
        ),
        noa=NoaSettings(
            go=said.go,
            timeout=timeout,
            tick=said.noa_tick,
            stale=said.noa_stale,
            court=court,
            rust_court=said.trifecta_court_url or "",
            court_timeout=said.court_timeout,
            fail_closed=said.court_unreachable == "closed",
        ),
        origins=(*origins, *said.http_cors.split()),
        rate=rate or said.http_rate,
        per_agent=said.per_agent,
        mindx_root=said.mindx_root,
    )


def token(text: str) -> Token:
    """A token as an option or the environment names it.

    Raises:
        Misconfigured: it is empty, or its file cannot be read.
    """
    word, colon, rest = text.partition(":")
    scopes = {scope.name.lower(): scope for scope in Scope}
    if colon and word not in scopes:
        raise Misconfigured(f"{word!r} is no scope of a token; before the colon stands one of {', '.join(scopes)}")
    scope, secret = (scopes[word], rest) if colon else (Scope.ADMIN, text)
    if secret.startswith("@"):
        try:
            secret = Path(secret[1:]).read_text().strip()
        except OSError as error:
            raise Misconfigured(f"the token file {secret[1:]} cannot be read: {error.strerror}") from error
    if not secret or any(one.isspace() for one in secret):
        raise Misconfigured("a token is empty or holds blanks; give a long random word")
    return Token(secret, scope)


def kept_token(path: Path) -> Path:
    """Where a token is kept; made there on first use."""
    path = path.absolute()
    if not path.exists():
        make_private(path.parent)
        write_whole(path, secrets.token_urlsafe(32).encode() + b"\n", mode=0o600)
    return path


def address(text: str, dialect: Dialect = Dialect.ALL) -> Listener:
    """Where to listen: ``HOST:PORT``, ``[HOST]:PORT`` or ``PORT``.

    Raises:
        Misconfigured: it is no address.
    """
    host, _, port = text.rpartition(":")
    if not port.isdecimal() or int(port) > 65535:
        raise Misconfigured(f"{text!r} is no address to listen on; write it like 127.0.0.1:8080")
    return Listener(host.strip("[]") or "127.0.0.1", int(port), dialect)


def default_address(dialect: Dialect, said: Environment) -> str:
    """Where a dialect listens unless told otherwise: the ports of the originals."""
    match dialect:
        case Dialect.ALL:
            return DEFAULT_LISTEN
        case Dialect.VERS:
            return f"127.0.0.1:{3000 if said.port is None else said.port}"
        case Dialect.NOA:
            usual = 8006 if said.go else 8080
            return f"127.0.0.1:{usual if said.server_port is None else said.server_port}"
        case Dialect.NOA_RUST:
            return "127.0.0.1:3003"
        case Dialect.MINDX:
            return "127.0.0.1:8000"
        case Dialect.HOUMAO:
            return "127.0.0.1:9891"


def listeners(listen: list[str], dialects: list[Dialect], said: Environment) -> list[Listener]:
    """Each dialect with its address; without a dialect, every address speaks all of them.

    Raises:
        Misconfigured: there are more addresses than dialects, or one is none.
    """
    if not dialects:
        return [address(one) for one in listen or [DEFAULT_LISTEN]]
    if len(listen) > len(dialects):
        raise Misconfigured("there are more --listen than --dialect; give one --listen for each --dialect, in order")
    given = [*listen, *(default_address(dialect, said) for dialect in dialects[len(listen) :])]
    return [address(one, dialect) for one, dialect in zip(given, dialects, strict=True)]


@asynccontextmanager
async def face(
    url: str,
    realm: str,
    wanted: list[Listener],
    settings: FaceSettings,
    said: Environment,
    signing_in: SigningIn | None = None,
) -> AsyncIterator[list[Listener]]:
    """The face, listening while the block runs; says what whoever starts it should know."""
    from rollcall.faces.http.server import serving  # noqa: PLC0415  FastAPI is slow to load, and only serving needs it

    async with serving(url, realm, wanted, settings, signing_in) as found:
        speak = {listener.dialect for listener in found}
        if speak & {Dialect.ALL, Dialect.VERS} and not settings.vers.token and not settings.tokens:
            log.warning("VERS_AUTH_TOKEN is not set: the /registry routes are open to whoever reaches them")
        if said.database_url or said.redis_url:
            log.info("DATABASE_URL and REDIS_URL are not used: agents are kept by the workers of the realm")
        yield found


@app.command()
@connects()
def http(
    nats: Nats = None,
    realm: Realm = "default",
    listen: Annotated[
        list[str], typer.Option("--listen", metavar="HOST:PORT", help="Port 0 takes a free one. Repeatable.")
    ] = [],
    dialect: DialectOption = [],
    tokens: Tokens = [],
    cors: Cors = [],
    rate: Rate = 0.0,
    ready_file: Annotated[Path | None, typer.Option("--ready-file", help='Gets {"http": url, ...}.')] = None,
    log_level: Annotated[str, typer.Option("--log-level", help="debug, info, warning, error.")] = "",
) -> None:
    """Serve the registry over HTTP: its own API, the Vers and NOA dialects, events and metrics.

    Example: rollcall http --nats nats://127.0.0.1:4222 --listen 127.0.0.1:8080
    """
    run(_http(nats, realm, listen, dialect, tokens, cors, rate, ready_file, log_level), endless=True)


async def _http(
    nats: str | None,
    realm: str,
    listen: list[str],
    dialects: list[Dialect],
    tokens: list[str],
    origins: list[str],
    rate: float,
    ready_file: Path | None,
    log_level: str,
) -> None:
    said = from_environment(Environment)
    level = {"warn": "warning"}.get(log_level or said.log_level, log_level or said.log_level)
    if level not in LOG_LEVELS:
        raise Misconfigured(f"log level {level!r} is none of {', '.join(LOG_LEVELS)}")
    as_noa = bool(dialects) and set(dialects) <= {Dialect.NOA, Dialect.NOA_RUST}
    set_up_logs(LOG_LEVELS[level], as_noa=as_noa)
    settings = face_settings(said, tokens, origins, rate)
    wanted = listeners(listen, dialects, said)
    async with face(bus(nats), realm, wanted, settings, said, signing_in(nats)) as found:
        told = [{"dialect": str(listener.dialect), "url": listener.url} for listener in found]
        files = [ready_file] if ready_file is not None else []
        async with announced({"http": found[0].url, "listeners": told, "pid": os.getpid()}, files):
            for listener in found:
                if as_noa:
                    log.info("listens", url=listener.url, dialect=str(listener.dialect))
                else:
                    err.print(f"[bold green]http ({listener.dialect})[/] at {listener.url}, realm {realm}")
            await forever()

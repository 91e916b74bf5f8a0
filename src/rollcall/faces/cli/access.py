"""How commands sign in to the bus, and with which key they sign: options that all of them share."""

import functools
import inspect
import json
import os
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, suppress
from pathlib import Path
from typing import Annotated, Any, ParamSpec, TypeVar, cast

import typer
from msgspec import Struct

import rollcall
from rollcall import Registry
from rollcall.bus.connection import FIRST_CONNECT
from rollcall.bus.tls import Tls
from rollcall.core.instants import Seconds
from rollcall.faces.cli.settings import default_data_dir
from rollcall.identity.keys import Key
from rollcall.sdk.login import SigningIn

P = ParamSpec("P")
R = TypeVar("R")

_PANEL = "Signing in"
_OPTIONS: dict[str, tuple[str, str, str]] = {
    "key": ("--key", "ROLLCALL_KEY", "Sign with this key: a file, or a name of `rollcall keys list`."),
    "credentials": ("--creds", "ROLLCALL_CREDS", "Sign in to the bus with this file of `rollcall creds`."),
    "tls_ca": ("--tls-ca", "ROLLCALL_TLS_CA", "Trust servers of this authority (PEM)."),
    "tls_cert": ("--tls-cert", "ROLLCALL_TLS_CERT", "Show this certificate (PEM)."),
    "tls_key": ("--tls-key", "ROLLCALL_TLS_KEY", "The key of that certificate (PEM)."),
}


class Access(Struct, frozen=True):
    """What the options of a command said."""

    key: str | None = None
    credentials: str | None = None
    tls_ca: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None

    @property
    def tls(self) -> Tls | None:
        """The files for TLS; None for none."""
        files = [Path(one) if one else None for one in (self.tls_ca, self.tls_cert, self.tls_key)]
        return Tls(*files) if any(files) else None


_said = Access()


def connects(*but: str, env: bool = True) -> Callable[[Callable[P, R]], Callable[..., R]]:
    """A decorator: the command has the options for signing in, too, `but` for those that it has itself.

    Without `env` the variables of clients say nothing to it.
    """
    names = [name for name in _OPTIONS if name not in but]

    def decorate(command: Callable[P, R]) -> Callable[..., R]:
        @functools.wraps(command)
        def with_options(*args: Any, **given: Any) -> R:  # Any: whatever the command's own options are
            global _said
            _said = Access(**{name: given.pop(name, None) for name in names})
            return command(*args, **given)

        own = inspect.signature(command)
        more = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_annotation(name, env))
            for name in names
        ]
        cast(Any, with_options).__signature__ = own.replace(parameters=[*own.parameters.values(), *more])
        with_options.__annotations__ = {**command.__annotations__, **{one.name: one.annotation for one in more}}
        return with_options

    return decorate


def _annotation(name: str, env: bool) -> Any:  # Any: a type, made at run time
    option, variable, help_ = _OPTIONS[name]
    said = variable if env else None
    return Annotated[str | None, typer.Option(option, envvar=said, help=help_, rich_help_panel=_PANEL)]


def access() -> Access:
    """What the options of the command that runs said."""
    return _said


def signing_in(nats: str | None) -> SigningIn:
    """How to sign in to `nats`. The local `rollcall up --auth` leaves word how people on this machine do."""
    local = {} if nats else _local()
    told = Access(**{name: local.get(name) for name in ("tls_ca", "tls_cert", "tls_key")})
    tls = _said.tls or told.tls
    return {"key": _said.key, "credentials": _said.credentials or local.get("credentials"), "tls": tls}


def joined(
    nats: str | None, realm: str, *, timeout: Seconds = FIRST_CONNECT, key: Key | None = None
) -> AbstractAsyncContextManager[Registry]:
    """The registry that a command is about; it signs with `key` if that is given."""
    said = signing_in(nats)
    if key is not None:
        said["key"] = key
    return rollcall.connect(bus(nats), realm=realm, timeout=timeout, **said)


def bus(nats: str | None) -> str:
    """The address of the bus: what was given, or where the local `up` serves, or the usual port."""
    return nats or _local().get("nats", "nats://127.0.0.1:4222")


def address_file(data_dir: Path) -> Path:
    """Where `rollcall up` leaves its address for commands on the same machine."""
    return data_dir / "address.json"


def _local() -> dict[str, str]:
    data_dir = os.environ.get("ROLLCALL_DATA_DIR")
    with suppress(OSError, ValueError, KeyError):
        told = json.loads(address_file(Path(data_dir) if data_dir else default_data_dir()).read_text())
        return {name: value for name, value in told.items() if isinstance(value, str)}
    return {}

"""Commands that let users in: credentials for a bus with `up --auth`, and certificates to try TLS with."""

import datetime
import re
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from rollcall.core.errors import Invalid
from rollcall.embedded import Authority
from rollcall.embedded.accounts import update_accounts
from rollcall.embedded.authority import Issued
from rollcall.faces.cli.access import bus, connects, signing_in
from rollcall.faces.cli.common import Json, Realm, err, out, print_json, run
from rollcall.faces.cli.settings import default_data_dir
from rollcall.identity.certs import HOSTS, make_development_certificates
from rollcall.identity.keys import Key
from rollcall.sdk.login import as_key
from rollcall.store.files import write_whole

creds = typer.Typer(no_args_is_help=True, help="Credentials: who may sign in to a bus that `up --auth` runs.")
certs = typer.Typer(no_args_is_help=True, help="Certificates for TLS.")

DataDir = Annotated[
    Path | None,
    typer.Option("--data-dir", envvar="ROLLCALL_DATA_DIR", help="That of `up --auth`. Default: the user data dir."),
]
Expires = Annotated[
    str, typer.Option("--expires", metavar="TIME", help="For how long: 90s, 30m, 12h, 30d. Default: for good.")
]
Out = Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Default: to stdout.")]
OwnKey = Annotated[
    str | None,
    typer.Option("--for-key", metavar="KEY", help="The user has this key: a file, or a name of `rollcall keys list`."),
]

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_LONGEST = 36_525 * 86400


@creds.command()
def agent(
    role: Annotated[str, typer.Option("--role", help="Its role.")],
    id: Annotated[str, typer.Option("--id", help="Its id.")],
    key: OwnKey = None,
    expires: Expires = "",
    to: Out = None,
    realm: Realm = "default",
    data_dir: DataDir = None,
) -> None:
    """Issue a user that may say and hear just what one agent has to.

    Example: rollcall creds agent --role worker --id a1 --out a1.creds
    """
    _issue(_authority(data_dir).agent(realm, role, id, key=_key(key), lasts=_seconds(expires)), to)


@creds.command()
def observer(
    key: OwnKey = None, expires: Expires = "", to: Out = None, realm: Realm = "default", data_dir: DataDir = None
) -> None:
    """Issue a user that asks and watches, and changes nothing.

    Example: rollcall creds observer --expires 30d --out watcher.creds
    """
    _issue(_authority(data_dir).observer(realm, key=_key(key), lasts=_seconds(expires)), to)


@creds.command()
def operator(
    key: OwnKey = None, expires: Expires = "", to: Out = None, realm: Realm = "default", data_dir: DataDir = None
) -> None:
    """Issue a user that acts on everybody's agents: a person, a judge, a gateway.

    Example: rollcall creds operator --out ops.creds
    """
    _issue(_authority(data_dir).operator(realm, key=_key(key), lasts=_seconds(expires)), to)


@creds.command()
def worker(key: OwnKey = None, expires: Expires = "", to: Out = None, data_dir: DataDir = None) -> None:
    """Issue a user for one more worker, of any realm on this bus.

    Example: rollcall creds worker --out worker.creds
    """
    _issue(_authority(data_dir).worker(key=_key(key), lasts=_seconds(expires)), to)


@creds.command()
@connects("key", "credentials")
def revoke(
    public: Annotated[str, typer.Argument(metavar="KEY", help="The public key of the user, U...")],
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Let a user in no more: the running server drops its connections, and the next one refuses it, too.

    Example: rollcall creds revoke UABC...
    """
    authority = _authority(data_dir)
    authority.revoke(public)
    try:
        run(update_accounts(authority, bus(None), signing_in(None)["tls"]))
    except typer.Exit:
        err.print("the server that runs was not told; it refuses this user once it is started anew")
        raise
    if json:
        print_json({"revoked": public})
    else:
        out.print(Text(f"revoked; the bus lets {public} in no more"))


@creds.command()
def template(realm: Realm = "default", json: Json = False) -> None:
    """Show the rights of an agent as a template, for a scoped signing key of an operator of your own.

    Example: rollcall creds template --json
    """
    granted = Authority.template(realm)
    if json:
        print_json(granted)
        return
    for what, word in (("pub", "may publish"), ("sub", "may subscribe to")):
        out.print(word)
        for subject in granted[what]["allow"]:
            out.print(Text(f"  {subject}"))


@certs.command()
def dev(
    directory: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where they are written.")] = Path("certs"),
    host: Annotated[list[str], typer.Option("--host", help="A name or address of the server. Repeatable.")] = [],
    json: Json = False,
) -> None:
    """Make an authority, a server's and a client's certificate, to try TLS on your own machines. They last a year.

    Example: rollcall certs dev --out certs
    """
    now = datetime.datetime.now(datetime.UTC)
    made = make_development_certificates(directory, [*HOSTS, *host], now)
    if json:
        print_json({name: str(path) for name, path in made.items()})
        return
    for name, path in made.items():
        out.print(Text(f"{name:<11} {path}"))
    err.print(
        Text(f"rollcall up --tls-cert {made['server']} --tls-key {made['server_key']} --tls-ca {made['ca']}"),
        soft_wrap=True,
    )


def _authority(data_dir: Path | None) -> Authority:
    return Authority.of(data_dir or default_data_dir())


def _key(named: str | None) -> Key | None:
    return as_key(named) if named is not None else None


def _seconds(text: str) -> int | None:
    if not text:
        return None
    found = re.fullmatch(r"([1-9][0-9]{0,8})([smhd])", text)
    seconds = int(found[1]) * _UNITS[found[2]] if found is not None else 0
    if not 0 < seconds <= _LONGEST:
        raise Invalid(f"--expires {text!r} is no time up to a hundred years; write it like 90s, 30m, 12h or 30d")
    return seconds


def _issue(issued: Issued, to: Path | None) -> None:
    if to is None:
        typer.echo(issued.credentials, nl=False)
    else:
        if to.exists():
            raise Invalid(f"{to} exists already; remove it, or choose another file")
        write_whole(to, issued.credentials.encode(), mode=0o600)
    err.print(Text(f"user {issued.name}, key {issued.public}"), soft_wrap=True)

"""Commands for keys: the identities by which agents and people sign what they say."""

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from rollcall import Entry
from rollcall.core.commands import NKEY
from rollcall.core.errors import Invalid, RollcallError
from rollcall.faces.cli.access import connects, joined
from rollcall.faces.cli.common import Json, Nats, Realm, err, out, print_json, run
from rollcall.identity.keys import Key, default_keyring, key_of, new_key
from rollcall.store.files import write_whole

keys = typer.Typer(no_args_is_help=True, help="Keys: who you are, proved by signatures.")

Name = Annotated[str, typer.Argument(help="What the key is called here.")]


@keys.command()
def new(
    name: Name,
    from_seed: Annotated[
        Path | None, typer.Option("--from", metavar="FILE", help="Keep the seed of this file instead of a fresh one.")
    ] = None,
    json: Json = False,
) -> None:
    """Make a key; its seed stays in a file that only you can read.

    Example: rollcall keys new billing
    """
    keyring = default_keyring()
    key = keyring.new(name, key_of(from_seed.read_text().strip()) if from_seed is not None else None)
    _show(name, key, keyring.path(name), json)


@keys.command()
def show(name: Name, json: Json = False) -> None:
    """Show the public half of a key.

    Example: rollcall keys show billing
    """
    keyring = default_keyring()
    _show(name, keyring.load(name), keyring.path(name), json)


@keys.command(name="list")
def list_(json: Json = False) -> None:
    """List your keys.

    Example: rollcall keys list
    """
    keyring = default_keyring()
    found: list[dict[str, str]] = []
    for name in keyring.names():
        try:
            found.append({"name": name, "public": keyring.load(name).public})
        except RollcallError as error:
            found.append({"name": name, "error": error.message})
    if json:
        print_json({"keys": found})
    elif found:
        table = Table("name", "public key", box=None, pad_edge=False)
        for one in found:
            table.add_row(Text(one["name"]), Text(one.get("public") or one["error"]))
        out.print(table)
    else:
        out.print("no keys; make one with `rollcall keys new NAME`")


@keys.command()
def export(
    name: Name,
    to: Annotated[Path, typer.Option("--out", metavar="FILE", help="Where the seed goes, for its owner only.")],
) -> None:
    """Write the secret seed of a key to a file, for another machine. It is never printed.

    Example: rollcall keys export billing --out billing.nk
    """
    key = default_keyring().load(name)
    if to.exists():
        raise Invalid(f"{to} exists already; remove it, or choose another file")
    write_whole(to, key.seed.encode() + b"\n", mode=0o600)
    err.print(Text(f"the seed of {key.public} is in {to}; whoever has it is you"))


@keys.command()
@connects("key")
def rotate(
    name: Name,
    offline: Annotated[
        bool, typer.Option("--offline", help="Only change the key here; no agent belongs to it.")
    ] = False,
    nats: Nats = None,
    realm: Realm = "default",
    json: Json = False,
) -> None:
    """Put a new key in the place of an old one, and hand over every agent that belongs to it.

    The old key signs each hand-over, the new one agrees, and history keeps both. Programs that use the key have to be
    started anew.

    Example: rollcall keys rotate billing
    """
    keyring = default_keyring()
    former, key = keyring.load(name), new_key()

    async def main() -> list[Entry]:
        async with joined(nats, realm, key=former) as registry:
            owned = [entry for entry in await registry.list() if entry.owner == NKEY + former.public]
            return [await registry.hand_over(entry.role, entry.id, key) for entry in owned]

    # Kept before anything is handed over to it: what is lost on the way can be handed over once more.
    aside = keyring.replace(name, key)
    try:
        handed = [] if offline else run(main())
    except BaseException:
        err.print(Text(f"{name} is {key.public} now; the former key is in {aside}"))
        raise
    if json:
        told = [{"role": entry.role, "id": entry.id, "revision": entry.revision} for entry in handed]
        print_json({"name": name, "public": key.public, "former": former.public, "handed_over": told})
        return
    out.print(Text(f"{name} is {key.public} now, and was {former.public}"))
    for entry in handed:
        out.print(Text(f"handed over: {entry.role} {entry.id} at revision {entry.revision}"))
    err.print(Text(f"the former key is in {aside}; revoke it once nothing uses it any more"))


@keys.command()
@connects()
def revoke(
    public: Annotated[str, typer.Argument(metavar="KEY", help="The public key, U...")],
    nats: Nats = None,
    realm: Realm = "default",
    json: Json = False,
) -> None:
    """Tell the registry that nothing a key signs counts any more. An operator may, and the key itself. It is for good.

    Example: rollcall keys revoke UABC... --key billing
    """

    async def main() -> dict[str, str]:
        async with joined(nats, realm) as registry:
            return await registry.revoke(public)

    told = run(main())
    if json:
        print_json({"revoked": told})
    else:
        out.print(Text(f"revoked since {told[public]}; {len(told)} keys of realm {realm} are"))


def _show(name: str, key: Key, path: Path, as_json: bool) -> None:
    if as_json:
        print_json({"name": name, "public": key.public, "file": os.fspath(path)})
    else:
        out.print(Text(key.public))
        err.print(Text(f"{name} is in {path}"))

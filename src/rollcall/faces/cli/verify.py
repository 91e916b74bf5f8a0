"""Checking who said what is on the roll: of the roll that is there, or offline, of a dump."""

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from msgspec import Struct, structs
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from rollcall import Change, Entry, Registry
from rollcall.core import codec
from rollcall.core.errors import Invalid, NotFound
from rollcall.faces.cli.access import connects, joined
from rollcall.faces.cli.common import NO, Json, Nats, Realm, err, out, print_json, run
from rollcall.identity.keys import checked_public
from rollcall.identity.proofs import Against, Proof, Validity, as_it_stands, proofs

app = typer.Typer()

MOST_CHANGES = 1000
AT_ONCE = 32


Whom = Annotated[str | None, typer.Argument(help="Follow the history of this agent. Default: everybody, as they are.")]
Dump = Annotated[
    Path | None,
    typer.Option("--dump", metavar="FILE", help="Offline: what ls, export or history wrote with --json; - is stdin."),
]
Operators = Annotated[
    list[str], typer.Option("--operator", metavar="KEY", help="A public key that may act for every owner. Repeatable.")
]


@app.command()
@connects()
def verify(
    id: Whom = None,
    dump: Dump = None,
    operator: Operators = [],
    nats: Nats = None,
    realm: Realm = "default",
    json: Json = False,
) -> None:
    """Check the signatures on the roll. Exit code 1 when one is invalid.

    A record is partial when what was signed is right, and what it left alone rests on a record that is not at hand.

    Example: rollcall verify
    """
    against = Against(operators=frozenset(checked_public(key) for key in operator), realm=realm)
    if dump is not None:
        found = _of_dump(dump, id, against)
        if id is not None and not found:
            raise NotFound(f"nothing in {dump} is about {id!r}")
    else:

        async def main() -> list[Proof]:
            async with joined(nats, realm) as registry:
                return await _of_roll(registry, id, against)

        found = run(main())
    counts = {str(validity): sum(1 for one in found if one.validity is validity) for validity in Validity}
    if json:
        print_json({**counts, "records": found})
    else:
        _show(found, counts)
    raise typer.Exit(NO if counts[Validity.INVALID] else 0)


_STYLES = {
    Validity.VALID: "green",
    Validity.PARTIAL: "yellow",
    Validity.UNSIGNED: "dim",
    Validity.INVALID: "bold red",
}


class _Dump(Struct, frozen=True):
    agents: list[Entry] | None = None
    changes: list[Change] | None = None


async def _of_roll(registry: Registry, id: str | None, against: Against) -> list[Proof]:
    told = await registry.info()
    against = structs.replace(against, operators=against.operators | frozenset(told["operators"]))
    if id is None:
        return await _of_everybody(registry, against)
    changes = await registry.history(id, limit=MOST_CHANGES)
    if not changes:
        raise NotFound(f"no change of {id!r} is known")
    return proofs(changes, against)


async def _of_everybody(registry: Registry, against: Against) -> list[Proof]:
    """Everybody as they stand; whose record proves a part by itself is followed through its history."""
    found = _of_agents((await registry.list()).agents, None, against)
    partial = [number for number, one in enumerate(found) if one.validity is Validity.PARTIAL]
    at_once = asyncio.Semaphore(AT_ONCE)

    async def follow(number: int) -> None:
        async with at_once:
            followed = proofs(await registry.history(found[number].id, limit=MOST_CHANGES), against)
        if followed and followed[-1].revision == found[number].revision:
            wrong = next((one for one in followed if one.validity is Validity.INVALID), None)
            known = wrong or followed[-1]
            rests = Validity.PARTIAL if followed[0].validity is Validity.PARTIAL else known.validity
            validity = Validity.INVALID if wrong is not None else rests
            found[number] = structs.replace(found[number], validity=validity, why=known.why)

    with Progress(console=err, transient=True, disable=not err.is_terminal) as progress:
        for task in progress.track(
            [asyncio.create_task(follow(number)) for number in partial], description="follows histories"
        ):
            await task
    return found


def _of_dump(file: Path, id: str | None, against: Against) -> list[Proof]:
    data = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    if data.lstrip()[:1] == b"[":
        return _of_agents(codec.decode(data, list[Entry]), id, against)
    told = codec.decode(data, _Dump)
    if told.changes is not None:
        return _of_changes(told.changes, id, against)
    if told.agents is not None:
        return _of_agents(told.agents, id, against)
    raise Invalid(f"{file} is no dump: it has neither 'agents' nor 'changes'; write one with `rollcall ls --json`")


def _of_agents(agents: Sequence[Entry], id: str | None, against: Against) -> list[Proof]:
    return [as_it_stands(entry, entry.revision, against) for entry in agents if id in (None, entry.id)]


def _of_changes(changes: Sequence[Change], id: str | None, against: Against) -> list[Proof]:
    by_id: dict[str, list[Change]] = {}
    for change in changes:
        if id in (None, change.id):
            by_id.setdefault(change.id, []).append(change)
    return [one for each in by_id.values() for one in proofs(each, against)]


def _show(found: Sequence[Proof], counts: dict[str, int]) -> None:
    table = Table("agent", "change", "revision", "is", "by", box=None, pad_edge=False)
    for one in found:
        by = f"{one.signer[:8]}…" if one.signer else ""
        words = (Text(f"{one.role} {one.id}"), str(one.kind), str(one.revision))
        table.add_row(*words, Text(str(one.validity), _STYLES[one.validity]), by)
    if found:
        out.print(table)
    for one in found:
        if one.why:
            out.print(Text(f"{one.role} {one.id} at revision {one.revision}: {one.why}"))
    out.print(", ".join(f"{count} {word}" for word, count in counts.items()))

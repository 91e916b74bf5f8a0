"""Checking who said what is on the roll: of the roll that is there, or offline, of a dump."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from msgspec import Struct
from rich.table import Table
from rich.text import Text

from rollcall import Change, Entry, Registry
from rollcall.core import codec
from rollcall.core.errors import Invalid, NotFound
from rollcall.faces.cli.access import connects, joined
from rollcall.faces.cli.common import NO, Json, Nats, Realm, out, print_json, run
from rollcall.identity.keys import checked_public
from rollcall.identity.proofs import Proof, Validity, as_it_stands, proofs

app = typer.Typer()

MOST_CHANGES = 1000


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

    Example: rollcall verify
    """
    operators = frozenset(checked_public(key) for key in operator)
    if dump is not None:
        found = _of_dump(dump, id, operators)
    else:

        async def main() -> list[Proof]:
            async with joined(nats, realm) as registry:
                return await _of_roll(registry, id, operators)

        found = run(main())
    counts = {str(validity): sum(1 for one in found if one.validity is validity) for validity in Validity}
    if json:
        print_json({**counts, "records": found})
    else:
        _show(found, counts)
    raise typer.Exit(NO if counts[Validity.INVALID] else 0)


class _Dump(Struct, frozen=True):
    agents: list[Entry] | None = None
    changes: list[Change] | None = None


async def _of_roll(registry: Registry, id: str | None, operators: frozenset[str]) -> list[Proof]:
    operators |= frozenset((await registry.info())["operators"])
    if id is None:
        return _of_agents((await registry.list()).agents, None, operators)
    changes = await registry.history(id, limit=MOST_CHANGES)
    if not changes:
        raise NotFound(f"no change of {id!r} is known")
    return proofs(changes, operators)


def _of_dump(file: Path, id: str | None, operators: frozenset[str]) -> list[Proof]:
    data = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    if data.lstrip()[:1] == b"[":
        return _of_agents(codec.decode(data, list[Entry]), id, operators)
    told = codec.decode(data, _Dump)
    if told.changes is not None:
        return _of_changes(told.changes, id, operators)
    if told.agents is not None:
        return _of_agents(told.agents, id, operators)
    raise Invalid(f"{file} is no dump: it has neither 'agents' nor 'changes'; write one with `rollcall ls --json`")


def _of_agents(agents: Sequence[Entry], id: str | None, operators: frozenset[str]) -> list[Proof]:
    return [as_it_stands(entry, entry.revision, operators) for entry in agents if id in (None, entry.id)]


def _of_changes(changes: Sequence[Change], id: str | None, operators: frozenset[str]) -> list[Proof]:
    by_id: dict[str, list[Change]] = {}
    for change in changes:
        if id in (None, change.id):
            by_id.setdefault(change.id, []).append(change)
    return [one for each in by_id.values() for one in proofs(each, operators)]


def _show(found: Sequence[Proof], counts: dict[str, int]) -> None:
    table = Table("agent", "change", "revision", "is", "by", box=None, pad_edge=False)
    style = {Validity.VALID: "green", Validity.UNSIGNED: "dim", Validity.INVALID: "bold red"}
    for one in found:
        by = f"{one.signer[:8]}…" if one.signer else ""
        words = (Text(f"{one.role} {one.id}"), str(one.kind), str(one.revision))
        table.add_row(*words, Text(str(one.validity), style[one.validity]), by)
    if found:
        out.print(table)
    for one in found:
        if one.why:
            out.print(Text(f"{one.role} {one.id} at revision {one.revision}: {one.why}"))
    out.print(", ".join(f"{count} {word}" for word, count in counts.items()))

"""Bringing agents in from files of other registries, and writing them out."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

import rollcall
from rollcall import Entry, Invalid, Registry, RollcallError
from rollcall.core import codec
from rollcall.core.records import Profile
from rollcall.faces.cli.access import connects, joined
from rollcall.faces.cli.common import NO, Json, Nats, Realm, err, out, print_json, run
from rollcall.faces.files import noa_csv, vers_json
from rollcall.store.files import write_whole

app = typer.Typer()

AT_ONCE = 500
SHOWN = 20
"""Remarks on the screen; --json has them all."""


@app.command(name="import")
@connects()
def import_(
    file: Annotated[Path, typer.Argument(help="agents.csv of NOA, or registry.json of Vers.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would happen; change nothing.")] = False,
    name: Annotated[str, typer.Option("--name", help="The owner is import:NAME. Default: the name of the file.")] = "",
    built_in: Annotated[bool, typer.Option("--built-in", help="Add the agent that NOA's loader adds: pe-ssp.")] = False,
    nats: Nats = None,
    realm: Realm = "default",
    json: Json = False,
) -> None:
    """Register the agents of a file. Nothing happens before the whole file was read; repeating it changes nothing.

    Example: rollcall import agents.csv --dry-run
    """

    async def main() -> dict[str, Any]:
        agents, told = _read(file, name or file.stem, built_in)
        async with joined(nats, realm) as registry:
            return {**told, **await _register(registry, agents, dry_run=dry_run, quiet=json)}

    told = run(main())
    if json:
        print_json(told)
    else:
        _show(told)
    raise typer.Exit(NO if told["refused"] else 0)


def _read(file: Path, name: str, built_in: bool) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    data = file.read_bytes()
    if file.suffix.lower() == ".json":
        return vers_json.read(data), {"remarks": ()}
    if file.suffix.lower() != ".csv":
        raise Invalid(f"{file.name} is neither .csv nor .json")
    directory = noa_csv.read(data, built_in=built_in)
    owner = f"import:{name}"
    agents = [noa_csv.fields(row, owner) for row in directory.rows]
    return agents, {"stats": directory.stats(), "remarks": directory.remarks}


async def _register(registry: Registry, agents: list[dict[str, Any]], *, dry_run: bool, quiet: bool) -> dict[str, Any]:
    known = {entry.id: entry for entry in await registry.list()}
    told: dict[str, Any] = {"dry_run": dry_run, "registered": 0, "updated": 0, "unchanged": 0}
    told["refused"] = [_held(agent, known[agent["id"]]) for agent in agents if _is_held(agent, known)]
    # Nothing is half imported: where one id belongs to somebody else, nobody is registered.
    new = [agent for agent in agents if agent["id"] not in known]
    changed = [agent for agent in agents if agent["id"] in known and not _is_the_same(agent, known[agent["id"]])]
    told["unchanged"] = len(agents) - len(new) - len(changed)
    if dry_run or told["refused"]:
        return {**told, "registered": len(new) if dry_run else 0, "updated": len(changed) if dry_run else 0}
    wanted = new + changed
    with Progress(console=err, transient=True, disable=quiet or not err.is_terminal) as progress:
        task = progress.add_task("registers", total=len(wanted))
        for start in range(0, len(wanted), AT_ONCE):
            some = wanted[start : start + AT_ONCE]
            for agent, outcome in zip(some, await registry.register_many(some, timeout=30), strict=True):
                if isinstance(outcome, RollcallError):
                    told["refused"].append({"id": agent["id"], "error": outcome.code, "message": outcome.message})
                else:
                    told["updated" if agent["id"] in known else "registered"] += 1
            progress.update(task, advance=len(some))
    return told


def _is_held(agent: dict[str, Any], known: dict[str, Entry]) -> bool:
    """Whether an id belongs to somebody who was not imported from here."""
    held = known.get(agent["id"])
    return held is not None and (held.owner, held.role) != (agent["owner"], agent["role"])


def _held(agent: dict[str, Any], held: Entry) -> dict[str, str]:
    whom = f"{held.owner or held.registered_by or 'somebody'} as {held.role}"
    return {"id": agent["id"], "error": "conflict", "message": f"the id is held by {whom}; nothing was imported"}


def _is_the_same(agent: dict[str, Any], held: Entry) -> bool:
    said = codec.as_profile(agent)
    return all(getattr(said, name) == getattr(held, name) for name in Profile.__struct_fields__)


def _show(told: dict[str, Any]) -> None:
    would = "would be: " if told["dry_run"] else ""
    out.print(f"{would}{told['registered']} registered, {told['updated']} updated, {told['unchanged']} unchanged")
    for name, value in told.get("stats", {}).items():
        counted = ", ".join(f"{what} {n}" for what, n in value.items()) if isinstance(value, dict) else value
        out.print(Text(f"{name}: {counted}"))
    remarks: Sequence[noa_csv.Remark] = told["remarks"]
    if remarks:
        out.print(_remarks_table(remarks[:SHOWN]))
        if len(remarks) > SHOWN:
            out.print(f"and {len(remarks) - SHOWN} more remarks; --json shows all")
    for one in told["refused"][:SHOWN]:
        err.print(Text(f"refused: {one['id']}: {one['message']}"))
    if len(told["refused"]) > SHOWN:
        err.print(f"and {len(told['refused']) - SHOWN} more refused; --json shows all")


def _remarks_table(remarks: Sequence[noa_csv.Remark]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("LINE", justify="right")
    table.add_column("ID", overflow="ellipsis", no_wrap=True, max_width=24)
    table.add_column("REMARK", overflow="fold")
    for one in remarks:
        table.add_row(str(one.line), Text(one.id), Text(one.what))
    return table


@app.command()
@connects()
def export(
    file: Annotated[Path | None, typer.Argument(help="Where to; default: the screen.")] = None,
    csv: Annotated[bool, typer.Option("--csv", help="A directory as NOA has it.")] = False,
    vers: Annotated[bool, typer.Option("--vers", help="registry.json as Vers has it.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Every entry, whole. The default.")] = False,
    nats: Nats = None,
    realm: Realm = "default",
) -> None:
    """Write the agents of the realm: as NOA's CSV, as Vers's JSON, or whole.

    Example: rollcall export --csv agents.csv
    """
    if csv + vers + json > 1:
        raise typer.BadParameter("--csv, --vers and --json are three forms; choose one")

    async def main() -> str:
        async with joined(nats, realm) as registry:
            found = sorted(await registry.list(exact=True), key=lambda entry: entry.registered_seq)
        if csv:
            return noa_csv.write(found)
        return vers_json.write(found) if vers else _whole(found)

    text = run(main())
    if file is None:
        sys.stdout.write(text)
        return
    try:
        write_whole(file, text.encode())
    except OSError as error:
        raise rollcall.Misconfigured(f"{file} cannot be written: {error.strerror}") from error


def _whole(found: Sequence[Entry]) -> str:
    lines = ",\n".join(codec.encode(entry).decode() for entry in found)
    return f"[\n{lines}\n]\n" if found else "[]\n"

"""Questions: who is there, what happened, how is the registry."""

import asyncio
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

import rollcall
from rollcall import Position, Watch
from rollcall.faces.cli.access import connects, joined
from rollcall.faces.cli.common import NO, Json, Nats, Realm, err, out, pairs, print_json, run
from rollcall.faces.cli.past import MOMENT, moment, show_when
from rollcall.faces.cli.show import agents_table, change_line, changes_table, entry_table

app = typer.Typer()

Capability = Annotated[list[str], typer.Option("--capability", "-c", help="Must have it; repeat for several.")]
AnyOf = Annotated[list[str], typer.Option("--any-of", help="Must have at least one of these.")]
LabelOption = Annotated[list[str], typer.Option("--label", metavar="K=V", help="Must carry this label.")]
Version = Annotated[str, typer.Option("--version", help="A range such as '>=1.2,<2'.")]
StatusOption = Annotated[list[str], typer.Option("--status", help="running, paused, ... or all.")]
Include = Annotated[list[str], typer.Option("--include", help="suspect, stuck, lost, unknown, or all.")]


@app.command()
@connects()
def ls(
    role: Annotated[str | None, typer.Argument(help="Only this role.")] = None,
    as_of: Annotated[str, typer.Option("--as-of", metavar="TIME|REVISION", help=f"As it was then. {MOMENT}")] = "",
    nats: Nats = None,
    realm: Realm = "default",
    json: Json = False,
) -> None:
    """List every agent on the roll, whatever its state.

    Example: rollcall ls worker --as-of 10m
    """
    then = moment(as_of) if as_of else None

    async def main() -> None:
        async with joined(nats, realm) as registry:
            everybody: dict[str, Any] = {"include": ["all"], "status": ["all"]}
            if then is not None:
                page = await registry.as_of(role=role or "", **then)
            else:
                page = await (registry.discover(role, **everybody) if role else registry.list(**everybody))
        if json:
            print_json(page)
            return
        if page:
            out.print(agents_table(page))
        else:
            err.print("nobody is on the roll" if role is None else f"no {role} is on the roll")
        show_when(page)

    run(main())


@app.command()
@connects()
def discover(
    role: Annotated[str, typer.Argument(help="Which role is wanted.")],
    capability: Capability = [],
    any_of: AnyOf = [],
    label: LabelOption = [],
    version: Version = "",
    status: StatusOption = [],
    include: Include = [],
    pick: Annotated[int | None, typer.Option("--pick", min=1, help="Only so many of them.")] = None,
    by: Annotated[str, typer.Option("--by", help="How to pick: random, round_robin, least_loaded.")] = "random",
    limit: Annotated[int | None, typer.Option("--limit", min=1, max=1000, help="At most so many.")] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Say of each candidate why it fits or not.")] = False,
    nats: Nats = None,
    realm: Realm = "default",
    json: Json = False,
) -> None:
    """Find the running, live agents of a role. Exit code 1 when nobody fits.

    Example: rollcall discover worker -c ocr --label zone=a --pick 1 --by least_loaded
    """

    async def main() -> int:
        asked: dict[str, Any] = {"capabilities": capability, "any_of": any_of, "labels": pairs("label", label)}
        asked |= {"version": version, "include": include, "explain": explain}
        if status:
            asked["status"] = status
        if pick is not None:
            asked |= {"pick": pick, "by": by}
        if limit is not None:
            asked["limit"] = limit
        async with joined(nats, realm) as registry:
            page = await registry.discover(role, **asked)
        if json:
            print_json(page)
        else:
            _show_found(role, page)
        return 0 if page else NO

    raise typer.Exit(run(main()))


def _show_found(role: str, page: rollcall.Page) -> None:
    if page:
        out.print(agents_table(page))
    else:
        err.print(f"no {role} fits (revision {page.revision}, asked {page.worker})")
    if page.explained:
        table = Table("ID", "KEPT", "WHY", box=None, pad_edge=False, header_style="bold")
        for one in page.explained:
            table.add_row(Text(one["id"]), "yes" if one["kept"] else "no", Text(one["why"]))
        out.print()
        out.print(table)


@app.command()
@connects()
def get(
    id: Annotated[str, typer.Argument(help="The agent's id.")],
    nats: Nats = None,
    realm: Realm = "default",
    json: Json = False,
) -> None:
    """Show one agent, to the moment.

    Example: rollcall get billing-1
    """

    async def main() -> None:
        async with joined(nats, realm) as registry:
            entry = await registry.get(id)
        if json:
            print_json(entry)
        else:
            out.print(entry_table(entry))

    run(main())


@app.command()
@connects()
def history(
    id: Annotated[str, typer.Argument(help="The agent's id; it may be gone.")],
    limit: Annotated[int, typer.Option("--limit", min=1, max=1000, help="The newest so many.")] = 100,
    nats: Nats = None,
    realm: Realm = "default",
    json: Json = False,
) -> None:
    """Show what happened to one agent, oldest first.

    Example: rollcall history billing-1
    """

    async def main() -> None:
        async with joined(nats, realm) as registry:
            told = await registry.story(id, limit=limit)
        if json:
            print_json({"changes": told.changes, "refusals": told.refusals, "begins": told.begins})
            return
        if told.changes:
            out.print(changes_table(told.changes))
        for one in told.refusals:
            line = f"{one['at'][:19].replace('T', ' ')} refused: {one['verb']} {one['role']} by {one['by']}"
            out.print(Text(f"{line}: {one['reason']}"))
        if not told.changes and not told.refusals:
            err.print(f"nothing is known of {id!r}")
        if told.begins is not None and told.begins.revision:
            begins = f"the history of this worker begins at revision {told.begins.revision}, {told.begins.at}"
            err.print(Text(begins, style="dim"))

    run(main())


@app.command()
@connects()
def since(
    revision: Annotated[int, typer.Argument(min=0, help="Changes after this revision.")],
    epoch: Annotated[str, typer.Option("--epoch", help="Of which roll; default the present one.")] = "",
    role: Annotated[str, typer.Option("--role", help="Only this role.")] = "",
    nats: Nats = None,
    realm: Realm = "default",
    json: Json = False,
) -> None:
    """Show what changed after a revision; the agents as they are, when that is too long ago.

    Example: rollcall since 120 --role worker
    """

    async def main() -> None:
        async with joined(nats, realm) as registry:
            which = epoch or (await registry.info())["epoch"]
            answer = await registry.since(Position(which, revision), role=role)
        if json:
            print_json(answer)
        elif answer.too_old:
            err.print("that is too long ago to say what changed; the agents as they are:")
            out.print(agents_table(answer.agents))
        else:
            out.print(changes_table(answer.changes))
            if answer.more:
                err.print(f"there is more: rollcall since {answer.upto}")

    run(main())


@app.command()
@connects()
def watch(
    role: Annotated[str | None, typer.Argument(help="Only this role.")] = None,
    count: Annotated[int | None, typer.Option("--count", "-n", min=1, help="End after so many changes.")] = None,
    nats: Nats = None,
    realm: Realm = "default",
    json: Json = False,
) -> None:
    """Show every change as it happens, until Ctrl-C.

    Example: rollcall watch worker --json | jq .record.id
    """

    async def main() -> None:
        async with joined(nats, realm) as registry, registry.watch(role) as changes:
            if not json:
                err.print(f"[dim]watching {role or 'every role'} from revision {changes.position.revision}[/]")
            told = 0
            telling = asyncio.create_task(_tell_reasons(changes), name="why everything was compared anew")
            async for change in changes:
                if json:
                    print_json(change)
                else:
                    out.print(change_line(change))
                told += 1
                if told == count:
                    break
            telling.cancel()

    run(main())


async def _tell_reasons(changes: Watch) -> None:
    """Says why a view was made anew, also when nothing turned out to be different."""
    told = changes.reason
    while True:
        await asyncio.sleep(0.5)
        if changes.reason != told:
            told = changes.reason
            err.print(Text(f"everything was compared anew: {told}", style="dim"))


@app.command()
@connects()
def info(nats: Nats = None, realm: Realm = "default", json: Json = False) -> None:
    """Show the state of the registry, as one worker sees it."""

    async def main() -> None:
        async with joined(nats, realm) as registry:
            told = await registry.info()
        if json:
            print_json(told)
            return
        table = Table(box=None, pad_edge=False, show_header=False)
        table.add_column(style="bold")
        table.add_column(overflow="fold")
        for name, value in told.items():
            shown = _shown(name, value)
            table.add_row(name, Text(shown))
        out.print(table)

    run(main())


def _shown(name: str, value: Any) -> str:  # Any: a member of the answer
    if name == "guard":
        return "rests" if value is None else f"holds {value.get('held', 0)}: {value['why']}"
    if isinstance(value, dict):
        return " ".join(f"{k}={v}" for k, v in value.items())
    return "-" if value is None else str(value)

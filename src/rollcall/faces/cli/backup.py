"""Backups: the roll and its history in one file, and back."""

import asyncio
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from rollcall import RollcallError, Unavailable
from rollcall.core.errors import Misconfigured
from rollcall.core.instants import Seconds
from rollcall.faces.cli.access import connects, joined
from rollcall.faces.cli.common import NO, Json, Nats, Realm, err, out, print_json, run
from rollcall.faces.cli.settings import default_data_dir
from rollcall.sdk.clock import now_ms
from rollcall.sdk.restore import restore as bring_back
from rollcall.store.backup import Made, back_up, read_backup

app = typer.Typer()

CAUGHT_UP_WITHIN: Seconds = 10.0
SHOWN = 20


@app.command()
@connects()
def backup(
    file: Annotated[Path, typer.Argument(help="Where to; it is replaced once the backup is whole.")],
    data_dir: Annotated[
        Path | None,
        typer.Option("--data-dir", envvar="ROLLCALL_DATA_DIR", help="Where a worker of this machine keeps its data."),
    ] = None,
    nats: Nats = None,
    realm: Realm = "default",
    json: Json = False,
) -> None:
    """Write the roll and its history into one file, while everything goes on. To be run where a worker runs.

    Example: rollcall backup roll.backup
    """

    async def main() -> Made:
        snapshot, wanted = await _snapshot(nats, realm, data_dir)
        return await _backed_up(snapshot, file, realm, wanted)

    made = run(main())
    if json:
        print_json({"file": str(file), "checksum": made.checksum, **_plain(made)})
        return
    about = made.about
    out.print(Text(f"{about.agents} agents and {about.changes} changes of realm {about.realm} are in {file}"))
    out.print(Text(f"revision {about.revision} of epoch {about.epoch}, SHA-256 {made.checksum}"))


async def _snapshot(nats: str | None, realm: str, data_dir: Path | None) -> tuple[Path, int]:
    """The file of a worker on this machine, and the revision that it must have reached.

    Raises:
        Misconfigured: there is none.
    """
    found = [(data_dir or default_data_dir()) / "snapshots" / f"{realm}.db"]
    wanted = 0
    try:
        async with joined(nats, realm, timeout=2) as registry:
            workers = await registry.workers()
        wanted = max(worker["revision"] for worker in workers)
        served = [Path(worker["snapshot"]) for worker in sorted(workers, key=lambda one: not one["leads"])]
        found = served if data_dir is None else [path for path in found if path in served] or found
    except (RollcallError, KeyError) as error:
        err.print(Text(f"no worker answers; what is on disk is copied ({error})", style="dim"))
    there = [path for path in found if path.is_file()]
    if there:
        return there[0], wanted
    raise Misconfigured(
        f"no worker of realm {realm!r} keeps its snapshot on this machine (looked for {found[0]}); run this where one "
        "runs, or give its --data-dir"
    )


async def _backed_up(snapshot: Path, file: Path, realm: str, wanted: int) -> Made:
    """A backup that has at least what was known when it was asked for."""
    deadline = time.monotonic() + CAUGHT_UP_WITHIN
    while True:
        made = await asyncio.to_thread(back_up, snapshot, file, realm=realm, now=now_ms())
        if made.about.revision >= wanted:
            return made
        if time.monotonic() > deadline:
            raise Unavailable(f"{snapshot} is at revision {made.about.revision} and the roll at {wanted}; try again")
        await asyncio.sleep(0.1)


@app.command()
@connects()
def restore(
    file: Annotated[Path, typer.Argument(help="What `rollcall backup` wrote.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would happen; change nothing.")] = False,
    nats: Nats = None,
    realm: Realm = "default",
    json: Json = False,
) -> None:
    """Bring back whoever is in a backup and not on the roll. Exit code 1 when somebody is there who differs.

    Whoever is on the roll stays as it is. The roll gets a new epoch; who watches is told everything anew. A corrupt
    file is refused whole.

    Example: rollcall restore roll.backup --dry-run
    """

    async def main() -> tuple[Made, dict[str, Any]]:
        made, places = await asyncio.to_thread(read_backup, file)
        with Progress(console=err, transient=True, disable=json or not err.is_terminal) as progress:
            task = progress.add_task("restores", total=len(places))
            async with joined(nats, realm) as registry:
                told = await bring_back(
                    registry,
                    places,
                    made_at=made.about.at,
                    dry_run=dry_run,
                    advance=lambda count: progress.update(task, advance=count),
                )
        return made, told

    made, told = run(main())
    if json:
        print_json({"backup": _plain(made), **told})
    else:
        _show(made, told)
    raise typer.Exit(NO if told["conflicts"] else 0)


def _plain(made: Made) -> dict[str, Any]:
    about = made.about
    return {
        "realm": about.realm,
        "epoch": about.epoch,
        "revision": about.revision,
        "at": about.at,
        "agents": about.agents,
        "changes": about.changes,
    }


def _show(made: Made, told: dict[str, Any]) -> None:
    about = made.about
    out.print(Text(f"a backup of {about.at}: revision {about.revision} of realm {about.realm}"))
    would = "would be restored" if told["dry_run"] else "restored"
    counts = f"{told['restored']} {would}, {told['unchanged']} are there as they were"
    out.print(Text(f"{counts}, {len(told['conflicts'])} differ and stay as they are; epoch {told['epoch']}"))
    if told["conflicts"]:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for name in ("AGENT", "THERE SINCE", "IN THE BACKUP", "DIFFERS"):
            table.add_column(name, overflow="ellipsis", no_wrap=True, max_width=30)
        for one in told["conflicts"][:SHOWN]:
            agent, differs = Text(f"{one['role']} {one['id']}"), Text(", ".join(one["differs"]))
            table.add_row(agent, f"revision {one['revision']}", f"revision {one['backed_up_at']}", differs)
        out.print(table)
    if len(told["conflicts"]) > SHOWN:
        err.print(f"and {len(told['conflicts']) - SHOWN} more; --json shows all")

"""Taking away what is of no use any more: records of the shared directory, and agents of the roll."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from rollcall import Entry, NotFound, Registry, RollcallError, Status, Unavailable
from rollcall.core.instants import instant
from rollcall.core.records import EXTERNAL
from rollcall.faces.cli.access import connects, joined
from rollcall.faces.cli.common import NO, Json, Nats, Realm, err, out, print_json, run
from rollcall.faces.cli.directory import Root, root_of

app = typer.Typer()

UNASKED = 5
HOUMAO = "houmao"
"""The origin of agents of the directory, and the beginning of their owners."""


@app.command()
@connects()
def cleanup(
    root: Root = None,
    grace_seconds: Annotated[
        int, typer.Option("--grace-seconds", min=0, help="How long what is over is kept nevertheless.")
    ] = 300,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would happen; change nothing.")] = False,
    no_tmux_check: Annotated[
        bool, typer.Option("--no-tmux-check", help="Do not ask tmux whether sessions of this machine live.")
    ] = False,
    nats: Nats = None,
    realm: Realm = "default",
    json: Json = False,
) -> None:
    """Take away stale records of the shared directory, and retired and long lost agents of the roll.

    Agents of other registries are left alone. Exit code 1 when something cannot be removed, 5 when the roll cannot be
    asked; the directory is cleaned up nevertheless.

    Example: rollcall cleanup --dry-run
    """
    from rollcall.faces.files.houmao import cleanup as tools  # noqa: PLC0415  models load slowly
    from rollcall.faces.files.houmao import directory as places  # noqa: PLC0415  as above

    grace, directory = timedelta(seconds=grace_seconds), places.Directory(root_of(root))
    sessions = None if no_tmux_check else tools.tmux_sessions()

    def judged(entries: list[Entry]) -> tuple[Any, list[Any]]:
        probe = tools.Probe(not no_tmux_check, sessions, _heard(entries))
        return probe, list(tools.judged(directory, datetime.now(UTC), grace, probe))

    async def main() -> dict[str, Any]:
        try:
            async with joined(nats, realm, timeout=3) as registry:
                entries = list(await registry.list(exact=True))
                probe, found = judged(entries)
                # First from the roll: whoever mirrors it would write the record anew.
                gone = {one.id: (one.generation, one.reason) for one in found if one.generation and not one.keep}
                roll = await _roll(registry, entries, gone, grace, dry_run)
        except Unavailable as error:
            probe, found = judged([])
            roll = {"error": error.message}
        return {**tools.clean(directory, found, grace, probe, dry_run=dry_run), "roll": roll}

    told = run(main())
    if json:
        print_json(told)
    else:
        _show(told)
    if "error" in told["roll"]:
        raise typer.Exit(UNASKED)
    raise typer.Exit(NO if told["blocked_actions"] or told["roll"]["failed"] else 0)


def _heard(entries: list[Entry]) -> set[str]:
    """Agents whose life does not hang on a session of this machine: those that were never in the directory, and those
    that beat."""
    return {
        entry.id
        for entry in entries
        if entry.beating
        and entry.lost_at is None
        and (entry.origin != HOUMAO or (entry.last_seen or "") > entry.updated_at)
    }


async def _roll(
    registry: Registry, entries: list[Entry], gone: dict[str, tuple[str, str]], grace: timedelta, dry_run: bool
) -> dict[str, Any]:
    """Deregisters who is retired, or lost for longer than the registry keeps anybody, or whose record goes."""
    info = await registry.info()
    now = instant(info["time"])
    told: dict[str, list[dict[str, str]]] = {"removed": [], "planned": [], "preserved": [], "failed": []}
    for entry in entries:
        generation, why_gone = gone.get(entry.id, ("", ""))
        of_directory = entry.owner == f"{HOUMAO}:{generation}"
        why = why_gone if of_directory else _of_no_use(entry, now, grace, info["forget_after"])
        if why and entry.keep:
            told["preserved"].append({"id": entry.id, "reason": f"{why}; it says that it is kept"})
        elif why and dry_run:
            told["planned"].append({"id": entry.id, "reason": why})
        elif why:
            name, reason = await _deregister(registry, entry, why)
            told[name].append({"id": entry.id, "reason": reason})
    return {**told, "tombstones": info["tombstones"]}


async def _deregister(registry: Registry, entry: Entry, why: str) -> tuple[str, str]:
    try:
        await registry.deregister(entry.role, entry.id, incarnation=entry.incarnation, reason=f"cleanup: {why}")
    except NotFound:
        pass  # somebody was faster
    except RollcallError as error:
        return "failed", f"{why}; {error.message}"
    return "removed", why


def _of_no_use(entry: Entry, now: int, grace: timedelta, forget_after: float) -> str:
    if entry.origin == EXTERNAL:
        return ""
    if entry.status == Status.RETIRED and instant(entry.updated_at) + grace.total_seconds() * 1000 < now:
        return f"retired since {entry.updated_at}"
    if entry.lost_at is not None and instant(entry.lost_at) + forget_after * 1000 < now:
        return f"lost since {entry.lost_at}"
    return ""


def _show(told: dict[str, Any]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("AGENT", overflow="ellipsis", no_wrap=True, max_width=28)
    table.add_column("OUTCOME", no_wrap=True)
    table.add_column("REASON", overflow="fold")
    for name, outcome in (("planned", "planned"), ("applied", "removed"), ("blocked", "failed")):
        for one in told[f"{name}_actions"]:
            table.add_row(Text(one["details"]["agent_id"]), outcome, Text(one["reason"]))
    for outcome in ("planned", "removed", "preserved", "failed"):
        for one in told["roll"].get(outcome, ()):
            table.add_row(Text(one["id"]), f"{outcome} (roll)", Text(one["reason"]))
    if table.row_count:
        out.print(table)
    counts = told["summary"]
    out.print(
        Text(
            f"{told['registry_root']}: {counts['removed_count']} removed, {counts['planned_count']} planned, "
            f"{counts['preserved_count']} preserved, {counts['failed_count']} failed"
        )
    )
    if "error" in told["roll"]:
        err.print(Text(f"the roll cannot be asked: {told['roll']['error']}"))
        return
    out.print(
        f"the roll: {len(told['roll']['removed'])} removed, {len(told['roll']['planned'])} planned; "
        f"{told['roll']['tombstones']} tombstones, which end by themselves"
    )

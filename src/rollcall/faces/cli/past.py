"""The past of the roll: what differs between two moments, who was alive then, and going back."""

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, TypedDict

import typer
from msgspec import structs
from rich.table import Table
from rich.text import Text

from rollcall import Conflict, Entry, Invalid, Mode, NotFound, Page, Registry
from rollcall.core import codec
from rollcall.core.instants import timestamp
from rollcall.core.patch import FIXED, patch_between
from rollcall.core.records import Profile, profile_of
from rollcall.faces.cli.access import connects, joined
from rollcall.faces.cli.common import NO, Json, Nats, Realm, err, out, print_json, run
from rollcall.faces.cli.show import agents_table

app = typer.Typer()

_AGO = re.compile(r"(\d+)\s*(s|m|h|d)(?:\s*ago)?")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_REVISION = re.compile(r"(?:(\d+-[0-9a-f]{8}):)?(\d{1,18})")
MOMENT = "A revision (120, or EPOCH:120), a time (2026-11-21T20:00:00Z; UTC where it does not say), or 10m: ago."

Moment = Annotated[str, typer.Argument(help=MOMENT)]


class Asked(TypedDict, total=False):
    """A moment, as the registry is asked about it."""

    at: str
    revision: int
    epoch: str


def moment(text: str) -> Asked:
    """What a person means by a moment.

    Raises:
        Invalid: it is none.
    """
    found = _REVISION.fullmatch(text.strip())
    if found:
        return {"epoch": found[1] or "", "revision": int(found[2])}
    ago = _AGO.fullmatch(text.strip())
    try:
        if ago:
            time = datetime.now(UTC) - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
        else:
            time = datetime.fromisoformat(text.strip())
        time = time if time.tzinfo is not None else time.replace(tzinfo=UTC)
        return {"at": timestamp(round(time.timestamp() * 1000))}
    except (ValueError, OverflowError) as error:
        raise Invalid(f"{text!r} is no moment: give a revision, a time such as 2026-11-21T20:00:00Z, or 10m") from error


def show_when(page: Page) -> None:
    """Says which state was told, and by whom."""
    if page.asof is not None:
        err.print(Text(f"as of revision {page.asof.revision}, {page.asof.at} (worker {page.worker})", style="dim"))


@app.command()
@connects()
def diff(before: Moment, after: Moment, nats: Nats = None, realm: Realm = "default", json: Json = False) -> None:
    """Show what differs between two moments: who came, who left, what changed. Exit code 1 when anything does.

    Example: rollcall diff 1h 0s
    """
    asked = moment(before), moment(after)

    async def main() -> tuple[Page, Page]:
        async with joined(nats, realm) as registry:
            return await registry.as_of(**asked[0]), await registry.as_of(**asked[1])

    one, other = run(main())
    told = difference(one, other)
    if json:
        print_json({"from": one.asof, "to": other.asof, **told})
    else:
        _show_difference(told)
        show_when(one)
        show_when(other)
    raise typer.Exit(NO if any(told.values()) else 0)


def difference(before: Page, after: Page) -> dict[str, Any]:
    """Who came, who left, and which members changed of whom."""
    was, now = {entry.id: entry for entry in before}, {entry.id: entry for entry in after}
    changed = [
        {"id": id, "role": now[id].role, "members": members}
        for id in sorted(was.keys() & now.keys())
        if (members := _members_between(was[id], now[id]))
    ]
    return {
        "came": [{"id": id, "role": now[id].role} for id in sorted(now.keys() - was.keys())],
        "left": [{"id": id, "role": was[id].role} for id in sorted(was.keys() - now.keys())],
        "changed": changed,
    }


_BOOKKEEPING = frozenset({"updated_at", "cause", "signature", "revision"})


def _members_between(was: Entry, now: Entry) -> dict[str, Any]:
    one, other = structs.asdict(was), structs.asdict(now)
    return {
        name: {"before": one[name], "after": other[name]}
        for name in one
        if name not in _BOOKKEEPING and one[name] != other[name]
    }


def _show_difference(told: dict[str, Any]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("AGENT", overflow="ellipsis", no_wrap=True, max_width=28)
    table.add_column("WHAT", no_wrap=True)
    table.add_column("BEFORE", overflow="fold")
    table.add_column("AFTER", overflow="fold")
    for what, style in (("came", "green"), ("left", "yellow")):
        for one in told[what]:
            table.add_row(Text(f"{one['role']} {one['id']}"), Text(what, style=style), "", "")
    for one in told["changed"]:
        for name, values in one["members"].items():
            agent = Text(f"{one['role']} {one['id']}")
            cells = (_short(values[when]) for when in ("before", "after"))
            table.add_row(agent, Text(name, style="cyan"), *map(Text, cells))
    if table.row_count:
        out.print(table)
    else:
        out.print("nothing differs")


def _short(value: object) -> str:
    text = "-" if value in (None, "", (), {}) else codec.encode(value).decode() if not isinstance(value, str) else value
    return text if len(text) <= 200 else f"{text[:199]}…"


@app.command("who-was-alive")
@connects()
def who_was_alive(
    role: Annotated[str, typer.Option("--role", help="Of which role.")],
    at: Annotated[str, typer.Option("--at", metavar="TIME|REVISION", help=MOMENT)],
    nats: Nats = None,
    realm: Realm = "default",
    json: Json = False,
) -> None:
    """Show which agents of a role the registry believed alive at a moment. Exit code 1 when there was none.

    Example: rollcall who-was-alive --role worker --at 10m
    """
    asked = moment(at)

    async def main() -> Page:
        async with joined(nats, realm) as registry:
            return await registry.as_of(role=role, **asked)

    page = run(main())
    alive = tuple(entry for entry in page if entry.beating and entry.lost_at is None)
    page = structs.replace(page, agents=alive, count=len(alive))
    if json:
        print_json(page)
    else:
        if alive:
            out.print(agents_table(alive))
        else:
            err.print(Text(f"no {role} was alive then"))
        show_when(page)
    raise typer.Exit(0 if alive else NO)


@app.command()
@connects()
def rollback(
    id: Annotated[str, typer.Argument(help="The agent's id; it may be gone.")],
    to: Annotated[str, typer.Option("--to", metavar="REVISION|TIME", help=MOMENT)],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would change; change nothing.")] = False,
    nats: Nats = None,
    realm: Realm = "default",
    json: Json = False,
) -> None:
    """Make an agent say again what it said at a moment: its record and its intent, never whether it is alive.

    It is a new change, and happens only if nobody changes the agent meanwhile. Who left is registered again.

    Example: rollcall rollback w1 --to 120
    """
    asked = moment(to)

    async def main() -> dict[str, Any]:
        async with joined(nats, realm) as registry:
            return await _roll_back(registry, id, asked, dry_run=dry_run)

    told = run(main())
    if json:
        print_json(told)
        return
    would = "would change" if dry_run else "changed"
    if told["registers"]:
        out.print(Text(f"{id} {'would be' if dry_run else 'is'} registered again, as it was at revision {told['to']}"))
    elif not told["members"]:
        out.print(Text(f"{id} says already what it said at revision {told['to']}"))
    for name, values in told["members"].items():
        out.print(Text(f"{would} {name}: {_short(values['before'])} -> {_short(values['after'])}"))


async def _roll_back(registry: Registry, id: str, asked: Asked, *, dry_run: bool) -> dict[str, Any]:
    then = await registry.as_of(id=id, **asked)
    if not then.agents:
        raise NotFound(f"{id!r} was not on the roll at that moment; `rollcall history` shows when it was")
    was = then[0]
    told: dict[str, Any] = {"id": id, "to": was.revision, "dry_run": dry_run, "registers": False, "members": {}}
    try:
        now = await registry.get(id)
    except NotFound:
        if not dry_run:
            await registry.announce(profile_of(was), Mode.CREATE)
        return {**told, "registers": True}
    if now.role != was.role:
        raise Conflict(f"{id!r} is {now.role} now and was {was.role} then; deregister it first, then roll back")
    before, after = _own(now), _own(was)
    told["members"] = {
        name: {"before": before.get(name), "after": after.get(name)}
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    }
    patch = _patch(before, after)
    if patch and not dry_run:
        await registry.update(now.role, id, patch, expected=now.revision)
    return told


def _own(entry: Entry) -> dict[str, Any]:
    """What an agent, or an operator, says: all that a patch may change."""
    said: dict[str, Any] = codec.members(entry)
    return {name: said[name] for name in Profile.__struct_fields__ if name in said and name not in FIXED}


def _patch(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """The patch that goes back. What says null somewhere within is beyond a merge patch.

    Raises:
        Invalid: the record of then cannot be reached by one.
    """
    patch = patch_between(before, after)
    unreachable = [name for name in patch if name in after and _loses_null(before.get(name), after[name])]
    if unreachable:
        names = ", ".join(unreachable)
        raise Invalid(f"{names}: a member within was null then, and an update cannot say so; register the agent anew")
    return patch


def _loses_null(before: Any, after: Any) -> bool:  # Any: whatever JSON can hold
    """Whether a member within, where a patch reaches, has to become null."""
    if not isinstance(after, dict):
        return False
    held = before if isinstance(before, dict) else {}
    return any(
        held.get(name, ...) is not None if value is None else _loses_null(held.get(name), value)
        for name, value in after.items()
    )

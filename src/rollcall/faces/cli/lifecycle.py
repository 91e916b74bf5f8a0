"""Stopping agents, retiring them, starting them anew; and who is meant by a name."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.text import Text

from rollcall import Entry, Registry
from rollcall.faces.cli.access import connects, joined
from rollcall.faces.cli.common import NO, Json, Nats, Realm, err, out, print_json, run

app = typer.Typer()

Ref = Annotated[str, typer.Argument(metavar="REF", help="The agent's id, or its name.")]


@app.command()
@connects()
def stop(ref: Ref, nats: Nats = None, realm: Realm = "default", json: Json = False) -> None:
    """Stop an agent: its record stays, and it can be started anew. Its process is told nothing.

    Example: rollcall stop reviewer
    """
    _do(lambda tools, registry: tools.stop(registry, ref), "stopped", nats, realm, json)


@app.command()
@connects()
def retire(ref: Ref, nats: Nats = None, realm: Realm = "default", json: Json = False) -> None:
    """Take a stopped agent out of use for good; its record stays.

    Example: rollcall retire reviewer
    """
    _do(lambda tools, registry: tools.retire(registry, ref), "retired", nats, realm, json)


@app.command()
@connects()
def purge(ref: Ref, nats: Nats = None, realm: Realm = "default", json: Json = False) -> None:
    """Take an agent that is stopped, retired or lost off the roll.

    Example: rollcall purge reviewer
    """
    _do(lambda tools, registry: tools.purge(registry, ref), "purged", nats, realm, json)


@app.command()
@connects()
def relaunch(
    ref: Ref,
    session: Annotated[str, typer.Option("--session", help="The terminal session it runs in now.")] = "",
    nats: Nats = None,
    realm: Realm = "default",
    json: Json = False,
) -> None:
    """Say that a stopped agent is started anew, as another generation. Its process is yours to start.

    Example: rollcall relaunch reviewer --session reviewer-2
    """
    _do(lambda tools, registry: tools.relaunch(registry, ref, session=session), "relaunched", nats, realm, json)


@app.command()
@connects()
def resolve(
    ref: Annotated[str, typer.Argument(metavar="REF", help="An id or a name; with --session, a terminal session.")],
    session: Annotated[bool, typer.Option("--session", help="REF is a terminal session.")] = False,
    nats: Nats = None,
    realm: Realm = "default",
    json: Json = False,
) -> None:
    """Show which agent is meant by an id, a name or a terminal session. Exit code 1 for none, 4 for several.

    Example: rollcall resolve HOUMAO-reviewer
    """
    from rollcall.faces.files.houmao import finding, resolution  # noqa: PLC0415  models load slowly

    async def main() -> dict[str, Any]:
        async with joined(nats, realm) as registry:
            found = await (finding.in_session(registry, ref) if session else finding.found(registry, ref))
        told = resolution.resolved(ref, found, datetime.now(UTC))
        if json:
            print_json(told)
        one = finding.only(found, ref)
        if not json and one is not None:
            _show(told, resolution.inactive(ref, one) if told["status"] == "offline" else "")
        return told

    told = run(main())
    if not told["agent_id"]:
        err.print(Text(told["detail"]))
        raise typer.Exit(NO)


def _do(
    step: Callable[[Any, Registry], Awaitable[Entry]], done: str, nats: str | None, realm: str, as_json: bool
) -> None:
    from rollcall.faces.files.houmao import lifecycle as tools  # noqa: PLC0415  models load slowly

    async def main() -> Entry:
        async with joined(nats, realm) as registry:
            return await step(tools, registry)

    entry = run(main())
    if as_json:
        print_json(entry)
    else:
        out.print(Text(f"{done} {entry.role} {entry.id} at revision {entry.revision}"))


def _show(told: dict[str, Any], inactive: str) -> None:
    out.print(Text(f"{told['agent_id']} {told['agent_name']}: {told['lifecycle_state']}, {told['status']}"))
    for name in ("tool", "backend", "manifest_path", "session_root"):
        out.print(Text(f"{name}: {told[name] or '-'}"))
    if inactive:
        err.print(Text(inactive), soft_wrap=True)

"""What operators do to a registry that runs: call the roll, end the guard."""

import asyncio
import getpass
import time
from typing import Annotated

import typer
from rich.progress import Progress
from rich.text import Text

from rollcall import Entry, Registry
from rollcall.core.instants import Seconds, instant
from rollcall.faces.cli.access import connects, joined
from rollcall.faces.cli.common import NO, Json, Nats, Realm, err, out, print_json, run
from rollcall.faces.cli.show import pending_table

app = typer.Typer()
guard = typer.Typer(no_args_is_help=True, help="Self-preservation: doubt when very many fall silent at once.")

PendingId = Annotated[str, typer.Argument(help="The id of the agent.")]

AFTER_WINDOW: Seconds = 1.0


@app.command()
@connects()
def call(nats: Nats = None, realm: Realm = "default", json: Json = False) -> None:
    """Call the roll: every agent announces itself again. Exit code 1 when somebody stays silent.

    Example: rollcall call
    """

    async def main() -> int:
        async with joined(nats, realm) as registry:
            since = instant((await registry.info())["time"])
            called = await registry.call_roll()
            await _wait(called["window"] + AFTER_WINDOW, quiet=json)
            answered, silent = await _roll(registry, since)
        if json:
            print_json({**called, "answered": len(answered), "silent": [entry.id for entry in silent]})
        else:
            out.print(f"{len(answered)} of {len(answered) + len(silent)} agents answered")
            for entry in silent:
                out.print(Text(f"silent: {entry.role} {entry.id}, last seen {entry.last_seen or 'never'}"))
        return NO if silent else 0

    raise typer.Exit(run(main()))


async def _wait(seconds: Seconds, *, quiet: bool) -> None:
    with Progress(console=err, transient=True, disable=quiet or not err.is_terminal) as progress:
        task = progress.add_task("agents answer", total=seconds)
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            progress.update(task, completed=seconds - left)
            await asyncio.sleep(min(0.1, left))


async def _roll(registry: Registry, since: int) -> tuple[list[Entry], list[Entry]]:
    """Of those who should beat and were not lost before: who was heard since the call, and who was not."""
    page = await registry.list(exact=True)
    expected = [entry for entry in page if entry.beating and entry.ttl is not None]
    expected = [entry for entry in expected if entry.lost_at is None or instant(entry.lost_at) >= since]
    answered = [entry for entry in expected if entry.last_seen is not None and instant(entry.last_seen) >= since]
    heard = {entry.id for entry in answered}
    return answered, [entry for entry in expected if entry.id not in heard]


@app.command()
@connects()
def pending(nats: Nats = None, realm: Realm = "default", json: Json = False) -> None:
    """Show which commands wait for an approval, or for a slow policy."""

    async def main() -> None:
        async with joined(nats, realm) as registry:
            told = await registry.pending()
        if json:
            print_json({"pending": told})
        elif told:
            out.print(pending_table(told))
        else:
            out.print("nothing waits")

    run(main())


@app.command()
@connects()
def approve(id: PendingId, nats: Nats = None, realm: Realm = "default", json: Json = False) -> None:
    """Let the command happen that waits longest for an agent.

    Example: rollcall approve w1
    """
    _settle(id, "", True, nats, realm, json)


@app.command()
@connects()
def deny(
    id: PendingId,
    reason: Annotated[str, typer.Option("--reason", help="Why, for the agent and for its history.")] = "",
    nats: Nats = None,
    realm: Realm = "default",
    json: Json = False,
) -> None:
    """Refuse the command that waits longest for an agent.

    Example: rollcall deny w1 --reason "not in this cluster"
    """
    _settle(id, reason, False, nats, realm, json)


def _settle(id: str, reason: str, approved: bool, nats: str | None, realm: str, as_json: bool) -> None:
    async def main() -> None:
        by = getpass.getuser()
        async with joined(nats, realm) as registry:
            told = await (registry.approve(id, by=by) if approved else registry.deny(id, reason=reason, by=by))
        if as_json:
            print_json(told)
        else:
            word = "approved" if approved else "denied"
            out.print(Text(f"{word}: {told['verb']} {told['role']} {id}; {told['behind']} more wait behind it"))

    run(main())


@guard.command()
@connects()
def release(nats: Nats = None, realm: Realm = "default", json: Json = False) -> None:
    """End the guard now: whoever it holds is lost, unless it beats.

    Example: rollcall guard release
    """

    async def main() -> None:
        async with joined(nats, realm) as registry:
            told = await registry.release_guard()
        if json:
            print_json(told)
        elif told["released"]:
            out.print(Text(f"released; it said: {told['guard']['why']}"))
        else:
            out.print("the guard rests; nobody is held")

    run(main())


@guard.command()
@connects()
def show(nats: Nats = None, realm: Realm = "default", json: Json = False) -> None:
    """Show whether the guard holds anybody, and why."""

    async def main() -> None:
        async with joined(nats, realm) as registry:
            told = (await registry.info())["guard"]
        if json:
            print_json({"guard": told})
        elif told is None:
            out.print("the guard rests; nobody is held")
        else:
            out.print(Text(f"holds {told.get('held', 0)} agents: {told['why']}"))

    run(main())

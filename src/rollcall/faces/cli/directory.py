"""Houmao's shared registry directory: agents of the realm into it, and out of it, once or all the time."""

from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.progress import Progress
from rich.text import Text

from rollcall.faces.cli.access import connects, joined
from rollcall.faces.cli.common import NO, Json, Nats, Realm, err, out, print_json, run

files = typer.Typer(no_args_is_help=True, help="A shared registry directory, as Houmao's tools keep it.")

Root = Annotated[
    Path | None,
    typer.Option("--root", metavar="DIR", help="The directory. Default: $HOUMAO_GLOBAL_REGISTRY_DIR, or Houmao's own."),
]
SHOWN = 20


def tools() -> Any:  # Any: a module
    """What reads and writes the directory; loaded late, for no other command needs it."""
    from rollcall.faces.files.houmao import incoming, outgoing  # noqa: PLC0415  watchfiles and models load slowly

    return incoming, outgoing


def root_of(given: Path | None) -> Path:
    """The directory that is meant."""
    from rollcall.faces.files.houmao import directory as places  # noqa: PLC0415  loaded late, as above

    return places.registry_root(given)


@files.command()
@connects()
def export(root: Root = None, nats: Nats = None, realm: Realm = "default", json: Json = False) -> None:
    """Write every agent of the realm that has the pointers for it; what is the same already is left alone.

    Example: rollcall files export --root ~/.config/houmao/registry
    """
    _, outgoing = tools()
    place = root_of(root)

    async def main() -> Any:  # Any: what was exported
        async with joined(nats, realm) as registry:
            entries = list(await registry.list(exact=True))
        with _progress(json, "writes", len(entries)) as advance:
            return outgoing.export(outgoing.Directory(place), entries, datetime.now(UTC), lambda: advance(1))

    told = run(main())
    _show(told, json)
    raise typer.Exit(NO if told.left else 0)


@files.command()
@connects()
def mirror(root: Root = None, nats: Nats = None, realm: Realm = "default", json: Json = False) -> None:
    """Write every agent of the realm, and then each change as it happens, until Ctrl-C.

    Example: rollcall files mirror --root ~/.config/houmao/registry
    """
    _, outgoing = tools()
    place = root_of(root)

    async def main() -> None:
        async with joined(nats, realm) as registry:
            if not json:
                err.print(Text(f"mirrors realm {registry.realm} into {place}", style="dim"))
            await _follow(outgoing.Mirroring(registry, place).run(), json)

    run(main(), endless=True)


@files.command(name="import")
@connects()
def import_(root: Root = None, nats: Nats = None, realm: Realm = "default", json: Json = False) -> None:
    """Register the agents of the directory. Exit code 1 when one is stale or refused; the others are taken in.

    Example: rollcall files import --root ~/.config/houmao/registry
    """
    incoming, _ = tools()
    place = root_of(root)

    async def main() -> Any:  # Any: what was imported
        async with joined(nats, realm) as registry:
            with _progress(json, "takes in", None) as advance:
                return await incoming.Incoming(registry, place).take_in(advance=advance)

    told = run(main())
    _show(told, json)
    raise typer.Exit(NO if told.stale or told.refused else 0)


@files.command()
@connects()
def watch(root: Root = None, nats: Nats = None, realm: Realm = "default", json: Json = False) -> None:
    """Register the agents of the directory, and then whatever changes there, until Ctrl-C.

    Example: rollcall files watch --root ~/.config/houmao/registry
    """
    incoming, _ = tools()
    place = root_of(root)

    async def main() -> None:
        async with joined(nats, realm) as registry:
            if not json:
                err.print(Text(f"watches {place} for realm {registry.realm}", style="dim"))
            await _follow(incoming.watch(registry, place), json)

    run(main(), endless=True)


class _Advance:
    """A progress bar on a terminal, nothing elsewhere."""

    def __init__(self, quiet: bool, what: str, total: int | None) -> None:
        self._progress = Progress(console=err, transient=True, disable=quiet or not err.is_terminal)
        self._what, self._total = what, total

    def __enter__(self) -> Callable[[int], object]:
        self._progress.__enter__()
        task = self._progress.add_task(self._what, total=self._total)
        return lambda count: self._progress.advance(task, count)

    def __exit__(self, *error: Any) -> None:  # Any: as every context manager
        self._progress.__exit__(*error)


_progress = _Advance


async def _follow(done: AsyncIterator[Any], as_json: bool) -> None:  # Any: what was exported, or imported
    """Tells what is done, each time that anything is: numbers of what stays the same are no news."""
    first = True
    async for told in done:
        counts = {name: value for name, value in msgspec.to_builtins(told).items() if name not in ("root", "unchanged")}
        if first or any(counts.values()):
            _show(told, as_json)
        first = False


def _show(told: Any, as_json: bool) -> None:  # Any: what was exported, or imported
    if as_json:
        print_json(told)
        return
    said = msgspec.to_builtins(told)
    counts = ", ".join(f"{value} {name}" for name, value in said.items() if isinstance(value, int))
    out.print(Text(f"{counts}: {told.root}"))
    for name in ("left", "stale", "refused"):
        troubles = said.get(name, [])
        for one in troubles[:SHOWN]:
            whom, why = one.get("id") or one.get("path", ""), one.get("why") or one.get("message")
            err.print(Text(f"{name}: {whom}: {why}"))
        if len(troubles) > SHOWN:
            err.print(f"and {len(troubles) - SHOWN} more {name}; --json shows all")

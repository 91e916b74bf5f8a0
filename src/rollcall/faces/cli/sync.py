"""Commands that keep files of other registries in step with the roll."""

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from rollcall.core.errors import Misconfigured
from rollcall.faces.cli.access import connects, joined
from rollcall.faces.cli.common import NO, Json, Nats, Realm, err, out, print_json, run

sync = typer.Typer(no_args_is_help=True, help="Keep files of other registries in step with the roll.")

REFUSED = 6

Root = Annotated[Path, typer.Argument(metavar="PATH", help="The directory of the mindX installation.")]
DirectionOption = Annotated[str, typer.Option("--direction", help="both, runtime_to_file or file_to_runtime.")]
PolicyOption = Annotated[
    str, typer.Option("--policy", help="Who wins where both changed: runtime, file, newest, or hold for nobody.")
]
DeletionsOption = Annotated[str, typer.Option("--deletions", help="keep the other side, or propagate them.")]
Keys = Annotated[str, typer.Option("--keys", help="Where wallets are kept: file, or the platform's keyring.")]


@sync.command()
@connects()
def mindx(
    path: Root,
    direction: DirectionOption = "both",
    policy: PolicyOption = "runtime",
    deletions: DeletionsOption = "keep",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would happen; change nothing.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Go on, whenever either side changes.")] = False,
    update_keys: Annotated[bool, typer.Option("--update-keys", help="Only give wallets to who has none.")] = False,
    status: Annotated[bool, typer.Option("--status", help="Show the last sync and open conflicts.")] = False,
    history: Annotated[bool, typer.Option("--history", help="Show the syncs that changed something.")] = False,
    rollback: Annotated[
        str, typer.Option("--rollback", metavar="SYNC_ID", help="Undo this sync and all after it.")
    ] = "",
    no_validate: Annotated[bool, typer.Option("--no-validate", help="Check no signatures.")] = False,
    no_missing_keys: Annotated[bool, typer.Option("--no-missing-keys", help="Make no wallets.")] = False,
    keys: Keys = "file",
    nats: Nats = None,
    realm: Realm = "default",
    json: Json = False,
) -> None:
    """Bring mindX's file of agents and the roll together, in both directions.

    Example: rollcall sync mindx ./mindX --dry-run
    """
    _one_of("--direction", direction, ("both", "runtime_to_file", "file_to_runtime"))
    _one_of("--policy", policy, ("runtime", "file", "newest", "hold"))
    _one_of("--deletions", deletions, ("keep", "propagate"))
    _one_of("--keys", keys, ("file", "keyring"))
    actions = {
        "plan": dry_run,
        "update_keys": update_keys,
        "status": status,
        "history": history,
        "rollback": bool(rollback),
    }
    wanted = [name for name, on in actions.items() if on]
    if len(wanted) > 1 or (wanted and watch):
        raise typer.BadParameter("--dry-run, --watch, --update-keys, --status, --history, --rollback: choose one")
    action = wanted[0] if wanted else "sync_all"

    if not path.is_dir():
        raise Misconfigured(f"{path} is no directory; give that of the mindX installation")

    async def main() -> int:
        tools = _tools()
        async with joined(nats, realm) as registry:
            tool = tools.RegistrySyncTool(
                registry=registry,
                root=path,
                wallets=tools.KeyringWallets(str(path.resolve())) if keys == "keyring" else None,
                direction=direction,
                policy=policy,
                deletions=deletions,
            )
            if not watch:
                with err.status("syncing") if err.is_terminal else nullcontext():
                    ok, told = await tool.execute(action, not no_validate, not no_missing_keys, sync_id=rollback)
                return _told(action, ok, told, json)
            async for ok, told in tools.keep_in_sync(
                tool, registry, validate_signatures=not no_validate, update_missing_keys=not no_missing_keys
            ):
                if not ok or told["agents_added"] or told["agents_changed"] or told["keys_updated"] or told["errors"]:
                    _told(action, ok, told, json)
            return 0

    raise typer.Exit(run(main(), endless=watch))


def _tools() -> Any:  # Any: a module
    try:
        from rollcall.faces.files import mindx as tools  # noqa: PLC0415  its cryptography is slow to load, and an extra
    except ImportError as error:
        raise Misconfigured(f"{error.name} is missing; install it: pip install 'rollcall-bus[mindx]'") from error
    return tools


def _one_of(option: str, value: str, values: Sequence[str]) -> None:
    if value not in values:
        raise typer.BadParameter(f"{option} {value!r} is none of {', '.join(values)}")


def _told(action: str, ok: bool, told: Any, as_json: bool) -> int:  # Any: what the action gives
    """Says what was done; returns the exit code."""
    if not ok:
        if as_json:
            print_json({"error": told})
        else:
            err.print(Text(str(told)))
        return REFUSED
    if as_json:
        print_json(told)
    elif action == "history":
        out.print(_history(told["history"]))
    else:
        _lines(told)
    return NO if told.get("errors") or any(one["winner"] == "hold" for one in told.get("conflicts", ())) else 0


def _lines(told: dict[str, Any]) -> None:
    for name, value in told.items():
        if name == "changes":
            for one in value:
                out.print(Text(f"{one['id']} {one['field']}: from the {one['origin']}"))
        elif name == "conflicts":
            for one in value:
                sides = f"file {one['file']!r}, runtime {one['runtime']!r}"
                out.print(Text(f"conflict: {one['id']} {one['field']}: {sides}; {one['winner']}"))
        elif name == "errors":
            for one in value:
                err.print(Text(one))
        elif name == "last_sync":
            out.print(Text(f"last sync: {value['sync_id'] if value else 'none'}"))
        else:
            out.print(Text(f"{name.replace('_', ' ')}: {value}"))


def _history(items: Sequence[dict[str, Any]]) -> Table:
    table = Table("sync", "changes", "agents", box=None, pad_edge=False)
    for item in items:
        agents = ", ".join(dict.fromkeys(edit["id"] for edit in item["changes"]))
        table.add_row(Text(item["sync_id"]), str(len(item["changes"])), Text(agents))
    return table

"""Commands for agents: register, run, heartbeat, update, deregister."""

import asyncio
import os
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from rollcall import Entry, Health, Mode
from rollcall.core import codec
from rollcall.core.errors import Invalid
from rollcall.faces.cli.access import bus, connects, joined
from rollcall.faces.cli.common import Json, Nats, Realm, out, pairs, print_json, run, values
from rollcall.faces.cli.supervise import attend, supervise

app = typer.Typer()

Role = Annotated[str, typer.Option("--role", help="What kind of agent.")]
Id = Annotated[str, typer.Option("--id", help="Its id, one in the realm.")]
Name = Annotated[str, typer.Option("--name", help="Its name for people; default its id.")]
Capability = Annotated[list[str], typer.Option("--capability", "-c", help="What it can do; repeat for several.")]
Endpoint = Annotated[list[str], typer.Option("--endpoint", metavar="K=URL", help="Where it is reached.")]
Label = Annotated[list[str], typer.Option("--label", metavar="K=V", help="A label to select by.")]
Metadata = Annotated[list[str], typer.Option("--metadata", metavar="K=V", help="Anything else; JSON or text.")]
Pointer = Annotated[list[str], typer.Option("--pointer", metavar="K=PATH", help="A path or URL it points to.")]
Ttl = Annotated[str, typer.Option("--ttl", help="Seconds without a beat until it is lost; 'none' for no lease.")]
Address = Annotated[str, typer.Option("--address", help="Host, or host:port.")]
Description = Annotated[str, typer.Option("--description", help="What it is, in a sentence.")]
AgentVersion = Annotated[str, typer.Option("--version", help="Its own version.")]


def _said(
    name: str,
    capability: list[str],
    endpoint: list[str],
    label: list[str],
    metadata: list[str],
    pointer: list[str],
    ttl: str,
    address: str,
    description: str,
    version: str,
) -> dict[str, Any]:
    """The fields of a record that options name; what was not given is left out."""
    said: dict[str, Any] = {
        "name": name,
        "capabilities": capability,
        "endpoints": pairs("endpoint", endpoint),
        "labels": pairs("label", label),
        "metadata": values("metadata", metadata),
        "pointers": pairs("pointer", pointer),
        "address": address,
        "description": description,
        "version": version,
    }
    said = {field: value for field, value in said.items() if value}
    if ttl:
        said["ttl"] = _ttl(ttl)
    return said


def _ttl(text: str) -> float | None:
    if text == "none":
        return None
    try:
        return float(text)
    except ValueError as error:
        raise Invalid(f"--ttl {text!r} is neither seconds nor 'none'") from error


def _show(what: str, entry: Entry, as_json: bool) -> None:
    """What a command made of an agent."""
    if as_json:
        print_json(entry)
    else:
        out.print(f"{what} {entry.role} {entry.id} at revision {entry.revision}", markup=False)


@app.command()
@connects()
def register(
    role: Role,
    id: Id,
    name: Name = "",
    capability: Capability = [],
    endpoint: Endpoint = [],
    label: Label = [],
    metadata: Metadata = [],
    pointer: Pointer = [],
    ttl: Ttl = "",
    address: Address = "",
    description: Description = "",
    version: AgentVersion = "",
    mode: Annotated[Mode, typer.Option("--mode", help="What it may take.")] = Mode.CLAIM,
    registered_by: Annotated[str, typer.Option("--registered-by", help="Who says so.")] = "",
    nats: Nats = None,
    realm: Realm = "default",
    json: Json = False,
) -> None:
    """Register an agent once. It must beat within its ttl, or have none.

    Example: rollcall register --role worker --id w1 -c ocr --ttl none
    """

    async def main() -> None:
        said = _said(name, capability, endpoint, label, metadata, pointer, ttl, address, description, version)
        if registered_by:
            said["registered_by"] = registered_by
        async with joined(nats, realm) as registry:
            entry = await registry.register(role, id, mode=mode, **said)
        _show("registered", entry, json)

    run(main())


@app.command()
@connects()
def heartbeat(
    role: Role,
    id: Id,
    health: Annotated[list[str], typer.Option("--health", metavar="K=V", help="Such as cpu_percent=12.5")] = [],
    nats: Nats = None,
    realm: Realm = "default",
) -> None:
    """Send one sign of life, with health if given. There is no answer.

    Example: rollcall heartbeat --role worker --id w1 --health cpu_percent=12.5
    """

    async def main() -> None:
        said = values("health", health)
        unknown = said.keys() - set(Health.__struct_fields__)
        if unknown:
            raise Invalid(
                f"{', '.join(sorted(unknown))}: no such health; there is {', '.join(Health.__struct_fields__)}"
            )
        felt = codec.decode(codec.encode(said), Health) if health else None
        async with joined(nats, realm) as registry:
            await registry.heartbeat(role, id, health=felt)

    run(main())


@app.command()
@connects()
def update(
    role: Role,
    id: Id,
    set_: Annotated[list[str], typer.Option("--set", metavar="K=V", help="A field; JSON or text, null removes.")],
    expected: Annotated[int | None, typer.Option("--expected", help="Only at this revision.")] = None,
    nats: Nats = None,
    realm: Realm = "default",
    json: Json = False,
) -> None:
    """Change fields of a record.

    Example: rollcall update --role worker --id w1 --set status=draining --set 'labels={"zone":"b"}'
    """

    async def main() -> None:
        async with joined(nats, realm) as registry:
            entry = await registry.update(role, id, values("set", set_), expected=expected)
        _show("updated", entry, json)

    run(main())


@app.command()
@connects()
def deregister(
    role: Role,
    id: Id,
    reason: Annotated[str, typer.Option("--reason", help="Why, for the history.")] = "",
    nats: Nats = None,
    realm: Realm = "default",
    json: Json = False,
) -> None:
    """Take an agent off the roll.

    Example: rollcall deregister --role worker --id w1 --reason "scaled down"
    """

    async def main() -> None:
        async with joined(nats, realm) as registry:
            entry = await registry.deregister(role, id, reason=reason)
        _show("deregistered", entry, json)

    run(main())


@app.command(name="run", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
@connects()
def run_command(
    context: typer.Context,
    role: Role,
    name: Annotated[str, typer.Option("--name", help="Its name; default that of the program.")] = "",
    id: Annotated[str | None, typer.Option("--id", help="Its id; default made of its name.")] = None,
    capability: Capability = [],
    endpoint: Endpoint = [],
    label: Label = [],
    metadata: Metadata = [],
    pointer: Pointer = [],
    ttl: Ttl = "",
    address: Address = "",
    description: Description = "",
    version: AgentVersion = "",
    nats: Nats = None,
    realm: Realm = "default",
) -> None:
    """Run any program as an agent: on the roll while it lives, off it when it ends.

    Signals and the exit code pass through; a registry that is away never stops the program. With VERS_INFRA_URL and
    VERS_VM_ID set it reports to that registry of Vers, too.

    Example: rollcall run --role worker -c ocr -- python ocr.py --fast
    """
    if not context.args:
        raise typer.BadParameter("give the program after --, as in: rollcall run --role worker -- sleep 60")
    called = name or Path(context.args[0]).name
    said = _said(called, capability, endpoint, label, metadata, pointer, ttl, address, description, version)

    agent_id = id or f"{called}-{secrets.token_hex(4)}"
    environment = {
        "ROLLCALL_AGENT_ID": agent_id,
        "ROLLCALL_ROLE": role,
        "ROLLCALL_REALM": realm,
        "ROLLCALL_NATS": bus(nats),
    }

    async def main() -> int:
        ended = asyncio.Event()
        code = asyncio.create_task(supervise(context.args, {**os.environ, **environment}))
        code.add_done_callback(lambda _: ended.set())
        try:
            async with vers_report():
                await attend(lambda: joined(nats, realm, timeout=1.0), role, agent_id, said, ended)
        finally:
            await asyncio.wait((code,))
        return code.result()

    raise typer.Exit(run(main()))


@asynccontextmanager
async def vers_report() -> AsyncIterator[None]:
    """Reports to a registry of Vers where the environment names one."""
    if not os.environ.get("VERS_INFRA_URL"):
        yield
        return
    from rollcall.sdk.vers import reporting  # noqa: PLC0415  its HTTP client is slow to load, and few need it

    async with reporting():
        yield

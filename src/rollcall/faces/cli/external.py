"""Agents that another registry owns, under names of this one."""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from rollcall import Registry
from rollcall.faces.cli.access import connects, joined
from rollcall.faces.cli.common import Json, Nats, Realm, err, out, print_json, run

external = typer.Typer(no_args_is_help=True, help="Agents that another registry owns.")

AgentId = Annotated[str, typer.Option("--agent-id", help="Its id here.")]
AgentName = Annotated[str, typer.Option("--agent-name", help="Its local name.")]


@external.command()
@connects()
def register(
    name: Annotated[str, typer.Option("--name", help="How it is called here.")],
    api_base_url: Annotated[str, typer.Option("--api-base-url", metavar="URL", help="Where the other registry is.")],
    agent_ref: Annotated[str, typer.Option("--agent-ref", help="The agent's id or name there.")],
    gateway_enabled: Annotated[bool, typer.Option("--gateway-enabled", help="It has a gateway there.")] = False,
    replace: Annotated[bool, typer.Option("--replace", help="In place of one that has this name.")] = False,
    nats: Nats = None,
    realm: Realm = "default",
    json: Json = False,
) -> None:
    """Register an agent of another registry, once that one has said that it is there.

    Example: rollcall external register --name gpu --api-base-url http://10.0.0.7:9891 --agent-ref gpu-1
    """
    said = {"name": name, "api_base_url": api_base_url, "agent_ref": agent_ref}
    _do(
        lambda tools, registry: tools.register(registry, **said, gateway=gateway_enabled, replace=replace),
        nats,
        realm,
        json,
    )


@external.command(name="list")
@connects()
def list_(nats: Nats = None, realm: Realm = "default", json: Json = False) -> None:
    """List them. The other registries are not asked."""

    async def main() -> list[dict[str, Any]]:
        tools = _tools()
        async with joined(nats, realm) as registry:
            return [tools.told(record) for record in await tools.list_all(registry)]

    told = run(main())
    if json:
        print_json({"external_agents": told})
    elif told:
        out.print(_table(told))
    else:
        err.print("no agent of another registry is known")


@external.command()
@connects()
def get(
    agent_id: AgentId = "", agent_name: AgentName = "", nats: Nats = None, realm: Realm = "default", json: Json = False
) -> None:
    """Show one of them.

    Example: rollcall external get --agent-name gpu
    """

    async def asked(tools: Any, registry: Registry) -> dict[str, Any]:
        _, record = await tools.get(registry, id=agent_id, name=agent_name)
        return {"external_agent": tools.told(record), **await tools.gateway_of(record)}

    _do(asked, nats, realm, json)


@external.command()
@connects()
def verify(
    agent_id: AgentId = "", agent_name: AgentName = "", nats: Nats = None, realm: Realm = "default", json: Json = False
) -> None:
    """Ask the other registry again, and keep what it says.

    Example: rollcall external verify --agent-name gpu
    """
    _do(lambda tools, registry: tools.verify(registry, id=agent_id, name=agent_name), nats, realm, json)


@external.command()
@connects()
def remove(
    agent_id: AgentId = "", agent_name: AgentName = "", nats: Nats = None, realm: Realm = "default", json: Json = False
) -> None:
    """Forget one of them. The other registry is told nothing.

    Example: rollcall external remove --agent-name gpu
    """
    _do(lambda tools, registry: tools.remove(registry, id=agent_id, name=agent_name), nats, realm, json)


def _tools() -> Any:  # Any: a module
    from rollcall.faces.files.houmao import external as tools  # noqa: PLC0415  models and httpx load slowly

    return tools


def _do(
    step: Callable[[Any, Registry], Awaitable[dict[str, Any]]], nats: str | None, realm: str, as_json: bool
) -> None:
    async def main() -> dict[str, Any]:
        async with joined(nats, realm) as registry:
            return await step(_tools(), registry)

    told = run(main())
    if as_json:
        print_json(told)
        return
    one = told["external_agent"]
    if "action" in told:
        out.print(Text(f"{told['action']} {one['local_name']} as {one['external_agent_id']}"))
    else:
        table = Table(box=None, pad_edge=False, show_header=False)
        table.add_column(style="bold", no_wrap=True)
        table.add_column(overflow="fold")
        cached = one.pop("cached_identity")
        for name, value in {**one, **{f"there: {name}": value for name, value in cached.items()}}.items():
            if value is not None:
                table.add_row(name, Text(str(value)))
        out.print(table)


def _table(told: list[dict[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("NAME", "TOOL", "REGISTRY", "AGENT THERE", "VERIFIED"):
        table.add_column(name, overflow="ellipsis", no_wrap=True, max_width=28)
    for one in told:
        verified = (one["verified_at_utc"] or "never")[:19].replace("T", " ")
        words = (one["local_name"], one["cached_identity"]["tool"], one["pair_api_base_url"], one["remote_agent_ref"])
        table.add_row(*map(Text, words), verified)
    return table

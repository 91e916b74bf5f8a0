"""The main job, shown and checked: a server, a worker, twelve agents in four roles, and what befalls them."""

import asyncio
import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

import rollcall
from rollcall import Change, ChangeKind, Registry
from rollcall.core.errors import RollcallError, Unavailable
from rollcall.core.instants import Seconds
from rollcall.faces.cli.children import Spawn, children
from rollcall.faces.cli.common import err, forever, out, run
from rollcall.faces.cli.demo_agent import TTL
from rollcall.faces.cli.show import agents_table, change_line

app = typer.Typer()

FLEET = {
    "lieutenant": ("plan", 2),
    "worker": ("ocr", 5),
    "scout": ("search", 3),
    "infra": ("storage", 2),
}
"""Role -> what its agents can do, and how many there are: twelve in all."""

PATIENCE: Seconds = 20.0


class Failed(RollcallError):
    """A step of the demo did not happen."""

    code = "demo failed"


@app.command()
def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Leave everything running until Ctrl-C.")] = False,
) -> None:
    """Show the whole registry at work in half a minute, and check every step.

    Nothing is left behind: the data is temporary, the port is a free one.
    """
    run(_demo(keep), endless=keep)


async def _demo(keep: bool) -> None:
    started = time.monotonic()
    with _temporary() as home, children() as spawn:
        async with _registry(spawn, home) as registry:
            checked = await _show(registry, spawn)
            out.print()
            out.print(
                f"[bold green]{checked} steps shown, {checked} checked[/] in {time.monotonic() - started:.1f} s. "
                "Next: [bold]rollcall up[/]"
            )
            if keep:
                out.print(f"still running at [bold]{registry.url}[/]; try in another terminal:")
                out.print(f"  rollcall ls --nats {registry.url}", soft_wrap=True)
                out.print("Ctrl-C ends it.")
                await forever()


@asynccontextmanager
async def _registry(spawn: Spawn, home: Path) -> AsyncIterator[Registry]:
    """The bundled server and a worker, in a process of their own."""
    ready = home / "ready.json"
    log = home / "up.log"
    up = ["up", "--data-dir", str(home / "data"), "--nats-port", "0", "--http", "off"]
    up += ["--ready-file", str(ready)]
    process = spawn([sys.executable, "-m", "rollcall.faces.cli.app", *up], log)
    with _waiting("starting the bundled nats-server and a worker"):
        deadline = time.monotonic() + PATIENCE
        while not ready.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise Failed(f"`rollcall up` did not serve: {log.read_text().strip()[-500:] or 'it said nothing'}")
            await asyncio.sleep(0.02)
    url = json.loads(ready.read_text())["nats"]
    async with rollcall.connect(url) as registry:
        yield registry


async def _show(registry: Registry, spawn: Spawn) -> int:
    """Every step, in order; says how many there were."""
    steps = Steps()
    steps.done(f"a nats-server and a worker serve at {registry.url}")
    async with registry.watch() as watch:
        changes = Changes(watch)
        agents = await _start_fleet(registry, spawn, steps)
        await _show_discovery(registry, steps)
        changes.show()
        await _show_health(registry, steps)
        await _show_goodbye(registry, changes, agents, steps)
        await _show_death(registry, changes, agents, steps)
        await changes.close()
    return steps.count


async def _start_fleet(registry: Registry, spawn: Spawn, steps: "Steps") -> dict[str, "subprocess.Popen[bytes]"]:
    fleet = {
        f"{role}-{number}": (role, capability)
        for role, (capability, count) in FLEET.items()
        for number in range(1, count + 1)
    }
    agents = {
        id: spawn([sys.executable, "-m", "rollcall.faces.cli.demo_agent", registry.url, role, id, capability], None)
        for id, (role, capability) in fleet.items()
    }
    with _waiting(f"starting {len(fleet)} agents, each a process of its own"):
        await _until("all agents are registered", lambda: _registered(registry, len(fleet)))
    steps.done(f"{len(fleet)} agents in {len(FLEET)} roles registered")
    return agents


async def _registered(registry: Registry, count: int) -> bool:
    return len(await registry.list()) == count


async def _show_discovery(registry: Registry, steps: "Steps") -> None:
    for role, (capability, count) in FLEET.items():
        found = await registry.discover(role, capabilities=[capability])
        if {entry.id for entry in found} != {f"{role}-{number}" for number in range(1, count + 1)}:
            raise Failed(f"discover {role} found {[entry.id for entry in found]}, expected {count} agents")
    steps.done("discovered by role and capability, one request each:")
    out.print(agents_table(await registry.list()))
    nobody = await registry.discover("worker", capabilities=["juggling"])
    if nobody:
        raise Failed("discover found a worker that juggles")
    steps.done(f"a question that nobody fits is answered so, at revision {nobody.revision}")


async def _show_health(registry: Registry, steps: "Steps") -> None:
    async def beat_with_health() -> bool:
        entry = await registry.get("worker-1")
        return entry.health is not None and entry.health.cpu_percent == float(len("worker-1"))

    await _until("worker-1 tells its health", beat_with_health)
    health = (await registry.get("worker-1")).health
    assert health is not None
    steps.done(f"worker-1 beats with health: cpu {health.cpu_percent} %")


async def _show_goodbye(
    registry: Registry, changes: "Changes", agents: dict[str, "subprocess.Popen[bytes]"], steps: "Steps"
) -> None:
    asked = time.monotonic()
    agents["scout-1"].terminate()
    await changes.wait_for(ChangeKind.DEREGISTERED, "scout-1")
    took = (time.monotonic() - asked) * 1000
    if "scout-1" in {entry.id for entry in await registry.discover("scout")}:
        raise Failed("scout-1 left and is still discovered")
    steps.done(f"scout-1 left cleanly; everybody was told {took:.0f} ms after its SIGTERM")


async def _show_death(
    registry: Registry, changes: "Changes", agents: dict[str, "subprocess.Popen[bytes]"], steps: "Steps"
) -> None:
    killed = time.monotonic()
    agents["worker-5"].kill()
    await changes.wait_for(ChangeKind.LOST, "worker-5")
    took = time.monotonic() - killed
    if "worker-5" in {entry.id for entry in await registry.discover("worker")}:
        raise Failed("worker-5 is dead and still discovered")
    lost = await registry.get("worker-5")
    if lost.liveness != "lost":
        raise Failed(f"worker-5 is dead and called {lost.liveness}")
    steps.done(f"worker-5 was killed with -9; lost after {took:.1f} s (its ttl is {TTL:g} s)")


class Steps:
    """Counts what was shown, each when it really happened."""

    def __init__(self) -> None:
        self.count = 0

    def done(self, what: str) -> None:
        """One more step happened."""
        self.count += 1
        out.print(f"[green]✓[/] {what}")


class Changes:
    """The live watch: keeps every change, and shows them once asked to."""

    def __init__(self, watch: rollcall.Watch) -> None:
        self._watch = watch
        self._kept: list[Change] = []
        self._arrived = asyncio.Condition()
        self._shown = False
        self._task = asyncio.create_task(self._follow(), name="demo: watch")

    def show(self) -> None:
        """Shows what was broadcast so far in a line, and each change from now on."""
        registered = sum(change.kind is ChangeKind.REGISTERED for change in self._kept)
        out.print(f"[dim]  watch: {registered} registered so far; from now on each change as it is broadcast[/]")
        self._shown = True

    async def wait_for(self, kind: ChangeKind, id: str) -> None:
        """Waits until a change was broadcast."""
        try:
            async with asyncio.timeout(PATIENCE), self._arrived:
                await self._arrived.wait_for(lambda: any(c.kind is kind and c.id == id for c in self._kept))
        except TimeoutError as error:
            raise Failed(f"nobody was told within {PATIENCE:.0f} s that {id} is {kind}") from error

    async def close(self) -> None:
        """Ends the watch."""
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    async def _follow(self) -> None:
        async for change in self._watch:
            if self._shown:
                out.print("  ", change_line(change))
            async with self._arrived:
                self._kept.append(change)
                self._arrived.notify_all()


@contextmanager
def _temporary() -> Iterator[Path]:
    home = Path(tempfile.mkdtemp(prefix="rollcall-demo-"))
    try:
        yield home
    finally:
        shutil.rmtree(home, ignore_errors=True)


@contextmanager
def _waiting(what: str) -> Iterator[None]:
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True) as progress:
        progress.add_task(what)
        yield


async def _until(what: str, right: Callable[[], Awaitable[bool]]) -> None:
    """Waits until `right` says yes.

    Raises:
        Failed: it did not in time.
    """
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        with contextlib.suppress(Unavailable):
            if await right():
                return
        await asyncio.sleep(0.05)
    raise Failed(f"after {PATIENCE:.0f} s it is still not so that {what}")

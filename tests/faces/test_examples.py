"""The examples run as a reader would run them, and do what they say."""

import ast
import asyncio
import os
import re
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

import rollcall
from rollcall import Change, ChangeKind, Denied
from rollcall.worker import GoverningSettings
from tests.conftest import Bus, eventually, ids

EXAMPLES = Path(__file__).parents[2] / "examples"
PROGRAMS = ("plain_client.py", "policy.py", "watcher.py", "worker_fleet.py")
PATIENCE = 30.0


@asynccontextmanager
async def started(bus: Bus, program: str, *arguments: str) -> AsyncIterator[Process]:
    """An example as a process of its own, in the realm of the test by its environment; it never outlives the block."""
    environment = {**os.environ, "ROLLCALL_NATS": bus.url, "ROLLCALL_REALM": bus.realm}
    # What an example prints must come at once by its own doing.
    environment.pop("PYTHONUNBUFFERED", None)
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(EXAMPLES / program), *arguments, stdout=PIPE, stderr=PIPE, env=environment
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def ended(process: Process) -> tuple[int | None, list[str], str]:
    """The exit code, the lines that were not yet read, and stderr."""
    out, err = await asyncio.wait_for(process.communicate(), PATIENCE)
    return process.returncode, out.decode().splitlines(), err.decode()


async def ran(bus: Bus, program: str, *arguments: str) -> tuple[int | None, list[str], str]:
    """What became of an example that ends by itself."""
    async with started(bus, program, *arguments) as process:
        return await ended(process)


async def line(process: Process) -> str:
    """The next line it prints."""
    assert process.stdout is not None
    return (await asyncio.wait_for(process.stdout.readline(), PATIENCE)).decode().rstrip("\n")


def told(changes: list[Change]) -> list[tuple[str, str]]:
    """Kind and role of changes, sorted: agents of a fleet come and go in any order."""
    return sorted((str(change.kind), change.role) for change in changes)


def test_every_example_is_tested_here() -> None:
    assert sorted(path.name for path in EXAMPLES.glob("*.py")) == list(PROGRAMS)


@pytest.mark.parametrize("program", PROGRAMS)
def test_an_example_says_what_it_shows_and_how_to_run_it(program: str) -> None:
    said = ast.get_docstring(ast.parse((EXAMPLES / program).read_text())) or ""

    assert "It shows" in said
    assert f"    python examples/{program}" in said


@pytest.mark.parametrize("program", PROGRAMS)
async def test_the_options_that_an_example_recommends_exist(bus: Bus, program: str) -> None:
    said = ast.get_docstring(ast.parse((EXAMPLES / program).read_text())) or ""
    recommended = set(re.findall(r"--[a-z]+", said))

    code, lines, _ = await ran(bus, program, "--help")

    assert code == 0
    assert recommended
    assert recommended | {"--nats", "--realm"} <= set(re.findall(r"--[a-z]+", "\n".join(lines)))


async def test_the_lieutenant_gives_each_job_to_the_least_loaded_worker(bus: Bus) -> None:
    async with bus.served():
        code, lines, err = await ran(bus, "worker_fleet.py", "--workers", "4", "--jobs", "12")

    assert (code, err) == (0, "")
    assert re.fullmatch(r"fleet [0-9a-f]{8}: 4 workers, 12 jobs", lines[0])
    assert lines[1:] == [*(f"worker-{number}: 3 jobs" for number in (1, 2, 3, 4)), "done: 12 of 12"]


async def test_a_fleet_gives_jobs_to_its_own_workers_only(bus: Bus) -> None:
    async with bus.served() as registry:
        await registry.register("worker", "stranger", capabilities=["ocr", "resize"], ttl=None)

        code, lines, err = await ran(bus, "worker_fleet.py", "--workers", "2", "--jobs", "5")

    assert (code, err) == (0, "")
    assert sorted(lines[1:3]) in (["worker-1: 2 jobs", "worker-2: 3 jobs"], ["worker-1: 3 jobs", "worker-2: 2 jobs"])
    assert lines[3] == "done: 5 of 5"


async def test_a_fleet_registers_each_agent_once_and_leaves_nobody_behind(bus: Bus) -> None:
    async with bus.served() as registry, registry.watch() as watch:
        code, lines, _ = await ran(bus, "worker_fleet.py", "--workers", "3", "--jobs", "3")

        changes = [await asyncio.wait_for(anext(watch), PATIENCE) for _ in range(8)]
        page = await registry.list()

    assert code == 0
    fleet = lines[0].split()[1].rstrip(":")
    assert told(changes) == [
        ("deregistered", "lieutenant"),
        *[("deregistered", "worker")] * 3,
        ("registered", "lieutenant"),
        *[("registered", "worker")] * 3,
    ]
    workers = {change.id: change.record for change in changes if change.role == "worker"}
    assert sorted(workers) == [f"{fleet}-worker-{number}" for number in (1, 2, 3)]
    assert all(record.capabilities == ("ocr", "resize") for record in workers.values())
    assert ids(page) == []


async def test_a_fleet_without_workers_says_that_nobody_can_do_the_job(bus: Bus) -> None:
    async with bus.served():
        code, lines, err = await ran(bus, "worker_fleet.py", "--workers", "0", "--jobs", "1")

    assert code == 1
    assert lines[0].endswith("0 workers, 1 jobs")
    assert err.startswith("not_found: no live worker of fleet")
    assert "Traceback" not in err


async def test_the_watcher_prints_each_change(bus: Bus) -> None:
    async with bus.served() as registry:
        async with started(bus, "watcher.py", "--role", "worker", "--count", "4") as process:
            assert await line(process) == "watching worker: 0 on the roll"

            first = await registry.register("worker", "a1", ttl=None)
            second = await registry.update("worker", "a1", {"labels": {"zone": "b"}})
            third = await registry.register("worker", "a2", ttl=None)
            fourth = await registry.deregister("worker", "a1", reason="scaled down")
            code, lines, err = await ended(process)

    assert (code, err) == (0, "")
    assert lines == [
        f"{first.revision} registered worker a1",
        f"{second.revision} updated worker a1",
        f"{third.revision} registered worker a2",
        f"{fourth.revision} deregistered worker a1 (scaled down)",
        "on the roll (current): a2 live",
    ]


async def test_the_watcher_prints_a_change_while_it_goes_on_watching(bus: Bus) -> None:
    async with bus.served() as registry, started(bus, "watcher.py") as process:
        assert await line(process) == "watching worker: 0 on the roll"

        entry = await registry.register("worker", "a1", ttl=None)

        assert await line(process) == f"{entry.revision} registered worker a1"
        assert process.returncode is None


async def test_the_watcher_keeps_to_its_role(bus: Bus) -> None:
    async with bus.served() as registry:
        await registry.register("worker", "before", ttl=None)
        async with started(bus, "watcher.py", "--role", "worker", "--count", "1") as process:
            assert await line(process) == "watching worker: 1 on the roll"

            await registry.register("infra", "other", ttl=None)
            entry = await registry.register("worker", "mine", ttl=None)
            code, lines, _ = await ended(process)

    assert code == 0
    assert lines == [
        f"{entry.revision} registered worker mine",
        "on the roll (current): before live, mine live",
    ]


async def test_ctrl_c_ends_the_watcher_with_what_it_knows(bus: Bus) -> None:
    async with bus.served() as registry:
        await registry.register("worker", "a1", ttl=None)
        async with started(bus, "watcher.py") as process:
            assert await line(process) == "watching worker: 1 on the roll"

            process.send_signal(signal.SIGINT)
            code, lines, err = await ended(process)

    assert (code, err) == (0, "")
    assert lines == ["on the roll (current): a1 live"]


async def test_the_watcher_says_when_there_is_no_registry_to_watch(bus: Bus) -> None:
    code, lines, err = await ran(bus, "watcher.py", "--count", "1")

    assert (code, lines) == (1, [])
    assert err.startswith(f"unavailable: no worker answers in realm '{bus.realm}'")


def test_the_plain_client_imports_nothing_of_rollcall() -> None:
    tree = ast.parse((EXAMPLES / "plain_client.py").read_text())

    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}

    roots = {name.partition(".")[0] for name in imported}
    assert roots - set(sys.stdlib_module_names) == {"nats"}


async def test_the_plain_client_lives_a_whole_life_on_the_roll(bus: Bus) -> None:
    async with bus.served() as registry:
        await registry.register("worker", "peer", capabilities=["plain"], ttl=None)
        await registry.register("worker", "unfit", capabilities=["ocr"], ttl=None)

        code, lines, err = await ran(bus, "plain_client.py", "--role", "worker", "--id", "p1")

        history = await registry.history("p1")
        page = await registry.list()

    assert (code, err) == (0, "")
    came, left = history
    assert (came.kind, left.kind) == (ChangeKind.REGISTERED, ChangeKind.DEREGISTERED)
    # When it said so, the registry adds.
    assert [re.sub(r', "checked_at": "[^"]+"', "", line) for line in lines] == [
        f"registered worker p1 at revision {came.revision}",
        'beat 3 times: live, health {"active_connections": 3}',
        "discovered p1, peer",
        f"deregistered p1 at revision {left.revision}",
    ]
    assert (came.record.capabilities, came.record.ttl) == (("plain",), 10.0)
    assert left.reason == "the example ends"
    assert ids(page) == ["peer", "unfit"]


async def test_the_plain_client_spells_any_id(bus: Bus) -> None:
    id = "ü/b.c d"
    async with bus.served() as registry:
        code, lines, err = await ran(bus, "plain_client.py", "--role", "web worker", "--id", id)

        history = await registry.history(id)

    assert (code, err) == (0, "")
    assert lines[0] == f"registered web worker {id} at revision {history[0].revision}"
    assert [change.role for change in history] == ["web worker", "web worker"]


async def test_the_plain_client_is_told_why_it_is_refused(bus: Bus) -> None:
    async with bus.served() as registry:
        async with registry.agent("worker", "holder", id="p1") as holder:
            code, lines, err = await ran(bus, "plain_client.py", "--role", "worker", "--id", "p1")

            async def untouched() -> bool:
                entry = await registry.get("p1")
                return entry.name == "holder" and entry.incarnation == holder.incarnation

            await eventually(untouched)

    assert (code, lines) == (1, [])
    assert err.startswith("conflict: ")
    assert "Traceback" not in err


async def test_an_example_that_finds_no_bus_says_so(bus: Bus) -> None:
    # Port 1 is reserved, and nobody listens there.
    code, lines, err = await ran(bus, "plain_client.py", "--nats", "nats://127.0.0.1:1")

    assert (code, lines) == (1, [])
    assert err.startswith("no NATS server at nats://127.0.0.1:1 let us in")
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("program", "first"),
    [("plain_client.py", "registered worker"), ("watcher.py", "watching worker"), ("worker_fleet.py", "fleet ")],
)
async def test_the_options_name_the_bus_and_the_realm_before_the_environment(
    bus: Bus, monkeypatch: pytest.MonkeyPatch, program: str, first: str
) -> None:
    url, realm = bus.url, bus.realm
    async with bus.served():
        monkeypatch.setattr(bus, "url", "nats://127.0.0.1:1")
        monkeypatch.setattr(bus, "realm", "nowhere")

        async with started(bus, program, "--nats", url, "--realm", realm) as process:
            assert (await line(process)).startswith(first)


def test_the_package_exports_what_the_examples_use() -> None:
    for program in ("worker_fleet.py", "watcher.py"):
        tree = ast.parse((EXAMPLES / program).read_text())
        imported = {
            (node.module, alias.name)
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("rollcall")
            for alias in node.names
        }

        assert {module for module, _ in imported} == {"rollcall"}
        assert {name for _, name in imported} <= set(rollcall.__all__)


async def test_the_policy_judges_on_the_bus(bus: Bus) -> None:
    async with bus.served(governing=GoverningSettings(policy="bus", fail_closed=True)) as registry:
        async with started(bus, "policy.py") as process:
            assert await line(process) == f"judges realm {bus.realm}"

            with pytest.raises(Denied, match="deploy needs an owner"):
                await registry.register("worker", "a1", capabilities=["deploy"], ttl=None)
            await registry.register("worker", "a2", capabilities=["deploy"], owner="ops", ttl=None)
            await registry.register("worker", "a3", ttl=None)
            with pytest.raises(Denied, match="deploy needs an owner"):
                await registry.update("worker", "a3", {"capabilities": ["deploy"]})
            page = await registry.list()

        with pytest.raises(rollcall.Unavailable, match="nobody judged"):
            await registry.register("worker", "a4", ttl=None)

    assert ids(page) == ["a2", "a3"]


async def test_the_policy_is_a_court(bus: Bus) -> None:
    async with started(bus, "policy.py", "--court", "0") as process:
        url = (await line(process)).removeprefix("court at ")
        async with bus.served(governing=GoverningSettings(policy=url, fail_closed=True)) as registry:
            with pytest.raises(Denied, match="deploy is not for everybody"):
                await registry.register("worker", "a1", capabilities=["deploy"], ttl=None)
            await registry.register("worker", "a2", capabilities=["ocr"], ttl=None)
            page = await registry.list()

    assert ids(page) == ["a2"]


async def test_the_policy_is_a_function(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    async with bus.served(governing=GoverningSettings(policy="policy:judge", fail_closed=True)) as registry:
        with pytest.raises(Denied, match="deploy needs an owner"):
            await registry.register("worker", "a1", capabilities=["deploy"], ttl=None)
        await registry.register("worker", "a2", ttl=None)
        await registry.deregister("worker", "a2")
        page = await registry.list()

    assert ids(page) == []

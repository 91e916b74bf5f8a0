"""What docs/operations.md says is so: commands, options, variables, exit codes, files, checks, configuration."""

import asyncio
import json
import os
import re
import shlex
import signal
import sqlite3
import stat
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import nats
import pytest

import rollcall
from rollcall import ChangeKind
from rollcall.bus.connection import connected
from rollcall.bus.subjects import Subjects
from rollcall.embedded.config import ASKED, ASKED_BACK, BEATS, HELLO, TOLD
from rollcall.embedded.process import die_with_parent
from rollcall.embedded.server import binary
from rollcall.faces.cli import access, common
from rollcall.faces.cli.http import Environment
from rollcall.faces.cli.settings import Tuning
from rollcall.sdk.diagnosis import Verdict, diagnose
from rollcall.worker import WorkerSettings, serving
from tests.conftest import Bus, eventually, ids, leads
from tests.documents import Document, help_of
from tests.processes import ROLLCALL, Process
from tests.processes import rollcall as run

ROOT = Path(__file__).parents[2]
DOCUMENT = Document("docs/operations.md")
TEXT = DOCUMENT.text
SOURCES = sorted((ROOT / "src").rglob("*.py"))

# Reading the document


section, rows = DOCUMENT.section, DOCUMENT.rows


GROUPS = ("guard", "keys", "creds", "certs")
"""Commands that have commands of their own."""


def command_lines() -> list[list[str]]:
    """Every call of `rollcall`, in blocks and in the running text, as words; of `rollcall run`, only our part."""
    blocks = re.findall(r"^\$ (rollcall .*)$", TEXT, re.MULTILINE)
    spans = re.findall(r"`(rollcall [^`\n]+)`", TEXT)
    lines = [shlex.split(line) for line in (*blocks, *spans)]
    return [line[: line.index("--")] if "--" in line else line for line in lines]


def options_of(*subcommand: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", help_of(*subcommand)))


# Commands and options


@pytest.mark.parametrize("line", command_lines(), ids=" ".join)
def test_every_command_exists_with_its_options(line: list[str]) -> None:
    subcommand = [word for word in line[1 : 3 if line[1] in GROUPS else 2] if not word.startswith("-")]
    given = {word for word in line[1:] if re.match(r"--?[a-z]", word)}

    assert given <= options_of(*subcommand)


def test_the_document_shows_the_commands_of_an_operator() -> None:
    assert {"up", "worker", "doctor", "info"} <= {line[1] for line in command_lines()}


def test_every_option_that_is_named_alone_is_one_of_up_or_worker() -> None:
    named = set(re.findall(r"`(--[a-z-]+)", TEXT)) - {"--help", "--json"}

    assert named
    assert named <= options_of("up") | options_of("worker")


def test_every_option_of_up_is_explained() -> None:
    told = {cells[0].strip("`") for cells in rows("One command: `rollcall up`")[1:] if cells[0].startswith("`--")}

    assert told | {"--help", "--log-level"} == {option for option in options_of("up") if option.startswith("--")}


# Variables

NAME = re.compile(r"\bROLLCALL_[A-Z]+(?:_[A-Z]+)*\b")


def read_in_the_sources() -> set[str]:
    """What some line asks the environment for, and the fields of the settings."""
    asked = re.compile(r"(?:environ\.get\(|environ\[|getenv\(|envvar=)\s*\"(ROLLCALL_\w+)\"")
    found = {name for path in SOURCES for name in asked.findall(path.read_text())}
    return found | defaults().keys() | {variable for _, variable, _ in access._OPTIONS.values()}


def defaults() -> dict[str, object]:
    """Every variable of ours that has a place in the settings, with its default."""
    tuned = {f"{Tuning.model_config['env_prefix']}{name.upper()}": field for name, field in Tuning.model_fields.items()}
    of_http = {str(field.alias): field for field in Environment.model_fields.values() if field.alias}
    return {name: field.default for name, field in (tuned | of_http).items()}


def variables_told() -> tuple[set[str], set[str]]:
    """The names of the two tables: what is read, and what `rollcall run` sets."""
    first, second = section("Environment variables").split("`rollcall run` tells")
    names = re.compile(r"^\| `(ROLLCALL_\w+)`", re.MULTILINE)
    return set(names.findall(first)), set(names.findall(second))


def test_the_variables_that_are_named_are_those_that_are_read() -> None:
    told, _ = variables_told()

    assert told == read_in_the_sources()


def test_every_variable_in_the_text_is_explained_or_belongs_to_the_containers() -> None:
    read, set_by_run = variables_told()
    of_the_containers = set(NAME.findall((ROOT / "docker" / "compose.yaml").read_text()))

    assert set(NAME.findall(TEXT)) - read - set_by_run == of_the_containers - read


def test_the_defaults_are_those_of_the_settings() -> None:
    told = {cells[0].strip("`"): cells[2] for cells in rows("Environment variables") if len(cells) == 4}

    for name, default in defaults().items():
        # Numbers are written as people write them.
        shown = f"{default:.10g}" if isinstance(default, float) else str(default).lower()
        assert told[name] == ("none" if default in (None, "") else shown), name


def test_a_program_is_told_whom_it_runs_as() -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ROLLCALL_")}

    done = subprocess.run(
        [*ROLLCALL, "run", "--nats", "nats://127.0.0.1:1", "--role", "worker", "--", "env"],
        capture_output=True, text=True, timeout=60, env=environment,
    )  # fmt: skip

    _, told = variables_told()
    assert {line.partition("=")[0] for line in done.stdout.splitlines() if line.startswith("ROLLCALL_")} == told


# Exit codes


def test_the_exit_codes_are_those_of_the_code() -> None:
    told = {int(code): means for code, means in rows("Exit codes")[1:]}
    listed = re.findall(r"^(\d+) +(.+)$", common.__doc__ or "", re.MULTILINE)

    assert told == {int(code): means for code, means in listed}
    assert set(told) == {0, common.NO, common.INTERRUPTED, *common._EXITS.values()}


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Process]:
    """`rollcall up` with its data in `data` of the test's own directory, and the usual umask."""
    ready = tmp_path / "ready.json"
    before = os.umask(0o022)
    try:
        process = Process("up", "--nats-port", "0", "--ready-file", str(ready), home=tmp_path)
    finally:
        os.umask(before)
    with process:
        process.ready(ready)
        yield process


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_up_ends_with_0_when_it_is_interrupted(up: Process, how: signal.Signals) -> None:
    up.popen.send_signal(how)

    assert up.popen.wait(30) == 0


# Files


def test_the_data_dir_holds_what_the_table_says_with_those_modes(up: Process, tmp_path: Path) -> None:
    told = {
        cells[0].strip("`").rstrip("/").replace("<realm>", "default"): int(cells[1][:4], 8)
        for cells in rows("The data dir")[1:]
    }

    data = tmp_path / "data"
    found = in_data_dir(data)

    assert found | {"snapshots/default.db": mode(data / "snapshots" / "default.db")} == told
    assert (mode(data), mode(data / "snapshots")) == (0o700, 0o700)
    assert {path.name.removeprefix("default.db") for path in (data / "snapshots").iterdir()} == {
        "", "-wal", "-shm", ".lock",
    }  # fmt: skip


def in_data_dir(data: Path) -> dict[str, int]:
    """The modes of what lies in it, but for the snapshots."""
    return {
        # The ports file is named after the server's process.
        re.sub(r"_\d+\.", "_<pid>.", path.name): mode(path)
        for path in data.iterdir()
        if path.name != "snapshots"
    }


def test_the_data_dir_with_auth_holds_what_the_table_says_besides(tmp_path: Path) -> None:
    told = {
        name.replace("<realm>", "default"): int(cells[1], 8)
        for cells in rows("The data dir with `--auth`")[1:]
        for name in re.findall(r"`([^`]+)`", cells[0])
    }
    ready = tmp_path / "ready.json"
    with Process("up", "--auth", "--nats-port", "0", "--ready-file", str(ready), home=tmp_path) as process:
        process.ready(ready)
        env = {"ROLLCALL_DATA_DIR": str(tmp_path / "data")}
        issued = run("creds", "observer", env=env).stderr.split()[-1]
        assert run("creds", "revoke", issued, env=env).returncode == 0
        data = tmp_path / "data"
        files = in_data_dir(data)
        found = {f"auth/{path.name}": mode(path) for path in (data / "auth").iterdir()}

    without = {cells[0].strip("`").rstrip("/") for cells in rows("The data dir")[1:]}
    tokens = {"http.token", "http-read.token"}
    assert found | {name: files[name] for name in tokens} == told
    assert set(files) - without == {"auth", *tokens}
    assert without - set(files) == {"system.nk", "snapshots/<realm>.db"}
    assert mode(data / "auth") == 0o700


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_snapshot_has_the_tables_that_are_named_and_answers_what_is_asked(up: Process, tmp_path: Path) -> None:
    told = {cells[0].strip("`") for cells in rows("The snapshot") if cells[0].startswith("`")}
    asked = re.findall(r'^\$ sqlite3 -readonly \S+ "(.+)"$', TEXT, re.MULTILINE)
    file = tmp_path / "data" / "snapshots" / "default.db"

    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as connection:
        held = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        answered = [connection.execute(question).fetchall() for question in asked]

    assert told == held
    assert answered == [[], []]


# Doctor and logs


async def test_the_checks_of_the_doctor_are_those_of_the_table(bus: Bus) -> None:
    told = [cells[0].strip("`") for cells in rows("`rollcall doctor`") if cells[0].startswith("`")]
    shown = re.findall(r"^(?:ok|warning|broken) +(\w+)  ", section("`rollcall doctor`"), re.MULTILINE)

    async with bus.served() as registry:
        found = [finding.check async for finding in diagnose(registry)]

    assert found == told
    assert found == shown


KINDS = frozenset(map(str, ChangeKind))


def events() -> list[str]:
    return [event for cells in rows("Logs") for event in re.findall(r"`([^`]+)`", cells[0])]


def test_every_kind_of_change_is_an_event() -> None:
    assert set(events()) >= KINDS


@pytest.mark.parametrize("event", events())
def test_every_event_that_is_named_is_logged_somewhere(event: str) -> None:
    # A change is logged under its kind.
    said = re.compile(
        rf'(?:log\.\w+|tell)\(\s*"{re.escape(event)}"' if event not in KINDS else r"log\.info\(str\(change\.kind\)"
    )
    assert any(said.search(path.read_text()) for path in SOURCES)


# Accounts


def test_everything_that_crosses_between_the_accounts_is_in_the_table() -> None:
    told = {subject for cells in rows("Three accounts")[1:] for subject in re.findall(r"`([^`]+)`", cells[0])}
    of_the_server = {subject for subject in told if subject.startswith("$")} | {"DISCONNECT"}

    assert told - of_the_server == {*ASKED, HELLO, *BEATS, *ASKED_BACK, *TOLD}


@pytest.fixture(scope="module")
def one_account(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Host and port of a server with the configuration of the document; only the store lies elsewhere."""
    home = tmp_path_factory.mktemp("one-account")
    (block,) = re.findall(r"```conf\n(.*?)```", TEXT, re.DOTALL)
    assert '"./jetstream"' in block
    config = home / "one-account.conf"
    config.write_text(block.replace('"./jetstream"', f'"{home / "jetstream"}"'))
    with (home / "log").open("wb") as log:
        process = subprocess.Popen(
            [str(binary()), "-c", str(config), "-a", "127.0.0.1", "-p", "-1", "--ports_file_dir", str(home)],
            stdout=log,
            stderr=log,
            preexec_fn=die_with_parent(signal.SIGKILL),
        )
    try:
        yield asyncio.run(eventually(lambda: _address(process, home), what="a nats-server"))
    finally:
        process.kill()
        process.wait()


def _address(process: subprocess.Popen[bytes], home: Path) -> str:
    """Empty until the server is ready."""
    assert process.poll() is None, (home / "log").read_text()
    try:
        ports = json.loads((home / f"nats-server_{process.pid}.ports").read_text())
    except (FileNotFoundError, ValueError):
        return ""
    return str(ports["nats"][0]).removeprefix("nats://")


def signed_in(user: str, address: str, variable: str = "ROLLCALL_NATS") -> str:
    """The URL that the document exports for a user, on the test server."""
    (url,) = re.findall(rf"^\$ export {variable}=(nats://{user}:\S+@127\.0\.0\.1:4222)$", TEXT, re.MULTILINE)
    return str(url).replace("127.0.0.1:4222", address)


@asynccontextmanager
async def served(address: str, realm: str, home: Path) -> AsyncIterator[rollcall.Registry]:
    """A worker signed in as the document says, and a registry as an agent."""
    settings = WorkerSettings(
        url=signed_in("worker", address),
        realm=realm,
        name="w1",
        snapshot=home / "w1.db",
        system_url=signed_in("watcher", address, "ROLLCALL_SYSTEM_NATS"),
    )
    async with serving(settings), rollcall.connect(signed_in("agent", address), realm=realm) as registry:
        await leads(registry)
        yield registry


async def test_the_configuration_of_one_account_works(one_account: str, tmp_path: Path) -> None:
    async with served(one_account, "works", tmp_path) as registry, registry.watch("worker") as watch:
        async with registry.agent("worker", "a1", id="a1", capabilities=["ocr"], ttl=1.5) as agent:
            agent.feel(active_connections=7)

            async def beat() -> bool:
                health = (await registry.get("a1")).health
                return health is not None and health.active_connections == 7

            await eventually(beat, what="a beat")
            async with connected(signed_in("worker", one_account), name="who pings") as inside:
                pinged = await inside.request(Subjects("works").ping("a1"), b"", timeout=5)
            found = await registry.discover("worker", capabilities=["ocr"])
        changes = [str((await asyncio.wait_for(anext(watch), 10)).kind) for _ in range(2)]

    assert "loop_lag" in json.loads(pinged.data)
    assert ids(found) == ["a1"]
    assert changes == ["registered", "deregistered"]


async def test_with_that_configuration_the_doctor_finds_nothing(one_account: str, tmp_path: Path) -> None:
    async with served(one_account, "well", tmp_path) as registry:
        findings = [finding async for finding in diagnose(registry)]

    assert [finding.check for finding in findings if finding.verdict is not Verdict.OK] == []


async def test_with_that_configuration_an_agent_may_neither_touch_a_stream_nor_speak_for_the_registry(
    one_account: str, tmp_path: Path
) -> None:
    subjects = Subjects("guarded")
    refused: list[str] = []

    async def on_error(error: Exception) -> None:
        refused.append(str(error).lower())

    async with served(one_account, "guarded", tmp_path) as registry:
        entry = await registry.register("worker", "a1", ttl=None)
        agent = await nats.connect(signed_in("agent", one_account), error_cb=on_error)
        try:
            forbidden = [
                f"$JS.API.STREAM.PURGE.{subjects.roll_stream}",
                f"$KV.{subjects.roll_bucket}.worker.a1",
                subjects.peers,
                *(f"rollcall.guarded.{subject.replace('*', 'x')}" for subject in TOLD),
            ]
            for subject in forbidden:
                await agent.publish(subject, b"{}")
            await agent.subscribe(subjects.discover("*"))
            await eventually(lambda: len(refused) > len(forbidden), what="a refusal of each")
        finally:
            await agent.close()
        after = await registry.register("worker", "a2", ttl=None)

    assert all(any(subject.lower() in one for one in refused) for subject in forbidden)
    assert any("subscription" in one for one in refused)
    # Nothing came between: the roll counts every message that is stored.
    assert after.revision == entry.revision + 1

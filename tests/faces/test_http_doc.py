"""What docs/http.md and docs/governance.md say is so: calls and their answers, routes, events, metrics, variables."""

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rollcall import ChangeKind
from rollcall.core.errors import BY_CODE
from rollcall.faces.cli.http import Environment, face_settings, listeners
from rollcall.faces.cli.settings import from_environment
from rollcall.faces.http import events
from rollcall.faces.http.access import Scope
from rollcall.faces.http.settings import Dialect, FaceSettings
from rollcall.worker import GoverningSettings
from tests.documents import ROOT, Document, help_of
from tests.processes import Process, rollcall

HTTP = Document("docs/http.md")
GOVERNANCE = Document("docs/governance.md")
ADDRESS = "http://127.0.0.1:8080"

ENDLESS = "/v1/watch"


def calls(text: str) -> list[tuple[str, str]]:
    """Each call of curl that is shown to this address, and the answer that is shown, in order."""
    found = []
    for block in re.findall(r"```console\n(.*?)```", text, re.DOTALL):
        for shown in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            lines = shown.splitlines()
            # A command goes on while its line ends with a backslash, or a quoted text is still open.
            end = next(n for n in range(1, len(lines) + 1) if whole("\n".join(lines[:n])))
            found.append(("\n".join(lines[:end]), "\n".join(lines[end:])))
    return [one for one in found if one[0].startswith(("curl ", "ID="))]


def whole(command: str) -> bool:
    return not command.endswith("\\") and command.count("'") % 2 == 0


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """`rollcall up` on ports of its own."""
    home = tmp_path_factory.mktemp("http")
    ready = home / "ready.json"
    with Process("up", "--nats-port", "0", "--http", "127.0.0.1:0", "--ready-file", str(ready), home=home) as process:
        yield {**process.ready(ready), "home": str(home)}


def test_the_calls_answer_as_shown(up: dict[str, str]) -> None:
    """One after the other, as a reader would type them; answers have the members that are shown."""
    shown = [one for one in calls(HTTP.text) if ENDLESS not in one[0]]

    script = "\n".join(f"printf '\\0'; {command}" for command, _ in shown).replace(ADDRESS, up["http"])
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60, cwd=up["home"])

    answers = done.stdout.split("\0")[1:]
    assert len(answers) == len(shown) > 10
    for (command, told), answer in zip(shown, answers, strict=True):
        assert form(answer) == form(told), command


def form(answer: str) -> object:
    """What of an answer is always so: a status line, the names of JSON, or plain text."""
    head, _, body = answer.replace("\r", "").rpartition("\n\n")
    return head.partition("\n")[0], members(body.strip())


def members(text: str) -> object:
    if not text.startswith("{"):
        return re.sub(r'"\d+"', '"n"', text)
    return {name: names(value) for name, value in json.loads(text).items()}


def names(value: object) -> object:
    match value:
        case dict():
            return {name: names(one) for name, one in value.items()}
        case list():
            return [names(one) for one in value]
        case _:
            return type(value).__name__ if isinstance(value, str) else None


def test_every_route_of_the_native_api_is_told(up: dict[str, str]) -> None:
    told = set(
        re.findall(r"^\| `(?:GET|POST|PATCH|DELETE) (/v1/[^`?]+)`", HTTP.section("The native API"), re.MULTILINE)
    )
    document = json.loads(subprocess.check_output(["curl", "-s", f"{up['http']}/openapi.json"]))

    assert told | {"/metrics"} == set(document["paths"])
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            parameters = {one["name"] for one in operation.get("parameters", ()) if one["in"] == "query"}
            row = [cells for cells in HTTP.rows("The native API") if cells[0] == f"`{method.upper()} {path}`"]
            if row and path != "/v1/agents":
                assert parameters == set(re.findall(r"`(\w+)`", row[0][2])), path


def test_every_metric_is_told(up: dict[str, str]) -> None:
    page = subprocess.check_output(["curl", "-s", f"{up['http']}/metrics"], text=True)
    told = {name for cells in HTTP.rows("Metrics")[1:] for name in re.findall(r"`([a-z_]+)`", cells[0])}

    assert told == set(re.findall(r"^# TYPE (\w+) ", page, re.MULTILINE))


def test_every_event_is_told() -> None:
    told = {name for cells in HTTP.rows("Events")[1:] for name in re.findall(r"`(\w+)`", cells[0])}

    assert told == {*map(str, ChangeKind), "position", "reset", "state", "dropped"}


def test_the_bounds_are_those_of_the_code() -> None:
    settings = FaceSettings()

    for bound in (
        f"{settings.body_bytes >> 10} KiB",
        f"{settings.body_timeout:g} s | 408",
        f"{events.MOST_WAITING:,}, {events.SEND_WITHIN:g} s",
        f"come back | {events.KEPT:,} |",
    ):
        assert bound in HTTP.section("Limits")
    assert f"within {settings.drain:g} s" in HTTP.section("Start it")
    assert f"Each {events.BEAT:g} s comes" in HTTP.section("Events")


def test_every_error_is_told() -> None:
    told = {cells[1].strip("`"): int(cells[0]) for cells in HTTP.rows("Errors")[1:]}

    assert {code: kind.status for code, kind in BY_CODE.items()}.items() <= told.items()


def test_every_scope_is_told() -> None:
    assert [cells[0].strip("`") for cells in HTTP.rows("Tokens")[1:]] == [scope.name.lower() for scope in Scope]


def test_every_option_of_http_is_explained() -> None:
    told = {name for cells in HTTP.rows("Start it") for name in re.findall(r"`(--[a-z-]+)`", cells[0])} - {"--dialect"}
    help_text = help_of("http")

    assert told | {"--dialect", "--help"} == set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", help_text))


def test_every_variable_of_the_dialects_is_told() -> None:
    sections = ("The Vers dialect", "The NOA dialect", "The mindX dialect")
    told = {
        name
        for title in sections
        for cells in HTTP.rows(title)
        for name in re.findall(r"`([A-Z]+_[A-Z_]+|PORT)`", cells[0])
    }
    fields = Environment.model_fields
    ours = {field.alias or name.upper() for name, field in fields.items()}
    # Told elsewhere: these are not about a dialect.
    general = {"ROLLCALL_HTTP_TOKENS", "ROLLCALL_HTTP_CORS", "ROLLCALL_HTTP_RATE", "ROLLCALL_METRICS_AGENTS"}
    of_the_client = {"VERS_INFRA_URL", "VERS_VM_ID", "VERS_AGENT_NAME", "VERS_AGENT_ROLE"}

    assert told - of_the_client == ours - general


def test_the_default_ports_are_those_of_the_code(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PORT", "SERVER_PORT", "ROLLCALL_NOA_COMPAT"):
        monkeypatch.delenv(name, raising=False)
    told = {cells[0].strip("`"): cells[1] for cells in HTTP.rows("Start it") if len(cells) == 4}

    for dialect in Dialect:
        (listener,) = listeners([], [dialect], from_environment(Environment))
        assert told[str(dialect)].startswith(str(listener.port))
    monkeypatch.setenv("ROLLCALL_NOA_COMPAT", "go")
    (listener,) = listeners([], [Dialect.NOA], from_environment(Environment))
    assert f"{listener.port} with `go`" in told["noa"]


def test_noa_is_unhealthy_when_the_document_says() -> None:
    noa = face_settings(Environment.model_construct(), [], [], 0.0).noa

    assert f"`unhealthy`: {noa.timeout + 3 * noa.tick:g} s after the last beat" in HTTP.text
    assert f"more than {noa.stale:g} s ago reads" in HTTP.text


def test_the_program_of_the_document_runs() -> None:
    (program,) = re.findall(r"```python\n(.*?)```", HTTP.text, re.DOTALL)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("VERS_")}

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, env=environment)

    assert done.returncode == 0, done.stderr


async def test_the_files_of_the_document_go_in_and_out(up: dict[str, str], tmp_path: Path) -> None:
    entry = {"id": "vm-9", "name": "x", "role": "worker", "status": "running", "address": "x", "registeredBy": "me"}
    times = {"registeredAt": "2026-11-20T14:47:54.817Z", "lastSeen": "2026-11-20T14:50:00.000Z"}
    (tmp_path / "registry.json").write_text(json.dumps({"vms": [entry | times]}))
    (tmp_path / "agents.csv").write_text(
        "agent_id,agent_name,layer,category,capabilities,health_status\n"
        "a-1,Planner,l2,Orchestration,plan; route,healthy\n"
        "a-2,Scribe,micro,Documentation,write,needs repair\n"
        "a-2,Scribe,micro,Documentation,write; edit,healthy\n"
        ",Nameless,micro,Other,,\n"
    )
    shown = re.findall(r"^\$ (rollcall (?:import|export) .*)\n((?:[^$`].*\n)*)", HTTP.text, re.MULTILINE)

    assert len(shown) == 6
    for command, told in shown:
        words = command.split()[1:]
        words = [str(tmp_path / word) if "." in word else word for word in words]
        done = await asyncio.to_thread(rollcall, *words, env={"ROLLCALL_NATS": up["nats"], "COLUMNS": "200"})
        answer = [line.rstrip() for line in done.stdout.splitlines()]
        assert done.returncode == 0, done.stderr
        assert answer[: len(told.splitlines())] == told.splitlines(), command


def test_the_bounds_of_judges_are_those_of_the_code() -> None:
    settings = GoverningSettings()

    assert f"`ROLLCALL_POLICY_TIMEOUT` ({settings.timeout:g})" in GOVERNANCE.text
    assert f"`ROLLCALL_POLICY_CACHE` ({settings.cache:g})" in GOVERNANCE.text
    assert f"`ROLLCALL_POLICY_CONCURRENCY` ({settings.concurrency})" in GOVERNANCE.text
    assert f"`ROLLCALL_APPROVE_MOST` ({settings.most:,})" in GOVERNANCE.text


def test_every_file_that_the_documents_name_is_there() -> None:
    for document in (HTTP, GOVERNANCE):
        links = re.findall(r"\]\((?!http|#)([^)#]+)", document.text)
        assert links
        assert [link for link in links if not (ROOT / "docs" / link).exists()] == []

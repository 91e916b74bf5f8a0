"""What docker/ promises, without Docker: the files agree with each other and with the command, and the server runs."""

import asyncio
import importlib.util
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tomllib
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

import rollcall
from rollcall import Unauthorized
from rollcall.bus.connection import connected
from rollcall.bus.subjects import ROOT, Subjects
from rollcall.embedded.config import ASKED, ASKED_BACK, BEATS, HELLO, TOLD, ServerSettings, open_access, render
from rollcall.embedded.process import die_with_parent
from rollcall.embedded.server import binary
from rollcall.worker import WorkerSettings, serving
from tests.conftest import eventually, ids, leads
from tests.documents import help_of

REPOSITORY = Path(__file__).parents[2]
DOCKER = REPOSITORY / "docker"
CONF = DOCKER / "nats-server.conf"

# All digits: what a server would take for a number if it were not quoted on the way.
PASSWORD = "20251120"
TOKEN = "a-long-random-word"
JETSTREAM_NOT_ENABLED_FOR_ACCOUNT = 10039
"""An error code of nats-server."""

VARIABLE = re.compile(r"\$\{(?P<name>\w+)(?::(?P<how>[?-])(?P<word>[^}]*))?\}")


# Reading the files


class Instruction(tuple[str, str]):
    """A line of a Dockerfile: its word, and the rest."""

    word = property(lambda self: self[0])
    rest = property(lambda self: self[1])


def dockerfile() -> list[Instruction]:
    """The instructions, with continued lines joined and comments left out."""
    lines = [line for line in (DOCKER / "Dockerfile").read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [
        Instruction((word.upper(), rest.strip()))
        for word, _, rest in (line.partition(" ") for line in joined.split("\n"))
        if word
    ]


def last_stage() -> list[Instruction]:
    """What becomes the image."""
    instructions = dockerfile()
    start = max(index for index, instruction in enumerate(instructions) if instruction.word == "FROM")
    return instructions[start:]


def only(word: str) -> str:
    """The rest of the one instruction with this word in the image."""
    (found,) = [instruction.rest for instruction in last_stage() if instruction.word == word]
    return found


def image_environment() -> dict[str, str]:
    """What ENV sets, shell-like quoting resolved."""
    settings = [setting for i in last_stage() if i.word == "ENV" for setting in shlex.split(i.rest)]
    return dict(setting.split("=", 1) for setting in settings)


def compose(**environment: str) -> dict[str, Any]:
    """The compose file with its variables put in, as compose would: `:?` refuses, `:-` has a default."""

    def put_in(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: put_in(item) for name, item in value.items()}
        if isinstance(value, list):
            return [put_in(item) for item in value]
        return VARIABLE.sub(lambda found: _word(found, environment), value) if isinstance(value, str) else value

    return put_in(yaml.safe_load((DOCKER / "compose.yaml").read_text()))


def _word(found: re.Match[str], environment: dict[str, str]) -> str:
    value = environment.get(found["name"], "")
    if value or found["how"] is None:
        return value
    if found["how"] == "?":
        raise KeyError(found["name"])
    return found["word"]


def services() -> dict[str, Any]:
    return compose(ROLLCALL_WORKER_PASSWORD=PASSWORD, ROLLCALL_HTTP_TOKENS=TOKEN)["services"]


WORKERS = ("worker1", "worker2")
OURS = (*WORKERS, "http")


def conf() -> dict[str, Any]:
    """The server's configuration; the one variable is read as the text of its name."""
    text = "\n".join(line for line in CONF.read_text().splitlines() if not line.startswith("#"))
    return json.loads(re.sub(r": \$(\w+)", r': "$\1"', text))


def health_check() -> list[str]:
    """The command of the image's HEALTHCHECK."""
    return json.loads(only("HEALTHCHECK").partition("CMD ")[2])


def command_lines() -> list[list[str]]:
    """Every call of `rollcall` in the Dockerfile and the compose file, without the command itself."""
    entry = json.loads(only("ENTRYPOINT"))
    assert entry == ["rollcall"]
    lines = [json.loads(only("CMD")), *(services()[ours]["command"] for ours in OURS)]
    checked = health_check()
    assert checked[0] == "rollcall"
    comments = re.findall(r"^#\s+rollcall (.+)$", (DOCKER / "compose.yaml").read_text(), re.MULTILINE)
    return [*lines, checked[1:], *(shlex.split(comment) for comment in comments)]


def variables_of(subcommand: str) -> set[str]:
    """The variables that its help names."""
    return set(re.findall(r"\[env var:\s+(\w+)\]", help_of(subcommand)))


# The image


def test_everything_that_is_copied_into_the_image_exists() -> None:
    copied = [shlex.split(i.rest) for i in dockerfile() if i.word in ("COPY", "ADD")]
    sources = [source for words in copied if not words[0].startswith("--from") for source in words[:-1]]

    assert "pyproject.toml" in sources
    assert [source for source in sources if not (REPOSITORY / source).exists()] == []


def test_everything_that_is_copied_passes_the_ignore_file() -> None:
    rules = (DOCKER / "Dockerfile.dockerignore").read_text().splitlines()
    let_in = {rule[1:] for rule in rules if rule.startswith("!")}
    copied = [shlex.split(i.rest) for i in dockerfile() if i.word == "COPY"]

    sources = {source for words in copied if not words[0].startswith("--from") for source in words[:-1]}

    assert "*" in rules
    assert sources == let_in


def test_the_wheel_finds_in_the_build_what_its_metadata_names() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    copied = {word for i in dockerfile() if i.word == "COPY" for word in shlex.split(i.rest)[:-1]}

    assert {project["readme"], *project["license-files"]} <= copied


def test_what_is_copied_between_stages_was_made_in_one() -> None:
    stages = [i.rest.split(" AS ")[1] for i in dockerfile() if i.word == "FROM" and " AS " in i.rest]
    taken = [shlex.split(i.rest) for i in dockerfile() if i.word == "COPY" and i.rest.startswith("--from=")]
    made = " ".join(i.rest for i in dockerfile() if i.word == "RUN")

    assert taken
    for origin, path, _ in taken:
        assert origin.removeprefix("--from=") in stages
        assert f"{path} " in made


def test_the_image_runs_slim_and_on_a_python_that_the_package_supports() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    bases = {i.rest.partition(" AS ")[0] for i in dockerfile() if i.word == "FROM"}

    # One base for both stages: the environment that is copied links to the interpreter of its stage.
    assert bases == {"python:3.13-slim"}
    assert "Programming Language :: Python :: 3.13" in project["classifiers"]


def test_the_image_does_not_run_as_root() -> None:
    user = only("USER")
    uid, gid = user.split(":")

    made = " ".join(i.rest for i in last_stage() if i.word == "RUN")

    assert int(uid) > 0
    assert int(gid) > 0
    assert f"--uid {uid} " in made
    assert f"--gid {gid} " in made
    order = [i.word for i in last_stage()]
    assert order.index("USER") > max(index for index, word in enumerate(order) if word in ("RUN", "COPY"))


def test_the_data_of_the_image_is_on_a_volume_that_its_user_owns() -> None:
    data = image_environment()["ROLLCALL_DATA_DIR"]

    made = " ".join(i.rest for i in last_stage() if i.word == "RUN")

    assert only("VOLUME") == data
    assert re.search(rf"install --directory --owner=rollcall --group=rollcall --mode=0700 {data}\b", made)
    assert all(f"{worker}:{data}" in services()[worker]["volumes"] for worker in WORKERS)


def test_the_command_is_on_the_path_of_the_image() -> None:
    copied = [shlex.split(i.rest)[-1] for i in last_stage() if i.word == "COPY"]

    first = image_environment()["PATH"].partition(":")[0]

    assert first == f"{copied[0]}/bin"


# The command


def test_the_image_lets_in_only_users_that_it_has_issued() -> None:
    # It listens beyond its container, and `up` refuses to do that without.
    assert json.loads(only("CMD")) == ["up", "--listen", "0.0.0.0", "--auth"]


def test_every_command_and_option_exists() -> None:
    assert {line[0] for line in command_lines()} == {"worker", "up", "http", "info", "doctor"}

    for subcommand, *arguments in command_lines():
        known = set(re.findall(r"--[a-z][a-z-]*", help_of(subcommand)))
        assert {word for word in arguments if word.startswith("-")} <= known, subcommand


def test_every_variable_is_one_that_its_command_reads() -> None:
    named = {name for name in image_environment() if name.startswith("ROLLCALL_")}
    for ours in OURS:
        named |= set(services()[ours]["environment"])
    named |= set(re.findall(r"-e (ROLLCALL_\w+)=", (DOCKER / "Dockerfile").read_text()))
    sources = "".join(path.read_text() for path in (REPOSITORY / "src").rglob("*.py"))

    read = {name for command in ("worker", "up", "http") for name in variables_of(command)}
    read |= set(re.findall(r'(?:environ\.get\(|alias=)"(ROLLCALL_\w+)"', sources))

    assert {"ROLLCALL_NATS", "ROLLCALL_REALM", "ROLLCALL_DATA_DIR", "ROLLCALL_HTTP_TOKENS"} <= named
    assert named <= read


def test_the_health_check_asks_the_registry_that_the_worker_serves() -> None:
    assert health_check() == ["rollcall", "info", "--json"]

    # By the same variables as the worker; no other address stands in its arguments.
    assert {"ROLLCALL_NATS", "ROLLCALL_REALM"} <= variables_of("info")


# The services


def test_compose_refuses_to_start_without_a_password() -> None:
    with pytest.raises(KeyError, match="ROLLCALL_WORKER_PASSWORD"):
        compose()
    with pytest.raises(KeyError, match="ROLLCALL_WORKER_PASSWORD"):
        compose(ROLLCALL_WORKER_PASSWORD="")


def test_compose_refuses_to_start_without_a_token() -> None:
    with pytest.raises(KeyError, match="ROLLCALL_HTTP_TOKENS"):
        compose(ROLLCALL_WORKER_PASSWORD=PASSWORD)


def test_the_password_comes_from_the_environment_only() -> None:
    text = (DOCKER / "compose.yaml").read_text()

    uses = [line for line in text.splitlines() if "ROLLCALL_WORKER_PASSWORD" in line and not line.startswith("#")]

    assert len(uses) == 2
    assert all("${ROLLCALL_WORKER_PASSWORD:?" in line for line in uses)
    assert conf()["accounts"]["REGISTRY"]["users"] == [{"user": "worker", "password": "$ROLLCALL_WORKER_PASSWORD"}]


def test_what_the_services_name_exists() -> None:
    document = compose(ROLLCALL_WORKER_PASSWORD=PASSWORD, ROLLCALL_HTTP_TOKENS=TOKEN)
    known = document["services"]

    assert set(known) == {"nats", *OURS}
    for service in known.values():
        assert set(service.get("depends_on", {})) <= set(known)
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert (DOCKER / source).exists() if source.startswith(".") else source in document["volumes"]
    for ours in OURS:
        context = DOCKER / known[ours]["build"]["context"]
        assert context.resolve() == REPOSITORY
        assert (context / known[ours]["build"]["dockerfile"]).resolve() == DOCKER / "Dockerfile"
        assert known[ours]["depends_on"] == {"nats": {"condition": "service_healthy"}}
    for worker in WORKERS:
        assert known[worker]["environment"]["ROLLCALL_NATS"] == f"nats://worker:{PASSWORD}@nats:4222"
    assert "healthcheck" in known["nats"]


def test_each_service_keeps_its_data_for_itself_and_comes_back() -> None:
    named = [
        volume.split(":")[0]
        for service in services().values()
        for volume in service.get("volumes", [])
        if volume[0] != "."
    ]

    assert sorted(named) == ["nats", "worker1", "worker2"]
    assert {service["restart"] for service in services().values()} == {"unless-stopped"}
    assert services()["worker1"]["command"] != services()["worker2"]["command"]


def test_the_ports_agree() -> None:
    port = conf()["listen"].rpartition(":")[2]
    published = [mapping for service in services().values() for mapping in service.get("ports", [])]
    urls = [services()[ours]["environment"]["ROLLCALL_NATS"].replace("//nats", "//@nats") for ours in OURS]
    of_http = services()["http"]["command"][-1].rpartition(":")[2]

    assert published == [f"127.0.0.1:{port}:{port}", f"127.0.0.1:{of_http}:{of_http}"]
    assert {url.rpartition("@")[2] for url in urls} == {f"nats:{port}"}
    assert only("EXPOSE").split() == [port, of_http]
    assert services()["nats"]["healthcheck"]["test"][-1] == f"http://{conf()['http']}/healthz"


def test_the_server_is_given_the_file_that_is_shipped_and_a_version_that_suffices() -> None:
    nats_service = services()["nats"]
    mounted = {target: source for source, target in (volume.split(":")[:2] for volume in nats_service["volumes"])}
    path = nats_service["command"][-1]

    version = re.fullmatch(r"nats:(\d+)\.(\d+)-alpine", nats_service["image"])

    assert nats_service["command"] == ["nats-server", "--config", path]
    assert (DOCKER / mounted[path]).resolve() == CONF
    assert mounted[conf()["jetstream"]["store_dir"]] == "nats"
    assert version is not None
    assert (int(version[1]), int(version[2])) >= (2, 12)


def test_the_http_face_is_an_agent_that_listens_beyond_its_container_with_a_token() -> None:
    face = services()["http"]

    assert face["environment"]["ROLLCALL_NATS"] == f"nats://nats:{conf()['listen'].rpartition(':')[2]}"
    assert face["environment"]["ROLLCALL_HTTP_TOKENS"] == TOKEN
    assert face["command"][-1].startswith("0.0.0.0:")


# The server


def test_the_configuration_is_the_one_that_its_generator_writes() -> None:
    path = DOCKER / "nats_server_conf.py"
    spec = importlib.util.spec_from_file_location("nats_server_conf", path)
    assert spec is not None and spec.loader is not None
    generator = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generator)

    assert CONF.read_text() == generator.conf(), "run: python docker/nats_server_conf.py > docker/nats-server.conf"


def test_just_what_the_bundled_server_lets_cross_crosses_here() -> None:
    def of_any_realm(*subjects: str) -> set[str]:
        return {f"{ROOT}.*.{subject}" for subject in subjects}

    def exported(account: str, kind: str) -> set[str]:
        return {export[kind] for export in conf()["accounts"][account]["exports"] if kind in export}

    def imported(account: str, origin: str, kind: str) -> set[str]:
        named = [entry[kind] for entry in conf()["accounts"][account]["imports"] if kind in entry]
        return {entry["subject"] for entry in named if entry["account"] == origin}

    asked, told, beats, asked_back = (
        of_any_realm(*ASKED, HELLO),
        of_any_realm(*TOLD),
        of_any_realm(*BEATS),
        of_any_realm(*ASKED_BACK),
    )

    assert exported("REGISTRY", "service") == imported("AGENTS", "REGISTRY", "service") == asked | {"$SRV.>"}
    assert exported("REGISTRY", "stream") == imported("AGENTS", "REGISTRY", "stream") == told
    assert exported("AGENTS", "stream") == imported("REGISTRY", "AGENTS", "stream") == beats
    assert exported("AGENTS", "service") == imported("REGISTRY", "AGENTS", "service") == asked_back


def test_the_accounts_are_those_of_the_bundled_server_but_for_who_signs_in() -> None:
    settings = ServerSettings(store_dir="", host="", port=0, access=open_access("", ""), name="")
    bundled, here = json.loads(render(settings)), conf()

    for accounts in (bundled["accounts"], here["accounts"]):
        for account in ("REGISTRY", "SYS"):
            accounts[account].pop("users", None)

    assert here["accounts"] == bundled["accounts"]
    assert here["no_auth_user"] == bundled["no_auth_user"]
    assert here["system_account"] == bundled["system_account"]
    assert {"http", *bundled} == set(here)


def test_nobody_signs_in_to_the_system_account() -> None:
    assert "users" not in conf()["accounts"]["SYS"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The bundled binary on the shipped file, with free ports and a store of its own; where it listens."""
    with _server(tmp_path_factory.mktemp("docker"), services()["nats"]["environment"]) as addresses:
        yield addresses


@contextmanager
def _server(home: Path, environment: dict[str, str]) -> Iterator[dict[str, str]]:
    # The store cannot be named on the command line when the file names one.
    config = home / "nats-server.conf"
    config.write_text(CONF.read_text().replace('"store_dir": "/data"', f'"store_dir": "{home / "data"}"'))
    with (home / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                str(binary()),
                "-c",
                str(config),
                "-a",
                "127.0.0.1",
                "-p",
                "-1",
                "-m",
                "-1",
                "--ports_file_dir",
                str(home),
            ],
            env={**os.environ, **environment},
            stdout=log,
            stderr=log,
            preexec_fn=die_with_parent(signal.SIGKILL),
        )
    try:
        yield asyncio.run(eventually(lambda: _addresses(process, home), what="a nats-server"))
    finally:
        process.kill()
        process.wait()


def _addresses(process: subprocess.Popen[bytes], home: Path) -> dict[str, str] | None:
    assert process.poll() is None, (home / "log").read_text()
    try:
        ports = json.loads((home / f"nats-server_{process.pid}.ports").read_text())
    except (FileNotFoundError, ValueError):
        return None
    return {"nats": ports["nats"][0].removeprefix("nats://"), "monitoring": ports["monitoring"][0]}


def as_worker(server: dict[str, str]) -> str:
    """The address that compose gives to a worker, on the test server."""
    return services()["worker1"]["environment"]["ROLLCALL_NATS"].replace("nats:4222", server["nats"])


def as_agent(server: dict[str, str]) -> str:
    return f"nats://{server['nats']}"


@asynccontextmanager
async def served(server: dict[str, str], realm: str, home: Path) -> AsyncIterator[rollcall.Registry]:
    settings = WorkerSettings(url=as_worker(server), realm=realm, name="worker1", snapshot=home / "w.db")
    async with serving(settings), rollcall.connect(as_agent(server), realm=realm) as registry:
        await leads(registry)
        yield registry


async def test_a_worker_and_an_agent_work_on_the_server(server: dict[str, str], tmp_path: Path) -> None:
    async with served(server, "works", tmp_path) as registry, registry.watch("worker") as watch:
        async with registry.agent("worker", "a1", id="a1", capabilities=["ocr"], ttl=1.5) as agent:
            agent.feel(active_connections=7)

            async def beat() -> bool:
                health = (await registry.get("a1")).health
                return health is not None and health.active_connections == 7

            await eventually(beat, what="a beat that crosses the accounts")
            found = await registry.discover("worker", capabilities=["ocr"])
        changes = [str((await asyncio.wait_for(anext(watch), 10)).kind) for _ in range(2)]

        left = await registry.discover("worker")

    assert ids(found) == ["a1"]
    assert changes == ["registered", "deregistered"]
    assert ids(left) == []


async def test_the_health_check_is_well_while_a_worker_serves_and_ill_without(
    server: dict[str, str], tmp_path: Path
) -> None:
    async def checked() -> int:
        environment = {**os.environ, "ROLLCALL_NATS": as_worker(server), "ROLLCALL_REALM": "health"}
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "rollcall.faces.cli.app", *health_check()[1:], env=environment,
            stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        return await asyncio.wait_for(process.wait(), 30)

    async with served(server, "health", tmp_path):
        with_worker = await checked()
    without = await checked()

    assert with_worker == 0
    assert without != 0


async def test_the_http_face_reads_without_a_token_and_changes_nothing_without_one(
    server: dict[str, str], tmp_path: Path
) -> None:
    face = services()["http"]
    ready = tmp_path / "ready.json"
    environment = {**os.environ, **face["environment"], "ROLLCALL_NATS": as_agent(server), "ROLLCALL_REALM": "http"}

    def asked(url: str, token: str = "") -> int:
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
        body = b'{"role": "worker", "name": "x", "ttl": null}'
        try:
            with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=10) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            return error.code

    async with served(server, "http", tmp_path) as registry:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "rollcall.faces.cli.app", "http", "--listen", "0.0.0.0:0", "--ready-file", str(ready),
            env=environment, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        try:
            await eventually(ready.exists, what="the face")
            url = json.loads(ready.read_text())["http"].replace("0.0.0.0", "127.0.0.1") + "/v1/agents"
            without, with_token = await asyncio.to_thread(asked, url), await asyncio.to_thread(asked, url, TOKEN)
        finally:
            process.terminate()
            await process.wait()
        page = await registry.list()

    assert (without, with_token, len(page)) == (401, 201, 1)


async def test_the_server_itself_says_that_it_is_well(server: dict[str, str]) -> None:
    path = services()["nats"]["healthcheck"]["test"][-1].rpartition("/")[2]

    def asked() -> int:
        with urllib.request.urlopen(f"{server['monitoring']}/{path}", timeout=10) as answer:
            return answer.status

    assert await asyncio.to_thread(asked) == 200


async def test_an_agent_cannot_touch_a_stream(server: dict[str, str], tmp_path: Path) -> None:
    subjects = Subjects("guarded")
    streams = (subjects.inbox_stream, subjects.roll_stream, subjects.leases_stream)

    async with served(server, "guarded", tmp_path):
        async with connected(as_worker(server), name="with the password") as worker:
            for stream in streams:
                reply = await worker.request(f"$JS.API.STREAM.INFO.{stream}", b"", timeout=5)
                assert json.loads(reply.data)["config"]["name"] == stream
        async with connected(as_agent(server), name="an agent") as agent:
            for stream in streams:
                reply = await agent.request(f"$JS.API.STREAM.INFO.{stream}", b"", timeout=5)
                assert "config" not in json.loads(reply.data)
                assert json.loads(reply.data)["error"]["err_code"] == JETSTREAM_NOT_ENABLED_FOR_ACCOUNT


async def test_an_agent_cannot_write_the_roll_past_the_registry(server: dict[str, str], tmp_path: Path) -> None:
    async with served(server, "forged", tmp_path) as registry:
        entry = await registry.register("worker", "a1", ttl=None)

        async with connected(as_agent(server), name="a forger") as forger:
            await forger.publish("$KV.rollcall_forged.worker.a1", b'{"name": "forged"}')
            await forger.flush()
        after = await registry.register("worker", "a2", ttl=None)
        held = await registry.get("a1")

    assert (held.name, held.revision) == ("a1", entry.revision)
    # Nothing came between: the roll counts every message that is stored.
    assert after.revision == entry.revision + 1


@pytest.mark.parametrize("sign_in", ["worker:wrong@", "worker:@", "root:root@"])
async def test_nobody_is_a_worker_without_the_password(server: dict[str, str], sign_in: str) -> None:
    with pytest.raises(Unauthorized, match="let us in"):
        async with connected(f"nats://{sign_in}{server['nats']}", name="an intruder", timeout=1):
            pass


def test_a_server_without_the_password_does_not_start(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "ROLLCALL_WORKER_PASSWORD"}

    done = subprocess.run([str(binary()), "-t", "-c", str(CONF)], env=environment, capture_output=True, text=True)

    assert done.returncode != 0
    assert "ROLLCALL_WORKER_PASSWORD" in done.stderr

"""What waits for a word, on the command line: `rollcall pending`, `approve` and `deny`, and the settings of `up`."""

import asyncio
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from rollcall import RollcallError, connect
from tests.bus.waiting import there
from tests.conftest import eventually, leads
from tests.processes import Process, rollcall

POLICY = """
def judge(case):
    return "no b's here" if case["id"].startswith("b") else True
"""


class Up:
    """`rollcall up` on free ports, and commands that find it."""

    def __init__(self, home: Path, **settings: str) -> None:
        self.home = home
        env = {f"ROLLCALL_{name.upper()}": value for name, value in settings.items()}
        self._ready = home / "ready.json"
        arguments = ["up", "--nats-port", "0", "--http", "off", "--ready-file", str(self._ready)]
        self.process = Process(*arguments, home=home, env={**env, "PYTHONPATH": _path(home)})
        self.env: dict[str, str] = {}

    def ready(self) -> "Up":
        self.env = {"ROLLCALL_NATS": self.process.ready(self._ready)["nats"]}
        return self

    def tell(self, *arguments: str, exits: int = 0) -> subprocess.CompletedProcess:
        done = rollcall(*arguments, env=self.env)
        assert done.returncode == exits, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr
        return done

    def told(self, *arguments: str) -> dict:
        return json.loads(self.tell(*arguments, "--json").stdout)

    def asks(self, verb: str, role: str, id: str) -> str:
        """An agent asks for something; returns what it is told, if that is an error."""

        async def ask() -> str:
            async with connect(self.env["ROLLCALL_NATS"]) as registry:
                await leads(registry)
                try:
                    await getattr(registry, verb)(role, id, timeout=2)
                except RollcallError as error:
                    return error.code
                return ""

        return asyncio.run(ask())

    def there(self, id: str) -> None:
        """Returns once an agent is on the roll."""

        async def wait() -> None:
            async with connect(self.env["ROLLCALL_NATS"]) as registry:
                await eventually(there(registry, id))

        asyncio.run(wait())


def _path(home: Path) -> str:
    return os.pathsep.join([str(home), os.environ.get("PYTHONPATH", "")])


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    home = tmp_path_factory.mktemp("up")
    (home / "judges_of_the_cli.py").write_text(POLICY)
    one = Up(home, approve="infra, db:deregister", policy="judges_of_the_cli:judge")
    with one.process:
        yield one.ready()


def test_what_waits_is_shown_and_approved(up: Up):
    long = "a" + "x" * 100
    assert up.tell("pending").stdout == "nothing waits\n"
    done = rollcall("register", "--role", "infra", "--id", "a1", env=up.env)
    assert "approv" in done.stdout + done.stderr and "a1" in done.stdout + done.stderr
    assert up.asks("register", "infra", long) == "pending"

    waiting = up.told("pending")["pending"]
    shown = [[one[name] for name in ("id", "role", "verb", "waits_for", "behind")] for one in waiting]
    assert shown == [["a1", "infra", "register", "approval", 0], [long, "infra", "register", "approval", 0]]
    table = up.tell("pending").stdout
    assert "infra a1" in table and "register" in table and "approval" in table
    assert max(len(line) for line in table.splitlines()) <= 80
    assert "\x1b" not in table

    assert "approved: register infra a1" in up.tell("approve", "a1").stdout
    up.there("a1")
    told = up.told("deny", long)
    assert (told["id"], told["verb"], told["approved"]) == (long, "register", False)
    assert up.told("pending") == {"pending": []}


def test_what_is_denied_is_in_history(up: Up):
    assert up.asks("register", "infra", "a2") == "pending"
    assert "denied: register infra a2" in up.tell("deny", "a2", "--reason", "not in this cluster").stdout

    told = up.told("history", "a2")
    assert [(one["by"], one["reason"]) for one in told["refusals"]] == [("operator", "not in this cluster")]
    assert "not in this cluster" in up.tell("history", "a2").stdout


def test_a_word_about_nothing_is_said_plainly(up: Up):
    assert "nobody" in up.tell("approve", "nobody", exits=3).stderr
    assert "nobody" in up.tell("deny", "nobody", "--realm", "default", exits=3).stderr
    up.tell("approve", exits=2)


def test_a_policy_is_a_function_named_in_the_environment(up: Up):
    assert up.asks("register", "worker", "w1") == ""
    assert "no b's here" in up.tell("register", "--role", "worker", "--id", "b1", exits=4).stderr


def test_one_verb_of_a_role_can_wait_alone(up: Up):
    assert up.asks("register", "db", "d1") == ""
    assert up.asks("deregister", "db", "d1") == "pending"
    assert "deregister db d1" in up.tell("approve", "d1").stdout


@pytest.mark.parametrize(
    "name, value, word",
    [
        ("ROLLCALL_POLICY", "no_such_module:judge", "no_such_module"),
        ("ROLLCALL_POLICY_FAIL", "reopen", "ROLLCALL_POLICY_FAIL"),
    ],
)
def test_a_wrong_setting_is_one_clear_line(tmp_path: Path, name: str, value: str, word: str):
    env = {name: value, "ROLLCALL_DATA_DIR": str(tmp_path / "data")}
    done = rollcall("up", "--nats-port", "0", "--http", "off", env=env, timeout=30)

    assert done.returncode == 6
    assert word in done.stderr and "Traceback" not in done.stderr


def test_ctrl_c_ends_up_though_a_policy_hangs(tmp_path: Path):
    (tmp_path / "hanging_policy.py").write_text("import time\ndef judge(case):\n    time.sleep(300)\n")
    one = Up(tmp_path, policy="hanging_policy:judge")
    with one.process:
        one.ready()
        assert one.asks("register", "worker", "w1") == "unavailable"
        try:
            took = one.process.interrupt()
        finally:
            one.process.popen.kill()
    assert took < 10

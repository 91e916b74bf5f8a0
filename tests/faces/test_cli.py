"""The command line as people and scripts use it: real processes, exit codes, JSON, 80 columns."""

import asyncio
import json
import os
import signal
import subprocess
import time
from contextlib import contextmanager

import pytest

from tests.conftest import eventually
from tests.processes import ROLLCALL, Process, children, gone, rollcall


@contextmanager
def started(home):
    """`rollcall up` on a free port, and the environment that makes commands find it."""
    ready = home / "ready.json"
    with Process("up", "--nats-port", "0", "--ready-file", str(ready), home=home) as process:
        told = process.ready(ready)
        process.env = {"ROLLCALL_NATS": told["nats"]}
        process.told = told
        yield process
        # How it ends is a rule of its own; nobody waits for that here.
        process.popen.kill()


@pytest.fixture
def up(tmp_path):
    with started(tmp_path) as process:
        yield process


@pytest.fixture(scope="module")
def standing(tmp_path_factory):
    """One that nobody ends, and who else is on its roll does not matter."""
    home = tmp_path_factory.mktemp("standing")
    with started(home) as process:
        process.home = home
        yield process


def tell(up, *arguments, exits=0):
    done = rollcall(*arguments, env=up.env)
    assert done.returncode == exits, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def told(up, *arguments, exits=0):
    return json.loads(tell(up, *arguments, "--json", exits=exits).stdout)


def test_the_ready_file_says_where_and_who(standing):
    assert standing.told["nats"].startswith("nats://127.0.0.1:")
    assert standing.told["pid"] == standing.popen.pid


def test_an_agents_life_by_hand(up):
    arguments = ["--role", "worker", "--id", "w/1", "--name", "one", "-c", "ocr", "--label", "zone=a", "--ttl", "60"]
    more = ["--endpoint", "http=http://h:1", "--metadata", "n=5", "--metadata", "t=text", "--pointer", "log=/var/log"]
    entry = told(up, "register", *arguments, *more)
    assert (entry["id"], entry["capabilities"], entry["metadata"]) == ("w/1", ["ocr"], {"n": 5, "t": "text"})
    assert (entry["endpoints"], entry["pointers"], entry["ttl"]) == ({"http": "http://h:1"}, {"log": "/var/log"}, 60.0)

    tell(up, "heartbeat", "--role", "worker", "--id", "w/1", "--health", "cpu_percent=12.5")
    assert [one["id"] for one in told(up, "ls")["agents"]] == ["w/1"]
    assert [one["id"] for one in told(up, "discover", "worker", "-c", "ocr", "--label", "zone=a")["agents"]] == ["w/1"]
    assert told(up, "get", "w/1")["health"]["cpu_percent"] == 12.5
    updated = told(up, "update", "--role", "worker", "--id", "w/1", "--set", "status=draining", "--set", "ttl=null")
    assert (updated["status"], updated["ttl"]) == ("draining", None)
    assert [one["kind"] for one in told(up, "history", "w/1")["changes"]] == ["registered", "updated"]
    assert len(told(up, "since", "1")["changes"]) == 1
    told(up, "deregister", "--role", "worker", "--id", "w/1", "--reason", "done")
    assert told(up, "ls")["agents"] == []
    assert told(up, "info")["agents"] == 0


def test_exit_codes_tell_what_happened(standing):
    tell(standing, "register", "--role", "worker", "--id", "a")
    assert "registered" in tell(standing, "register", "--role", "worker", "--id", "b", "--ttl", "none").stdout

    assert "takeover" in tell(standing, "register", "--role", "worker", "--id", "a", exits=4).stderr
    assert "register it first" in tell(standing, "get", "nobody", exits=3).stderr
    tell(standing, "update", "--role", "worker", "--id", "nobody", "--set", "name=x", exits=3)
    assert "no worker fits" in tell(standing, "discover", "worker", "-c", "juggle", exits=1).stderr
    tell(standing, "register", "--role", "worker", "--id", "c", "--ttl", "soon", exits=2)
    tell(standing, "register", "--role", "worker", "--id", "c", "--label", "zone", exits=2)
    tell(standing, "update", "--role", "worker", "--id", "a", "--set", "ttl=-5", exits=2)
    tell(standing, "discover", exits=2)
    tell(standing, "ls", "--realm", "no such realm", exits=2)
    assert "no worker answers in realm 'other'" in tell(standing, "ls", "--realm", "other", exits=5).stderr


def test_a_bus_that_is_away_is_one_clear_line():
    done = rollcall("ls", "--nats", "nats://127.0.0.1:1")

    assert done.returncode == 5
    assert "rollcall up" in done.stderr
    assert "Traceback" not in done.stderr


def test_tables_fit_80_columns_and_carry_no_colours_off_a_terminal(standing):
    many = ["-c", "a-rather-long-capability", "-c", "and-another-one-of-them", "--description", "x" * 300]
    tell(standing, "register", "--role", "a-role-of-some-length", "--id", "an-id-that-is-quite-long-" + "x" * 60, *many)
    for command in (["ls"], ["get", "an-id-that-is-quite-long-" + "x" * 60], ["since", "0"], ["info"], ["doctor"]):
        done = tell(standing, *command)
        assert max(len(line) for line in done.stdout.splitlines()) <= 80, command
        assert "\x1b" not in done.stdout


def test_watch_prints_each_change_as_a_line_of_json(up):
    with subprocess.Popen(
        [*ROLLCALL, "watch", "worker", "--json", "--count", "2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **up.env},
    ) as watch:
        deadline = time.monotonic() + 20
        number = 0
        while watch.poll() is None and time.monotonic() < deadline:
            number += 1
            tell(up, "register", "--role", "worker", "--id", f"w{number}")
        assert watch.wait(20) == 0
        assert watch.stdout is not None
        lines = [json.loads(line) for line in watch.stdout]
    assert [line["kind"] for line in lines] == ["registered", "registered"]
    assert lines[0]["revision"] < lines[1]["revision"]


def test_doctor_says_that_all_is_well(up):
    findings = told(up, "doctor")["findings"]

    assert {one["check"]: one["verdict"] for one in findings} == dict.fromkeys(
        ["server", "streams", "workers", "leader", "snapshot", "commands", "broadcast", "clock", "evidence", "guard"],
        "ok",
    )


def test_doctor_says_what_is_broken_and_how_to_mend_it(nats_server):
    done = rollcall("doctor", "--nats", nats_server.url, "--realm", "nobody-here")

    assert done.returncode == 1
    assert "broken" in done.stdout
    assert "rollcall up" in done.stdout


def test_two_ups_on_one_data_dir_are_refused(standing):
    second = rollcall("up", "--nats-port", "0", env={"ROLLCALL_DATA_DIR": str(standing.home / "data")})

    assert second.returncode == 6
    assert "another rollcall uses" in second.stderr
    assert standing.popen.poll() is None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_up_ends_cleanly_and_soon_and_takes_its_server_along(up, number):
    server = children(up.popen.pid)
    assert server
    tell(up, "register", "--role", "worker", "--id", "a", "--ttl", "none")
    started = time.monotonic()

    up.popen.send_signal(number)

    assert up.popen.wait(10) == 0
    assert time.monotonic() - started < 2.0
    assert all(gone(pid) for pid in server)
    assert "Traceback" not in up.said()


def test_up_comes_back_with_its_data_at_its_address(up, tmp_path):
    tell(up, "register", "--role", "worker", "--id", "a", "--ttl", "none")
    up.interrupt()
    ready = tmp_path / "ready.json"
    assert not ready.exists()

    with Process("up", "--nats-port", "0", "--ready-file", str(ready), home=tmp_path) as again:
        assert again.ready(ready)["nats"] == up.told["nats"]
        assert [one["id"] for one in told(up, "ls")["agents"]] == ["a"]


def test_a_killed_up_takes_its_server_along(up):
    server = children(up.popen.pid)
    up.kill()

    asyncio.run(eventually(lambda: all(gone(pid) for pid in server), within=5))


def test_a_second_worker_joins_the_local_up_by_itself(up, tmp_path):
    ready = tmp_path / "worker.json"
    arguments = ["worker", "--nats", up.told["nats"], "--name", "second", "--ready-file", str(ready)]
    seed = str(tmp_path / "data" / "worker.nk")
    with Process(*arguments, "--key", seed, "--data-dir", str(tmp_path / "other"), home=tmp_path) as second:
        second.ready(ready)
        workers = set()
        deadline = time.monotonic() + 20
        while len(workers) < 2 and time.monotonic() < deadline:
            workers.add(told(up, "info")["worker"])
        assert "second" in workers
        assert second.interrupt() < 2.0
        assert not ready.exists()


def test_run_is_on_the_roll_while_the_program_lives_and_passes_its_exit_code(up, tmp_path):
    script = tmp_path / "program.sh"
    script.write_text("echo $ROLLCALL_AGENT_ID $ROLLCALL_ROLE\nwhile [ ! -e go ]; do sleep 0.05; done\nexit 7\n")
    with subprocess.Popen(
        [*ROLLCALL, "run", "--role", "worker", "--id", "r1", "-c", "ocr", "--", "sh", str(script)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env={**os.environ, **up.env},
    ) as wrapped:
        asyncio.run(eventually(lambda: [one["id"] for one in told(up, "ls")["agents"]] == ["r1"]))
        assert told(up, "get", "r1")["name"] == "sh"
        (tmp_path / "go").touch()
        assert wrapped.wait(15) == 7
        assert wrapped.stdout is not None
        assert wrapped.stdout.read() == "r1 worker\n"
    assert told(up, "ls")["agents"] == []


def test_run_passes_signals_through(up, tmp_path):
    script = tmp_path / "program.sh"
    script.write_text("trap 'touch got; exit 3' TERM\ntouch started\nwhile true; do sleep 0.05; done\n")
    wrapped = subprocess.Popen(
        [*ROLLCALL, "run", "--role", "worker", "--", "sh", str(script)], cwd=tmp_path, env={**os.environ, **up.env}
    )
    asyncio.run(eventually(lambda: (tmp_path / "started").exists()))

    wrapped.send_signal(signal.SIGTERM)

    assert wrapped.wait(15) == 3
    assert (tmp_path / "got").exists()


def test_run_never_waits_for_a_registry_that_is_away():
    done = rollcall("run", "--role", "worker", "--nats", "nats://127.0.0.1:1", "--", "sh", "-c", "echo works; exit 5")

    assert (done.returncode, done.stdout) == (5, "works\n")


def test_run_says_when_the_program_cannot_be_run(standing):
    done = tell(standing, "run", "--role", "worker", "--", "/no/such/program", exits=6)

    assert "cannot be run" in done.stderr


def test_a_wrong_setting_is_named(tmp_path):
    done = rollcall("up", env={"ROLLCALL_DATA_DIR": str(tmp_path), "ROLLCALL_REPLICAS": "many"})

    assert done.returncode == 6
    assert "ROLLCALL_REPLICAS" in done.stderr


def test_a_data_dir_that_cannot_be_one_is_a_clear_line(tmp_path):
    (tmp_path / "file").write_text("not a directory")

    done = rollcall("up", "--data-dir", str(tmp_path / "file" / "data"), "--nats-port", "0")

    assert done.returncode == 6
    assert "Traceback" not in done.stderr


def test_a_data_dir_is_private_from_top_to_bottom(tmp_path):
    ready = tmp_path / "ready.json"
    deep = tmp_path / "a" / "b" / "c"
    with Process("up", "--data-dir", str(deep), "--nats-port", "0", "--ready-file", str(ready), home=tmp_path) as up:
        up.ready(ready)
        assert {path.stat().st_mode & 0o777 for path in (deep, *deep.parents[:2])} == {0o700}


def test_a_health_that_does_not_exist_is_named(standing):
    done = tell(standing, "heartbeat", "--role", "worker", "--id", "a", "--health", "cpu=1", exits=2)

    assert "cpu_percent" in done.stderr


def test_every_command_has_help_with_a_purpose():
    listed = rollcall("--help").stdout
    commands = [
        "up",
        "worker",
        "demo",
        "register",
        "run",
        "heartbeat",
        "update",
        "deregister",
        "ls",
        "get",
        "discover",
        "watch",
        "history",
        "since",
        "info",
        "doctor",
    ]
    assert all(command in listed for command in commands)
    for command in ("register", "run", "discover", "watch", "up"):
        assert "Example" in rollcall(command, "--help").stdout
    assert rollcall("--version").stdout.startswith("rollcall ")


def test_the_demo_shows_and_checks_the_main_job():
    done = rollcall("demo", timeout=90)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "7 steps shown, 7 checked" in done.stdout
    assert "deregistered scout scout-1" in done.stdout
    assert "lost         worker worker-5" in done.stdout


def test_a_demo_whose_registry_cannot_start_says_so_and_fails(tmp_path):
    """The port is taken from it: every step depends on the first."""
    done = rollcall("demo", env={"ROLLCALL_REPLICAS": "many"}, timeout=90)

    assert done.returncode != 0
    assert "ROLLCALL_REPLICAS" in done.stderr

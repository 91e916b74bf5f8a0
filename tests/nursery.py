"""Where Python programs of tests are born: forked from a process that has loaded all, so none takes the second that
loading takes.

Each is a process of its own, with its own session, environment, working directory and files, and ends as an
interpreter ends. What is different: ``/proc/<pid>/cmdline`` and ``environ`` are those of the nursery. Who looks at
these, or at the start itself, starts a program as it is. Where a loaded process cannot be forked, all are started so.
"""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

FORKS = sys.platform == "linux"
POLL = 0.002

_NURSERY = """
import gc, json, os, runpy, signal, sys
import rollcall.faces.cli.app, rollcall.faces.cli.demo_agent
import uvicorn.lifespan.on, uvicorn.loops.uvloop, uvicorn.protocols.http.httptools_impl
from rollcall.embedded.process import die_with_parent

# What is run as a program may not be there as a module.
for name in ("app", "demo_agent"):
    del sys.modules["rollcall.faces.cli." + name]
gc.collect()
gc.freeze()

asked, answers = os.fdopen(int(sys.argv[1])), os.fdopen(int(sys.argv[2]), "w")
codes = {}

def born(wanted):
    dies = die_with_parent(signal.SIGKILL)
    pid = os.fork()
    if pid:
        return pid
    asked.close()
    answers.close()
    os.setsid()
    dies()
    for number, name in enumerate(("in", "out", "err")):
        flags = os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_APPEND
        os.dup2(os.open(wanted[name], flags), number)
    os.closerange(3, 256)
    os.environ.clear()
    os.environ.update(wanted["env"])
    os.chdir(wanted["cwd"])
    os.umask(wanted["umask"])
    more = wanted["env"].get("PYTHONPATH", "").split(os.pathsep)
    sys.path[1:1] = [place for place in more if place and place not in sys.path]
    return 0

def ended(pid, options):
    if pid not in codes:
        done, status = os.waitpid(pid, options)
        if done:
            codes[pid] = os.waitstatus_to_exitcode(status)
    return codes.get(pid)

def next_child():
    for line in asked:
        wanted = json.loads(line)
        if "program" in wanted:
            answer = born(wanted)
            if not answer:
                return wanted["program"]
        else:
            answer = ended(wanted["poll"], os.WNOHANG)
        answers.write(json.dumps(answer) + "\\n")
        answers.flush()
    os._exit(0)

program = next_child()
if program[0] == "-m":
    sys.argv = program[1:]
    sys.path[0] = os.getcwd()
    runpy.run_module(program[1], run_name="__main__", alter_sys=True)
else:
    sys.argv = program
    sys.path[0] = os.path.dirname(program[0])
    runpy.run_path(program[0], run_name="__main__")
"""


class Child:
    """A program that was born here, to be handled as a `subprocess.Popen`."""

    def __init__(self, nursery: "Nursery", args: Sequence[str], pid: int) -> None:
        self.args = args
        self.pid = pid
        self.returncode: int | None = None
        self._nursery = nursery

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = self._nursery.ask({"poll": self.pid})
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        deadline = time.monotonic() + timeout if timeout is not None else None
        while (code := self.poll()) is None:
            if deadline is not None and time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
            time.sleep(POLL)
        return code

    def send_signal(self, number: int) -> None:
        # Its number is nobody else's before its end was asked for.
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Nursery:
    """Starts with the first program, and ends with this process: then nobody can ask any more."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._turn = threading.Lock()

    def bear(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        stdin: Path = Path(os.devnull),
        stdout: Path,
        stderr: Path | None = None,
    ) -> Child:
        """Starts a program; what it writes goes behind what the files hold. They must be there."""
        files = {"in": str(stdin), "out": str(stdout), "err": str(stderr or stdout)}
        asked = {**files, "program": list(command[1:]), "env": dict(env), "cwd": str(Path.cwd()), "umask": _umask()}
        return Child(self, command, self.ask(asked))

    def ask(self, asked: Mapping[str, Any]) -> Any:
        with self._turn:
            if self._process is None:
                self._open()
            self._asked.write(json.dumps(asked) + "\n")
            self._asked.flush()
            return json.loads(self._answers.readline())

    def _open(self) -> None:
        theirs_in, ours_out = os.pipe()
        ours_in, theirs_out = os.pipe()
        self._asked, self._answers = os.fdopen(ours_out, "w"), os.fdopen(ours_in)
        self._process = subprocess.Popen(
            [sys.executable, "-c", _NURSERY, str(theirs_in), str(theirs_out)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            # Consoles are made when the commands are loaded, and then keep a width that was told.
            env={name: value for name, value in os.environ.items() if name != "COLUMNS"},
            pass_fds=(theirs_in, theirs_out),
            start_new_session=True,
        )
        os.close(theirs_in)
        os.close(theirs_out)


def _umask() -> int:
    """That of this process. To ask for it by setting it would change it for other threads."""
    (line,) = re.findall(r"^Umask:\s*(\d+)$", Path("/proc/self/status").read_text(), re.MULTILINE)
    return int(line, 8)


NURSERY = Nursery()


def to_its_end(
    command: Sequence[str], *, env: Mapping[str, str], input: str = "", timeout: float = 60
) -> "subprocess.CompletedProcess[str]":
    """Runs a program to its end, as `subprocess.run` does."""
    with tempfile.TemporaryDirectory() as directory:
        given, out, err = (Path(directory) / name for name in ("in", "out", "err"))
        for file, text in ((given, input), (out, ""), (err, "")):
            file.write_text(text)
        child = NURSERY.bear(command, env=env, stdin=given, stdout=out, stderr=err)
        try:
            code = child.wait(timeout)
        finally:
            child.kill()
        return subprocess.CompletedProcess(child.args, code, out.read_text(), err.read_text(errors="replace"))

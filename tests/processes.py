"""Real processes for tests: started, watched, and ended by their id."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rollcall.embedded.process import die_with_parent
from tests.nursery import FORKS, NURSERY, Child, to_its_end

ROLLCALL = [sys.executable, "-m", "rollcall.faces.cli.app"]


# Many a test starts `up`; only one of them could listen on the usual port.
ANY_PORT = {**os.environ, "ROLLCALL_HTTP": "127.0.0.1:0"}


class Process:
    """One `rollcall` command, or another, in a process of its own. It ends with this one, whatever ends this one.

    A Python program is forked from the nursery, unless it must be started `as_it_is`.
    """

    def __init__(
        self,
        *arguments: str,
        home: Path,
        env: dict[str, str] | None = None,
        command: Sequence[str] = ROLLCALL,
        as_it_is: bool = False,
    ) -> None:
        self.log = home / f"log-{time.monotonic_ns()}"
        self.log.touch()
        start = NURSERY.bear if FORKS and command[0] == sys.executable and not as_it_is else _started
        environment = {**ANY_PORT, "ROLLCALL_DATA_DIR": str(home / "data"), **(env or {})}
        self.popen = start([*command, *arguments], env=environment, stdout=self.log)

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *_: object) -> None:
        if self.popen.poll() is None:
            self.popen.terminate()
            self.resume()
            try:
                self.popen.wait(10)
            except subprocess.TimeoutExpired:
                self.popen.kill()
                self.popen.wait()

    def ready(self, file: Path, within: float = 30.0) -> dict[str, Any]:
        """What the ready file says, once it is there."""
        deadline = time.monotonic() + within
        while not file.exists():
            assert self.popen.poll() is None, f"ended at once: {self.said()}"
            assert time.monotonic() < deadline, f"not ready: {self.said()}"
            time.sleep(0.02)
        return json.loads(file.read_text())

    def kill(self) -> None:
        """kill -9."""
        self.popen.kill()
        self.popen.wait()

    def pause(self) -> None:
        """It stands still from now on."""
        self.popen.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """It goes on."""
        self.popen.send_signal(signal.SIGCONT)

    def memory(self) -> int:
        """Resident bytes, in MB."""
        for line in Path(f"/proc/{self.popen.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) // 1024
        return 0

    def interrupt(self) -> float:
        """Ctrl-C; returns the seconds until it ended."""
        started = time.monotonic()
        self.popen.send_signal(signal.SIGINT)
        self.popen.wait(30)
        return time.monotonic() - started

    def said(self) -> str:
        return self.log.read_text(errors="replace")


def _started(command: Sequence[str], *, env: dict[str, str], stdout: Path) -> "subprocess.Popen[bytes] | Child":
    with stdout.open("wb") as log:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=env,
            preexec_fn=die_with_parent(signal.SIGKILL),
            start_new_session=True,
        )


def rollcall(
    *arguments: str, env: dict[str, str] | None = None, input: str = "", timeout: float = 60
) -> subprocess.CompletedProcess:
    """Runs a command to its end."""
    command, environment = [*ROLLCALL, *arguments], {**ANY_PORT, "COLUMNS": "80", **(env or {})}
    if FORKS:
        return to_its_end(command, env=environment, input=input, timeout=timeout)
    return subprocess.run(
        command, env=environment, input=input, timeout=timeout, capture_output=True, text=True, check=False
    )


def gone(pid: int) -> bool:
    """Whether no process has that id, or only its remains."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def children(pid: int) -> list[int]:
    """The processes that a process started."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = stat.read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(text.rpartition(")")[2].split()[1]) == pid:
            found.append(int(stat.parent.name))
    return found

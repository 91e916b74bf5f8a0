"""Processes of the demo: they end with it, whatever ends it."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rollcall.embedded.process import die_with_parent

Spawn = Callable[[list[str], Path | None], "subprocess.Popen[bytes]"]


@contextmanager
def children() -> Iterator[Spawn]:
    """Starts processes that end with this block, and with this process."""
    started: list[subprocess.Popen[bytes]] = []

    def spawn(command: list[str], log: Path | None) -> "subprocess.Popen[bytes]":
        with contextlib.ExitStack() as stack:
            output = stack.enter_context(log.open("wb")) if log is not None else subprocess.DEVNULL
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
                preexec_fn=die_with_parent(signal.SIGKILL),
                start_new_session=True,
            )
        started.append(process)
        return process

    try:
        yield spawn
    finally:
        # The agents first, so that they can say goodbye; the registry, which came first, last.
        _end(started[1:])
        _end(started[:1])


def _end(processes: "list[subprocess.Popen[bytes]]") -> None:
    for process in processes:
        if process.poll() is None:
            process.terminate()
    deadline = time.monotonic() + 2
    for process in processes:
        try:
            process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

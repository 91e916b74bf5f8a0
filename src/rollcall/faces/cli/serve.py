"""Serving: `up`, the whole registry in one command, and `worker`, one more of them."""

import gc
import json
import os
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Annotated

import typer

from rollcall.bus.connection import without_password
from rollcall.core.errors import Unavailable
from rollcall.embedded import running
from rollcall.faces.cli.common import LOG_LEVELS, Realm, address_file, err, forever, run, set_up_logs
from rollcall.faces.cli.settings import default_data_dir, seed, worker_settings
from rollcall.store.files import InUse, write_whole
from rollcall.worker import serving

app = typer.Typer()

DEFAULT_PORT = 4222

DataDir = Annotated[
    Path | None,
    typer.Option("--data-dir", envvar="ROLLCALL_DATA_DIR", help="Where data is kept. Default: the user data dir."),
]
LogLevel = Annotated[str, typer.Option("--log-level", envvar="ROLLCALL_LOG_LEVEL", help="debug, info, warning, error.")]
WORKER_KEY = "worker.nk"


@app.command()
def up(
    realm: Realm = "default",
    data_dir: DataDir = None,
    nats: Annotated[
        str | None, typer.Option("--nats", metavar="URL", help="Use this server instead of the bundled one.")
    ] = None,
    nats_port: Annotated[int, typer.Option("--nats-port", min=0, max=65535, help="0 takes a free one.")] = DEFAULT_PORT,
    listen: Annotated[str, typer.Option("--listen", help="The address the bundled server listens on.")] = "127.0.0.1",
    ready_file: Annotated[
        Path | None, typer.Option("--ready-file", help='Gets {"nats": url, "pid": ...} once it serves.')
    ] = None,
    log_level: LogLevel = "info",
) -> None:
    """Start the registry: a NATS server and a worker, until Ctrl-C.

    Example: rollcall up --nats-port 0 --ready-file ready.json
    """
    _logs(log_level)
    _tune_interpreter()
    place = data_dir or default_data_dir()
    run(_up(realm, place, nats, nats_port, listen, ready_file), endless=True)


@app.command()
def worker(
    nats: Annotated[str, typer.Option("--nats", envvar="ROLLCALL_NATS", metavar="URL", help="The bus.")],
    realm: Realm = "default",
    data_dir: DataDir = None,
    key: Annotated[
        Path | None, typer.Option("--key", help="NKEY seed file to sign in with. Default: that of the local `up`.")
    ] = None,
    name: Annotated[str, typer.Option("--name", help="How it is called in answers. Default: host and number.")] = "",
    ready_file: Annotated[Path | None, typer.Option("--ready-file", help="Written once it serves.")] = None,
    log_level: LogLevel = "info",
) -> None:
    """Start one more worker on a bus; start several for availability.

    Example: rollcall worker --nats nats://127.0.0.1:4222
    """
    _logs(log_level)
    _tune_interpreter()
    run(_worker(nats, realm, data_dir, key, name, ready_file), endless=True)


def _tune_interpreter() -> None:
    """A serving process keeps very many small objects and shares its time between a loop and a thread for the disk.

    The thread takes the interpreter lock back for every row; by default it may wait 5 ms each time. Full garbage
    collections over everything that is known would find nothing: records hold no cycles.
    """
    sys.setswitchinterval(0.0002)
    gc.set_threshold(50_000, 50, 1000)


def _logs(level: str) -> None:
    if level not in LOG_LEVELS:
        raise typer.BadParameter(f"--log-level {level!r} is none of {', '.join(LOG_LEVELS)}")
    set_up_logs(LOG_LEVELS[level])


async def _up(realm: str, place: Path, nats: str | None, port: int, host: str, ready_file: Path | None) -> None:
    snapshot = place / "snapshots" / f"{realm}.db"
    name = f"{socket.gethostname()}-up"
    if nats is not None:
        settings = worker_settings(url=nats, realm=realm, name=name, snapshot=snapshot, nkey_seed=_seed(None, place))
        async with serving(settings), _announced(nats, _files(place, ready_file)):
            await forever()
    async with running(place, host=host, port=port) as server:
        settings = worker_settings(
            url=server.url, realm=realm, name=name, snapshot=snapshot, nkey_seed=server.worker_seed
        )
        async with serving(settings), _announced(server.url, _files(place, ready_file)):
            err.print(f"[bold green]rollcall is up[/] at {server.url}, realm {realm}, data in {place}")
            code = await server.ended()
            raise Unavailable(f"nats-server ended by itself with code {code}; read {place / 'nats-server.log'}")


async def _worker(
    nats: str, realm: str, data_dir: Path | None, key: Path | None, name: str, ready_file: Path | None
) -> None:
    home = data_dir or default_data_dir()
    async with AsyncExitStack() as stack:
        called = await _first_free(stack, nats, realm, home, _seed(key, home), name, fixed=data_dir is not None)
        async with _announced(nats, [ready_file] if ready_file is not None else []):
            err.print(f"[bold green]worker {called} serves[/] realm {realm} at {without_password(nats)}")
            await forever()


async def _first_free(
    stack: AsyncExitStack, nats: str, realm: str, home: Path, seed: str, name: str, *, fixed: bool
) -> str:
    """Starts a worker on the first snapshot that no other worker of this machine uses; says how it is called."""
    number = 1
    while True:
        snapshot = home / ("snapshots" if fixed else f"workers/{number}") / f"{realm}.db"
        called = name or f"{socket.gethostname()}-{number}"
        settings = worker_settings(url=nats, realm=realm, name=called, snapshot=snapshot, nkey_seed=seed)
        try:
            await stack.enter_async_context(serving(settings))
            return called
        except InUse:
            if fixed:
                raise
            number += 1


def _seed(key: Path | None, home: Path) -> str:
    """The seed to sign in with; empty when there is none, as on a server without keys."""
    path = key or home / WORKER_KEY
    if key is None and not path.exists():
        return ""
    return seed(path)


def _files(place: Path, ready_file: Path | None) -> list[Path]:
    """Where `up` says that it serves: for commands on this machine, and for whoever waits for the ready file."""
    return [address_file(place), *([ready_file] if ready_file is not None else [])]


@asynccontextmanager
async def _announced(url: str, files: list[Path]) -> AsyncIterator[None]:
    """The files say where it serves while the block runs; only their owner reads them: a URL may hold a secret."""
    told = json.dumps({"nats": url, "pid": os.getpid()}).encode()
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, told, mode=0o600)
    try:
        yield
    finally:
        for file in files:
            with suppress(FileNotFoundError):
                file.unlink()

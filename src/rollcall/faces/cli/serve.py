"""Serving: `up`, the whole registry in one command, and `worker`, one more of them."""

import gc
import os
import socket
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Annotated

import typer

from rollcall.bus.connection import without_password
from rollcall.core.errors import Unavailable
from rollcall.embedded import running
from rollcall.faces.cli.common import LOG_LEVELS, Realm, address_file, announced, err, forever, run, set_up_logs
from rollcall.faces.cli.http import DEFAULT_LISTEN, Environment, address, face_settings
from rollcall.faces.cli.http import face as serving_face
from rollcall.faces.cli.settings import default_data_dir, from_environment, seed, worker_settings
from rollcall.faces.http.access import Token
from rollcall.faces.http.settings import Listener, check_address
from rollcall.store.files import InUse
from rollcall.worker import Worker, serving

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
        Path | None, typer.Option("--ready-file", help='Gets {"nats": url, "http": url, "pid": ...} once it serves.')
    ] = None,
    http: Annotated[
        str,
        typer.Option(
            "--http",
            envvar="ROLLCALL_HTTP",
            metavar="HOST:PORT",
            help="Where HTTP is served; port 0 takes a free one; off serves none.",
        ),
    ] = DEFAULT_LISTEN,
    tokens: Annotated[
        list[str], typer.Option("--http-token", "--token", metavar="[SCOPE:]TOKEN", help="See rollcall http.")
    ] = [],
    log_level: LogLevel = "info",
) -> None:
    """Start the registry: a NATS server, a worker and its HTTP face, until Ctrl-C.

    Example: rollcall up --nats-port 0 --ready-file ready.json
    """
    _logs(log_level)
    _tune_interpreter()
    place = data_dir or default_data_dir()
    run(_up(realm, place, nats, nats_port, listen, ready_file, http, tokens), endless=True)


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
    metrics: Annotated[
        str, typer.Option("--metrics", metavar="HOST:PORT", help="Serve its metrics for Prometheus there.")
    ] = "",
    log_level: LogLevel = "info",
) -> None:
    """Start one more worker on a bus; start several for availability.

    Example: rollcall worker --nats nats://127.0.0.1:4222
    """
    _logs(log_level)
    _tune_interpreter()
    run(_worker(nats, realm, data_dir, key, name, ready_file, metrics), endless=True)


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


async def _up(
    realm: str,
    place: Path,
    nats: str | None,
    port: int,
    host: str,
    ready_file: Path | None,
    http: str,
    tokens: list[str],
) -> None:
    snapshot = place / "snapshots" / f"{realm}.db"
    name = f"{socket.gethostname()}-up"
    # Whatever is wrong with it is said before anything is started.
    face = _face(http, tokens)
    if nats is not None:
        settings = worker_settings(url=nats, realm=realm, name=name, snapshot=snapshot, nkey_seed=_seed(None, place))
        async with serving(settings), face(nats, realm) as told, announced(told, _files(place, ready_file)):
            _say_where(told, realm, place)
            await forever()
    async with running(place, host=host, port=port) as server:
        settings = worker_settings(
            url=server.url, realm=realm, name=name, snapshot=snapshot, nkey_seed=server.worker_seed
        )
        async with serving(settings), face(server.url, realm) as told, announced(told, _files(place, ready_file)):
            _say_where(told, realm, place)
            code = await server.ended()
            raise Unavailable(f"nats-server ended by itself with code {code}; read {place / 'nats-server.log'}")


def _say_where(told: Mapping[str, object], realm: str, place: Path) -> None:
    over = f" and {told['http']}" if "http" in told else ""
    where = without_password(str(told["nats"]))
    err.print(f"[bold green]rollcall is up[/] at {where}{over}, realm {realm}, data in {place}")


Serve = Callable[[str, str], AbstractAsyncContextManager[dict[str, object]]]


def _face(http: str, tokens: list[str]) -> Serve:
    """How HTTP is served beside the worker; what is told of both goes into the ready file."""
    said = from_environment(Environment)
    settings = face_settings(said, tokens, [], 0.0)
    wanted = [] if http == "off" else [address(http)]
    for listener in wanted:
        check_address(listener, settings)

    @asynccontextmanager
    async def served(url: str, realm: str) -> AsyncIterator[dict[str, object]]:
        told: dict[str, object] = {"nats": url, "pid": os.getpid()}
        if not wanted:
            yield told
            return
        async with serving_face(url, realm, wanted, settings, said) as found:
            yield {**told, "http": found[0].url}

    return served


async def _worker(
    nats: str, realm: str, data_dir: Path | None, key: Path | None, name: str, ready_file: Path | None, metrics: str
) -> None:
    home = data_dir or default_data_dir()
    listener = address(metrics) if metrics else None
    tokens = face_settings(from_environment(Environment), [], [], 0.0).tokens
    async with AsyncExitStack() as stack:
        worker_ = await _first_free(stack, nats, realm, home, _seed(key, home), name, fixed=data_dir is not None)
        told: dict[str, object] = {"nats": nats, "pid": os.getpid()}
        if listener is not None:
            found = await stack.enter_async_context(_measured(worker_, listener, tokens))
            told["metrics"] = f"{found.url}/metrics"
        async with announced(told, [ready_file] if ready_file is not None else []):
            at = without_password(nats)
            err.print(f"[bold green]worker {worker_.name} serves[/] realm {realm} at {at}")
            if listener is not None:
                err.print(f"metrics at {told['metrics']}")
            await forever()


async def _first_free(
    stack: AsyncExitStack, nats: str, realm: str, home: Path, seed: str, name: str, *, fixed: bool
) -> Worker:
    """Starts a worker on the first snapshot that no other worker of this machine uses."""
    number = 1
    while True:
        snapshot = home / ("snapshots" if fixed else f"workers/{number}") / f"{realm}.db"
        called = name or f"{socket.gethostname()}-{number}"
        settings = worker_settings(url=nats, realm=realm, name=called, snapshot=snapshot, nkey_seed=seed)
        try:
            return await stack.enter_async_context(serving(settings))
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


def _measured(worker: Worker, listener: Listener, tokens: tuple[Token, ...]) -> AbstractAsyncContextManager[Listener]:
    """The metrics of a worker, served while the block runs."""
    # Only serving needs what is slow to load.
    from rollcall.faces.http.metrics import WorkerMetrics  # noqa: PLC0415
    from rollcall.faces.http.server import serving_app  # noqa: PLC0415

    return serving_app(WorkerMetrics(worker.info, tokens), listener, tokens)

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
from rollcall.embedded import Authority, running
from rollcall.embedded.authority import HTTP_USER, OPERATOR_USER
from rollcall.faces.cli.access import access, address_file, connects
from rollcall.faces.cli.bundled import Bundled, own_tls, server_tls, tls_files
from rollcall.faces.cli.common import LOG_LEVELS, Realm, announced, err, forever, run, set_up_logs
from rollcall.faces.cli.http import DEFAULT_LISTEN, Environment, address, face_settings, kept_token
from rollcall.faces.cli.http import face as serving_face
from rollcall.faces.cli.settings import default_data_dir, from_environment, seed, worker_settings
from rollcall.faces.http.access import Scope, Token
from rollcall.faces.http.settings import FaceSettings, Listener, check_address
from rollcall.sdk.login import SigningIn
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
@connects("key", "credentials", env=False)
def up(
    realm: Realm = "default",
    data_dir: DataDir = None,
    nats: Annotated[
        str | None,
        typer.Option("--nats", metavar="URL", help="Use this server. One with users: see rollcall worker and http."),
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
    auth: Annotated[bool, typer.Option("--auth", help="Let in only users that `rollcall creds` has issued.")] = False,
    tls_verify: Annotated[
        bool, typer.Option("--tls-verify", help="Let in only clients with a certificate of --tls-ca.")
    ] = False,
    log_level: LogLevel = "info",
) -> None:
    """Start the registry: a NATS server, a worker and its HTTP face, until Ctrl-C.

    With --tls-cert and --tls-key the bundled server speaks TLS; --tls-ca is whom its own clients trust.

    Example: rollcall up --nats-port 0 --ready-file ready.json
    """
    _logs(log_level)
    _tune_interpreter()
    place = data_dir or default_data_dir()
    face = _face(http, tokens, place if auth else None)
    if nats is not None:
        if auth or tls_verify:
            raise typer.BadParameter(
                "--auth and --tls-verify are for the bundled server; --nats is a server of its own"
            )
        run(_up_beside(realm, place, nats, ready_file, face), endless=True)
        return
    bundled = Bundled(listen, nats_port, Authority(place) if auth else None, server_tls(tls_verify))
    run(_up(realm, place, bundled, ready_file, face), endless=True)


@app.command()
@connects("key")
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


async def _up_beside(realm: str, place: Path, nats: str, ready_file: Path | None, face: "Serve") -> None:
    """A worker and its HTTP face on a server that is there already."""
    settings = worker_settings(
        url=nats,
        realm=realm,
        name=f"{socket.gethostname()}-up",
        snapshot=_snapshot(place, realm),
        nkey_seed=_seed(None, place),
        tls=access().tls,
    )
    signing_in: SigningIn = {"tls": access().tls}
    async with serving(settings), face(nats, realm, signing_in) as told, announced(told, _files(place, ready_file)):
        _say_where(told, realm, place)
        await forever()


async def _up(realm: str, place: Path, bundled: Bundled, ready_file: Path | None, face: "Serve") -> None:
    """The bundled server, a worker and its HTTP face."""
    bundled.check()
    authority, tls = bundled.authority, own_tls(bundled)
    if authority is not None:
        authority.prepare(realm)
    async with running(place, host=bundled.host, port=bundled.port, authority=authority, tls=bundled.tls) as server:
        settings = worker_settings(
            url=server.url,
            realm=realm,
            name=f"{socket.gethostname()}-up",
            snapshot=_snapshot(place, realm),
            nkey_seed=server.worker_seed if authority is None else "",
            credentials=authority.worker_user if authority is not None else None,
            tls=tls,
            operators_file=authority.operators_file(realm) if authority is not None else None,
        )
        signing_in: SigningIn = {"tls": tls}
        local: dict[str, object] = {f"tls_{name}": path for name, path in tls_files(tls).items()}
        if authority is not None:
            signing_in["credentials"] = signing_in["key"] = authority.user(realm, HTTP_USER)
            local["credentials"] = str(authority.user(realm, OPERATOR_USER).absolute())
        async with (
            serving(settings),
            face(server.url, realm, signing_in) as told,
            announced({**told, **local}, _files(place, ready_file)),
        ):
            _say_where({**told, **local}, realm, place)
            code = await server.ended()
            raise Unavailable(f"nats-server ended by itself with code {code}; read {place / 'nats-server.log'}")


def _snapshot(place: Path, realm: str) -> Path:
    return place / "snapshots" / f"{realm}.db"


def _say_where(told: Mapping[str, object], realm: str, place: Path) -> None:
    over = f" and {told['http']}" if "http" in told else ""
    where = without_password(str(told["nats"]))
    err.print(f"[bold green]rollcall is up[/] at {where}{over}, realm {realm}, data in {place}")
    if "credentials" in told:
        err.print("only users of `rollcall creds` are let in; commands on this machine sign in as its operator")
    if "http_token" in told:
        err.print(f"HTTP asks for the token in {told['http_token']}; for reading, that in {told['http_read_token']}")


Serve = Callable[[str, str, SigningIn], AbstractAsyncContextManager[dict[str, object]]]


def _face(http: str, tokens: list[str], guarded: Path | None) -> Serve:
    """How HTTP is served beside the worker; what is told of both goes into the ready file.

    Whatever is wrong with it is said before anything is started. Where the bus is `guarded`, by the data dir of its
    authority, HTTP is too.
    """
    said = from_environment(Environment)
    settings = face_settings(said, tokens, [], 0.0)
    kept: dict[str, object] = {}
    if guarded is not None and http != "off":
        settings, kept = _guarded(said, tokens, settings, guarded)
    wanted = [] if http == "off" else [address(http)]
    for listener in wanted:
        check_address(listener, settings)

    @asynccontextmanager
    async def served(url: str, realm: str, signing_in: SigningIn) -> AsyncIterator[dict[str, object]]:
        told: dict[str, object] = {"nats": url, "pid": os.getpid(), **kept}
        if not wanted:
            yield told
            return
        async with serving_face(url, realm, wanted, settings, said, signing_in) as found:
            yield {**told, "http": found[0].url}

    return served


def _guarded(
    said: Environment, tokens: list[str], settings: FaceSettings, place: Path
) -> tuple[FaceSettings, dict[str, object]]:
    """HTTP asks for a token for whatever is done, and for reading; those that were not given are made, and kept."""
    kept: dict[str, object] = {}
    wanted = list(tokens)
    if not settings.tokens:
        kept["http_token"] = str(kept_token(place / "http.token"))
        wanted.append(f"@{kept['http_token']}")
    if not any(token.scope is Scope.READ for token in settings.tokens):
        kept["http_read_token"] = str(kept_token(place / "http-read.token"))
        wanted.append(f"read:@{kept['http_read_token']}")
    return face_settings(said, wanted, [], 0.0), kept


async def _worker(
    nats: str, realm: str, data_dir: Path | None, key: Path | None, name: str, ready_file: Path | None, metrics: str
) -> None:
    home = data_dir or default_data_dir()
    listener = address(metrics) if metrics else None
    tokens = face_settings(from_environment(Environment), [], [], 0.0).tokens
    async with AsyncExitStack() as stack:
        own_key = "" if access().credentials else _seed(key, home)
        worker_ = await _first_free(stack, nats, realm, home, own_key, name, fixed=data_dir is not None)
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
    number, said = 1, access()
    while True:
        snapshot = home / ("snapshots" if fixed else f"workers/{number}") / f"{realm}.db"
        called = name or f"{socket.gethostname()}-{number}"
        settings = worker_settings(
            url=nats,
            realm=realm,
            name=called,
            snapshot=snapshot,
            nkey_seed=seed,
            credentials=Path(said.credentials) if said.credentials else None,
            tls=said.tls,
        )
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

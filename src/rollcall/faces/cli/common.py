"""What every command shares: options, running, errors, exit codes.

====  ==========================================================
exit  means
====  ==========================================================
0     done
1     the answer is no: nobody fits, or something is not well
2     wrong usage or invalid input
3     no such agent
4     refused: conflict, denied, unauthorized
5     nobody could be asked, or the registry is busy
6     the set-up is wrong
7     it waits for an approval
130   interrupted
====  ==========================================================
"""

import asyncio
import json
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import msgspec
import structlog
import typer
from rich.console import Console
from rich.text import Text

from rollcall.core.errors import (
    Busy,
    Conflict,
    Denied,
    Invalid,
    Misconfigured,
    NotFound,
    RollcallError,
    TooLarge,
    Unauthorized,
    Unavailable,
    Waits,
)
from rollcall.identity.keys import may_be_secret
from rollcall.store.files import write_whole

if sys.platform != "win32":
    import uvloop

T = TypeVar("T")

NO = 1
INTERRUPTED = 130

_EXITS: dict[type[RollcallError], int] = {
    Invalid: 2,
    TooLarge: 2,
    NotFound: 3,
    Conflict: 4,
    Denied: 4,
    Unauthorized: 4,
    Unavailable: 5,
    Busy: 5,
    Misconfigured: 6,
    Waits: 7,
}

out = Console(highlight=False, soft_wrap=False)
err = Console(stderr=True, highlight=False)

Nats = Annotated[
    str | None,
    typer.Option("--nats", envvar="ROLLCALL_NATS", metavar="URL", help="The bus. Default: the local `rollcall up`."),
]
Realm = Annotated[str, typer.Option("--realm", envvar="ROLLCALL_REALM", help="The registry on that bus.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


def run(main: Coroutine[Any, Any, T], *, endless: bool = False) -> T:
    """Runs a command; SIGTERM ends it as Ctrl-C does, and errors become one line and an exit code.

    An `endless` command, such as a server, is done when it is interrupted.
    """
    try:
        return _runner(_interruptible(main))
    except RollcallError as error:
        fail(error)
    except BaseExceptionGroup as group:
        ours, others = group.split(RollcallError)
        if ours is None or others is not None:
            raise
        fail(_first(ours))
    except BrokenPipeError:
        raise typer.Exit(NO) from None
    except OSError as error:
        fail(of_the_system(error))
    except (KeyboardInterrupt, asyncio.CancelledError):
        raise typer.Exit(0 if endless else INTERRUPTED) from None


def _runner(main: Coroutine[Any, Any, T]) -> T:
    if sys.platform == "win32":
        return asyncio.run(main)
    return uvloop.run(main)


async def _interruptible(main: Coroutine[Any, Any, T]) -> T:
    task = asyncio.ensure_future(main)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        with suppress(NotImplementedError):
            loop.add_signal_handler(number, task.cancel)
    return await task


def _first(group: BaseExceptionGroup[RollcallError]) -> RollcallError:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error


def of_the_system(error: OSError) -> Misconfigured:
    """What the operating system refused, as one of our errors."""
    file = error.filename or "a file"
    if may_be_secret(str(file)):
        file = "what was given as a file is a secret seed, and no file"
    return Misconfigured(f"{error.strerror}: {file}; check the path, its rights and the disk")


def fail(error: RollcallError) -> NoReturn:
    """Ends the command with one line on stderr and the exit code of the error."""
    err.print(Text.assemble(("rollcall:", "bold red"), f" {error.code}: {error.message}"))
    raise typer.Exit(next((code for kind, code in _EXITS.items() if isinstance(error, kind)), NO))


async def forever() -> None:
    """Waits until the command is interrupted, or a part of it falls."""
    await asyncio.Event().wait()


def print_json(value: Any) -> None:  # Any: whatever has a JSON form
    """One JSON document on stdout, readable on a terminal, one line elsewhere."""
    data = msgspec.json.encode(value)
    if sys.stdout.isatty():
        data = msgspec.json.format(data, indent=2)
    sys.stdout.write(data.decode() + "\n")
    sys.stdout.flush()


@asynccontextmanager
async def announced(told: Mapping[str, object], files: list[Path]) -> AsyncIterator[None]:
    """The files say what is served while the block runs; only their owner reads them: a URL may hold a secret."""
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, json.dumps(told).encode(), mode=0o600)
    try:
        yield
    finally:
        for file in files:
            with suppress(FileNotFoundError):
                file.unlink()


def set_up_logs(level: int, *, as_noa: bool = False) -> None:
    """Logs go to stderr: readable, or JSON with ``ROLLCALL_LOG_FORMAT=json``; `as_noa` as that registry writes it."""
    render: structlog.typing.Processor
    names: list[structlog.typing.Processor] = []
    if as_noa:
        render = structlog.processors.JSONRenderer()
        names = [structlog.processors.EventRenamer("msg")]
    elif os.environ.get("ROLLCALL_LOG_FORMAT", "console") == "json":
        render = structlog.processors.JSONRenderer()
    else:
        render = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), pad_event_to=0)
    logging.getLogger("asyncio").addFilter(_HARMLESS)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="time" if as_noa else "timestamp"),
            structlog.processors.format_exc_info,
            _printable,
            *names,
            render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


class _Harmless(logging.Filter):
    """Leaves out what asyncio says at the end of every connection with TLS."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith("returning true from eof_received")


def _printable(_: Any, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """What agents sent may hold escapes that a terminal obeys; they are shown, not sent on."""
    return {
        name: value if not isinstance(value, str) or name == "exception" else _escaped(value)
        for name, value in event.items()
    }


def _escaped(text: str) -> str:
    return "".join(one if one.isprintable() or one == "\n" else repr(one)[1:-1] for one in text)


def pairs(what: str, given: list[str]) -> dict[str, str]:
    """``["a=1", "b=2"]`` as a mapping.

    Raises:
        Invalid: one has no ``=``.
    """
    result = {}
    for one in given:
        name, equals, value = one.partition("=")
        if not equals or not name:
            raise Invalid(f"--{what} {one!r} is not name=value")
        result[name] = value
    return result


def values(what: str, given: list[str]) -> dict[str, Any]:
    """As `pairs`, each value read as JSON where it is JSON, as text elsewhere."""
    return {name: _json_or_text(value) for name, value in pairs(what, given).items()}


def _json_or_text(text: str) -> Any:  # Any: whatever JSON can hold
    try:
        return json.loads(text)
    except ValueError:
        return text


_HARMLESS = _Harmless()

LOG_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}

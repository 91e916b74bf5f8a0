"""Any program as an agent: on the roll while it lives; signals and exit code pass through."""

import asyncio
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, suppress
from typing import Any

from rollcall import Registry
from rollcall.core.errors import Misconfigured, Unavailable
from rollcall.embedded.process import die_with_parent


async def attend(
    joined: Callable[[], AbstractAsyncContextManager[Registry]],
    role: str,
    id: str,
    said: dict[str, Any],
    ended: asyncio.Event,
) -> None:
    """Keeps the agent on the roll until the program has ended; waits for a bus that is away."""
    fields = dict(said)
    name = fields.pop("name")
    while not ended.is_set():
        try:
            async with (
                joined() as registry,
                registry.agent(role, name, id=id, wait=False, **fields),
            ):
                await ended.wait()
        except Unavailable:
            with suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await ended.wait()


_PASSED = ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGWINCH")


async def supervise(command: list[str], environment: dict[str, str]) -> int:
    """Runs the program to its end, passes signals on, and returns its exit code; 128 + n for signal n."""
    try:
        child = subprocess.Popen(command, env=environment, preexec_fn=die_with_parent(signal.SIGTERM))
    except OSError as error:
        raise Misconfigured(f"{command[0]!r} cannot be run: {error.strerror}") from error
    loop = asyncio.get_running_loop()
    for name in _PASSED:
        number = getattr(signal, name, None)
        # On a terminal Ctrl-C reaches the whole group, the program too; it must not get it twice.
        forward = _ignore if number == signal.SIGINT and sys.stdin.isatty() else child.send_signal
        if number is not None:
            with suppress(NotImplementedError):
                loop.add_signal_handler(number, forward, number)
    code = await loop.run_in_executor(None, child.wait)
    return code if code >= 0 else 128 - code


def _ignore(_: int) -> None:
    pass  # the program has the signal already

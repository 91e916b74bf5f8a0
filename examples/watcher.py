"""Prints every change of a role as it happens, and keeps a mirror of the role.

It shows the two ways to follow a role: a watch tells each change once and in order, for a program that acts on what
happens; a mirror holds the agents as they are, for a program that looks them up often and without I/O.

Start a registry with ``rollcall up``, then::

    python examples/watcher.py --role worker --count 5

It ends after so many changes, or with Ctrl-C, and says who is on the roll by then.
"""

import argparse
import asyncio
import sys
from contextlib import suppress

import rollcall
from rollcall import Change, Mirror, Watch

CATCH_UP_WITHIN = 1.0


async def run(url: str | None, realm: str | None, role: str, count: int | None) -> None:
    """Watches until `count` changes were told, or for ever."""
    async with (
        rollcall.connect(url, realm=realm) as registry,
        registry.mirror(role) as mirror,
        registry.watch(role) as watch,
    ):
        say(f"watching {role}: {len(mirror)} on the roll")
        try:
            await tell(watch, mirror, count)
        finally:
            say(f"on the roll ({mirror.state}): {who(mirror)}")


async def tell(watch: Watch, mirror: Mirror, count: int | None) -> None:
    """Prints changes as they come."""
    told = 0
    async for change in watch:
        why = f" ({change.reason})" if change.reason else ""
        say(f"{change.revision} {change.kind} {change.role} {change.id}{why}")
        told += 1
        if told == count:
            await catch_up(mirror, change)
            break


async def catch_up(mirror: Mirror, change: Change) -> None:
    """Lets the mirror, which listens for itself, take in a change that was just told."""

    def knows(mirror: Mirror) -> bool:
        entry = mirror.get(change.id)
        gone = change.kind in (rollcall.ChangeKind.DEREGISTERED, rollcall.ChangeKind.EXPIRED)
        return gone if entry is None else entry.revision >= change.revision

    # An agent that left again meanwhile will never be seen here with this change; then a moment was enough.
    with suppress(rollcall.Unavailable):
        await mirror.wait_for(knows, timeout=CATCH_UP_WITHIN)


def who(mirror: Mirror) -> str:
    """The agents of the mirror and how they are, by id."""
    return ", ".join(f"{entry.id} {entry.liveness}" for entry in sorted(mirror, key=lambda e: e.id)) or "nobody"


def say(line: str) -> None:
    """Prints at once, also into a pipe."""
    print(line, flush=True)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--nats", metavar="URL", help="the bus; default ROLLCALL_NATS or the local `rollcall up`")
    parser.add_argument("--realm", help="the registry on it; default ROLLCALL_REALM or `default`")
    parser.add_argument("--role", default="worker", help="which role")
    parser.add_argument("--count", type=int, help="end after so many changes")
    said = parser.parse_args()
    try:
        asyncio.run(run(said.nats, said.realm, said.role, said.count))
    except rollcall.RollcallError as error:
        sys.exit(f"{error.code}: {error}")
    except KeyboardInterrupt:
        pass  # the ordinary way to end a watch


if __name__ == "__main__":
    main()
